"""Signing a review with a key, and verifying it: whoever changes anything needs the key."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from MoBUncertaintyLib.base.errors import ReviewError, SettingsError
from MoBUncertaintyLib.base.integrity import make_manifest, seal
from MoBUncertaintyLib.base.json_input import parse_object
from MoBUncertaintyLib.cli import app, console
from MoBUncertaintyLib.output.review_export import write_export
from MoBUncertaintyLib.output.signing import load_key, read_trusted, sign_record, verify
from support.fake_review import fake_review
from support.json_mutants import mutants
from support.review_commands import BOTH, entries, run

cryptography = pytest.importorskip("cryptography")
from cryptography.hazmat.primitives import serialization  # noqa: E402
from cryptography.hazmat.primitives.asymmetric import ec  # noqa: E402
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: E402

PASSPHRASE = "correct horse"
FORMATS = serialization.PrivateFormat


def write_key(path: Path, key=None, form=FORMATS.PKCS8, passphrase: str | None = None) -> Path:
    """A private key, and its public one beside it in both formats (.pem and .pub)."""
    key = key or Ed25519PrivateKey.generate()
    hidden = serialization.BestAvailableEncryption(passphrase.encode()) if passphrase else serialization.NoEncryption()
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, hidden))
    public = key.public_key()
    openssh = public.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    path.with_suffix(".pub").write_bytes(openssh + b" Ada of Radiology\n")
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    path.with_suffix(".pem").write_bytes(pem)
    return path


def verified(folder: Path, *options: object) -> Result:
    return CliRunner().invoke(app.app, ["verify", str(folder), *map(str, options)], env={"COLUMNS": "200"})


@pytest.fixture(scope="module")
def signed(tmp_path_factory) -> Path:
    """A folder with a key and a review that it has signed."""
    folder = tmp_path_factory.mktemp("signed")
    case = fake_review(r1="include", r2="exclude")
    case.review.sign("A. Reader")
    key = load_key(write_key(folder / "key"), lambda: "")
    write_export(
        case, folder / "review", ["report", "segmentation", "nifti"], sign=lambda record: sign_record(record, key)
    )
    return folder


@pytest.fixture
def export(signed, tmp_path) -> Path:
    """The review in a folder of the test's own."""
    return Path(shutil.copytree(signed / "review", tmp_path / "review"))


class TestCommand:
    def test_a_review_is_signed_and_verified(self, place, tmp_path):
        key = write_key(tmp_path / "key")
        done = run(place, BOTH, "--sign-with", str(key))
        assert done.exit_code == 0, done.output
        done = verified(place / "results" / "review", "--trusted", key.with_suffix(".pub"))
        assert done.exit_code == 0, done.output
        (finger,) = read_trusted(key.with_suffix(".pub"))
        assert finger in done.stdout
        assert "Ada of Radiology" in done.stdout
        assert "Ada Müller, 2026-05-31T14:30:00+02:00" in done.stdout

    def test_a_review_that_is_not_signed_off_is_not_signed(self, place, tmp_path):
        key = write_key(tmp_path / "key")
        done = run(place, entries({"rank": 1, "verdict": "accept"}), "--sign-with", str(key))
        assert done.exit_code == 2
        assert "is not signed off, so it cannot be signed with a key" in done.stderr
        assert not (place / "results" / "review").exists()

    def test_without_trusted_keys_only_hashes_are_checked(self, export):
        done = verified(export)
        assert done.exit_code == 0, done.output
        assert "not checked; give --trusted" in done.stdout


class TestKeys:
    @pytest.mark.parametrize("form", [FORMATS.PKCS8, FORMATS.OpenSSH])
    @pytest.mark.parametrize("passphrase", [None, PASSPHRASE])
    def test_private_keys_plain_and_encrypted(self, tmp_path, monkeypatch, form, passphrase):
        if passphrase and form is FORMATS.OpenSSH:
            pytest.importorskip("bcrypt")
        path = write_key(tmp_path / "key", form=form, passphrase=passphrase)
        monkeypatch.setenv(console.PASSPHRASE, PASSPHRASE)
        assert console.signer(path)(seal({}))["algorithm"] == "Ed25519"
        if passphrase:
            monkeypatch.setenv(console.PASSPHRASE, "wrong")
            with pytest.raises(SettingsError):
                console.signer(path)
            monkeypatch.delenv(console.PASSPHRASE)
            with pytest.raises(SettingsError):
                console.signer(path)

    def test_other_things_are_no_key(self, tmp_path):
        (tmp_path / "text").write_text("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
        write_key(tmp_path / "curve", ec.generate_private_key(ec.SECP256R1()))
        for name in ("text", "none", "curve"):
            with pytest.raises(SettingsError):
                load_key(tmp_path / name, lambda: "")

    def test_lists_of_trusted_keys(self, tmp_path):
        first, second = (write_key(tmp_path / name) for name in ("first", "second"))
        curve = write_key(tmp_path / "curve", ec.generate_private_key(ec.SECP256R1()))
        lines = ["# ssh-ed25519 AAAA of long ago", "", 'no-pty,command="x" ' + first.with_suffix(".pub").read_text()]
        everything = [*lines, *(path.with_suffix(".pem").read_text() for path in (curve, second))]
        (tmp_path / "keys").write_text("\n".join(everything))
        assert sorted(read_trusted(tmp_path / "keys").values()) == ["", "Ada of Radiology"]
        with pytest.raises(SettingsError):
            read_trusted(curve.with_suffix(".pem"))
        (tmp_path / "keys").write_text("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI")
        with pytest.raises(SettingsError):
            read_trusted(tmp_path / "keys")

    @pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="no ssh-keygen")
    def test_fingerprints_are_those_of_openssh(self, tmp_path):
        public = write_key(tmp_path / "key").with_suffix(".pub")
        shown = subprocess.run(["ssh-keygen", "-l", "-f", public], capture_output=True, text=True, check=True).stdout
        assert list(read_trusted(public)) == [shown.split()[1]]


