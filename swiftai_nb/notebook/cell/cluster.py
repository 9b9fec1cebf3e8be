"""`--executor`: the pictures of one cell, made by the workers of a cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from swiftai_nb.core.errors import AIError, GenerationCancelledError, InvalidInputError
from swiftai_nb.core.progress import GenerationStage
from swiftai_nb.core.request import GenerationRequest
from swiftai_nb.core.task import Task
from swiftai_nb.notebook.cell.work import Sheet, SheetWork
from swiftai_nb.notebook.magic.options import Axis
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
        InvalidInputError: no such variable, or not an executor.
    """
    if name not in variables:
        raise InvalidInputError(
            f"--executor {name}: there is no such variable",
            hint=f"create one first, such as {name} = dask.distributed.Client()",
        )
    found = variables[name]
    for attribute in _STANDARD_FORMS:
        form = getattr(found, attribute, None)
        if form is not None:
            found = form() if callable(form) else form
            break
    if not callable(getattr(found, "submit", None)):
        raise InvalidInputError(
            f"--executor {name} is a {type(found).__name__}, which has no submit()",
            hint="use a concurrent.futures executor, or a client of Dask or ipyparallel",
        )
    executor: SupportsSubmit = found
    return executor


def split_per_image(request: GenerationRequest) -> list[GenerationRequest]:
    """A request for several pictures as requests for one."""
    return [request.with_seeds((seed,)) for seed in request.seeds]


class ClusterWork(SheetWork):
    """Pictures that workers make; see `Work`. Those that are finished stay when it is cancelled.

    A worker finishes the picture it has begun; a cancel takes back those that have not begun.

    Args:
        requests: one picture each.
        cells: the pictures, filled in by this work; those that are set are not made again.
        executor: where to submit.
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
        super().__init__(Sheet(cells, axes=axes, prompt=prompt or requests[0].display_prompt))
        self._requests, self._executor, self._session = requests, executor, session
        self._waiting = self._sheet.missing
        self._made_before = self._sheet.made
        self._task: Task[None, None] = Task(name="the batch")
        self._task.add_done_callback(lambda _task: self._callbacks.notify())
        _check_one_engine(requests)

    def start(self) -> ClusterWork:
        """Submits all pictures."""
        self._task.run_in_thread(self._collect, thread_name="swiftai-cluster")
        return self

    @property
    def is_final(self) -> bool:
        """Whether all pictures are finished, or no more will be."""
        return self._task.done

    @property
    def error(self) -> AIError | None:
        """The first failure, or the cancellation."""
        return self._error if self._task.error is None else self._task.error

    def cancel(self) -> None:
        """Takes back what no worker has begun; the cell continues at once."""
        self._task.cancel()

    def progress(self) -> WorkProgress:
        """How many pictures are finished."""
        made, wanted = self._sheet.made, len(self._sheet.cells)
        elapsed_s = self._task.elapsed_s
        new = made - self._made_before
        return self._over_sheet(
            WorkProgress(stage=str(GenerationStage.DENOISING), detail="on the cluster"),
            elapsed_s=elapsed_s,
            remaining_s=elapsed_s / new * (wanted - made) if new else None,
            is_cancelling=self._task.token.is_cancelled,
        )

    def _collect(self) -> None:
        from swiftai_nb.jobs.cluster import ClusterBatch
        from swiftai_nb.providers.batch import default_attempts

        pictures = [_request(self._requests[index]) for index in self._waiting]
        batch = ClusterBatch(
            pictures,
            self._executor,
            _factory(self._requests[0]),
            attempts=default_attempts(self._requests[0].engine),
            is_ordered=False,
            token=self._task.token,
        )
        try:
            for item in batch:
                self._take(item)
        except GenerationCancelledError:
            raise self._cancelled_error() from None
        if self._error is not None:
            raise self._error

    def _take(self, item: BatchItem) -> None:
        if item.result is None:
            # The others are under way on the workers already: they are kept.
            self._error = item.error if self._error is None else self._error
            return
        self._sheet.cells[self._waiting[item.index]] = item.result
        self._session.history.append_or_log(item.result)
        self._callbacks.notify()


def _request(request: GenerationRequest) -> Any:
    from swiftai_nb.jobs.cluster import BatchRequest

    return BatchRequest(request.prompt, request.negative_prompt, request.config_of(0))


def _factory(request: GenerationRequest) -> Any:
    from swiftai_nb.jobs.cluster import GeneratorFactory
    from swiftai_nb.providers.batch import CREATE

    payer = "organization" if request.engine == "openai" else "bill_to"
    options = {"provider": request.provider, "base_url": request.base_url, payer: request.bill_to}
    given = {name: value for name, value in options.items() if value is not None}
    return GeneratorFactory.of(CREATE, request.engine, **given)


def _check_one_engine(requests: Sequence[GenerationRequest]) -> None:
    chosen = {(request.engine, request.provider) for request in requests}
    if len(chosen) > 1:
        engines = sorted({name for pair in chosen for name in pair if name is not None})
        raise InvalidInputError(
            f"--executor makes the pictures of one engine, not of {', '.join(engines)}",
            hint="name one with --engine",
        )
