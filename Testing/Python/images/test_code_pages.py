"""Names that SimpleITK cannot open on Windows, simulated: images are read and written all the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from MoBUncertaintyLib.images import code_pages
from MoBUncertaintyLib.images.reader import read_image
from MoBUncertaintyLib.output.segment_nrrd import write_whole
from support.dicom_files import write_slices

NAMES = ("ct.nii", "ct.nii.gz", "Bäuche 臓.nii.gz", "Bäuche.seg.nrrd", "臓.mha", "1.ä.nrrd", "Ä")


def image() -> sitk.Image:
    return sitk.GetImageFromArray(np.arange(480, dtype=np.int16).reshape(6, 8, 10))


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "Müller 一時").mkdir()
    return tmp_path / "Müller 一時"


def narrow(patch: pytest.MonkeyPatch) -> None:
    """Let SimpleITK open only what is in every code page; other files are not there."""
    patch.setattr(code_pages, "ONLY_ASCII", True)

    def there(path: Any) -> str:
        if not str(path).isascii():
            raise RuntimeError(f'The file "{path}" does not exist.')
        return str(path)

    class Reader(sitk.ImageFileReader):
        def SetFileName(self, path: Any) -> None:  # noqa: N802 - SimpleITK's
            super().SetFileName(there(path))

    read, write = sitk.ReadImage, sitk.WriteImage
    patch.setattr(sitk, "ImageFileReader", Reader)
    patch.setattr(sitk, "ReadImage", lambda path, *rest, **more: read(there(path), *rest, **more))
    patch.setattr(sitk, "WriteImage", lambda given, path, *rest, **more: write(given, there(path), *rest, **more))


@pytest.mark.parametrize("name", NAMES)
def test_images_are_read_whatever_they_are_called(place: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    if name == "Ä":
        write_slices(place / name, sitk.GetArrayFromImage(image()))
    else:
        sitk.WriteImage(image(), place / name)
    narrow(monkeypatch)
    assert np.array_equal(sitk.GetArrayFromImage(read_image(place / name).image), sitk.GetArrayFromImage(image()))


@pytest.mark.parametrize("name", ["Bäuche.seg.nrrd", "臓.nii.gz"])
def test_images_are_written_whatever_they_are_called(place: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    narrow(monkeypatch)
    write_whole(image(), place / name)
    assert [path.name for path in place.iterdir()] == [name]
    assert np.array_equal(sitk.GetArrayFromImage(read_image(place / name).image), sitk.GetArrayFromImage(image()))
