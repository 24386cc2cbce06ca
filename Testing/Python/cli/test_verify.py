"""Verifying a review: whoever changes any file of it is found out, and OpenSSH's signature may lie beside it."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from MoBUncertaintyLib.base.integrity import file_digest, seal
from MoBUncertaintyLib.cli import app
from MoBUncertaintyLib.output.review_export import write_export
from support.fake_review import fake_review


def verified(folder: Path) -> str:
    """What the command prints of a review that is whole."""
    done = CliRunner().invoke(app.app, ["verify", str(folder)], env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    return done.stdout


def refused(folder: Path, names: str = "") -> None:
    done = CliRunner().invoke(app.app, ["verify", str(folder)], env={"COLUMNS": "200"})
    assert done.exit_code == 2
    assert names in done.stderr and done.stderr.endswith(".\n")


@pytest.fixture(scope="module")
def signed_off(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("signed") / "review"
    case = fake_review(r1="include", r2="exclude")
    case.review.sign("A. Reader")
    write_export(case, folder, ["report", "segmentation", "nifti"])
    return folder


@pytest.fixture
def export(signed_off, tmp_path) -> Path:
    """The review in a folder of the test's own."""
    return Path(shutil.copytree(signed_off, tmp_path / "review"))


def test_whole(export, tmp_path):
    assert "A. Reader" in verified(export)
    write_export(fake_review(), tmp_path / "open", ["report"])
    assert "no" in verified(tmp_path / "open").split()


@pytest.mark.parametrize("name", ["report.csv", "regions.nrrd", "report.json"])
def test_one_bit_of_any_file(export, name):
    content = bytearray((export / name).read_bytes())
    content[len(content) // 3] ^= 1
    (export / name).write_bytes(content)
    refused(export)


@pytest.mark.parametrize("name", ["report.json", "segmentation.seg.nrrd"])
def test_a_file_that_is_missing(export, name):
    (export / name).unlink()
    refused(export, name)


def test_a_file_that_was_added(export):
    shutil.copy(export / "regions.nrrd", export / "variance.dcm")
    refused(export, "variance.dcm")
    (export / "variance.dcm").rename(export / ".DS_Store")
    verified(export)


def test_a_key_that_is_there_twice(export):
    """Programs take the last one, whose hash is right, and people read the first."""
    text = (export / "report.json").read_text(encoding="utf-8")
    assert text.startswith("{")
    (export / "report.json").write_text('{"notice": "All regions were accepted.",' + text[1:], encoding="utf-8")
    assert json.loads((export / "report.json").read_bytes()) == json.loads(text)
    refused(export, "'notice'")


def test_signed_off_although_regions_are_undecided(export):
    record = json.loads((export / "report.json").read_text(encoding="utf-8"))
    for region in record["review"]["regions"]:
        region["verdict"] = "pending"
    files = {name: file_digest(export / name) for name in record["files"]}
    record = seal(record | {"review": seal(record["review"]), "files": files})
    (export / "report.json").write_text(json.dumps(record), encoding="utf-8")
    refused(export, "undecided")


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="no ssh-keygen")
def test_a_signature_lies_beside_the_record_and_holds_for_it_alone(export, tmp_path):
    def ssh_keygen(*words: str | Path, given: bytes = b"", check: bool = True) -> int:
        return subprocess.run(["ssh-keygen", "-q", *words], input=given, capture_output=True, check=check).returncode

    key, record = tmp_path / "key", export / "report.json"
    ssh_keygen("-t", "ed25519", "-N", "", "-f", key)
    ssh_keygen("-Y", "sign", "-f", key, "-n", "mob-uncertainty", record)
    verified(export)
    (tmp_path / "colleagues").write_text(f"ada {key.with_suffix('.pub').read_text()}")
    check = ("-Y", "verify", "-f", tmp_path / "colleagues", "-I", "ada", "-n", "mob-uncertainty")
    check = (*check, "-s", export / "report.json.sig")
    assert ssh_keygen(*check, given=record.read_bytes()) == 0
    assert ssh_keygen(*check, given=record.read_bytes() + b" ", check=False) != 0
