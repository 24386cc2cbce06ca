"""The documentation as a site, by Sphinx: `make docs`."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

project = "MoB Uncertainty"
author = "The MoB Uncertainty contributors"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "README"
include_patterns = ["*.md", "MoBUncertainty/**.md", "Testing/Benchmarks/**.md", "training/**.md"]
exclude_patterns = [".git", ".venv", "build", "demo-results", "dist"]
suppress_warnings = ["toc.not_included"]  # of results and notes, to which pages lead
myst_heading_anchors = 4
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints = "description"
default_role = "code"
html_theme = "furo"
html_title = project
html_theme_options = {
    "source_repository": PROJECT["urls"]["Source"],
    "source_branch": "main",
    "source_directory": "",
}

PAGES = "MoBUncertainty/Documentation"
ORDER = {
    "Try": ["Try it <self>"],
    "Use in Slicer": [f"{PAGES}/{name}" for name in ("tutorial", "troubleshooting", "privacy")],
    "Use at the command line": [
        f"{PAGES}/{name}" for name in ("command-line", "measurements", "nnunet-models", "hosting-models")
    ],
    "Use from Python": [f"{PAGES}/python"],
    "Trust": [f"{PAGES}/science", f"{PAGES}/speed", "Testing/Benchmarks/README", "Testing/Benchmarks/results/README"],
    "Train": [f"training/{name}" for name in ("README", "partial-labels", "methods", "results/README")],
    "Contribute": ["CONTRIBUTING", "CHANGELOG", "SECURITY"],
}
DOCUMENTED = """
## All arguments

```{eval-rst}
.. automodule:: MoBUncertaintyLib
   :members:

.. autoclass:: MoBUncertaintyLib.regions.prediction.Prediction
   :members:

.. autoclass:: MoBUncertaintyLib.model.region_settings.RegionSettings

.. autoclass:: MoBUncertaintyLib.review.review.Review
   :members:
```
"""


def add_what_only_the_site_shows(_app, page: str, text: list[str]) -> None:
    """Add the order of the pages to the first, and what the docstrings say to that on Python."""
    if page == root_doc:
        for caption, pages in ORDER.items():
            text[0] += "\n".join(["", "", "```{toctree}", ":hidden:", f":caption: {caption}", "", *pages, "```"])
    elif page == f"{PAGES}/python":
        text[0] += DOCUMENTED


def lead_to_the_first_page(app, error: Exception | None) -> None:
    """Let the address of the site show the README."""
    if not error:
        address = f'<meta http-equiv="refresh" content="0; url={root_doc}.html">'
        (Path(app.outdir) / "index.html").write_text(address, encoding="utf-8")


def setup(app) -> None:
    """Connect what this file does to Sphinx."""
    app.connect("source-read", add_what_only_the_site_shows)
    app.connect("build-finished", lead_to_the_first_page)
