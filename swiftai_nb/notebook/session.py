"""The kernel's composition root: one queue, one history, one registry, one generator of each kind.

The magic and the widget share it, so a picture made by either shows in both. Nothing else in the
package holds a module-level singleton.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from swiftai_nb.core.cancellation import CallbackList
from swiftai_nb.core.errors import AIError, InvalidInputError, ProviderUnavailableError
from swiftai_nb.core.sources import RecentPictures

if TYPE_CHECKING:
    from swiftai_nb.core.config import ImageGenerationConfig
    from swiftai_nb.core.generator import ImageGenerator
    from swiftai_nb.core.image import GeneratedImage
    from swiftai_nb.core.request import GenerationPlan, GenerationRequest
    from swiftai_nb.downloads.downloader import DiffusionModelDownloader
    from swiftai_nb.jobs.history import History
    from swiftai_nb.jobs.job import GenerationJob
    from swiftai_nb.jobs.queue import JobQueue
    from swiftai_nb.notebook.cell.cancel import SubshellRoute
    from swiftai_nb.registry.registry import DiffusionModelRegistry

_log = logging.getLogger(__name__)
ENGINE_ALIASES = {"local": "mlx", "cloud": "huggingface"}
_session: Session | None = None
_lock = threading.Lock()


def get_session() -> Session:
    """The kernel's session, made on first use."""
    global _session  # noqa: PLW0603 - the one singleton of the package
    with _lock:
        if _session is None:
            _session = Session()
        return _session


def close_session() -> None:
    """Ends the session if there is one: jobs are cancelled, engines end. The next use makes a new one."""
    global _session
    with _lock:
        ending, _session = _session, None
    if ending is not None:
        ending.close()


