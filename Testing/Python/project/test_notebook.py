"""The notebook of the documentation runs from top to bottom."""

import re
from pathlib import Path

import pytest

from support import MODULE_FOLDER

nbformat = pytest.importorskip("nbformat", reason="pip install nbclient ipykernel")
nbclient = pytest.importorskip("nbclient", reason="pip install nbclient ipykernel")
pytest.importorskip("ipykernel", reason="pip install nbclient ipykernel")


@pytest.mark.slow
def test_the_notebook_runs_and_a_click_lowers_the_expected_error(tmp_path: Path) -> None:
    notebook = nbformat.read(MODULE_FOLDER / "Documentation" / "example.ipynb", 4)
    assert not any(cell.outputs for cell in notebook.cells if cell.cell_type == "code")
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    printed = "".join(output.text for output in outputs if output.output_type == "stream" and output.name == "stdout")
    assert len(re.findall(r"^\w+: [\d.]+ ml \(90 %: [\d.]+ to [\d.]+\)$", printed, re.MULTILINE)) == 7
    before, after = map(int, re.search(r"expected error (\d+) mm3 before, (\d+) mm3 after", printed).groups())
    assert after < before
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert (tmp_path / "corrected.nii.gz").is_file()
