"""Check that a change leaves what the commands write as it was: run them on two checkouts, and compare every file.

    python Testing/Benchmarks/same_outputs.py run CHECKOUT FOLDER [--only TEXT]
    python Testing/Benchmarks/same_outputs.py compare BEFORE AFTER [--numbers] [--changes FILE]

`run` makes the inputs once, in `inputs` beside FOLDER, and runs about 100 commands with the code of CHECKOUT: all
covariance models, input formats and options, a cohort, reviews, exports, signatures, catalogues, calibration, wrong
input, help. `compare` holds volumes voxel by voxel, JSON value by value, tables cell by cell, pictures pixel by pixel,
DICOM element by element. What differs from run to run (times, identifiers, checksums of files that hold a time) is left
out. The exit code is 1 if anything else differs.
"""

import argparse
import csv
import json
import math
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import XML

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
CASE, MODEL = "inputs/ct.nii.gz", "inputs/mixture-of-bases"
QUICK = ("--no-scene", "--device", "cpu", "--overlap", "0")
FORMATS = ("report", "segmentation", "nifti", "dicom-seg", "dicom-seg-fractional", "dicom-report", "parametric-map")

Command = tuple[str, list[str]]
"""A name, and the arguments of `mob-uncertainty`; paths are relative to the folder that the commands run in."""


# --- inputs -----------------------------------------------------------------------------------------------------------


def make_inputs(folder: Path) -> None:
    """Write images in every format, models of every kind and readers' decisions."""
    sys.path.insert(0, str(ROOT / "Testing" / "Python"))
    import SimpleITK as sitk

    from MoBUncertaintyLib.model.covariance import Covariance, CovarianceSpec, Scope
    from support import tiny
    from support.dicom_files import write_series

    folder.mkdir()
    ct = tiny.make_ct((28, 32, 32), (4.0, 4.0, 4.0))
    for name in ("ct.nii.gz", "ct.nii", "ct.nrrd", "ct.mha"):
        sitk.WriteImage(ct, str(folder / name))
    shutil.copy(ROOT / "Testing" / "Python" / "support" / "phantom-ct.nii.gz", folder / "phantom.nii.gz")
    (folder / "dicom").mkdir()
    write_series(folder / "dicom", sitk.Cast(ct, sitk.sitkInt16))
    for number in range(3):
        path = folder / "cohort" / f"patient{number}.nii.gz"
        path.parent.mkdir(exist_ok=True)
        sitk.WriteImage(tiny.make_ct((24, 28, 28), (4.0, 4.0, 4.0), centre=(5 * number, 0, 0)), str(path))
    for kind in Covariance:
        scope = Scope.TILE if kind is Covariance.LOW_RANK else Scope.VOXEL
        spec = CovarianceSpec(kind, rank=4, bases=2, partitions=2, scope=scope)
        tiny.make_results_folder(folder / kind.value, covariance=spec)
    smooth = {"scope": Scope.LOCAL, "length_mm": (8.0, 8.0, 8.0)}
    local = CovarianceSpec(Covariance.MIXTURE_OF_BASES, rank=4, bases=2, partitions=2, **smooth)
    tiny.make_results_folder(folder / "local", covariance=local)
    two = tiny.make_dataset(("one", "two"))
    tiny.make_results_folder(folder / "two-organs", dataset=two, folds=2, mirror_axes=(0, 1))
    verdicts = ("accept", "include", "exclude")
    for name, chosen in {"all": verdicts, **{verdict: (verdict,) for verdict in verdicts}}.items():
        regions = [{"rank": rank, "verdict": chosen[rank % len(chosen)], "comment": "ü"} for rank in (1, 2)]
        _write_decisions(folder / f"{name}.json", regions=regions)
    click = [{"points_ras": [[0.0, 0.0, 0.0]], "label": "background"}]
    stroke = [{"points_ras": [[0.0, 4.0, 0.0], [8.0, 4.0, 0.0]], "label": "organ"}]
    _write_decisions(folder / "clicks.json", clicks=click + stroke)
    in_phantom = [{"points_ras": [[18.75, 6.25, -31.5]], "label": "background"}]
    in_phantom += [{"points_ras": [[23.75, 13.75, 4.5], [31.25, 13.75, 4.5]], "label": "pancreas"}]
    _write_decisions(folder / "phantom.json", regions=[{"rank": 1, "verdict": "include"}], clicks=in_phantom)
    _write_decisions(folder / "signed.json", regions=[], clicks=click, signature=True)
    (folder / "broken.nii.gz").write_bytes((folder / "ct.nii.gz").read_bytes()[:-99])
    (folder / "broken.json").write_text("{")
    (folder / "empty").mkdir()


