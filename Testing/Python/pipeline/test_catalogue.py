"""A model is published, found, installed, used and removed; what goes wrong leaves nothing behind."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import SimpleITK as sitk
from typer.testing import CliRunner

from MoBUncertaintyLib.base.errors import Cancelled, CatalogueError, ModelError, UserError
from MoBUncertaintyLib.base.resources import INSTALLED_MODELS
from MoBUncertaintyLib.cli import console
from MoBUncertaintyLib.cli.app import app
from MoBUncertaintyLib.model.card import NOT_STATED
from MoBUncertaintyLib.model.folder import load_model
from MoBUncertaintyLib.model.licences import Terms, agree
from MoBUncertaintyLib.model.listing import find_model
from MoBUncertaintyLib.pipeline.catalogue import install as installing
from MoBUncertaintyLib.pipeline.catalogue import place as places
from MoBUncertaintyLib.pipeline.catalogue.install import Status, install, status
from MoBUncertaintyLib.pipeline.catalogue.place import Entry, Place, index_text
from MoBUncertaintyLib.pipeline.catalogue.publish import publish
from support import tiny
from support.catalogues import Host, hosted
from support.command_line import run

PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x01\0\0\0\x01 and more"


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A catalogue of one model, Pancreas."""
    folder = tmp_path_factory.mktemp("published")
    model = tiny.make_model_folder(folder / "model", name="Pancreas", licence="CC BY 4.0", scores={"dice": 0.9})
    (folder / "picture.png").write_bytes(PNG)
    publish(model, folder / "catalogue", folder / "picture.png")
    return folder / "catalogue"


@pytest.fixture
def catalogue(published: Path, tmp_path: Path) -> Path:
    """The same in a folder of the test's own."""
    return shutil.copytree(published, tmp_path / "catalogue")


