"""Run notebooks at full length and keep their outputs, three to twelve minutes of a core each.

python notebooks/execute.py notebooks/gans.ipynb
"""

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient


def execute(path: Path) -> None:
    """The notebook with its outputs in its place; a progress bar leaves its last line."""
    notebook = nbformat.read(path, as_version=4)
    where = {"metadata": {"path": str(path.parent)}}
    NotebookClient(notebook, timeout=3000, resources=where, coalesce_streams=True, record_timing=False).execute()
    nbformat.write(notebook, path)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        execute(Path(name))
