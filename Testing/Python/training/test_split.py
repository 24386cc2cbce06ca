"""The split into train, validation and test: disjoint, from the seed alone, and never through a subject."""

import itertools
from collections import Counter
from pathlib import Path

import pytest

from mob_training.data.split import Split, read_subjects
from MoBUncertaintyLib.base.errors import SettingsError

NAMES = [f"c{i}" for i in range(20)]


def test_split_is_disjoint_complete_and_depends_on_the_seed_only():
    split = Split(validation=3, test=5, seed=1)
    parts = split.assign(NAMES)
    assert {part: len(names) for part, names in parts.items()} == {"train": 12, "val": 3, "test": 5}
    assert sorted(name for part in parts.values() for name in part) == sorted(NAMES)
    assert parts == split.assign(NAMES[::-1])
    assert parts != Split(validation=3, test=5, seed=2).assign(NAMES)


@pytest.mark.parametrize(
    ("cases", "expected"), [(20, (12, 4, 4)), (21, (12, 4, 5)), (1228, (785, 197, 246)), (3, (1, 1, 1))]
)
def test_without_numbers_a_fifth_tests_and_a_fifth_of_the_rest_validates(cases, expected):
    parts = Split().assign([f"s{i:04d}" for i in range(cases)])
    assert tuple(len(parts[part]) for part in ("train", "val", "test")) == expected


@pytest.mark.parametrize("split", [Split(3, 5), Split(0, 1), Split(6, 1), Split(1, -1)])
def test_split_that_is_impossible_is_refused(split):
    with pytest.raises(SettingsError):
        split.assign(NAMES[:7])


SUBJECTS = {f"c{i}": f"s{i // 2}" for i in range(12)}  # c12 to c19 are alone


@pytest.mark.parametrize("seed", range(5))
def test_cases_of_one_subject_stay_together(seed):
    parts = Split(validation=3, test=5, seed=seed, subjects=SUBJECTS).assign(NAMES)
    assert {part: len(names) for part, names in parts.items()} == {"train": 12, "val": 3, "test": 5}
    assert sorted(name for part in parts.values() for name in part) == sorted(NAMES)
    subjects = [{SUBJECTS.get(name, name) for name in names} for names in parts.values()]
    assert not any(a & b for a, b in itertools.combinations(subjects, 2))


def test_folds_test_each_case_once():
    folds = [Split(validation=3, test=5, seed=1, fold=fold).assign(NAMES) for fold in range(4)]
    assert folds[0] == Split(validation=3, test=5, seed=1).assign(NAMES)
    assert sorted(name for parts in folds for name in parts["test"]) == sorted(NAMES)
    for parts in folds:
        assert {part: len(names) for part, names in parts.items()} == {"train": 12, "val": 3, "test": 5}
        assert sorted(name for names in parts.values() for name in names) == sorted(NAMES)
    with pytest.raises(SettingsError):
        Split(validation=3, test=5, seed=1, fold=4).assign(NAMES)


def test_part_without_room_for_a_subject_stays_smaller():
    pairs = {name: name[1] for name in ("a1", "b1", "a2", "b2", "a3", "b3", "a4", "b4")}
    parts = Split(3, 2, subjects=pairs).assign(list(pairs))
    assert {part: len(names) for part, names in parts.items()} == {"train": 4, "val": 2, "test": 2}
    with pytest.raises(SettingsError):
        Split(2, 1, subjects=pairs).assign(list(pairs))


def test_subjects_are_read(tmp_path):
    (tmp_path / "subjects.csv").write_text("case,subject\nc1,A\nc2,A\nc3,\n")
    assert read_subjects(tmp_path / "subjects.csv") == {"c1": "A", "c2": "A"}
    (tmp_path / "wrong.csv").write_text("id;who\n1;2\n")
    for name in ("none.csv", "wrong.csv"):
        with pytest.raises(SettingsError, match=name):
            read_subjects(tmp_path / name)


def test_subjects_of_the_hippocampus_fill_its_split():
    subjects = read_subjects(Path("hippocampus_subjects.csv"))
    parts = Split(30, 50, subjects=subjects).assign(list(subjects))
    assert [len(parts[part]) for part in ("train", "val", "test")] == [120, 30, 50]
    assert len({subjects[name] for name in parts["test"]}) == 39


def test_train_validation_and_test_get_of_every_group():
    """The heart volumes: 14 cases of each of five groups, of which 9, 2 and 3."""
    subjects, groups = (read_subjects(Path("acdc_subjects.csv"), column) for column in ("subject", "group"))
    split = Split(10, 15, 1, subjects, groups)
    parts = split.assign(list(subjects))
    for part, count in {"train": 9, "val": 2, "test": 3}.items():
        assert Counter(groups[name] for name in parts[part]) == dict.fromkeys(groups.values(), count)
    assert parts == split.assign(sorted(subjects, reverse=True))
    assert parts != Split(10, 15, 2, subjects, groups).assign(list(subjects))
    assert read_subjects(Path("hippocampus_subjects.csv"), "group") == {}
