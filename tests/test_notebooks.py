"""The notebooks in examples/ run from their first cell to their last, in a folder of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed (extra: notebooks)")
pytest.importorskip("ipykernel", reason="ipykernel is not installed (extra: notebooks)")

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.ipynb"))


def executed(path: Path, folder: Path) -> list[str]:
    """The text that each cell of code showed. An error in a cell raises."""
    import nbformat

    book = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(
        book, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    ).execute()
    cells = [cell for cell in book.cells if cell.cell_type == "code"]
    return ["".join(shown(output) for output in cell.outputs) for cell in cells]


def shown(output: dict) -> str:
    return output.get("text", "") + output.get("data", {}).get("text/plain", "")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, tmp_path: Path) -> None:
    texts = executed(path, tmp_path)
    assert any("FitResult(" in text for text in texts) or "breakdown" in path.read_text()
    assert not any("Traceback" in text for text in texts)


def test_there_are_notebooks() -> None:
    assert len(EXAMPLES) == 3
