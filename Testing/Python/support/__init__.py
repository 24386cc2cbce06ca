"""What several tests share: builders of small cases, models and panels, and where things lie."""

import importlib
import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]
ROOT = TESTS.parents[1]
MODULE_FOLDER = ROOT / "MoBUncertainty"

# Slicer's core from PyPI has none.
sys.modules.setdefault("slicer.i18n", importlib.import_module("slicer_host.fakes.i18n"))
