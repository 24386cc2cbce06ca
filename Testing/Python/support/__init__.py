"""What several tests share: builders of small cases, models and panels, and where things lie."""

import importlib
import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]
ROOT = TESTS.parents[1]
MODULE_FOLDER = ROOT / "MoBUncertainty"
PHANTOM_CT, PHANTOM_PANCREAS = (TESTS / "support" / f"phantom-{name}.nii.gz" for name in ("ct", "pancreas"))
"""A CT with its truth that `PHANTOM_MODEL` has not seen: `mob-training phantom cohort --cases 1 --seed 2`."""
PHANTOM_MODEL = MODULE_FOLDER / "Resources" / "Models" / "PhantomPancreas"

# Slicer's core from PyPI has none.
sys.modules.setdefault("slicer.i18n", importlib.import_module("slicer_host.fakes.i18n"))