def _write_decisions(path: Path, signature: bool = False, **entries: Any) -> None:
    signed = {"signature": {"name": "Ada", "time": "2026-05-31T14:30:00+02:00"}} if signature else {}
    decisions = {"schema": "mob-uncertainty review", "schema_version": 2, **entries, **signed}
    path.write_text(json.dumps(decisions), encoding="utf-8")


# --- commands ---------------------------------------------------------------------------------------------------------


def _predict(name: str, *options: str, image: str = CASE, model: str = MODEL) -> Command:
    return name, ["predict", image, "--model", model, "--output", f"out/{name}", *QUICK, *options]


def commands() -> Iterator[Command]:
    """Yield all commands in their order; later ones read what earlier ones have written."""
    kinds = ("deterministic", "diagonal", "low-rank", "single-basis", "mixture-of-bases", "local")
    for kind in kinds:
        yield _predict(f"exact-{kind}", model=f"inputs/{kind}")
        yield _predict(f"sampled-{kind}", "--samples", "4", "--seed", "3", model=f"inputs/{kind}")
    for suffix in ("nii", "nrrd", "mha"):
        yield _predict(f"from-{suffix}", image=f"inputs/ct.{suffix}")
    objects = [part for name in ("dicom-seg", "dicom-seg-fractional", "parametric-map") for part in ("--format", name)]
    yield _predict("from-dicom", *objects, image="inputs/dicom")
    options = {
        "full": ("--tiling", "full"),
        "float32": ("--precision", "float32"),
        "box": ("--roi", "-40", "40", "-40", "40", "-40", "40"),
        "air": ("--no-body-box",),
        "bernoulli": ("--uncertainty", "bernoulli"),
        "entropy": ("--uncertainty", "entropy", "--samples", "3"),
        "threshold": ("--threshold", "0.05"),
        "volume": ("--region", "minimum_mm3=2000"),
        "regions": ("--region", "depth_mm=2", "--region", "grow_mm=1"),
    }
    for name, chosen in options.items():
        yield _predict(name, *chosen)
    yield "scene", ["predict", CASE, "--model", MODEL, "--output", "out/scene", "--device", "cpu"]
    two = {"folds": (), "fold": ("--fold", "1"), "mirrored": ("--mirror",), "one-label": ("--labels", "two")}
    for name, chosen in two.items():
        yield _predict(f"two-{name}", *chosen, model="inputs/two-organs")
    yield _predict("ensemble", "--model", "inputs/diagonal")
    yield _predict("cohort", image="inputs/cohort")
    yield _predict("cohort", "--skip-existing", image="inputs/cohort")
    yield _predict("twice")
    yield _predict("twice", "--overwrite")
    yield _predict("json", "--json")
    yield _predict("quiet", "--quiet")
    yield _predict("shipped", image="inputs/phantom.nii.gz", model="PhantomPancreas")
    yield "demo", ["demo", "--accept-licence", "--output", "out/demo"]
    yield from _reviews()
    yield from _models()
    yield from _failures()
    words = ("predict", "review", "verify", "demo", "inspect", "export", "calibrate", "models", "models list")
    yield from ((f"help {word}", [*word.split(), "--help"]) for word in words)
    yield "help", ["--help"]
    yield "version", ["--version"]


