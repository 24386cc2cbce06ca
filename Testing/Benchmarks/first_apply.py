"""How long the first Apply takes in a Python that has only Slicer's own packages, and how much it downloads.

    python Testing/Benchmarks/first_apply.py [--model MODEL] [--image FILE]

A virtual environment gets what Slicer has. Then, timed, pip installs from the registry what the panel asks for, without
its cache, and a process segments the demo CT and finds its doubtful regions, as the worker does. A second process
does so once Python has compiled the packages.
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
from pathlib import Path
from urllib.request import Request, urlopen

RESOURCES = Path(__file__).resolve().parents[2] / "MoBUncertainty" / "Resources"
SLICERS = ("numpy", "scipy", "SimpleITK", "packaging")  # pydicom and Pillow count, since its own may be too old
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


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="HeadNeckOrgans")
    parser.add_argument("--image", type=Path, default=RESOURCES / "SampleData" / "HeadNeckCT.nii.gz")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        venv.create(folder / "python")
        python = folder / "python" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")

        def pip(*arguments: str) -> bytes:
            command = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check", *arguments]
            return subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout

        pip("install", *SLICERS)
        (folder / "kept.txt").write_bytes(pip("freeze"))
        names = ("requirements-export.txt", "requirements.txt", "requirements-openvino.txt")
        *others, openvino = (("-r", str(RESOURCES / name)) for name in names)
        reports, start = [folder / "others.json", folder / "openvino.json"], time.time()
        fresh = ("install", "--no-cache-dir", "--report")
        pip(*fresh, str(reports[0]), "-c", str(folder / "kept.txt"), *itertools.chain(*others))
        pip(*fresh, str(reports[1]), "--no-deps", *openvino)
        print(f"installed, s: {time.time() - start:.1f}", flush=True)
        wheels = [each["download_info"]["url"] for path in reports for each in json.loads(path.read_text())["install"]]
        size = sum(int(urlopen(Request(url, method="HEAD")).headers["Content-Length"]) for url in wheels)
        print(f"{len(wheels)} wheels, MB: {size / 1e6:.1f}")
        environment = os.environ | {"PYTHONPATH": str(RESOURCES.parent)}
        for turn in ("first", "second"):
            print(f"{turn} process:", flush=True)
            command = [python, "-c", SEGMENT, str(time.time()), asked.model, str(asked.image)]
            subprocess.run(command, check=True, env=environment)
            if turn == "first":
                print(f"Apply to result, s: {time.time() - start:.1f}")


if __name__ == "__main__":
    main()
