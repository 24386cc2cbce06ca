"""What `from MoBUncertaintyLib import ...` offers, and the examples in its documentation."""

import doctest

import pytest

import MoBUncertaintyLib

FUNCTIONS = ["find_model", "find_regions", "load_model", "measure", "predict", "read_dose", "read_image"]


def test_every_public_name_is_found_where_it_is_said_to_be() -> None:
    assert set(FUNCTIONS) < set(MoBUncertaintyLib.__all__) <= set(dir(MoBUncertaintyLib))
    for name in MoBUncertaintyLib.__all__:
        assert getattr(MoBUncertaintyLib, name).__name__ == name
    assert not hasattr(MoBUncertaintyLib, "nonsense")


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_example_in_the_documentation_runs(name: str) -> None:
    found = doctest.DocTestFinder(recurse=False).find(getattr(MoBUncertaintyLib, name), name)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    for test in found:
        runner.run(test)
    assert runner.tries >= 2
    assert runner.failures == 0
