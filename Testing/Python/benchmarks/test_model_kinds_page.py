"""The page on nnU-Net's models shows what was measured."""

from __future__ import annotations

import json

import many_classes
import model_kinds
from support import ROOT


def test_the_page_has_the_table_of_the_results() -> None:
    results = ROOT / "Testing" / "Benchmarks" / "results" / "model-kinds.json"
    facts = json.loads(results.read_text(encoding="utf-8"))
    page = (ROOT / "Testing" / "Benchmarks" / "results" / "README.md").read_text(encoding="utf-8")
    assert model_kinds.table(facts) in page
    assert [row["kind"] for row in facts["rows"]] == [kind.name for kind in model_kinds.KINDS]
    for row in facts["rows"]:
        assert row["labels"], "equal maps of nothing prove nothing"
        assert row["equal"] >= 0.999


def test_the_page_has_the_table_of_many_classes() -> None:
    results = ROOT / "Testing" / "Benchmarks" / "results" / "many-classes.json"
    facts = json.loads(results.read_text(encoding="utf-8"))
    page = (ROOT / "Testing" / "Benchmarks" / "results" / "README.md").read_text(encoding="utf-8")
    table = many_classes.table(facts)
    assert table[table.index("| classes") :] in page
    (one,) = [row for row in facts["rows"] if (row["classes"], row["way"]) == (117, "one")]
    assert one["peak_gb"] < 8