def _reviews() -> Iterator[Command]:
    for name in ("all", "accept", "include", "exclude", "clicks", "signed"):
        output = f"out/review-{name}"
        yield f"review {name}", ["review", "out/twice", "--decisions", f"inputs/{name}.json", "--output", output]
    phantom = ["--decisions", "inputs/phantom.json", "--output", "out/review-phantom", "--format", "nifti"]
    yield "review phantom", ["review", "out/shipped", *phantom, "--format", "report"]
    chosen = ["review", "out/from-dicom", "--decisions", "inputs/all.json"]
    for name in FORMATS:
        yield f"review as {name}", [*chosen, "--format", name, "--output", f"out/review-as-{name}"]
    yield "review with patient", [*chosen, "--patient-fields", "--output", "out/review-patient"]
    yield "review again", [*chosen, "--output", "out/review-patient"]
    yield "review over", [*chosen, "--overwrite", "--output", "out/review-patient"]
    yield "verify", ["verify", "out/review-all"]


def _models() -> Iterator[Command]:
    for name in (MODEL, "inputs/two-organs", "inputs/deterministic", "PhantomPancreas", "HippocampusAnterior"):
        yield f"inspect {name}", ["inspect", name]
    yield "inspect --json", ["inspect", "PhantomPancreas", "--json"]
    made = {"folder": (), "zip.zip": (), "half": ("--half",), "regions": ("--region", "minimum_mm3=300")}
    for name, chosen in made.items():
        yield f"export {name}", ["export", MODEL, "--output", f"out/model-{name}", "--name", "Tiny", *chosen]
    yield "export stock", ["export", "inputs/deterministic", "--output", "out/model-stock", "--orientation", "RAS"]
    yield "export two", ["export", "inputs/two-organs", "--output", "out/model-two", "--fold", "0"]
    yield _predict("from-exported", model="out/model-folder")
    yield _predict("from-zip", model="out/model-zip.zip")
    yield "export to publish", ["export", MODEL, "--output", "out/tiny", "--name", "Tiny"]
    yield "publish", ["models", "publish", "out/tiny", "out/catalogue", "--sample", CASE]
    yield "models list", ["models", "list", "--index", "out/catalogue"]
    yield "models install", ["models", "install", "Tiny", "--index", "out/catalogue"]
    yield "models installed", ["models", "list", "--installed"]
    yield "models remove", ["models", "remove", "Tiny"]


def _failures() -> Iterator[Command]:
    good = {"image": CASE, "model": MODEL}
    wrong: dict[str, tuple[dict[str, str], tuple[str, ...]]] = {
        "no image": ({"image": "inputs/none.nii.gz"}, ()),
        "broken image": ({"image": "inputs/broken.nii.gz"}, ()),
        "empty folder": ({"image": "inputs/empty"}, ()),
        "text as image": ({"image": "inputs/all.json"}, ()),
        "no model": ({"model": "inputs/none"}, ()),
        "no such name": ({"model": "Nothing"}, ()),
        "image as model": ({"model": CASE}, ()),
        "no label": ({}, ("--labels", "liver")),
        "no fold": ({}, ("--fold", "7")),
        "no device": ({}, ("--device", "nowhere")),
        "no mirroring": ({}, ("--mirror",)),
        "no channel": ({}, ("--channel", "PET=inputs/ct.nii")),
        "box outside": ({}, ("--roi", "900", "990", "900", "990", "900", "990")),
        "no region setting": ({}, ("--region", "width_mm=2")),
        "samples of one answer": ({"model": "inputs/deterministic"}, ("--uncertainty", "entropy", "--samples", "0")),
        "no DICOM": ({}, ("--format", "dicom-seg")),
        "results as image": ({"image": "out/twice"}, ()),
    }
    for name, (changes, chosen) in wrong.items():
        yield _predict(name.replace(" ", "-"), *chosen, **(good | changes))
    yield _predict("twice")  # is there already
    yield "review nothing", ["review", "inputs/empty", "--decisions", "inputs/all.json"]
    yield "review broken", ["review", "out/twice", "--decisions", "inputs/broken.json", "--output", "out/review-none"]
    yield "review no format", ["review", "out/twice", "--decisions", "inputs/all.json", "--format", "x"]
    yield "verify nothing", ["verify", "inputs/empty"]
    yield "inspect nothing", ["inspect", "inputs/empty"]
    yield "export nothing", ["export", "inputs/empty", "--output", "out/none"]
    yield "calibrate too few", ["calibrate", "out/model-folder", "out/review-signed", "--output", "out/calibrated"]
    yield "install nothing", ["models", "install", "Nothing", "--index", "out/catalogue"]
    yield "list nothing", ["models", "list", "--index", "inputs/empty"]


