"""An image of another modality than a model takes is noticed, where both are known."""

from pathlib import Path

import pytest
import SimpleITK as sitk

from MoBUncertaintyLib.images.modality import contradictions, modality_of, modality_of_channel, set_modality
from MoBUncertaintyLib.images.reader import check_image, read_image
from support import dicom_files as dicom


@pytest.mark.parametrize(
    ("name", "modality"),
    [
        *[(name, "CT") for name in ("CT", "ct", "CBCT", "CT_venous", "CTA")],
        *[(name, "MR") for name in ("MRI", "mr", "T1", "T1w", "T1ce", "T1_Gd", "t2w", "FLAIR", "DWI b1000", "ADC")],
        *[(name, "PT") for name in ("PET", "SUV", "FDG-PET")],
        *[(name, None) for name in ("", "image", "0", "noNorm", "zscore", "PET/CT", "direct", "tissue")],
    ],
)
def test_what_a_channel_takes_is_read_from_its_name(name: str, modality: str | None) -> None:
    assert modality_of_channel(name) == modality


def test_only_what_contradicts_is_said() -> None:
    assert contradictions(["CT"], ["MR"]) == [
        "The image is an MR image, but the model takes a CT; choose another image or model."
    ]
    said = contradictions(["T1", "FLAIR", "extra"], ["MR", "CT", "US"])
    assert [each.partition(",")[0] for each in said] == ["The image of FLAIR is a CT"]
    assert not contradictions(["CT", "MRI", "PET"], ["CT", None, "OT"])


def test_an_image_keeps_what_it_is(tmp_path: Path) -> None:
    def as_mr(dataset: dicom.Dataset) -> None:
        dataset.Modality = "MR"

    folder = tmp_path / "slices"
    dicom.write_slices(folder, dicom.hounsfield(), dict.fromkeys(range(dicom.SHAPE[0]), as_mr))
    found = {
        "slices": read_image(folder).image,
        "frames": read_image(dicom.write_enhanced(tmp_path / "frames.dcm", dicom.hounsfield())).image,
    }
    found["checked"] = sitk.Cast(found["slices"], sitk.sitkFloat64)
    set_modality(found["checked"], "MR")
    found["checked"] = check_image(found["checked"])[0]  # of another number format
    for suffix in ("nrrd", "mha", "nii.gz"):
        sitk.WriteImage(found["slices"], tmp_path / f"image.{suffix}")
        found[suffix] = read_image(tmp_path / f"image.{suffix}").image
    states = {name: modality_of(image) for name, image in found.items()}
    assert states == {"slices": "MR", "frames": "CT", "checked": "MR", "nrrd": "MR", "mha": "MR", "nii.gz": None}
