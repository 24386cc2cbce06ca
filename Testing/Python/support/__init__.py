"""What several tests share: builders of small cases, models and panels, and where things lie."""

from pathlib import Path

TESTS = Path(__file__).parents[1]
ROOT = TESTS.parents[1]
MODULE_FOLDER = ROOT / "MoBUncertainty"
