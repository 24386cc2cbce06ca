"""Which licences are agreed to, and that an agreement holds for one licence and one model's weights."""

import os
import shutil
import sys
from pathlib import Path

import pytest

from MoBUncertaintyLib.base.errors import Cancelled
from MoBUncertaintyLib.model.licences import Terms, agree, is_binding, with_meaning
from support import tiny
from support.json_edits import edit

PERMISSIVE = ["Apache-2.0", "apache license, version 2.0", "The MIT License", "BSD 3-Clause", "CC BY 4.0", "CC0 1.0"]
BINDING = ["CC BY-NC 4.0", "CC-BY-SA 4.0", "CC BY-ND 4.0", "Apache-2.0 AND CC-BY-SA-4.0", "GPL-3.0", "ask the authors"]


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folder for data, which is not there yet."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def model(written: Path, tmp_path: Path) -> Path:
    """A model folder that is not for commerce."""
    return licensed(shutil.copytree(written, tmp_path / "Tiny"), "CC BY-NC 4.0")


def licensed(folder: Path, licence: str) -> Path:
    edit(folder / "model.json", lambda card: card.update(licence=licence, training={"citation": "Doe 2026"}))
    return folder


def asked(*models: Path) -> tuple[list[Terms], list[str]]:
    """What the user is asked to agree to, and does, and what they are warned of."""
    terms: list[Terms] = []
    warnings: list[str] = []
    agree(models, terms.append, warnings.append)
    return terms, warnings


def test_what_is_not_permissive_is_agreed_to_and_nothing_where_no_licence_is_stated() -> None:
    assert [name for name in ["not stated", "", *PERMISSIVE] if is_binding(name)] == []
    assert [name for name in BINDING if not is_binding(name)] == []
    assert "non-commercial" in with_meaning("CC BY-NC-SA 4.0") and "same licence" in with_meaning("CC BY-NC-SA 4.0")
    assert with_meaning("NC Software Licence") == "NC Software Licence"


def test_each_model_is_asked_about_once_as_folder_or_zip(model: Path, tmp_path: Path) -> None:
    packed = Path(shutil.make_archive(str(tmp_path / "Other name"), "zip", model))
    (terms,), warnings = asked(model, packed)
    assert (terms.model, terms.licence, warnings) == ("Tiny", "CC BY-NC 4.0", [])
    assert "Doe 2026" in terms.lines[-1]
    assert asked(packed) == asked(model) == ([], [])
    edit(model / "model.json", lambda card: card.update(scores={}))  # stands for other weights, whose hashes it holds
    assert len(asked(model)[0]) == 1
    assert [terms.licence for terms in asked(licensed(model, "CC BY-NC-ND 4.0"))[0]] == ["CC BY-NC-ND 4.0"]
    assert asked(packed) == ([], [])


def test_other_checkpoints_of_a_training_folder_are_another_model(tmp_path: Path) -> None:
    raw = tiny.make_results_folder(tmp_path / "raw")
    edit(raw / "dataset.json", lambda dataset: dataset.update(licence="hands off!"))
    assert (len(asked(raw)[0]), len(asked(raw)[0])) == (1, 0)
    (checkpoint,) = raw.glob("fold_0/checkpoint_*.pth")
    checkpoint.write_bytes(checkpoint.read_bytes() + b"\0")
    assert len(asked(raw)[0]) == 1


def test_a_permissive_model_reads_and_writes_nothing(written: Path, data: Path) -> None:
    assert asked(written) == ([], []) and not data.exists()


def test_nothing_is_remembered_of_what_is_declined(model: Path, data: Path) -> None:
    def decline(_terms: Terms) -> None:
        raise Cancelled("No.")

    with pytest.raises(Cancelled):
        agree([model], decline)
    assert not data.exists()


def test_what_another_process_agrees_to_meanwhile_is_remembered_too(model: Path, tmp_path: Path) -> None:
    other = licensed(shutil.copytree(model, tmp_path / "Other"), "CC BY-ND 4.0")
    agree([model], lambda _terms: agree([other], lambda _terms: None))
    assert asked(model, other) == ([], [])


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are text elsewhere")
def test_a_model_may_lie_in_a_folder_whose_name_is_no_text(tmp_path: Path) -> None:
    raw = tiny.make_results_folder(tmp_path / "raw").rename(tmp_path / os.fsdecode(b"caf\xe9"))
    edit(raw / "dataset.json", lambda dataset: dataset.update(licence="hands off!"))
    assert [len(terms) for terms, _ in (asked(raw), asked(raw))] == [1, 0]


@pytest.mark.parametrize("content", ["of another model", None])
def test_a_file_that_says_something_else_or_cannot_be_written_asks_again(content: str | None, model: Path) -> None:
    (terms,), _ = asked(model)
    terms.file.unlink()
    if content is None:
        terms.file.mkdir()
    else:
        terms.file.write_text(content)
    again, warnings = asked(model)
    assert again == [terms] and [str(terms.file) in sentence for sentence in warnings] == [True] * (content is None)
    assert asked(model)[0] == ([] if content else [terms])