@pytest.fixture(autouse=True)
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folder of models, which is not there yet."""
    monkeypatch.setenv(INSTALLED_MODELS, str(tmp_path / "home" / "models"))
    return tmp_path / "home" / "models"


@pytest.fixture
def host(catalogue: Path) -> Iterator[Host]:
    with hosted(catalogue) as server:
        yield server


def entry_of(folder: Path) -> Entry:
    return Place.of(folder).entry("Pancreas")


@pytest.mark.parametrize("kind", ["folder", "web"])
def test_a_model_is_listed_installed_used_and_removed(kind: str, catalogue: Path, host: Host, installed: Path) -> None:
    index = str(catalogue) if kind == "folder" else f"{host.address}/models.json"
    assert "Pancreas  0." in run("models", "list", "--index", index).stdout
    refused = run("models", "install", "Pancreas", "--index", index)  # nobody is there to agree
    assert (refused.exit_code, installed.parent.exists()) == (2, False)
    done = run("models", "install", "pancreas", "--index", index, "--yes", "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["path"] == str(installed / "Pancreas")
    assert [path.name for path in installed.iterdir()] == ["Pancreas"]
    model = load_model(find_model("Pancreas"))
    assert model.digest == entry_of(catalogue).digest
    assert len(model.state_dict(0)) > 0
    listed = json.loads(run("models", "list", "--index", index, "--json").stdout)
    assert [each["status"] for each in listed["models"]] == ["installed"]
    assert "Pancreas  installed" in run("models", "list", "--installed").stdout
    assert "installed already" in run("models", "install", "Pancreas", "--index", index, "--yes").stderr
    assert run("models", "remove", "Pancreas").exit_code == 0
    assert list(installed.iterdir()) == []
    with pytest.raises(ModelError):
        find_model("Pancreas")
    assert run("models", "remove", "Pancreas").exit_code == 2


def test_nothing_is_removed_that_was_not_installed(catalogue: Path, installed: Path) -> None:
    install(Place.of(catalogue), entry_of(catalogue))
    shutil.copy(catalogue / entry_of(catalogue).file, installed / "own.zip")
    shutil.copytree(installed / "Pancreas" / "fold_0", installed / "Pancreas" / "fold_7")  # like a model's, but not its
    (installed / "Pancreas" / ".DS_Store").touch()
    before = sorted(installed.rglob("*"))
    with pytest.raises(CatalogueError):
        installing.remove("Pancreas")
    with pytest.raises(CatalogueError):
        installing.remove("own")
    assert sorted(installed.rglob("*")) == before
    shutil.rmtree(installed / "Pancreas" / "fold_7")
    installing.remove("Pancreas")
    assert [path.name for path in installed.iterdir()] == ["own.zip"]


def test_a_request_says_nothing_but_what_is_wanted(host: Host) -> None:
    place = Place.of(host.address)
    entry = place.entry("Pancreas")
    assert place.preview(entry) == PNG
    install(place, entry)
    assert [(method, path) for method, path, _ in host.asked] == [
        ("GET", f"/{name}") for name in ("models.json", "Pancreas.png", entry.file)
    ]
    said = {"Host": host.address.removeprefix("http://"), "User-Agent": "MoB-Uncertainty"}
    said |= {"Accept-Encoding": "identity", "Connection": "close"}
    assert [headers for _, _, headers in host.asked] == [said] * 3


@pytest.mark.parametrize("content", [b"<svg/>", PNG[:16] + b"\xff" * 8, PNG + bytes(5 * 2**20)])
def test_a_picture_is_a_small_png(content: bytes, catalogue: Path) -> None:
    (catalogue / "Pancreas.png").write_bytes(content)
    with pytest.raises(CatalogueError):
        Place.of(catalogue).preview(entry_of(catalogue))


REDIRECTS = ["file:///etc/passwd", "https://127.0.0.1/model.zip", "http://192.0.2.1/model.zip", "/elsewhere.zip"]


@pytest.mark.parametrize("fault", ["truncated", "lost", "silent", *REDIRECTS])
def test_a_failed_download_leaves_nothing_behind(
    fault: str, catalogue: Path, host: Host, installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.faults[".zip"] = fault
    if fault == "silent":  # the others must not fail where the computer is busy
        monkeypatch.setattr(places, "TIMEOUT_S", 0.3)
    if fault.startswith("/"):
        host.faults = {entry_of(catalogue).file: fault}
    with pytest.raises(CatalogueError):
        install(Place.of(host.address), entry_of(catalogue))
    assert not installed.parent.exists()


def change_a_byte(packed: Path) -> None:
    content = bytearray(packed.read_bytes())
    content[-100] ^= 1
    packed.write_bytes(content)


DAMAGES = {
    "wrong digest": change_a_byte,
    "longer": lambda packed: packed.write_bytes(packed.read_bytes() + b"more"),
    "truncated": lambda packed: packed.write_bytes(packed.read_bytes()[:-1]),
    "missing": Path.unlink,
    "a folder": lambda packed: (packed.unlink(), packed.mkdir()),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_of_a_folder_leaves_nothing_behind(damage: str, catalogue: Path, installed: Path) -> None:
    entry = entry_of(catalogue)
    harm = DAMAGES[damage]
    harm(catalogue / entry.file)
    with pytest.raises(CatalogueError):
        install(Place.of(catalogue), entry)
    assert not installed.parent.exists()


@pytest.mark.parametrize(("answer", "code"), [("n", 130), ("y", 0), (None, 2)])
def test_a_terminal_shows_size_and_licence_and_a_script_an_error(
    answer: str | None, code: int, catalogue: Path, installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "can_ask", lambda: answer is not None)
    arguments = ["models", "install", "Pancreas", "--index", str(catalogue)]
    done = CliRunner().invoke(app, arguments, input=f"{answer}\n")
    assert (done.exit_code, (installed / "Pancreas").exists()) == (code, code == 0)
    assert "CC BY 4.0" in done.stderr and entry_of(catalogue).megabytes in done.stderr


def test_who_agrees_to_install_a_model_has_agreed_to_its_licence(
    tmp_path: Path, installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    entry = publish(tiny.make_model_folder(tmp_path / "model", licence="CC BY-NC 4.0"), tmp_path / "catalogue")
    done = run("models", "install", entry.name, "--index", tmp_path / "catalogue", "--yes")
    assert done.exit_code == 0, done.stderr
    asked: list[Terms] = []
    agree([installed / entry.name], asked.append)
    assert asked == []


def test_what_is_installed_is_what_was_agreed_to(catalogue: Path, installed: Path) -> None:
    for change in ({"licence": "public domain"}, {"digest": "0" * 64}):
        with pytest.raises(CatalogueError):
            install(Place.of(catalogue), replace(entry_of(catalogue), **change))
    assert not installed.parent.exists()


def test_a_download_can_be_cancelled(catalogue: Path, installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installing, "CHUNK", 1000)
    asked: list[int] = []
    with pytest.raises(Cancelled):
        install(Place.of(catalogue), entry_of(catalogue), cancelled=lambda: asked.append(1) or len(asked) > 3)
    assert (len(asked), installed.parent.exists()) == (4, False)


def test_a_model_that_cannot_be_installed_is_refused(catalogue: Path) -> None:
    entry = entry_of(catalogue)
    assert status(entry) == Status.AVAILABLE
    changes = [({"minimum_version": "99.0.0"}, Status.TOO_NEW), ({"name": "PhantomPancreas"}, Status.SHIPPED)]
    for change, found in changes:
        assert status(replace(entry, **change)) == found
        with pytest.raises(CatalogueError):
            install(Place.of(catalogue), replace(entry, **change))
    install(Place.of(catalogue), entry)
    assert status(replace(entry, digest="0" * 64)) == Status.OTHER_VERSION


@pytest.mark.parametrize(
    "change",
    [
        {"schema_version": 2},
        {"schema_version": None},
        {"file": "../secret.zip"},
        {"file": "https://elsewhere/model.zip"},
        {"name": "CON"},
        {"size": -1},
        {"size": True},
        {"labels": [1]},
        {"title": "\x1b[2J"},
        {"script": "x"},
        "twice",
        None,
    ],
)
def test_a_bad_index_is_refused(change: object, catalogue: Path) -> None:
    index = catalogue / "models.json"
    data = json.loads(index.read_text())
    if isinstance(change, dict):
        data |= {key: value for key, value in change.items() if key == "schema_version"}
        data["models"][0] |= {key: value for key, value in change.items() if key != "schema_version"}
    elif change == "twice":
        data["models"] *= 2
    else:
        data = []
    index.write_text(json.dumps(data))
    with pytest.raises(CatalogueError):
        Place.of(index).entries()


BAD_ADDRESSES = ["http://example.org/models", "ftp://example.org", "https://", "https://a:b@example.org"]


@pytest.mark.parametrize("address", [*BAD_ADDRESSES, "https://e.org/?q=1", " "])
def test_only_https_and_this_computer_are_addresses(address: str) -> None:
    with pytest.raises(CatalogueError):
        Place.of(address)


def test_publishing_again_replaces_the_model_and_keeps_the_others(catalogue: Path, tmp_path: Path) -> None:
    before = entry_of(catalogue)
    assert (catalogue / before.page).read_text().count("unknown</span>") > 10
    assert "CC BY 4.0" in (catalogue / before.page).read_text()
    other = replace(before, name="Another", title="Another", file="Another.zip", preview=None)
    (catalogue / "models.json").write_text(index_text([before, other]))
    same = publish(load_model(catalogue / before.file), catalogue)
    assert same.preview == before.preview
    model = tiny.make_model_folder(tmp_path / "changed", name="Pancreas", licence="CC0")
    after = publish(model, catalogue)
    assert Place.of(catalogue).entries() == (other, after)
    assert after.preview is None  # it was another model's
    assert {path.name for path in catalogue.iterdir()} == {"Pancreas.html", after.file, "models.json"}
    assert [each.matches("cc0 panc") for each in (before, after)] == [False, True]


def test_a_model_is_published_with_the_picture_of_a_sample(tmp_path: Path) -> None:
    model = tiny.make_model_folder(tmp_path / "model", name="Organ of a CT", licence=NOT_STATED)
    sitk.WriteImage(tiny.make_ct((8, 16, 24), (1.0, 1.5, 3.0)), tmp_path / "Doe^John.nii.gz")  # few tiles
    catalogue, sample = tmp_path / "catalogue", tmp_path / "Doe^John.nii.gz"
    done = run("models", "publish", model.path, catalogue, "--sample", sample, "--json")
    assert done.exit_code == 0, done.stderr
    assert "No licence is given" in done.stderr
    place = Place.of(catalogue)
    entry = place.entry("Organ of a CT")
    assert json.loads(done.stdout)["published"]["name"] == entry.name == "Organ-of-a-CT"
    assert place.preview(entry)
    page = (catalogue / entry.page).read_text()
    assert "Computed tomography" in page and f'src="{entry.preview}"' in page
    assert "John" not in page + (catalogue / "models.json").read_text()
    install(place, entry)
    with pytest.raises(UserError):
        installing.remove("PhantomPancreas")
    for name in ("", "..", "../Models"):  # folders that are there, and no models
        with pytest.raises(UserError):
            installing.remove(name)


@pytest.mark.parametrize("bad", ["a file", "a file/catalogue", "damaged", "new"])
def test_what_cannot_be_published_leaves_the_catalogue_as_it_was(tmp_path: Path, bad: str) -> None:
    model = tiny.make_model_folder(tmp_path / "model", name="\N{SNOWMAN}" if bad == "new" else "Organ")
    (tmp_path / "a file").write_text("")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "models.json").write_text("[")
    before = sorted(tmp_path.rglob("*"))
    done = run("models", "publish", model.path, tmp_path / bad)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith("Error: ") and done.stderr.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before
