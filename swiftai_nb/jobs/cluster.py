"""Many pictures on many workers: any `concurrent.futures.Executor`, such as Dask's or ipyparallel's.

Each worker process makes its generator once and keeps it, so one engine runs per worker and a model is
loaded once per worker. A picture whose worker process ended is retried on another worker.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import queue
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import CancelledError, Executor, Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from swiftai_nb.core.cancellation import CancellationToken
from swiftai_nb.core.config import ImageGenerationConfig
from swiftai_nb.core.errors import AIError, GenerationFailedError
from swiftai_nb.core.generator import ImageGenerator
from swiftai_nb.core.image import GeneratedImage

_WAIT_SLICE_S = 0.2  # between two checks for an interrupt
DEFAULT_ATTEMPTS = 3


@dataclass(frozen=True)
class GeneratorFactory:
    """How a worker creates its generator; small, since it is sent with every picture.

    Args:
        path: "module:function"; called in the worker.
        arguments: positional ones.
        options: keyword ones, as sorted pairs.
    """

    path: str
    arguments: tuple[Any, ...] = ()
    options: tuple[tuple[str, Any], ...] = ()

    @classmethod
    def of(cls, path: str, *arguments: Any, **options: Any) -> GeneratorFactory:
        """A factory with arguments written as in a call."""
        return cls(path, arguments, tuple(sorted(options.items())))

    def __call__(self) -> ImageGenerator:
        """Creates a generator."""
        module, _, name = self.path.partition(":")
        generator: ImageGenerator = getattr(importlib.import_module(module), name)(
            *self.arguments, **dict(self.options)
        )
        return generator


@dataclass(frozen=True)
class BatchRequest:
    """One picture of a batch.

    Args:
        prompt: what to draw.
        negative_prompt: what to avoid.
        config: settings with a concrete seed: a second attempt makes the same picture.
    """

    prompt: str
    negative_prompt: str | None = None
    config: ImageGenerationConfig = field(default_factory=ImageGenerationConfig)


@dataclass(frozen=True)
class BatchItem:
    """One picture of a batch, or the error that prevented it.

    Attributes:
        index: its place in the batch, from 0.
        request: what was requested.
        result: the picture; None when it failed.
        error: why it failed; None when it did not.
        attempts: number of attempts.
    """

    index: int
    request: BatchRequest
    result: GeneratedImage | None = None
    error: AIError | None = None
    attempts: int = 1

    @property
    def image(self) -> GeneratedImage:
        """The picture.

        Raises:
            AIError: `error`, when there is no picture.
        """
        if self.result is None:
            raise GenerationFailedError("no picture") if self.error is None else self.error
        return self.result


class SupportsSubmit(Protocol):
    """The part of the executor interface that a batch uses."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Schedules `fn(*args, **kwargs)`."""
        ...


