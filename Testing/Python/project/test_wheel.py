"""The wheel, which `pip install .` makes and installs."""

import re
import subprocess
import sys
import zipfile
from email import message_from_bytes
from email.message import Message
from pathlib import Path

import hatchling.build
import pytest

from MoBUncertaintyLib.model.folder import load_model
from support import ROOT
from support.repository import tracked

MODULE = ROOT / "MoBUncertainty"
LIBRARY = MODULE / "MoBUncertaintyLib"
USED = ("Models", "Report", "SampleData", "Terminology")  # of Resources; the rest is Slicer's


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        folder = tmp_path_factory.mktemp("wheel")
        return folder / hatchling.build.build_wheel(str(folder))


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return message_from_bytes(archive.read(name))


def test_wheel_is_small_and_holds_what_runs_outside_slicer(wheel: Path) -> None:
    assert wheel.stat().st_size < 20e6
    library = [path for path in tracked("MoBUncertainty/MoBUncertaintyLib") if "slicer_app" not in path.parts]
    expected = {path.relative_to(MODULE).as_posix() for path in library}
    expected |= {path.relative_to(ROOT / "training").as_posix() for path in tracked("training/mob_training")}
    for name in USED:
        files = tracked(f"MoBUncertainty/Resources/{name}")
        assert files, name
        expected |= {f"{LIBRARY.name}/{path.relative_to(MODULE).as_posix()}" for path in files}
    with zipfile.ZipFile(wheel) as archive:
        assert {name for name in archive.namelist() if ".dist-info/" not in name} == expected


def test_links_and_pictures_of_the_package_page_lead_to_files_of_the_repository(metadata: Message) -> None:
    address = dict(url.split(", ") for url in metadata.get_all("Project-URL"))["Source"]
    raw = address.replace("://github.com", "://raw.githubusercontent.com")
    text = metadata.get_payload(decode=True).decode()
    links = re.findall(r"(!?)\[[^]]*\]\((?!#)([^)]+)\)", text)
    assert sum(link.startswith((address, raw)) for _, link in links) >= 20
    for is_picture, link in links:
        assert link.startswith("https://")
        if link.startswith((address, raw)):
            path = link.removeprefix(f"{raw}/main/" if is_picture else f"{address}/blob/main/").partition("#")[0]
            assert (ROOT / path).is_file(), link


def test_wheel_states_the_licences_of_the_code_and_of_each_model_and_holds_their_texts(
    wheel: Path, metadata: Message
) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (info,) = {name.split("/")[0] for name in archive.namelist() if ".dist-info/" in name}
        texts = {name: archive.read(f"{info}/licenses/{name}").decode() for name in metadata.get_all("License-File")}
    licences = {"Apache-2.0"}
    for folder in (MODULE / "Resources" / "Models").iterdir():
        licence = load_model(folder).card.licence.replace(" ", "-")
        assert licence == "Apache-2.0" or (folder / "LICENSE.txt").is_file()
        licences.add(licence)
    assert set(metadata["License-Expression"].split(" AND ")) == licences
    files = [ROOT / "LICENSE.txt", *tracked("MoBUncertainty/Resources/*/LICENSE.txt")]
    assert texts == {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in files}


def test_what_is_installed_finds_its_model_template_and_sample(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    program = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "import MoBUncertaintyLib.pipeline.demo as demo\n"
        "from MoBUncertaintyLib.model import folder, listing\n"
        "from MoBUncertaintyLib.output.pages.templates import require_installed\n"
        f"assert demo.__file__.startswith({str(tmp_path)!r})\n"
        "require_installed()\n"
        "folder.load_model(listing.find_model(demo.DEMO_MODEL)).state_dict(0)\n"
        "sys.exit(not (demo.SAMPLE_DATA / 'HeadNeckCT.nii.gz').is_file())\n"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
