"""`--grid`: one picture for each combination of one or two options, filling in as they come."""

from __future__ import annotations

import functools
import itertools
import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from swiftai_nb.core.errors import AIError, GenerationCancelledError, InvalidInputError
from swiftai_nb.core.format import shorten
from swiftai_nb.core.request import GenerationPlan, GenerationRequest
from swiftai_nb.core.task import CallbackList
from swiftai_nb.notebook.magic.options import Axis
from swiftai_nb.notebook.magic.parser import ImagineArguments
from swiftai_nb.notebook.output.pictures import Pictures
from swiftai_nb.notebook.progress import WorkProgress, job_progress
from swiftai_nb.notebook.session import CLOUD_ENGINES, Session

if TYPE_CHECKING:
    from swiftai_nb.core.image import GeneratedImage
    from swiftai_nb.jobs.job import GenerationJob

LARGEST_GRID = 400
PREVIEW_SIDE = 1024
CLOUD_WIDTH = 4
_ATTRIBUTES = {"lora": "loras", "clip-skip": "clip_skip", "quantize": "quantization_bits"}


class GridPictures(Pictures):
    """The pictures of a grid: a sequence row by row, and `at(steps=4, seed=2)`.

    Args:
        cells: row by row; None where a cancelled grid has none.
        axes: over the columns, and beside the rows when there are two.
        prompt: the words.
    """

    def __init__(
        self, cells: Sequence[GeneratedImage | None], *, axes: tuple[Axis, ...], prompt: str
    ) -> None:
        made = [cell for cell in cells if cell is not None]
        super().__init__(made, prompt=prompt, wanted=len(cells))
        self.cells = tuple(cells)
        self.axes = axes

    def at(self, **chosen: Any) -> GeneratedImage:
        """The picture of these values: `at(steps=4)`, `at(steps=4, seed=2)`.

        Raises:
            InvalidInputError: no such axis or value, or that picture was not made.
        """
        index = 0
        for axis in reversed(self.axes):
            index = index * len(axis.values) + _position(axis, chosen)
        unknown = set(chosen) - {axis.name.replace("-", "_") for axis in self.axes}
        if unknown:
            raise InvalidInputError(f"the grid does not vary {', '.join(sorted(unknown))}")
        cell = self.cells[index]
        if cell is None:
            raise InvalidInputError("that picture was not made", hint="run the cell again: it goes on")
        return cell

    def grid(self, columns: int | None = None) -> GeneratedImage:
        """The labelled sheet."""
        from swiftai_nb.notebook.output.contact_sheet import contact_sheet

        return contact_sheet(self.cells, columns=columns, labels=labels(self.axes))

    def _repr_mimebundle_(self, **_: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        if not len(self):
            return {"text/plain": repr(self)}, {}
        data, metadata = self.grid()._repr_mimebundle_()
        metadata["image/png"]["alt"] = repr(self)
        return {**data, "text/plain": repr(self)}, metadata

    def __repr__(self) -> str:
        return describe_grid(self.prompt, self.axes)


def describe_grid(prompt: str, axes: tuple[Axis, ...]) -> str:
    """Such as "3 x 2 grid of steps and seed: a red fox", or "3 pictures by steps: a red fox"."""
    words = f": {shorten(prompt)}" if prompt else ""
    if len(axes) == 1:
        return f"{len(axes[0].values)} pictures by {axes[0].name}{words}"
    return f"{len(axes[0].values)} x {len(axes[1].values)} grid of {axes[0].name} and {axes[1].name}{words}"


def sheet_size(picture: tuple[int, int], axes: tuple[Axis, ...]) -> tuple[int, int]:
    """CSS pixels (width, height) that the sheet of such pictures is shown at."""
    from swiftai_nb.core.image import GeneratedImage
    from swiftai_nb.notebook.output.contact_sheet import expected_size

    count = math.prod(len(axis.values) for axis in axes)
    return GeneratedImage(b"", *expected_size(picture, count, labels(axes))).display_size


def labels(axes: tuple[Axis, ...]) -> tuple[list[str], list[str]]:
    """(over the columns, beside the rows), each with its option's name."""
    texts = [[_label(axis, label) for label in axis.labels] for axis in axes]
    return texts[0], texts[1] if len(texts) > 1 else []


def _label(axis: Axis, label: str) -> str:
    return label if axis.name in ("prompt", "style", "model") else f"{axis.name} {label}"


def _position(axis: Axis, chosen: dict[str, Any]) -> int:
    key = axis.name.replace("-", "_")
    if key not in chosen:
        raise InvalidInputError(f"say which {axis.name}: {', '.join(axis.labels)}")
    for index, (value, label) in enumerate(zip(axis.values, axis.labels, strict=True)):
        if chosen[key] == value or str(chosen[key]) == label:
            return index
    raise InvalidInputError(f"the grid has no {axis.name} {chosen[key]}: {', '.join(axis.labels)}")


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
    return _ATTRIBUTES.get(axis.name, axis.name)


@dataclass
class GridProgress:
    """What a grid has made so far; kept when it is cancelled, so that the same cell goes on from there.

    Args:
        requests: one for each cell, row by row.
        cells: the pictures, None where there is none yet.
    """

    requests: list[GenerationRequest]
    cells: list[GeneratedImage | None] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.cells = self.cells or [None] * len(self.requests)

    def can_continue(self, requests: Sequence[GenerationRequest]) -> bool:
        """Whether `requests` are for the same cells (random seeds aside) and some are still to be made."""
        mine, theirs = ([one.with_seeds((0,)) for one in some] for some in (self.requests, requests))
        return None in self.cells and mine == theirs


class GridWork:
    """Submits the cells a few at a time, so that other cells' jobs get their turn.

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
        self._grid, self._plans = grid, plans
        self._axes = arguments.grid
        self._prompt = arguments.prompt or grid.requests[0].display_prompt
        self._session = session
        self._lock = threading.RLock()
        self._listeners: CallbackList[[]] = CallbackList()
        self._running: dict[int, GenerationJob] = {}
        self._error: AIError | None = None
        self._cancelled = False
        self._elapsed_before_s = 0.0
        self._sheet: tuple[int, bytes | None] = (-1, None)
        self._waiting = [i for i, cell in enumerate(grid.cells) if cell is None]
        # Cells of one model follow one another: it is loaded once.
        self._waiting.sort(key=lambda i: (str(plans[i].model), i))

    def start(self) -> GridWork:
        """Submits the first cells.

        Raises:
            AIError: what stands in the way of the first one.
        """
        self._submit_more()
        return self

    @property
    def is_final(self) -> bool:
        """Whether nothing runs and nothing will."""
        with self._lock:
            return not self._running and (not self._waiting or self._cancelled or self._error is not None)

    @property
    def error(self) -> AIError | None:
        """The first cell's failure, or the cancellation."""
        if self._error is None and self._cancelled and None in self._grid.cells:
            made, wanted = self._made, len(self._grid.cells)
            return GenerationCancelledError(
                f"Cancelled; {made} of {wanted} pictures are finished and kept, run the cell again to go on"
            )
        return self._error

    def pictures(self) -> GridPictures:
        """The grid so far."""
        return GridPictures(self._grid.cells, axes=self._axes, prompt=self._prompt)

    def cancel(self) -> None:
        """Stops the running cells and starts no more."""
        with self._lock:
            self._cancelled = True
            running = list(self._running.values())
        for job in running:
            job.cancel()

    def subscribe(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Calls `callback` on every change."""
        return self._listeners.add(callback)

    def progress(self) -> WorkProgress:
        """The running cell's progress, counted over the whole grid, with the sheet as preview."""
        with self._lock:
            job = next(iter(self._running.values()), None)
        made, wanted = self._made, len(self._grid.cells)
        inner = WorkProgress(stage="finishing") if job is None else job_progress(job)
        per_picture_s = self._elapsed_before_s / made if made else None
        remaining_s = None if per_picture_s is None else per_picture_s * (wanted - made) - inner.elapsed_s
        return replace(
            inner,
            image_index=min(made, wanted - 1),
            count=wanted,
            elapsed_s=self._elapsed_before_s + inner.elapsed_s,
            remaining_s=remaining_s,
            is_cancelling=self._cancelled,
            preview=self._preview(made),
        )

    @property
    def _made(self) -> int:
        return sum(cell is not None for cell in self._grid.cells)

    def _submit_more(self) -> None:
        with self._lock:
            while self._waiting and not self._cancelled and self._error is None:
                plan = self._plans[self._waiting[0]]
                if len(self._running) >= (CLOUD_WIDTH if plan.request.engine in CLOUD_ENGINES else 1):
                    return
                index = self._waiting.pop(0)
                job = self._session.submit(plan)
                self._running[index] = job
                job.subscribe(functools.partial(self._on_change, index))
                if job.state.is_final:
                    self._on_change(index, job)

    def _on_change(self, index: int, job: GenerationJob) -> None:
        if job.state.is_final:
            with self._lock:
                if self._running.pop(index, None) is None:
                    return
                self._take(index, job)
            try:
                self._submit_more()
            except AIError as error:
                self._error = error
        self._listeners.notify()

    def _take(self, index: int, job: GenerationJob) -> None:
        self._elapsed_before_s += job.elapsed_s
        if job.images:
            self._grid.cells[index] = job.images[0]
        elif isinstance(job.error, GenerationCancelledError):
            self._cancelled = True
        elif self._error is None:
            self._error = job.error

    def _preview(self, made: int) -> bytes | None:
        if made and self._sheet[0] != made:
            self._sheet = (made, to_jpeg(self.pictures().grid()))
        return self._sheet[1]


def to_jpeg(image: GeneratedImage) -> bytes:
    """A sheet as the preview of itself, at most 1024 pixels on a side."""
    import io

    picture = image.pil
    picture.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()
