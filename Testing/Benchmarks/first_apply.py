"""How long the first Apply takes in a Python that has only Slicer's own packages, and how much it downloads.

    python Testing/Benchmarks/first_apply.py [--model MODEL] [--image FILE]
    python Testing/Benchmarks/first_apply.py --sizes

A virtual environment gets what Slicer has. Then, timed, pip installs from the registry what the panel asks for, without
its cache, and a process segments the demo CT and finds its doubtful regions, as the worker does. A second process
does so once Python has compiled the packages. With `--sizes` nothing is installed: pip says what it would download for
the Python 3.12 of each kind of computer.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterable
from pathlib import Path
from urllib.request import Request, urlopen

RESOURCES = Path(__file__).resolve().parents[2] / "MoBUncertainty" / "Resources"
SLICERS = ("numpy", "scipy", "simpleitk", "packaging")  # pydicom and Pillow count, since its own may be too old
REQUIREMENTS = tuple(RESOURCES / f"requirements{name}.txt" for name in ("-export", "", "-openvino"))
COMPUTERS = {
    "Linux, x86-64": [f"manylinux{version}_x86_64" for version in ("1", "2014", *(f"_2_{n}" for n in range(17, 36)))],
    "Linux, ARM": [f"manylinux{version}_aarch64" for version in ("2014", *(f"_2_{n}" for n in range(17, 36)))],
    "Windows, x86-64": ["win_amd64"],
    "macOS, ARM": ["macosx_14_0_arm64"],
}
"""The platforms of wheels, as pip names them, by the computer."""
SEGMENT = """
import sys, time
start = float(sys.argv[1])
from MoBUncertaintyLib import find_model, load_model, read_image
from MoBUncertaintyLib.inference.predictor import Predictor
from MoBUncertaintyLib.pipeline.cases import analyse
def tell(step):
    if (step.stage, step.done) == ("network", 1):
        print("    first tile, s:", round(time.time() - start, 1))
predictor = Predictor(load_model(find_model(sys.argv[2])))
case = analyse(read_image(sys.argv[3]).image, predictor, progress=tell)
assert case.prediction.provenance["engine"] == "openvino"
print("    result, s:", round(time.time() - start, 1))
"""


def megabytes(reports: Iterable[Path]) -> tuple[int, float]:
    """Count what pip has downloaded by its reports, or would: wheels, and MB of those that Slicer lacks."""
    needed = [each for path in reports for each in json.loads(path.read_text())["install"]]
    wheels = [each["download_info"]["url"] for each in needed if each["metadata"]["name"].lower() not in SLICERS]
    return len(wheels), sum(int(urlopen(Request(url, method="HEAD")).headers["Content-Length"]) for url in wheels) / 1e6


def show_sizes(folder: Path) -> None:
    """Print how much each kind of computer downloads."""
    for computer, platforms in COMPUTERS.items():
        wheels = ("--target", "elsewhere", "--only-binary=:all:", "--python-version=3.12", "--implementation=cp")
        options = [*wheels, *(f"--platform={platform}" for platform in platforms), "--dry-run", "--quiet", "--report"]
        reports = [folder / f"{computer} {number}.json" for number in range(2)]
        for report, files in zip(reports, (REQUIREMENTS[:2], REQUIREMENTS[2:]), strict=True):
            asked = [part for file in files for part in ("-r", str(file))]
            alone = ["--no-deps"] if report is reports[1] else []
            command = [sys.executable, "-m", "pip", "install", *options, str(report), *alone, *asked]
            subprocess.run(command, check=True)
        print("{}: {} wheels, {:.1f} MB".format(computer, *megabytes(reports)), flush=True)


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="HeadNeckOrgans")
    parser.add_argument("--image", type=Path, default=RESOURCES / "SampleData" / "HeadNeckCT.nii.gz")
    parser.add_argument("--sizes", action="store_true", help="only how much each kind of computer downloads")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if asked.sizes:
            show_sizes(folder)
            return
        venv.create(folder / "python")
        python = folder / "python" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")

        def pip(*arguments: str) -> bytes:
            command = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check", *arguments]
            return subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout

        pip("install", *SLICERS)
        (folder / "kept.txt").write_bytes(pip("freeze"))
        *others, openvino = (("-r", str(file)) for file in REQUIREMENTS)
        reports, start = [folder / "others.json", folder / "openvino.json"], time.time()
        fresh = ("install", "--no-cache-dir", "--report")
        pip(*fresh, str(reports[0]), "-c", str(folder / "kept.txt"), *itertools.chain(*others))
        pip(*fresh, str(reports[1]), "--no-deps", *openvino)
        print(f"installed, s: {time.time() - start:.1f}", flush=True)
        print("{} wheels, MB: {:.1f}".format(*megabytes(reports)))
        environment = os.environ | {"PYTHONPATH": str(RESOURCES.parent)}
        for turn in ("first", "second"):
            print(f"{turn} process:", flush=True)
            command = [python, "-c", SEGMENT, str(time.time()), asked.model, str(asked.image)]
            subprocess.run(command, check=True, env=environment)
            if turn == "first":
                print(f"Apply to result, s: {time.time() - start:.1f}")


if __name__ == "__main__":
    main()
