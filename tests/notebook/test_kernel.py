"""`%imagine` in real kernels without a front end: errors, interrupts, what stays in the notebook."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from jupyter_client.manager import KernelManager, start_new_kernel
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from tests.waiting import wait_until

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
PATIENCE_S = 120
SETUP = """\
%load_ext swiftai_nb
from swiftai_nb.notebook.session import get_session
from swiftai_nb.testing import FakeGenerator
fake = FakeGenerator(step_duration_s=0.02)
get_session().add_generator("fake", fake)
%config Imagine.engine = "fake"
"""


def execute(*cells: str, allow_errors: bool = True) -> nbformat.NotebookNode:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in (SETUP, *cells)])
    NotebookClient(notebook, kernel_name="python3", timeout=PATIENCE_S, allow_errors=allow_errors).execute()
    return notebook


def kinds(cell: Any) -> list[list[str]]:
    return [sorted(output.get("data", {})) for output in cell.outputs]


def test_executed_notebook_holds_plain_pictures_and_no_widget() -> None:
    notebook = execute(
        "%%imagine\na red fox",
        "pictures = %imagine -n 3 a red fox",
        "%imagine a red fox --quiet --out kept",
        "kept",
        "job = %imagine --bg a red fox\npictures = await job",
        "%imagine a fox --grid steps=1,2 seed=1,2",
    )
    assert "widgets" not in notebook.metadata
    picture, caption = ["image/png", "text/plain"], ["text/html", "text/plain"]
    plain, cell = [picture], [picture, caption]
    assert [kinds(one) for one in notebook.cells[1:]] == [cell, cell, [], plain, cell, cell]
    texts = [cell.outputs[0].data["text/plain"] for cell in notebook.cells[1:3]]
    assert texts == ["1 picture: a red fox", "3 pictures: a red fox"]
    size = notebook.cells[1].outputs[0].metadata["image/png"]
    assert (size["width"], size["height"]) == (192, 192), "64 pixels, at most 3x"


def test_captions_of_executed_notebooks_are_the_same_in_every_run() -> None:
    notebook = execute(
        "%imagine a red fox --seed 7 --steps 4 --size 64",
        "%imagine a red fox --seed 7 --steps 4 --size 64 -n 3",
        "job = %imagine --bg a red fox --seed 7 --steps 4 --size 64\npictures = await job",
        "%config Imagine.captions = False\n%imagine a red fox",
    )
    texts = ["".join(c.outputs[-1].data["text/plain"]) for c in notebook.cells[1:4]]
    assert texts == ["fake · 64x64 · 4 steps · seed 7", "fake · 64x64 · 4 steps · seeds 7–9", texts[0]]
    assert kinds(notebook.cells[4]) == [["image/png", "text/plain"]]


ONE_LINE = [
    ("%imagine a fox --step 4", "unknown option --step: did you mean --steps?"),
    ("%imagine a fox --size 0", "width must be between 16 and 4096 pixels (got 0)"),
    ("%imagine a fox --seed -1", "seed must be between 0 and 9007199254740991 (got -1)"),
    ("%imagine", "the prompt is empty; example: %imagine a red fox"),
    ("%imagine a {missing}", "no variable 'missing'; write {{missing}} for a literal brace"),
    ("%imagine a fox --engine local --model nothing-such", "nothing-such"),
    ("%imagine a fox --save /proc/none/x.png", "cannot make the folder '/proc/none'"),
    ("%imagine_history --nope", "unknown option --nope"),
]


def test_bad_input_is_one_line_without_traceback() -> None:
    notebook = execute(*(cell for cell, _ in ONE_LINE))
    for (source, expected), cell in zip(ONE_LINE, notebook.cells[1:], strict=True):
        # A kernel on a busy machine sends one text in two messages.
        text = "".join(o.text for o in cell.outputs if o.output_type == "stream").strip()
        assert text.startswith("UsageError: "), source
        assert expected in text, text
        assert len(text.splitlines()) == 1, text


def test_failure_of_the_engine_is_two_lines() -> None:
    notebook = execute(
        "from swiftai_nb.core.errors import GenerationFailedError\n"
        "fake.fail_at_step, fake.error = 2, GenerationFailedError('out of paint', hint='buy some')",
        "%%imagine\na red fox",
    )
    (error,) = [o for o in notebook.cells[2].outputs if o.output_type == "error"]
    assert error.traceback == ["Generation failed: out of paint", "Try: buy some"]


@pytest.mark.parametrize("source", ["%imagine a fox --step 4", "%%imagine --size 0\nfox"])
def test_error_stops_the_run(source: str) -> None:
    with pytest.raises(CellExecutionError):
        execute(source, "print('must not run')", allow_errors=False)


Kernel = tuple[KernelManager, Any]
# From outside a busy kernel, the size of this file is how many steps were made.
COUNT_STEPS = """
make = fake.generate_image
async def generate_image(prompt, *, on_progress=None, **options):
    def note(progress):
        with open({path!r}, "ab") as file:
            file.write(b".")
        if on_progress is not None:
            on_progress(progress)
    return await make(prompt, on_progress=note, **options)