def run_all(folder: Path, only: str, instead: dict[str, str]) -> None:
    """Run the commands in `folder`, each in a fork of this process, which has imported what they need."""
    import torch  # noqa: F401 - imported once for all

    from MoBUncertaintyLib.cli.app import app

    os.chdir(folder)
    chosen = [command for command in commands() if only in command[0]]
    chosen = [(name, shlex.split(instead[name]) if name in instead else words) for name, words in chosen]
    for number, (name, arguments) in enumerate(chosen, 1):
        again = sum(earlier == name for earlier, _ in chosen[: number - 1])
        log = Path("logs", f"{name.replace('/', ' ')}{f' {again + 1}' if again else ''}.txt")
        process = os.fork()
        if process == 0:
            code: Any = 1
            try:
                output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
                os.dup2(output, 1), os.dup2(output, 2)
                sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
                app(arguments)
            except SystemExit as end:
                code = end.code or 0
            finally:
                print(f"exit code {code}", flush=True)
                sys.stderr.flush()
                os._exit(0)
        os.waitpid(process, 0)
        print(f"{number} of {len(chosen)}: {name}", flush=True)


# --- comparison -------------------------------------------------------------------------------------------------------

VARYING = re.compile(
    r"\d{4}-\d\d-\d\d[T ][\d:.+-]+Z?"  # times
    r"|\b[12]\.\d+\.\d[\d.]{20,}"  # identifiers of DICOM
    r"|\b[0-9a-f]{64}\b"  # checksums of files that hold a time
    r"|\b\d+(\.\d+)? (s|MB|GB)\b"  # durations, free memory
    r"|\b\d+ [A-Z][a-z]+ \d{4}, \d\d:\d\d UTC|nonce[-=]\"?[0-9a-f]{24}"  # of pages
    r"|(^  [A-Z][^\n]*\n)+|^│ time [^\n]*\n(│ {10}[^\n]*\n)*",  # progress, times of stages
    re.MULTILINE,
)
NUMBER = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?")
VARYING_KEYS = {"seconds", "timings_s", "time", "path", "created", "predicted_at", "date", "sha256", "files"}
VARYING_ELEMENTS = re.compile(r"UID|Date|Time|ContentQualification")


def plain(text: str, folder: Path) -> str:
    """Leave out what differs from run to run."""
    return VARYING.sub(
        "…", text.replace(str(folder.resolve()), "FOLDER").replace(str(folder.resolve().parent), "PLACE")
    )


def content(path: Path, folder: Path) -> Any:
    """Return what a file holds, in a form that can be compared."""
    read = next((read for ending, read in READERS.items() if path.name.endswith(ending)), None)
    return read(path, folder) if read else path.read_bytes()


def _volume(path: Path, _folder: Path) -> Any:
    import SimpleITK as sitk

    image = sitk.ReadImage(str(path))
    geometry = image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection()
    header = {"geometry": geometry, "type": image.GetPixelIDTypeAsString()}
    return header | {"voxels": sitk.GetArrayFromImage(image)}


def _picture(path: Path, _folder: Path) -> Any:
    from PIL import Image

    with Image.open(path) as picture:
        return np.asarray(picture)


def _archive(path: Path, _folder: Path) -> Any:
    with tempfile.TemporaryDirectory() as place, zipfile.ZipFile(path) as archive:
        archive.extractall(place)
        return contents(Path(place))


def _dicom(path: Path, folder: Path) -> Any:
    import pydicom

    return _elements(pydicom.dcmread(path), folder)


def _scene(path: Path, folder: Path) -> Any:
    return {f"{node.tag} {node.get('id')}": _values(dict(node.items()), folder) for node in XML(path.read_bytes())}


def _json(path: Path, folder: Path) -> Any:
    return _values(json.loads(path.read_text(encoding="utf-8")), folder)


