"""The rooms stay small enough to survey."""

from __future__ import annotations

from collections import Counter

from support import ROOT
from support.repository import tracked

PRODUCT = ("MoBUncertainty/MoBUncertaintyLib", "training/mob_training")


def test_no_folder_of_product_code_has_more_than_13_files() -> None:
    counts = Counter(path.parent for path in tracked(*PRODUCT) if path.suffix == ".py")
    assert len(counts) > len(PRODUCT)
    assert {str(folder.relative_to(ROOT)): count for folder, count in counts.items() if count > 13} == {}


def test_the_top_of_the_library_has_at_most_23_entries() -> None:
    library = ROOT / PRODUCT[0]
    entries = {path.relative_to(library).parts[0] for path in tracked(PRODUCT[0])}
    assert "__init__.py" in entries
    assert len(entries) <= 23, sorted(entries)


def test_the_file_that_slicer_loads_is_thin() -> None:
    lines = (ROOT / "MoBUncertainty" / "MoBUncertainty.py").read_text(encoding="utf-8").splitlines()
    assert 100 < len(lines) < 250