fake.generate_image = generate_image
"""


@pytest.fixture(scope="module")
def started_kernel() -> Iterator[Kernel]:
    manager, client = start_new_kernel(kernel_name="python3", startup_timeout=PATIENCE_S)
    try:
        yield manager, client
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


@pytest.fixture
def kernel(started_kernel: Kernel, steps_file: Path) -> Kernel:
    """The kernel with a generator of its own."""
    _, client = started_kernel
    run(client, SETUP + COUNT_STEPS.format(path=str(steps_file)))
    return started_kernel


@pytest.fixture
def steps_file(tmp_path: Path) -> Path:
    path = tmp_path / "steps"
    path.touch()
    return path


def interrupted(kernel: Kernel, source: str, steps_file: Path, *, after_steps: int) -> dict[str, Any]:
    """The reply of a cell that is interrupted when so many steps were made."""
    manager, client = kernel
    message_id = client.execute(source)
    wait_until(lambda: steps_file.stat().st_size >= after_steps, PATIENCE_S, message="the last of the steps")
    manager.interrupt_kernel()
    return reply_to(client, message_id)


def reply_to(client: Any, message_id: str) -> dict[str, Any]:
    while True:
        reply = client.get_shell_msg(timeout=PATIENCE_S)
        if reply["parent_header"]["msg_id"] == message_id:
            content: dict[str, Any] = reply["content"]
            return content


def run(client: Any, source: str, **options: Any) -> dict[str, Any]:
    """The reply of a cell, sent again while the kernel still aborts what followed an error."""
    reply: dict[str, Any] = {"status": "aborted"}
    while reply["status"] == "aborted":
        reply = reply_to(client, client.execute(source, **options))
    assert reply["status"] == "ok", reply
    return reply


def value(client: Any, expression: str) -> str:
    """The repr of an expression."""
    reply = run(client, "", user_expressions={"x": expression}, silent=True)
    answer: str = reply["user_expressions"]["x"]["data"]["text/plain"]
    return answer


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("%%imagine --steps 500\na red fox", r"Cancelled at step \d+ of 500"),
        ("img = %imagine a red fox --steps 500", r"Cancelled at step \d+ of 500"),
        ("for k in range(9):\n    try: get_ipython().run_line_magic('imagine', 'a fox --steps 500')\n    except Exception: pass", r"Cancelled at step \d+ of 500"),
        ("%imagine a fox --grid steps=2,3,500 seed=1,2", r"Cancelled. (Kept \d of 6 pictures|No pictures were finished). Run the cell again to continue"),
    ],
)  # fmt: skip
def test_interrupt_cancels_in_every_blocking_form(
    kernel: Kernel, steps_file: Path, source: str, line: str
) -> None:
    reply = interrupted(kernel, source, steps_file, after_steps=3)
    assert reply["status"] == "error"
    assert len(reply["traceback"]) == 1
    assert re.fullmatch(line, reply["traceback"][0]), reply["traceback"]
    _, client = kernel
    assert value(client, "all(job.state.is_final for job in get_session().queue.jobs)") == "True"
    run(client, "%imagine a fox")


def test_interrupt_keeps_what_is_made(kernel: Kernel, steps_file: Path) -> None:
    _, client = kernel
    interrupted(kernel, "%imagine a fox --steps 5 -n 100 --out foxes", steps_file, after_steps=12)
    made = int(value(client, "len(foxes)"))
    assert 1 <= made < 100
    assert (
        value(client, "foxes is _imagine, foxes.is_complete, foxes[0].seed is not None")
        == "(True, False, True)"
    )


def test_cancelled_grid_goes_on(kernel: Kernel, steps_file: Path) -> None:
    _, client = kernel
    cell = "grid = %imagine a fox --grid steps=10,20,400"
    interrupted(kernel, cell, steps_file, after_steps=15)
    run(client, "fake.step_duration_s = 0\nbefore = len(get_session().queue.jobs)")
    run(client, cell)
    assert value(client, "len(grid)") == "3"
    assert int(value(client, "len(get_session().queue.jobs) - before")) <= 2


def test_unloading_in_mid_job_ends_it(kernel: Kernel) -> None:
    _, client = kernel
    run(client, "job = %imagine --bg --steps 900 a fox\n%unload_ext swiftai_nb")
    assert value(client, "job.wait(30), str(job.state)") == "(True, 'cancelled')"


def test_loading_is_light() -> None:
    code = (
        "from IPython.core.interactiveshell import InteractiveShell\n"
        "shell = InteractiveShell.instance()\n"
        "import sys; before = set(sys.modules)\n"
        "shell.run_line_magic('load_ext', 'swiftai_nb')\n"
        "print('\\n'.join(set(sys.modules) - before))"
    )
    new = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    heavy = {"mlx", "huggingface_hub", "ipywidgets", "anywidget", "numpy", "PIL", "sqlite3", "asyncio", "zmq"}
    assert not {name.split(".")[0] for name in new} & heavy
    ours = [name for name in new if name.startswith("swiftai_nb")]
    assert len(ours) <= 24, ours
    assert len(new) <= 60, new
