"""Headers of source files that are unusual, or wrong: no result is lost, and what is written is right or left empty."""

import shutil
import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from highdicom.seg import segread
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from MoBUncertaintyLib.images.grid import grid_of
from MoBUncertaintyLib.images.reader import read_image
from MoBUncertaintyLib.output.case import Case, Source
from MoBUncertaintyLib.output.formats import Format
from MoBUncertaintyLib.output.review_export import write_export
from MoBUncertaintyLib.review.review import Review
from support.dicom_files import write_slices
from support.dicom_validators import complaints, needs_dciodvfy
from support.fake_case import write_results
from support.fake_review import from_dicom
from support.review_cases import found, predicted_as

FORMATS = ["dicom-seg", "dicom-seg-fractional", "dicom-sr", "parametric-map"]
FILES = {"segmentation.dcm", "probability.dcm", "report.dcm", "variance_1.dcm", "variance_2.dcm"}
SHAPE = (4, 6, 7)


@pytest.fixture(scope="module")
def exam(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Path], Case]:
    """A small CT from DICOM, and a review of its prediction."""
    folder = tmp_path_factory.mktemp("ct")
    files = write_slices(folder, np.random.default_rng(0).integers(-900, 900, SHAPE).astype(np.int16))
    image = read_image(folder).image
    segmentation = np.zeros(SHAPE, np.uint8)
    segmentation[1:3, 2:4, 2:5] = 1
    prediction = predicted_as(segmentation, grid_of(image))
    return files, Case.of(image, Review(prediction, found(segmentation)))


def changed(files: list[Path], folder: Path, fields: dict[str, bytes]) -> list[Path]:
    """Write the fields' bytes into the files as another program may have done, whatever pydicom thinks of them."""
    folder.mkdir(exist_ok=True)
    for file in files:
        (folder / file.name).write_bytes(_with_fields(file.read_bytes(), fields))
    return [folder / file.name for file in files]


def _with_fields(content: bytes, fields: dict[str, bytes]) -> bytes:
    start = at = 144 + struct.unpack_from("<I", content, 140)[0]  # after the meta information
    elements = {}
    while at < len(content):
        group, number, vr, length = struct.unpack_from("<HH2sH", content, at)
        head = 8
        if vr == b"OW":
            head, (length,) = 12, struct.unpack_from("<I", content, at + 8)
        elements[group, number] = content[at : at + head + length]
        at += head + length
    for keyword, value in fields.items():
        tag, even = pydicom.tag.Tag(keyword), value + b" " * (len(value) % 2)
        vr = pydicom.datadict.dictionary_VR(tag).encode()
        elements[tag.group, tag.element] = struct.pack("<HH2sH", tag.group, tag.element, vr, len(even)) + even
    return content[:start] + b"".join(elements[key] for key in sorted(elements))