class ClusterBatch:
    """A batch that runs while it is iterated; iterate it once.

    Args:
        requests: the pictures.
        executor: where to make them.
        factory: how a worker makes its generator.
        attempts: attempts per picture when its worker or engine process ends unexpectedly.
        is_ordered: yield pictures in the order of `requests`; otherwise as they are finished.
        token: its cancel ends the iteration with GenerationCancelledError; queued pictures are dropped.
    """

    def __init__(
        self,
        requests: Iterable[BatchRequest],
        executor: Executor | SupportsSubmit,
        factory: GeneratorFactory,
        *,
        attempts: int = DEFAULT_ATTEMPTS,
        is_ordered: bool = True,
        token: CancellationToken | None = None,
    ) -> None:
        self._token = CancellationToken() if token is None else token
        self._requests = tuple(requests)
        self._executor, self._factory = executor, factory
        self._attempts, self._is_ordered = attempts, is_ordered
        self._ended: queue.SimpleQueue[tuple[int, Future[GeneratedImage]]] = queue.SimpleQueue()
        self._tries: dict[int, int] = {}
        self._futures: dict[int, Future[GeneratedImage]] = {}

    def __iter__(self) -> Iterator[BatchItem]:
        """Yields one item per request; leaving the loop early cancels the pictures not yet begun."""
        items: dict[int, BatchItem] = {}
        following = 0
        try:
            for index in range(len(self._requests)):
                self._submit(index)
            while len(items) < len(self._requests):
                item = self._next_item()
                if item.index in items:
                    continue
                items[item.index] = item
                if not self._is_ordered:
                    yield item
                while self._is_ordered and following in items:
                    yield items[following]
                    following += 1
        finally:
            for future in self._futures.values():
                future.cancel()

    def _submit(self, index: int) -> None:
        self._tries[index] = self._tries.get(index, 0) + 1
        try:
            future = self._executor.submit(make_picture, self._factory, self._requests[index])
        except Exception as error:  # noqa: BLE001 - an executor's own errors: treated like a failed picture
            future = Future()
            future.set_exception(error)
        self._futures[index] = future
        future.add_done_callback(partial(self._record_end, index))

    def _record_end(self, index: int, future: Future[GeneratedImage]) -> None:
        self._ended.put((index, future))

    def _next_item(self) -> BatchItem:
        while True:
            self._token.raise_if_cancelled()
            try:
                index, future = self._ended.get(timeout=_WAIT_SLICE_S)
            except queue.Empty:
                continue
            if future is not self._futures[index]:
                continue  # an earlier attempt
            request, tries = self._requests[index], self._tries[index]
            try:
                return BatchItem(index, request, result=future.result(), attempts=tries)
            except (Exception, CancelledError) as error:  # noqa: BLE001 - of the worker or the cluster
                if tries < self._attempts and _is_retryable(error):
                    self._submit(index)
                else:
                    return BatchItem(index, request, error=_to_ai_error(error), attempts=tries)


def make_picture(factory: GeneratorFactory, request: BatchRequest) -> GeneratedImage:
    """Runs on a worker: makes one picture with this process's generator."""
    picture = _generate(_generator_of(factory), request)
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(picture)
    # ipyparallel's engines call us inside their own event loop.
    with ThreadPoolExecutor(1, thread_name_prefix="swiftai-batch") as thread:
        return thread.submit(asyncio.run, picture).result()


async def _generate(generator: ImageGenerator, request: BatchRequest) -> GeneratedImage:
    return await generator.generate_image(
        request.prompt, negative_prompt=request.negative_prompt, config=request.config
    )


# One engine per worker process, kept as long as the worker. The process id is part of the key because a
# forked worker must not use its parent's engine.
_generators: dict[tuple[int, GeneratorFactory], ImageGenerator] = {}
_generators_lock = threading.Lock()


def _generator_of(factory: GeneratorFactory) -> ImageGenerator:
    key = (os.getpid(), factory)
    with _generators_lock:
        if key not in _generators:
            _generators[key] = factory()
        return _generators[key]


def close_generators() -> None:
    """Ends the engines this process keeps for batches; the next picture starts a new one."""
    with _generators_lock:
        generators = [g for (pid, _), g in _generators.items() if pid == os.getpid()]
        _generators.clear()
    for generator in generators:
        close = getattr(generator, "close", None)
        if close is not None:
            with contextlib.suppress(AIError):
                close()


def _is_retryable(error: BaseException) -> bool:
    # A broken pool accepts no more work; any other foreign error is a worker that was lost.
    if isinstance(error, BrokenProcessPool):
        return False
    return error.is_retryable if isinstance(error, AIError) else True


def _to_ai_error(error: BaseException) -> AIError:
    if isinstance(error, AIError):
        return error
    lines = str(error).strip().splitlines()
    first = lines[0] if lines else "no message"
    failure = GenerationFailedError(
        f"a worker failed: {type(error).__name__}: {first}",
        hint="see the cluster's log, then run the remaining pictures again",
    )
    failure.__cause__ = error
    return failure
