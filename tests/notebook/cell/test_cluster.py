"""`--executor`: one cell's pictures drawn by workers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from IPython.core.error import UsageError

from swiftai_nb.core.errors import AIError, GenerationCancelledError, GenerationFailedError
from swiftai_nb.jobs import cluster
from swiftai_nb.notebook.session import get_session
from swiftai_nb.providers import batch
from swiftai_nb.testing import FakeGenerator

MADE: list[str] = []


class WorkersGenerator(FakeGenerator):
    """What the workers of these tests draw with; it notes each prompt, and refuses bad ones."""

    def __init__(self, engine: str, **options: Any) -> None:
        super().__init__(step_duration_s=0.02 if "slow" in options else 0.0)
        assert engine == "fake"

    async def generate_image(self, prompt: str, **options: Any) -> Any:
        MADE.append(prompt)
        if prompt.startswith("bad"):
            raise GenerationFailedError("made to fail")
        return await super().generate_image(prompt, **options)


@pytest.fixture
def workers(shell: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadPoolExecutor]:
    """Three workers, in the user's variable `workers`."""
    monkeypatch.setattr(batch, "CREATE", f"{__name__}:WorkersGenerator")
    MADE.clear()
    with ThreadPoolExecutor(3) as executor:
        shell.user_ns["workers"] = executor
        yield executor
    cluster.close_generators()


def imagine(shell: Any, line: str) -> Any:
    return shell.run_line_magic("imagine", line)


def test_pictures_are_those_that_this_machine_makes(shell: Any, workers: Any) -> None:
    here = imagine(shell, "a fox --seed 5 -n 4")
    there = imagine(shell, "a fox --seed 5 -n 4 --executor workers --out foxes")
    assert MADE == ["a fox"] * 4
    assert there.seeds == (5, 6, 7, 8)
    assert [p.data for p in there] == [p.data for p in here]
    assert shell.user_ns["foxes"] is there
    assert len(get_session().history) == 8, "what workers make is in the history, too"


def test_grid_on_workers_is_the_grid_made_here(shell: Any, workers: Any) -> None:
    line = "a fox --grid steps=1,2,3 seed=4,5"
    here, there = imagine(shell, line), imagine(shell, f"{line} --executor workers")
    assert len(MADE) == 6
    assert [p.data for p in there.cells] == [p.data for p in here.cells]
    assert there.at(steps=2, seed=5).recipe.steps == 2
    assert repr(there) == "3 x 2 grid of steps and seed: a fox"


def test_failed_grid_keeps_its_pictures_and_goes_on(shell: Any, workers: Any) -> None:
    line = '--grid prompt="a cat|bad luck|a dog" --executor workers --seed 1'
    with pytest.raises(GenerationFailedError, match="made to fail"):
        imagine(shell, line)
    assert sorted(MADE) == ["a cat", "a dog", "bad luck"]
    MADE.clear()
    with pytest.raises(GenerationFailedError, match="made to fail"):
        imagine(shell, line)
    assert MADE == ["bad luck"], "what was made is not made again"


def test_cancel_keeps_what_has_come(shell: Any) -> None:
    from swiftai_nb.notebook.cell.cluster import ClusterWork, split_per_image
    from swiftai_nb.notebook.magic.parser import parse
    from swiftai_nb.notebook.magic.request import Defaults, build_request

    begun, go_on = threading.Event(), threading.Event()

    class Stuck(ThreadPoolExecutor):
        """Does the first picture and holds the second."""

        count = 0

        def submit(self, fn: Any, /, *args: Any, **options: Any) -> Any:
            self.count += 1
            return super().submit(fn if self.count == 1 else wait, *args, **options)

    def wait(*_: Any) -> None:
        begun.set()
        go_on.wait(60)

    session = get_session()
    request = build_request(
        parse("a fox -n 3"), defaults=Defaults(engine="fake"), variables={}, session=session
    )
    cells: list[Any] = [None] * 3
    with pytest.MonkeyPatch.context() as patch, Stuck(1) as executor:
        patch.setattr(batch, "CREATE", f"{__name__}:WorkersGenerator")
        work = ClusterWork(split_per_image(request), cells, executor, session=session)
        ended = threading.Event()
        work.subscribe(lambda: ended.set() if work.is_final else None)
        work.start()
        assert begun.wait(60)
        work.cancel()
        assert ended.wait(60)
        go_on.set()
    assert isinstance(work.error, GenerationCancelledError)
    assert work.error.message == "Cancelled. Kept 1 of 3 pictures."
    assert len(work.pictures()) == 1
    cluster.close_generators()


def test_background_and_executor_go_together(shell: Any, workers: Any) -> None:
    job = imagine(shell, "a fox --seed 1 -n 2 --executor workers --bg")
    assert [p.seed for p in job.result(timeout_s=60)] == [1, 2]


@pytest.mark.parametrize(("line", "message"), [
    ("a fox --executor nobody", "--executor nobody: there is no such variable"),
    ("a fox --executor number", "--executor number is a int, which has no submit()"),
    ("--grid engine=fake,mlx a fox --executor workers", "--executor makes the pictures of one engine, not of fake, mlx"),
])  # fmt: skip
def test_bad_executors_are_told_before_any_work(shell: Any, workers: Any, line: str, message: str) -> None:
    shell.user_ns["number"] = 5
    with pytest.raises((UsageError, AIError)) as caught:
        imagine(shell, line)
    assert str(caught.value).startswith(message)
    assert MADE == []


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_dask_client_is_taken_as_it_is(shell: Any) -> None:
    distributed = pytest.importorskip("distributed", reason="install the extra: swiftai-nb[cluster]")
    with distributed.Client(n_workers=1, threads_per_worker=1, dashboard_address=None) as client:
        shell.user_ns["client"] = client
        there = imagine(shell, "a cat --seed 3 -n 2 --engine mlx --executor client --steps 2")
    here = imagine(shell, "a cat --seed 3 -n 2 --engine mlx --steps 2")
    assert [p.data for p in there] == [p.data for p in here]
