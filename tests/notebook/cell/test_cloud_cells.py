"""Cloud errors in a real kernel: one or two lines, no traceback, and what follows does not run."""

from __future__ import annotations

import contextlib

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from tests.providers.huggingface.cloud_server import Answer, CloudServer

SETUP = """%load_ext swiftai_nb
from swiftai_nb import HuggingFaceProvider
from swiftai_nb.notebook.session import get_session
get_session().add_generator("huggingface", HuggingFaceProvider(base_url={url!r}, retry_wait_s=0))"""


def run(*cells: str) -> list[nbformat.NotebookNode]:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    with contextlib.suppress(CellExecutionError):
        NotebookClient(notebook, timeout=120).execute()
    return notebook.cells


def _error_lines(output: nbformat.NotebookNode) -> list[str]:
    # What IPython calls a usage error is a line on standard error; the others come without a traceback.
    if output.output_type == "error":
        return list(output.traceback)
    is_message = output.output_type == "stream" and output.name == "stderr"
    return output.text.strip().splitlines() if is_message else []


@pytest.mark.parametrize(
    ("status", "said"), [(401, "token"), (402, "credits"), (410, "no longer serves"), (503, "failed")]
)
def test_error_of_the_cloud_is_two_lines_and_stops_run_all(status: int, said: str) -> None:
    server = CloudServer()
    server.default = Answer(status)
    try:
        cells = run(
            SETUP.format(url=f"{server.url}/mine"), "%imagine --engine cloud a fox", "print('went on')"
        )
    finally:
        server.close()
    lines = [line for output in cells[1].outputs for line in _error_lines(output)]
    assert 1 <= len(lines) <= 2
    assert said in lines[0]
    assert cells[2].outputs == []


def test_picture_of_the_cloud_stays_in_the_notebook() -> None:
    server = CloudServer()
    try:
        cells = run(
            SETUP.format(url=f"{server.url}/mine"),
            "%imagine --engine cloud --seed 3 --out fox a fox",
            "print(fox.seed, fox.recipe.engine)",
        )
    finally:
        server.close()
    assert any("image/png" in output.get("data", {}) for output in cells[1].outputs)
    assert cells[2].outputs[0].text == "3 huggingface\n"
