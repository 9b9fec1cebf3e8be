"""`--grid`: one picture for each combination of the values of one or two options."""

from __future__ import annotations

import functools
import itertools
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from swiftai_nb.core.errors import AIError, GenerationCancelledError, InvalidInputError
from swiftai_nb.core.request import GenerationPlan, GenerationRequest
from swiftai_nb.notebook.cell.work import Sheet, SheetWork
from swiftai_nb.notebook.magic.options import BY_NAME, Axis
from swiftai_nb.notebook.magic.parser import ImagineArguments
from swiftai_nb.notebook.progress import WorkProgress, job_progress
from swiftai_nb.notebook.session import Session

if TYPE_CHECKING:
    from swiftai_nb.core.image import GeneratedImage
    from swiftai_nb.jobs.job import GenerationJob

LARGEST_GRID = 400
CLOUD_CONCURRENCY = 4


def combinations(arguments: ImagineArguments) -> list[ImagineArguments]:
    """The arguments of each cell, row by row.

    Raises:
        InvalidInputError: too many cells, or a value outside its limits.
    """
    axes = arguments.grid
    rows = axes[1].values if len(axes) > 1 else (None,)
    if len(axes[0].values) * len(rows) > LARGEST_GRID:
        raise InvalidInputError(
            f"the grid has {len(axes[0].values) * len(rows)} cells; {LARGEST_GRID} is the most"
        )
    cells = []
    for row, column in itertools.product(rows, axes[0].values):
        changes = {_attribute(axes[0]): column}
        if len(axes) > 1:
            changes[_attribute(axes[1])] = row
        cell = replace(arguments, grid=(), **changes)
        cell.config()
        cells.append(cell)
    return cells


def _attribute(axis: Axis) -> str:
    option = BY_NAME.get(f"--{axis.name}")
    return axis.name if option is None else option.attribute


@dataclass
class GridProgress:
    """The cells of a grid; kept when it is cancelled, so that the same cell continues it.

    Args:
        requests: one for each cell, row by row.
        cells: the pictures, None where there is none yet.
    """

    requests: list[GenerationRequest]
    cells: list[GeneratedImage | None] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.cells = self.cells or [None] * len(self.requests)

    def can_continue(self, requests: Sequence[GenerationRequest]) -> bool:
        """Whether `requests` are for the same cells (random seeds aside) and some are still missing."""
        mine, theirs = ([one.with_seeds((0,)) for one in some] for some in (self.requests, requests))
        return None in self.cells and mine == theirs


class GridWork(SheetWork):
    """A grid whose cells are submitted a few at a time, so that other jobs get their turn.

    Args:
        grid: requests and pictures.
        plans: one for each request.
        arguments: of the whole grid.
        session: where to submit.
    """

    def __init__(
        self,
        grid: GridProgress,
        plans: Sequence[GenerationPlan],
        arguments: ImagineArguments,
        session: Session,
    ) -> None:
        prompt = arguments.prompt or grid.requests[0].display_prompt
        super().__init__(Sheet(grid.cells, axes=arguments.grid, prompt=prompt))
        self._plans = plans
        self._session = session
        self._lock = threading.RLock()
        self._running: dict[int, GenerationJob] = {}
        self._is_cancelled = False
        self._elapsed_before_s = 0.0
        # Cells of one model follow one another, so that it is loaded once.
        self._waiting = sorted(self._sheet.missing, key=lambda i: (str(plans[i].model), i))

    def start(self) -> GridWork:
        """Submits the first cells.

        Raises:
            AIError: a cell cannot be made.
        """
        self._submit_more()
        return self

    @property
    def is_final(self) -> bool:
        """Whether nothing runs and nothing is left to submit."""
        with self._lock:
            return not self._running and (not self._waiting or self._is_cancelled or self._error is not None)

    @property
    def error(self) -> AIError | None:
        """The first cell's failure, or the cancellation."""
        if self._error is None and self._is_cancelled and self._sheet.missing:
            return self._cancelled_error(advice=" Run the cell again to continue")
        return self._error

    def cancel(self) -> None:
        """Stops the running cells and submits no more."""
        with self._lock:
            self._is_cancelled = True
            running = list(self._running.values())
        for job in running:
            job.cancel()

    def progress(self) -> WorkProgress:
        """The running cell's progress, over the whole grid."""
        with self._lock:
            index, job = next(iter(self._running.items()), (None, None))
        made, wanted = self._sheet.made, len(self._sheet.cells)
        progress = WorkProgress(stage="finishing") if job is None else job_progress(job)
        per_picture_s = self._elapsed_before_s / made if made else None
        return self._over_sheet(
            progress,
            elapsed_s=self._elapsed_before_s + progress.elapsed_s,
            remaining_s=None
            if per_picture_s is None
            else per_picture_s * (wanted - made) - progress.elapsed_s,
            is_cancelling=self._is_cancelled,
            current=index,
        )

    def _submit_more(self) -> None:
        with self._lock:
            while self._waiting and not self._is_cancelled and self._error is None:
                plan = self._plans[self._waiting[0]]
                if len(self._running) >= (
                    CLOUD_CONCURRENCY if self._session.is_cloud(plan.request.engine) else 1
                ):
                    return
                index = self._waiting.pop(0)
                job = self._session.submit(plan)
                self._running[index] = job
                job.subscribe(functools.partial(self._on_change, index))

    def _on_change(self, index: int, job: GenerationJob) -> None:
        if job.done:
            with self._lock:
                if self._running.pop(index, None) is None:
                    return
                self._take(index, job)
            try:
                self._submit_more()
            except AIError as error:
                self._error = error
        self._callbacks.notify()

    def _take(self, index: int, job: GenerationJob) -> None:
        self._elapsed_before_s += job.elapsed_s
        if job.images:
            self._sheet.cells[index] = job.images[0]
        elif isinstance(job.error, GenerationCancelledError):
            self._is_cancelled = True
        elif self._error is None:
            self._error = job.error