def _table(path: Path, folder: Path) -> Any:
    with path.open(encoding="utf-8-sig", newline="") as table:
        return _values(list(csv.DictReader(table)), folder)


def _text(path: Path, folder: Path) -> Any:
    """Return what a command or a page of Markdown says, and the JSON that the command prints."""
    said, start, rest = path.read_text(encoding="utf-8", errors="replace").partition("\n{\n")
    facts, end = json.JSONDecoder().raw_decode("{" + rest) if start else ({}, 0)
    return {"facts": _values(facts, folder), "text": plain(said + rest[end:], folder)}


def _page(path: Path, folder: Path) -> Any:
    """Return what a page shows, and the data in it; its code and style are no output."""
    page = path.read_text(encoding="utf-8")
    data = re.findall(r"<script[^>]*json[^>]*>(.*?)</script>", page, re.DOTALL)
    pictures = re.findall(r"data:image/[^\"']*", page)
    shown = re.sub(r"<(script|style).*?</\1>|<td[^>]*Time, s.*?</td>|<[^>]*>", " ", page, flags=re.DOTALL)
    values = [_values(json.loads(part), folder) for part in data]
    return {"data": values, "pictures": pictures, "text": plain(" ".join(shown.split()), folder)}


READERS = dict.fromkeys((".nii.gz", ".nii", ".nrrd", ".mha"), _volume)
READERS |= {".png": _picture, ".jpg": _picture, ".mrb": _archive, ".zip": _archive, ".dcm": _dicom, ".mrml": _scene}
READERS |= {".json": _json, ".csv": _table, ".html": _page, ".txt": _text, ".md": _text}


def _values(value: Any, folder: Path) -> Any:
    if isinstance(value, dict):
        return {key: _values(each, folder) for key, each in value.items() if key not in VARYING_KEYS}
    if isinstance(value, list):
        return [_values(each, folder) for each in value]
    if isinstance(value, str) and value.startswith("{"):
        return _values(json.loads(value), folder)
    return plain(value, folder) if isinstance(value, str) else value


def _elements(dataset: Any, folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for element in dataset:
        if element.VR == "SQ":
            found[element.name] = [_elements(item, folder) for item in element.value]
        elif not VARYING_ELEMENTS.search(element.name):
            pixels = element.VR in ("OB", "OW", "OF", "OD")
            found[element.name] = element.value if pixels else plain(str(element.value), folder)
    return found


def contents(folder: Path) -> dict[str, Any]:
    """Return what each file of a folder holds, by its path in it."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {plain(path.relative_to(folder).as_posix(), folder): content(path, folder) for path in files}


def differences(one: Any, other: Any, words: bool = True, place: str = "") -> Iterator[str]:
    """Yield where two contents differ, and how; without `words`, of sentences the numbers alone."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in sorted(one.keys() | other.keys(), key=str):
            here = f"{place}/{key}"
            if key in one and key in other:
                yield from differences(one[key], other[key], words, here)
            else:
                yield f"{here}: only {'before' if key in one else 'after'}"
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for number, pair in enumerate(zip(one, other, strict=True)):
            yield from differences(*pair, words, f"{place}/{number}")
    elif not words and all(isinstance(text, str) and text.count(" ") > 2 for text in (one, other)):
        numbers = [_numbers(text) for text in (one, other)]  # three words or fewer are a value
        if len(numbers[0]) != len(numbers[1]) or not all(map(_rounds_to, *numbers)):
            yield f"{place}: {_difference(*map(' '.join, numbers))}"
    elif not _equal(one, other):
        yield f"{place}: {_difference(one, other)}"


def _numbers(text: str) -> list[str]:
    return [number.replace(",", "") for number in NUMBER.findall(text)]


def _rounds_to(one: str, other: str) -> bool:
    """Compare numbers to the digits that both state."""
    decimals = min(len(number.partition(".")[2]) for number in (one, other))
    return one == other or ("." in one + other and abs(float(one) - float(other)) <= 0.501 / 10**decimals)


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return np.array_equal(one, other)
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-6)  # sums in another order
    return type(one) is type(other) and one == other