class Session:
    """The objects of one kernel that make pictures.

    Attributes:
        unfinished_grids: finished pictures of cancelled grids, by the text of their cell.
        recent_pictures: what was given to the last requests, so that their recipes find it again.
        picture_origins: ids of the history's pictures that were changed, by the SHA-256 of what was sent.
    """

    def __init__(self) -> None:
        self._generators: dict[str, ImageGenerator] = {}
        self._generators_lock = threading.Lock()
        self._history: History | None = None
        self._is_cloud_noted = False
        self._listeners: CallbackList[[GenerationJob]] = CallbackList()
        self._agreed: set[tuple[str, bool]] = set()
        self.unfinished_grids: dict[tuple[str, str], Any] = {}
        self.picture_origins: dict[str, str] = {}
        self.recent_pictures = RecentPictures()
        self._keepers: WeakKeyDictionary[GenerationJob, _HistoryKeeper] = WeakKeyDictionary()

    @cached_property
    def registry(self) -> DiffusionModelRegistry:
        """Which models there are and which are on this disk."""
        from swiftai_nb.registry.registry import DiffusionModelRegistry

        return DiffusionModelRegistry.shared

    @cached_property
    def queue(self) -> JobQueue:
        """Runs the jobs."""
        from swiftai_nb.jobs.queue import JobQueue

        return JobQueue()

    @cached_property
    def downloader(self) -> DiffusionModelDownloader:
        """The downloader; shared, so that cells and widgets show the same downloads."""
        from swiftai_nb.downloads.downloader import DiffusionModelDownloader

        return DiffusionModelDownloader(registry=self.registry)

    @cached_property
    def subshell_route(self) -> SubshellRoute:
        """The one subshell on which widgets' clicks arrive while a cell runs."""
        from swiftai_nb.notebook.cell.cancel import SubshellRoute

        return SubshellRoute(running_kernel())

    @property
    def history(self) -> History:
        """The history; in memory until `keep_history_in` is called."""
        if self._history is None:
            from swiftai_nb.jobs.history import History

            self._history = History()
        return self._history

    def keep_history_in(self, folder: str | Path | None) -> None:
        """Keeps the history in a folder from now on, or (None) in memory.

        Raises:
            InvalidInputError: the folder cannot be written.
        """
        from swiftai_nb.jobs.history import History

        self._history = History(folder)

    def add_generator(self, name: str, generator: ImageGenerator) -> None:
        """Makes `generator` usable as `--engine NAME`; replaces one of that name."""
        with self._generators_lock:
            self._generators[name] = generator

    def generator(self, engine: str, *, provider: str | None = None) -> ImageGenerator:
        """The generator of that name, made once.

        Args:
            engine: "local", "cloud" or a provider's name ("mlx", "huggingface", a third party's).
            provider: for the cloud: who computes, such as "fal-ai".

        Raises:
            InvalidInputError: no such engine; lists those there are.
            ProviderUnavailableError: it cannot be made.
        """
        name = ENGINE_ALIASES.get(engine, engine)
        key = name if provider is None else f"{name}:{provider}"
        with self._generators_lock:
            if key not in self._generators:
                self._generators[key] = _create(name, provider)
            return self._generators[key]

    def choose_engine(
        self, engine: str = "auto", *, provider: str | None = None, model: str | None = None
    ) -> str:
        """The engine's name for "auto": the local one where it can run, else the cloud with a token.

        A catalog model that another engine runs chooses that engine.

        Raises:
            ProviderUnavailableError: neither is possible.
        """
        if engine != "auto":
            return ENGINE_ALIASES.get(engine, engine)
        if provider is not None:
            return "huggingface"
        own = self._engine_of(model)
        if own not in (None, "mlx"):
            return str(own)
        if self.generator("mlx").is_available:
            return "mlx"
        with contextlib.suppress(AIError):
            if self.generator("huggingface").is_available:
                return "huggingface"
        raise ProviderUnavailableError(
            "the local engine cannot run here and there is no token for the cloud",
            hint="run %imagine_doctor; for the cloud set HF_TOKEN",
        )

    def is_cloud(self, engine: str) -> bool:
        """Whether an engine of that name works elsewhere: its provider's `kind` is "cloud"."""
        return getattr(self.generator(engine), "kind", "local") == "cloud"

    def cloud_note(self, engine: str) -> str | None:
        """Why "auto" chose the cloud, once per session; None where there is nothing to say.

        Args:
            engine: what `choose_engine` gave for "auto".
        """
        if self._is_cloud_noted or not self.is_cloud(engine):
            return None
        check = getattr(self.generator("mlx"), "check_available", None)
        try:
            if check is not None:
                check()
        except AIError as error:
            self._is_cloud_noted = True
            return f"the local engine cannot run ({error.message}); prompts go to the cloud"
        return None

    def ask_before_sending(self, plan: GenerationPlan) -> None:
        """Asks once for each destination, and once more when pictures go there for the first time.

        Raises:
            InvalidInputError: the user has not been asked; the next call with such a plan passes.
        """
        config = plan.request.config
        agreement = (plan.destination, config.image is not None or bool(config.references))
        if plan.destination and agreement not in self._agreed:
            self._agreed.add(agreement)
            raise InvalidInputError(
                f"this sends {plan.sends}",
                hint="press Imagine again to send it; you are asked once",
            )

    def check_pictures_stay(self, engine: str, config: ImageGenerationConfig) -> None:
        """Refuses to send pictures to a cloud that "auto" chose because the local engine cannot run.

        Raises:
            ProviderUnavailableError: there are pictures, and the engine is the cloud.
        """
        if engine == "huggingface" and (config.image is not None or config.references):
            raise ProviderUnavailableError(
                "the local engine cannot run here, and pictures are sent only to a service that you choose",
                hint="choose it with --engine cloud",
            )

    def runs_catalog_models(self, engine: str) -> bool:
        """Whether an engine's models are those of the registry, on this disk."""
        return engine in self.registry.engines

    def _engine_of(self, model: str | None) -> str | None:
        name = self.registry.default_model if model is None else model
        if name is not None:
            with contextlib.suppress(AIError):
                return self.registry.find(name).engine
        return None

    def plan(self, request: GenerationRequest) -> GenerationPlan:
        """Chooses the engine and makes its plan; nothing is queued.

        Raises:
            AIError: engine, model, settings or memory do not allow it.
        """
        from swiftai_nb.core.generator import PlanningGenerator
        from swiftai_nb.core.request import GenerationPlan

        model = request.config.model
        engine = self.choose_engine(request.engine, provider=request.provider, model=model)
        if request.engine == "auto" and request.provider is None:
            self.check_pictures_stay(engine, request.config)
        generator = self.generator(engine, provider=request.provider)
        request = replace(request, engine=engine)
        if isinstance(generator, PlanningGenerator):
            return self._with_destination(generator.plan(request))
        if engine == "mlx" or (model is not None and self.runs_catalog_models(engine)):
            info = self.registry.resolve(model).info
            return GenerationPlan.of(request, native_size=info.default_resolution)
        return self._with_destination(GenerationPlan.of(request))

    def _with_destination(self, plan: GenerationPlan) -> GenerationPlan:
        """The plan of a cloud provider that does not say where it sends things, with its name."""
        engine = plan.request.engine
        return plan if plan.destination or not self.is_cloud(engine) else replace(plan, destination=engine)

    def plan_all(self, requests: Sequence[GenerationRequest]) -> list[GenerationPlan]:
        """One plan for each request; requests that differ in their seeds alone are planned once.

        Raises:
            AIError: as `plan`, for the first request that is refused.
        """
        plans: dict[GenerationRequest, GenerationPlan] = {}
        for request in requests:
            settings = request.with_seeds((0,))
            if settings not in plans:
                plans[settings] = self.plan(request)
        return [plans[request.with_seeds((0,))].with_seeds(request.seeds) for request in requests]

    def submit(self, asked: GenerationPlan | GenerationRequest) -> GenerationJob:
        """Queues one job; its pictures enter the history as they are finished.

        Args:
            asked: a plan of `plan`, or a request to plan first.

        Raises:
            AIError: as `plan`.
        """
        from swiftai_nb.core.request import GenerationPlan

        plan = asked if isinstance(asked, GenerationPlan) else self.plan(asked)
        generator = self.generator(plan.request.engine, provider=plan.request.provider)
        lane = "cloud" if getattr(generator, "kind", "local") == "cloud" else "local"
        job = self.queue.submit(plan, generator, lane=lane)
        self.recent_pictures.add_all(plan.request.config)
        self._keepers[job] = keeper = _HistoryKeeper(self.history)
        job.subscribe(keeper)
        self._listeners.notify(job)
        return job

    def plan_upscale(
        self, pictures: Sequence[GeneratedImage], factor: float, *, upscaler: str | None = None
    ) -> tuple[GenerationPlan | None, str | None]:
        """The plan of the job that enlarges pictures, None where Lanczos' filter does it; and a note.

        Raises:
            AIError: no such upscaler, no memory, or a factor outside the limits.
        """
        from swiftai_nb.registry.upscalers import choose_upscaler

        chosen = choose_upscaler(self.registry, upscaler)
        if chosen.file is None:  # no engine is needed
            return None, chosen.note
        generator: Any = self.generator("mlx")
        return generator.plan_upscale(pictures, factor, upscaler=upscaler), None

    def history_ids(self, job: GenerationJob) -> list[str]:
        """The ids of a job's finished pictures in the history, in order; "" for one that is not there."""
        keeper = self._keepers.get(job)
        return [] if keeper is None else list(keeper.ids)

    def on_submit(self, listener: Callable[[GenerationJob], None]) -> Callable[[], None]:
        """Calls `listener(job)` for every submitted job; returns a function that ends this."""
        return self._listeners.add(listener)

    def close(self) -> None:
        """Cancels all jobs and ends the engines."""
        if "queue" in self.__dict__:
            self.queue.close()
        with self._generators_lock:
            generators, self._generators = list(self._generators.values()), {}
        for generator in generators:
            close = getattr(generator, "close", None)
            if close is not None:
                close()


class _HistoryKeeper:
    """Appends a job's pictures to the history, each once, as they are finished."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._lock = threading.Lock()
        self.ids: list[str] = []

    def __call__(self, job: GenerationJob) -> None:
        with self._lock:
            while len(self.ids) < len(job.images):
                self.ids.append("")  # before the append: a picture that cannot be kept is not tried again
                entry = self._history.append_or_log(job.images[len(self.ids) - 1])
                self.ids[-1] = "" if entry is None else entry.id


def running_shell() -> Any:
    """IPython's shell, or None; IPython is not imported for it."""
    ipython = sys.modules.get("IPython")
    return None if ipython is None else ipython.get_ipython()


def running_kernel() -> Any:
    """The ipykernel kernel this runs in, or None."""
    return getattr(running_shell(), "kernel", None)


def _create(name: str, provider: str | None) -> ImageGenerator:
    from swiftai_nb.providers import discovery

    options = {} if provider is None else {"provider": provider}
    generator: ImageGenerator = discovery.create(name, **options)
    return generator
