"""Other people's DICOM programs: dicom3tools' validator, and dcmqi's readers."""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pydicom
import pytest
import SimpleITK as sitk
from pydicom.uid import SegmentationStorage

needs_dciodvfy = pytest.mark.skipif(
    not shutil.which("dciodvfy"), reason="no dciodvfy (on Debian: apt install dicom3tools)"
)

# Codes of our own are of a scheme that the validator cannot know; QUANTITY is the standard's word for parametric maps.
# Debian's is of January 2024 and knows no label maps (Supplement 243), to whose segments a report may refer.
_EXPECTED = (
    "Unrecognized defined term = <99MOB>",
    "Unrecognized defined term = <QUANTITY>",
    "ReferencedSegmentNumber(0062,000b)> - Shall not be present for Referenced SOP Class that is not segmentation",
)
_LABEL_MAP = ("<LABELMAP>", "SegmentIdentificationSequence(0062,000a)", "SegmentNumber(0062,0004)")


def complaints(path: Path) -> list[str]:
    """What dciodvfy has against a file, but for what is known and right; a label map is checked as another SEG."""
    dataset, expected = pydicom.dcmread(path), _EXPECTED
    with tempfile.TemporaryDirectory() as folder:
        if dataset.get("SegmentationType") == "LABELMAP":
            dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = SegmentationStorage
            path, expected = Path(folder) / "seg.dcm", _EXPECTED + _LABEL_MAP
            dataset.save_as(path)
        done = subprocess.run(["dciodvfy", "-new", str(path)], capture_output=True, encoding="utf-8", check=False)
    said = (done.stdout + done.stderr).splitlines()
    lines = [line for line in said if line.startswith(("Error", "Warning", "Abort"))]
    return [line for line in lines if not any(known in line for known in expected)]


def dcmqi(program: str, path: Path, output: Path) -> Path:
    """Run one of dcmqi's readers; returns the folder that it has written."""
    output.mkdir(exist_ok=True)
    command = [str(Path(sys.executable).with_name(program)), "--inputDICOM", str(path)]
    command += ["--outputMetadata" if program == "tid1500reader" else "--outputDirectory"]
    command += [str(output / "meta.json") if program == "tid1500reader" else str(output)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return output


def read_segments(path: Path, output: Path) -> dict[str, sitk.Image]:
    """Read a SEG with dcmqi: the image of each segment, by its label."""
    folder = dcmqi("segimage2itkimage", path, output)
    groups = json.loads((folder / "meta.json").read_text(encoding="utf-8"))["segmentAttributes"]
    images = {}
    for number, group in enumerate(groups, 1):
        image = sitk.ReadImage(str(folder / f"{number}.nrrd"))
        for segment in group:
            images[segment["SegmentLabel"]] = image if len(group) == 1 else image == segment["labelID"]
    return images


def read_measurements(path: Path, output: Path) -> list[dict[str, Any]]:
    """Read a structured report with dcmqi: its groups of measurements."""
    folder = dcmqi("tid1500reader", path, output)
    found: list[dict[str, Any]] = json.loads((folder / "meta.json").read_text(encoding="utf-8"))["Measurements"]
    return found