def _difference(one: Any, other: Any) -> str:
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        if one.shape != other.shape:
            return f"shape {one.shape} before, {other.shape} after"
        largest = np.abs(one.astype(float) - other.astype(float)).max()
        return f"{(one != other).sum()} of {one.size} values differ, by {largest:.3g} at most"
    if isinstance(one, str) and isinstance(other, str):
        pairs = zip(one.splitlines(), other.splitlines(), strict=False)
        one, other = next((pair for pair in pairs if pair[0] != pair[1]), (one[-80:], other[-80:]))
        same = next((place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), 0)
        one, other = (line[max(same - 40, 0) :] for line in (one, other))
    return f"{one!r:.160} before, {other!r:.160} after"


def compare(before: Path, after: Path, words: bool = True, changes: Mapping[str, str] | None = None) -> int:
    """Print how the files of two runs differ, but for changes that were meant; return the exit code.

    Args:
        words: Compare the words of sentences, not only their numbers.
        changes: Reasons of what was changed on purpose, by patterns of the lines that tell of it.
    """
    one, other = contents(before), contents(after)
    found, unequal, reasons = 0, 0, Counter[str]()
    for name in sorted(one.keys() | other.keys()):
        lines = list(differences(*({name: side[name]} if name in side else {} for side in (one, other)), words))
        meant = [next((why for part, why in (changes or {}).items() if re.search(part, line)), "") for line in lines]
        reasons.update(filter(None, meant))
        unmeant = [line for line, why in zip(lines, meant, strict=True) if not why]
        print(*unmeant, sep="\n", end="\n" if unmeant else "")
        found, unequal = found + len(unmeant), unequal + bool(lines)
    for reason, count in reasons.most_common():
        print(f"{count} meant: {reason}")
    print(f"{len(one)} and {len(other)} files compared, {unequal} with differences, {found} differences not meant")
    return int(bool(found))


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("run", "compare", "inputs", "commands"))
    parser.add_argument("first", type=Path), parser.add_argument("second", type=Path, nargs="?")
    parser.add_argument("--only", default="", help="commands whose name holds this")
    parser.add_argument("--instead", default=[], action="append", metavar="NAME=ARGUMENTS", help="of an older checkout")
    parser.add_argument("--numbers", action="store_true", help="compare the numbers of sentences, not their words")
    parser.add_argument(
        "--changes", type=Path, help="JSON file with names and differences that were changed on purpose"
    )
    chosen = parser.parse_args()
    if chosen.action == "compare":
        changes = json.loads(chosen.changes.read_text(encoding="utf-8")) if chosen.changes else {}
        return compare(chosen.first, chosen.second, not chosen.numbers, changes)
    if chosen.action == "inputs":
        make_inputs(chosen.first)
    elif chosen.action == "commands":
        run_all(chosen.first, chosen.only, dict(words.split("=", 1) for words in chosen.instead))
    else:
        folder = chosen.second.absolute()
        inputs = folder.parent / "inputs"
        if not inputs.exists():
            _start(ROOT, "inputs", str(inputs))
        for name in ("logs", "out"):
            (folder / name).mkdir(parents=True)
        (folder / "inputs").symlink_to(inputs)
        instead = [f"--instead={words}" for words in chosen.instead]
        _start(chosen.first.absolute(), "commands", str(folder), "--only", chosen.only, *instead)
    return 0


def _start(checkout: Path, *arguments: str) -> None:
    """Run this file with the code of a checkout, without threads and without what the user has installed."""
    paths = os.pathsep.join(str(checkout / name) for name in ("MoBUncertainty", "training"))
    with tempfile.TemporaryDirectory() as home:
        more = {"PYTHONPATH": paths, "HOME": home, "XDG_CACHE_HOME": home, "XDG_DATA_HOME": home, "COLUMNS": "100"}
        more |= {"OMP_NUM_THREADS": "1", "MOB_UNCERTAINTY_ENGINE": "torch"}
        subprocess.run([sys.executable, __file__, *arguments], env=os.environ | more, check=True)


if __name__ == "__main__":
    sys.exit(main())