def export(files: list[Path], case: Case, folder: Path, *formats: str, **options: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return write_export(from_dicom(case, files), folder, [*FORMATS, *formats], overwrite=True, **options)


NAME = "Yamada^Tarou=山田^太郎=やまだ^たろう"
JAPANESE = b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B=\x1b$B$d$^$@\x1b(B^\x1b$B$?$m$&\x1b(B"
HALF_WIDTH = b"\xd4\xcf\xc0\xde^\xc0\xdb\xb3=\x1b$B;3ED\x1b(J^\x1b$BB@O:\x1b(J=\x1b$B$d$^$@\x1b(J^\x1b$B$?$m$&\x1b(J"
KOREAN = b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7=\x1b$)C\xc8\xab^\x1b$)C\xb1\xe6\xb5\xbf"

MÜLLER = "Müller^Jörg"
LATIN = MÜLLER.encode("latin1")

WRONG = {
    **{"PatientSex": b"U", "PatientBirthDate": b"00000000", "StudyDate": b"2023-02-28", "StudyTime": b"12:30:00"},
    **{"PatientID": b"7" * 65, "AccessionNumber": b"A" * 40, "PatientName": b"n" * 80, "PatientAge": b"forty"},
    **{"BodyPartExamined": b"upper abdomen", "PatientWeight": b"heavy"},
}
OTHERWISE_WRONG = {
    **{"PatientSex": b"female", "PatientBirthDate": b"20230231", "StudyTime": b"250000"},
    **{"PatientName": b"Doe\x07^Jane", "StudyID": b"a\x01b"},
}

# What the files state; what PatientName is in the objects; what is left empty.
HEADERS: dict[str, tuple[dict[str, bytes], str | None, list[str]]] = {
    "nothing": ({}, "", []),
    "Japan": ({"SpecificCharacterSet": rb"\ISO 2022 IR 87", "PatientName": JAPANESE}, NAME, []),
    "Japan, half width": (
        {"SpecificCharacterSet": rb"ISO 2022 IR 13\ISO 2022 IR 87", "PatientName": HALF_WIDTH},
        "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう",
        [],
    ),
    "Korea": (
        {"SpecificCharacterSet": rb"\ISO 2022 IR 149", "PatientName": KOREAN},
        "Hong^Gildong=洪^吉洞=홍^길동",
        [],
    ),
    "Europe": ({"SpecificCharacterSet": b"ISO_IR 100", "PatientName": LATIN}, MÜLLER, []),
    "China": ({"SpecificCharacterSet": b"GB18030", "PatientName": "Wang=王".encode("gb18030")}, "Wang=王", []),
    "misspelt, plain name": ({"SpecificCharacterSet": b"ISO IR 1OO", "PatientName": b"Doe^Jane"}, "Doe^Jane", []),
    "misspelt": ({"SpecificCharacterSet": b"ISOIR100", "PatientName": LATIN}, "", ["PatientName"]),
    "no such set": ({"SpecificCharacterSet": b"KLINGON", "PatientName": b"Doe\xff"}, "", ["PatientName"]),
    "not in its set": ({"SpecificCharacterSet": b"ISO_IR 192", "PatientName": b"Doe\xff^J"}, "", ["PatientName"]),
    "wrong": (WRONG, "", list(WRONG)),
    "wrong in another way": (OTHERWISE_WRONG, "", list(OTHERWISE_WRONG)),
    "numbers of many digits": (
        {"PatientWeight": b"70.123456789012345678", "SliceThickness": b"2.5000000000000000001"},
        "",
        [],
    ),
    "all that is wrong at once": (
        {"SpecificCharacterSet": b"latin", "PatientName": b"\xe9", "PatientSex": b"?", "PatientBirthDate": b"unknown"}
        | {"StudyTime": b"noon", "StudyDate": b"19"},
        "",
        ["PatientName", "PatientSex", "PatientBirthDate", "StudyTime", "StudyDate"],
    ),
}


@pytest.mark.parametrize("which", HEADERS)
def test_each_object_is_written_and_what_is_wrong_is_left_empty(exam: Any, tmp_path: Path, which: str) -> None:
    fields, name, empty = HEADERS[which]
    files = changed(exam[0], tmp_path / "ct", fields)
    read_image(tmp_path / "ct")  # the image itself is read whatever the header says of the patient
    done = export(files, exam[1], tmp_path / "out", patient_fields=True)
    assert done.problems == ()
    assert {path.name for path in done.files} >= FILES
    for file in FILES:
        dataset = pydicom.dcmread(tmp_path / "out" / file)
        assert dataset.SpecificCharacterSet == "ISO_IR 192"
        assert str(dataset.PatientName) == name
        assert all(not dataset.get(keyword) for keyword in empty)
    said = [each for each in done.warnings if "DICOM files have invalid" in each]
    assert len(said) == bool(empty)
    assert all(keyword in said[0] for keyword in empty)
    assert not any(value.decode("latin1") in " ".join(done.warnings) for value in fields.values() if len(value) > 6)


@needs_dciodvfy
@pytest.mark.parametrize("which", ["Japan", "Korea", "all that is wrong at once"])
def test_the_validator_has_nothing_against_what_is_written(exam: Any, tmp_path: Path, which: str) -> None:
    files = changed(exam[0], tmp_path / "ct", HEADERS[which][0] | {"StudyID": b"S1"})
    export(files, exam[1], tmp_path / "out")
    for file in FILES:  # an index on a CD would need more than DICOM demands
        assert [each for each in complaints(tmp_path / "out" / file) if "DICOMDIR" not in each] == []


FIELDS = """
SpecificCharacterSet PatientID PatientName PatientBirthDate PatientSex PatientAge PatientSize PatientWeight StudyID
AccessionNumber StudyDate StudyTime StudyDescription ReferringPhysicianName BodyPartExamined Laterality SliceThickness
Manufacturer InstitutionName ImageType SeriesNumber InstanceNumber PatientComments OtherPatientIDs
"""
TERMS = [b"ISO_IR 100", b"ISO_IR 192", rb"\ISO 2022 IR 87", rb"\ISO 2022 IR 149", b"ISO_IR 6", b"GB18030", b"nonsense"]
VALUE = st.one_of(st.binary(max_size=80), st.text(max_size=40).map(str.encode), st.sampled_from([*TERMS, b"U", b"0"]))


@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
@given(fields=st.dictionaries(st.sampled_from(FIELDS.split()), VALUE, max_size=6))
def test_no_header_costs_the_results(exam: Any, tmp_path: Path, fields: dict[str, bytes]) -> None:
    """Each object is written, or one sentence says why not; the report is there whatever comes."""
    files = changed(exam[0], tmp_path / "ct", fields)
    done = export(files, exam[1], tmp_path / "out", "report", patient_fields=True)
    names = {path.name for path in done.files}
    assert names >= {"report.html", "report.json"}
    assert len(FILES & names) >= len(FILES) - 2 * len(done.problems)
    assert all(each.endswith(".") and "was not written: " in each for each in done.problems)
    for name in FILES & names:
        str(pydicom.dcmread(tmp_path / "out" / name))
    shutil.rmtree(tmp_path / "out")


@pytest.mark.parametrize("error", [ValueError("of highdicom"), MemoryError(), AssertionError(), KeyError("x")])
def test_what_one_object_fails_on_is_its_own_problem(
    exam: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    files, case = exam
    monkeypatch.setattr("MoBUncertaintyLib.output.dicom.objects.Segmentation", fail)
    done = export(files, case, tmp_path / "out", "report")
    assert len(set(done.problems)) == 3
    assert {path.name for path in done.files} >= {"report.html", "report.json", "variance_1.dcm"}
    formats = [Format.DICOM_SEG, Format.PARAMETRIC_MAP]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        said = write_results(tmp_path / "results", case, Source(dicom_files=tuple(files)), formats=formats).warnings
    assert len(said) == 1 and said[0].startswith("The DICOM segmentation was not written: ")
    assert {path.name for path in (tmp_path / "results").iterdir()} >= {"segmentation.nii.gz", "variance_1.dcm"}


@pytest.mark.parametrize(("total", "warned"), [(0.05, False), (0.4, True), (0.99, True)])
def test_slices_that_drift_apart_are_read_with_a_word_and_keep_their_voxels(
    tmp_path: Path, total: float, warned: bool
) -> None:
    """More than 0.1 of a voxel in all, so that they lie elsewhere than the volume that was made of them."""

    def moved(index: int) -> Any:
        x = -20 + total * index / (SHAPE[0] - 1)
        return lambda dataset: setattr(dataset, "ImagePositionPatient", [x, 30, 5 + 2.5 * index])

    values = np.random.default_rng(0).integers(-900, 900, SHAPE).astype(np.int16)
    files = write_slices(tmp_path / "ct", values, {index: moved(index) for index in range(SHAPE[0])})
    read = read_image(tmp_path / "ct")
    assert [each for each in read.warnings if "shifted against each other" in each] == read.warnings
    assert len(read.warnings) == warned
    segmentation = np.random.default_rng(1).integers(0, 2, SHAPE).astype(np.uint8)
    case = Case.of(read.image, Review(predicted_as(segmentation, grid_of(read.image)), found(segmentation * 0)))
    assert export(files, case, tmp_path / "out").problems == ()
    written = segread(tmp_path / "out" / "segmentation.dcm")
    for index, file in enumerate(files):
        uid = pydicom.dcmread(file).SOPInstanceUID
        (frame,) = written.get_pixels_by_source_instance([uid], combine_segments=True)
        assert np.array_equal(frame, segmentation[index])
