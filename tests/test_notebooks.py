"""Every notebook runs from top to bottom and shows its pictures."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent


def test_no_notebook_trains_in_the_folder_of_another():
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        folders = set(
            re.findall(r"\"runs/(\w+)", "".join(cell.source for cell in nbformat.read(path, as_version=4).cells))
        )
        assert folders == {path.stem}


@pytest.mark.long
@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda p: p.stem)
def test_a_notebook_runs_and_shows_pictures(path, tmp_path, monkeypatch):
    monkeypatch.setenv("JAXGEN_NOTEBOOK_STEPS", "6")
    (tmp_path / "experiments").symlink_to(ROOT / "experiments")  # its runs belong into a folder of the test
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) >= 8
    assert not any(output.output_type == "error" for output in outputs)
