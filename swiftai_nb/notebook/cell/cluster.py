"""`--executor`: the pictures of one cell, made by the workers of a cluster."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from swiftai_nb.core.errors import AIError, GenerationCancelledError, InvalidInputError
from swiftai_nb.core.progress import GenerationStage
from swiftai_nb.core.request import GenerationRequest
from swiftai_nb.core.task import CallbackList, CancellationToken
from swiftai_nb.notebook.cell.grid import GridPictures, labels, to_jpeg
from swiftai_nb.notebook.magic.options import Axis
from swiftai_nb.notebook.output.pictures import Pictures
from swiftai_nb.notebook.progress import WorkProgress

if TYPE_CHECKING:
    from swiftai_nb.core.image import GeneratedImage
    from swiftai_nb.jobs.cluster import BatchItem, SupportsSubmit
    from swiftai_nb.notebook.session import Session

# Clients of Dask and ipyparallel have a `submit` of their own kind; these give the standard library's.
_STANDARD_FORMS = ("get_executor", "executor")


def find_executor(name: str, variables: Mapping[str, Any]) -> SupportsSubmit:
    """The executor that a variable holds: one of `concurrent.futures`, or a client of Dask or ipyparallel.

    Raises:
        InvalidInputError: no such variable, or nothing that takes work.
    """
    if name not in variables:
        raise InvalidInputError(
            f"--executor {name}: there is no such variable",
            hint=f"make one first, such as {name} = dask.distributed.Client()",
        )
    found = variables[name]
    for attribute in _STANDARD_FORMS:
        form = getattr(found, attribute, None)
        if form is not None:
            found = form() if callable(form) else form
            break
    if not callable(getattr(found, "submit", None)):
        raise InvalidInputError(
            f"--executor {name} is a {type(found).__name__}, which takes no work",
            hint="give a concurrent.futures executor, or a client of Dask or ipyparallel",
        )
    executor: SupportsSubmit = found
    return executor


def split_per_image(request: GenerationRequest) -> list[GenerationRequest]:
    """A request for several pictures as requests for one."""
    return [request.with_seeds((seed,)) for seed in request.seeds]


class ClusterWork:
    """See `Work`; pictures come as the workers finish them, and stay when it is cancelled.

    What a worker has begun it finishes; a cancel leaves it there and takes back what has not begun.

    Args:
        requests: one picture each.
        cells: the pictures, filled in here; what is there already is not made again.
        executor: where.
        session: whose history keeps them.
        axes: of a grid; empty for plain pictures.

    Raises:
        InvalidInputError: the requests are for several engines.
    """

    def __init__(
        self,
        requests: Sequence[GenerationRequest],
        cells: list[GeneratedImage | None],
        executor: SupportsSubmit,
        *,
        session: Session,
        axes: tuple[Axis, ...] = (),
        prompt: str = "",
    ) -> None:
        self._requests, self._cells, self._executor = requests, cells, executor
        self._session, self._axes = session, axes
        self._prompt = prompt or requests[0].display_prompt
        self._waiting = [index for index, cell in enumerate(cells) if cell is None]
        self._made_before = len(cells) - len(self._waiting)
        self._token = CancellationToken()
        self._error: AIError | None = None
        self._started_s = time.monotonic()
        self._listeners: CallbackList[[]] = CallbackList()
        self._sheet: tuple[int, bytes | None] = (0, None)
        self._ended = threading.Event()
        _check_one_engine(requests)

    def start(self) -> ClusterWork:
        """Sends all pictures out."""
        threading.Thread(target=self._collect, name="swiftai-cluster", daemon=True).start()
        return self

    @property
    def is_final(self) -> bool:
        """Whether all pictures are here, or no more will come."""
        return self._ended.is_set()

    @property
    def error(self) -> AIError | None:
        """The first failure, or the cancellation."""
        return self._error

    def pictures(self) -> Pictures:
        """What has come so far."""
        if self._axes:
            return GridPictures(self._cells, axes=self._axes, prompt=self._prompt)
        made = [cell for cell in self._cells if cell is not None]
        return Pictures(made, prompt=self._prompt, wanted=len(self._cells))

    def cancel(self) -> None:
        """Takes back what no worker has begun; the cell goes on at once."""
        self._token.cancel()

    def subscribe(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Calls `callback` on every change."""
        return self._listeners.add(callback)

    def progress(self) -> WorkProgress:
        """How many have come, with the sheet so far as preview."""
        made, wanted = self._made, len(self._cells)
        elapsed_s = time.monotonic() - self._started_s
        new = made - self._made_before
        return WorkProgress(
            stage=str(GenerationStage.DENOISING),
            image_index=min(made, wanted - 1),
            count=wanted,
            elapsed_s=elapsed_s,
            remaining_s=elapsed_s / new * (wanted - made) if new else None,
            detail="on the cluster",
            is_cancelling=self._token.is_cancelled,
            preview=self._preview(made),
        )

    @property
    def _made(self) -> int:
        return sum(cell is not None for cell in self._cells)

    def _collect(self) -> None:
        from swiftai_nb.jobs.cluster import ClusterBatch

        pictures = [_request(self._requests[index]) for index in self._waiting]
        try:
            items = ClusterBatch(
                pictures, self._executor, _factory(self._requests[0]), is_ordered=False, token=self._token
            )
            for item in items:
                self._take(item)
        except GenerationCancelledError:
            self._error = GenerationCancelledError(
                f"Cancelled; {self._made} of {len(self._cells)} pictures are finished and kept"
            )
        except AIError as error:
            self._error = error
        finally:
            self._ended.set()
            self._listeners.notify()

    def _take(self, item: BatchItem) -> None:
        if item.result is None:
            # The others are under way on the workers already: they are not thrown away for this one.
            self._error = item.error if self._error is None else self._error
            return
        self._cells[self._waiting[item.index]] = item.result
        self._session.history.append(item.result)
        self._listeners.notify()

    def _preview(self, made: int) -> bytes | None:
        if made != self._sheet[0]:
            from swiftai_nb.notebook.output.contact_sheet import contact_sheet

            sheet = contact_sheet(self._cells, labels=labels(self._axes) if self._axes else None)
            self._sheet = (made, to_jpeg(sheet))
        return self._sheet[1]


def _request(request: GenerationRequest) -> Any:
    from swiftai_nb.jobs.cluster import BatchRequest

    return BatchRequest(request.prompt, request.negative_prompt, request.config_of(0))


def _factory(request: GenerationRequest) -> Any:
    from swiftai_nb.jobs.cluster import GeneratorFactory
    from swiftai_nb.providers.batch import CREATE

    options = {} if request.provider is None else {"provider": request.provider}
    return GeneratorFactory.of(CREATE, request.engine, **options)


def _check_one_engine(requests: Sequence[GenerationRequest]) -> None:
    chosen = {(request.engine, request.provider) for request in requests}
    if len(chosen) > 1:
        engines = sorted({name for pair in chosen for name in pair if name is not None})
        raise InvalidInputError(
            f"--executor makes the pictures of one engine, not of {', '.join(engines)}",
            hint="name one with --engine",
        )
