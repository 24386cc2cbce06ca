"""Models as zip files: the same model, nothing hostile read or unpacked."""

import errno
import shutil
import tracemalloc
import zipfile
from pathlib import Path

import pytest
import torch

from MoBUncertaintyLib.base.errors import ModelError
from MoBUncertaintyLib.model import archive
from MoBUncertaintyLib.model.folder import load_model, read_card
from MoBUncertaintyLib.network.export import write_model
from support.tiny import DATASET, PLANS, card, make_model_folder, network


@pytest.fixture(scope="module")
def zipped(written: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model_folder(tmp_path_factory.mktemp("zip") / "Tiny.zip").path


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files, empty."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    return tmp_path / "temporary"


def test_a_zip_is_the_same_model_and_is_read_where_it_is(zipped: Path, written: Path, temporary: Path) -> None:
    model = load_model(zipped)
    assert model.digest == load_model(written).digest
    assert torch.equal(model.state_dict(1)["head.basis"], network(1).state_dict()["head.basis"])
    assert list(temporary.iterdir()) == []


def test_a_zip_that_is_replaced_after_the_check_is_not_used(zipped: Path, tmp_path: Path) -> None:
    model = load_model(shutil.copy(zipped, tmp_path / "model.zip"))
    (tmp_path / "model.zip").unlink()
    write_model(tmp_path / "model.zip", card(), PLANS, DATASET, [(0, network(1).state_dict())])
    for fold in (0, 1):
        with pytest.raises(ModelError):
            model.state_dict(fold)


def test_the_same_model_gives_the_same_zip(zipped: Path, tmp_path: Path) -> None:
    assert make_model_folder(tmp_path / "Again.zip").path.read_bytes() == zipped.read_bytes()


def test_a_model_can_be_written_as_a_zip_at_once(tmp_path: Path) -> None:
    model = write_model(tmp_path / "Tiny.zip", card(), PLANS, DATASET, [(0, network(0).state_dict())])
    assert model.folds == (0,) and [path.name for path in tmp_path.iterdir()] == ["Tiny.zip"]


def test_a_zip_of_the_folder_itself_is_read_too(written: Path, tmp_path: Path) -> None:
    shutil.make_archive(str(tmp_path / "Tiny"), "zip", written.parent, "Tiny")
    assert read_card(tmp_path / "Tiny.zip").name == load_model(tmp_path / "Tiny.zip").card.name == "Tiny"


def _entry(name: str, mode: int = 0o644) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name)
    entry.external_attr = mode << 16
    return entry


HOSTILE_ENTRIES = {
    "parent": _entry("../evil.json"),
    "parent inside": _entry("fold_0/../../evil.json"),
    "absolute": _entry("/tmp/evil.json"),
    "drive": _entry("C:evil.json"),
    "backslash": _entry("..\\evil.json"),
    "link": _entry("fold_5/weights.safetensors", 0o120777),
    "twice": _entry("plans.json"),
    "two models": _entry("other/model.json"),
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("what", HOSTILE_ENTRIES)
def test_a_hostile_zip_is_refused_and_nothing_is_left(zipped: Path, tmp_path: Path, temporary: Path, what: str) -> None:
    hostile = Path(shutil.copy(zipped, tmp_path / "hostile.zip"))
    with zipfile.ZipFile(hostile, "a") as packed:
        packed.writestr(HOSTILE_ENTRIES[what], "/etc/passwd")
    for read in (load_model, read_card):
        with pytest.raises(ModelError):
            read(hostile)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["hostile.zip", "temporary"]


@pytest.mark.parametrize(("limit", "value"), [("SIZE_LIMIT", 10_000), ("ENTRY_LIMIT", 2)])
def test_a_zip_bomb_is_refused(zipped: Path, monkeypatch: pytest.MonkeyPatch, limit: str, value: int) -> None:
    monkeypatch.setattr(archive, limit, value)
    with pytest.raises(ModelError):
        load_model(zipped)


@pytest.mark.parametrize("stated", ["truly", "falsely"])
def test_a_small_zip_of_many_zeros_is_refused_at_once(
    zipped: Path, tmp_path: Path, temporary: Path, stated: str
) -> None:
    """Its 100 kB would be 100 MB; whether it says so or not, no more than a thousandth is unpacked."""
    bomb = tmp_path / "bomb.zip"
    with zipfile.ZipFile(zipped) as model, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as packed:
        for name in ("model.json", "plans.json", "dataset.json"):
            packed.writestr(name, model.read(name))
        with packed.open("fold_0/weights.safetensors", "w") as file:
            for _ in range(100):
                file.write(bytes(10**6))
    if stated == "falsely":
        content = bomb.read_bytes()
        assert content.count((100 * 10**6).to_bytes(4, "little")) == 2
        bomb.write_bytes(content.replace((100 * 10**6).to_bytes(4, "little"), (1000).to_bytes(4, "little")))
    tracemalloc.start()
    with pytest.raises(ModelError):
        load_model(bomb)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10e6
    assert [*temporary.iterdir()] == []


@pytest.mark.parametrize("keep", [0.3, 0.99])
def test_atruncated_zip_is_refused(zipped: Path, tmp_path: Path, keep: float) -> None:
    content = zipped.read_bytes()
    (tmp_path / "cut.zip").write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(ModelError):
        load_model(tmp_path / "cut.zip")


def test_a_zip_of_something_else_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as packed:
        packed.writestr("holiday.txt", "sun")
    with pytest.raises(ModelError):
        load_model(tmp_path / "photos.zip")


def test_a_full_disk_is_not_called_a_damaged_zip(zipped: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copyfileobj", full)
    with pytest.raises(ModelError):
        archive.unpack_into(tmp_path, zipped, "x")