class TestVerify:
    def refused(self, export: Path, trusted: Path, names: str = "") -> None:
        with pytest.raises(ReviewError) as caught:
            verify(export, read_trusted(trusted))
        assert names in str(caught.value) and str(caught.value).endswith(".")

    def test_whole(self, signed, export):
        assert verify(export, read_trusted(signed / "key.pem")).files == 5

    def test_key_that_is_not_trusted_is_named(self, signed, export, tmp_path):
        (finger,) = read_trusted(signed / "key.pub")
        stranger = write_key(tmp_path / "stranger").with_suffix(".pub")
        self.refused(export, stranger, finger)

    @pytest.mark.parametrize("name", ["report.csv", "regions.nrrd", "report.json"])
    def test_one_bit_of_any_file(self, signed, export, name):
        content = bytearray((export / name).read_bytes())
        content[len(content) // 3] ^= 1
        (export / name).write_bytes(content)
        self.refused(export, signed / "key.pub")

    @pytest.mark.parametrize("name", ["report.json", "report.sig", "segmentation.seg.nrrd"])
    def test_a_file_that_is_missing(self, signed, export, name):
        (export / name).unlink()
        self.refused(export, signed / "key.pub", name)
        with pytest.raises(ReviewError):
            verify(export)

    def test_not_signed(self, signed, tmp_path):
        write_export(fake_review(), tmp_path / "out", ["report"])
        assert verify(tmp_path / "out").signed_off is None
        self.refused(tmp_path / "out", signed / "key.pub", "not signed with a key")

    def test_a_signed_review_may_be_replaced(self, export):
        write_export(fake_review(), export, ["report"], overwrite=True)
        assert not (export / "report.sig").exists()

    def test_a_file_that_was_added(self, signed, export):
        shutil.copy(export / "regions.nrrd", export / "variance.dcm")
        self.refused(export, signed / "key.pub", "variance.dcm")
        (export / "variance.dcm").rename(export / ".DS_Store")
        verify(export, read_trusted(signed / "key.pub"))

    def test_a_key_that_is_there_twice(self, signed, export):
        """Programs take the last one, whose hash is right, and people read the first."""
        text = (export / "report.json").read_text(encoding="utf-8")
        assert text.startswith("{")
        (export / "report.json").write_text('{"notice": "All regions were accepted.",' + text[1:], encoding="utf-8")
        assert json.loads((export / "report.json").read_bytes()) == json.loads(text)
        self.refused(export, signed / "key.pub", "'notice'")
        with pytest.raises(ReviewError):
            verify(export)

    def test_forged_with_new_hashes(self, signed, export):
        (export / "report.csv").write_text("rank\n1\n")
        record = json.loads((export / "report.json").read_text(encoding="utf-8"))
        names = list(record["files"])
        record["review"]["signature"]["name"] = "B. Reader"
        record = seal(record | {"review": seal(record["review"]), "files": make_manifest(export, names)})
        (export / "report.json").write_text(json.dumps(record), encoding="utf-8")
        assert verify(export).signed_off.startswith("B. Reader")
        self.refused(export, signed / "key.pub", "signature")
        for region in record["review"]["regions"]:
            region["verdict"] = "pending"
        (export / "report.json").write_text(json.dumps(seal(record)), encoding="utf-8")
        self.refused(export, signed / "key.pub", "undecided")

    def test_damaged_signatures(self, signed, export):
        trusted = read_trusted(signed / "key.pub")
        whole = json.loads((export / "report.sig").read_text())
        used = ("schema", "schema_version", "algorithm", "public_key", "signature")
        damages = [{"signature": "AAAA"}, {"public_key": "ssh-ed25519 AAAA"}, {"algorithm": "none"}]
        for each in [*(json.dumps(whole | damage).encode() for damage in damages), *mutants(whole, 100)]:
            (export / "report.sig").write_bytes(each)
            try:
                verify(export, trusted)
            except ReviewError as error:
                assert str(error).endswith(".")
            else:  # what is beside these tells a person
                assert {name: parse_object(each)[name] for name in used} == {name: whole[name] for name in used}
