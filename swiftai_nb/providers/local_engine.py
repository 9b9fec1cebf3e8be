"""Base of the local providers: an engine in a child process that keeps running between pictures."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from abc import ABC, abstractmethod
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from swiftai_nb.core.config import ImageGenerationConfig
from swiftai_nb.core.errors import AIError, InvalidInputError
from swiftai_nb.core.generator import ProgressCallback
from swiftai_nb.core.image import GeneratedImage
from swiftai_nb.core.machine import available_memory_bytes
from swiftai_nb.core.progress import GenerationStage, ImageGenerationProgress
from swiftai_nb.core.recipe import Recipe
from swiftai_nb.core.request import GenerationPlan, GenerationRequest
from swiftai_nb.engine.kernel.client import EngineClient
from swiftai_nb.engine.kernel.memory_plan import check_memory
from swiftai_nb.engine.kernel.platform import device_memory_bytes, expected_device
from swiftai_nb.engine.messages import (
    AskStatus,
    Done,
    Loaded,
    LoadModel,
    Message,
    Stage,
    Status,
    Step,
    Unload,
)
from swiftai_nb.jobs.timings import Timings
from swiftai_nb.providers.planning import LocalPlan, content_revision, make_command, make_recipe, model_files

if TYPE_CHECKING:
    from swiftai_nb.registry.registry import DiffusionModelRegistry

TIMINGS_FILE = "timings.sqlite"


class LocalEngineProvider(ABC):
    """A `PlanningGenerator` whose pictures are made by an engine in a child process.

    The engine is started on first use. All members may be used from any thread and any event loop;
    concurrent calls run one after another.

    Args:
        registry: where models are looked up; None is the shared one.
        memory_limit_bytes: memory to plan with; None is what the system has free.
    """

    kind = "local"
    start_detail: ClassVar[str] = ""  # shown while the engine starts

    def __init__(
        self, registry: DiffusionModelRegistry | None = None, *, memory_limit_bytes: int | None = None
    ) -> None:
        self._registry = registry
        self._memory_limit_bytes = memory_limit_bytes
        self._lock = threading.Lock()
        self._client: EngineClient | None = None
        self._loaded: LocalPlan | None = None

    @abstractmethod
    def check_available(self) -> None:
        """Raises an AIError with the reason when the engine cannot run on this machine."""

    @abstractmethod
    def _build_plan(self, request: GenerationRequest, *, available_bytes: int | None) -> LocalPlan:
        """The plan, without an estimate and before the memory check."""

    @abstractmethod
    def _make_client(self) -> EngineClient:
        """A client for a new engine."""

    @property
    def is_available(self) -> bool:
        """Whether this machine can run the engine; `check_available` raises the reason when not."""
        try:
            self.check_available()
        except AIError:
            return False
        return True

    @property
    def registry(self) -> DiffusionModelRegistry:
        """Where models are looked up."""
        if self._registry is None:
            from swiftai_nb.registry.registry import DiffusionModelRegistry

            self._registry = DiffusionModelRegistry.shared
        return self._registry

    @property
    def engine_pid(self) -> int | None:
        """The engine's process; None while none runs."""
        client = self._client
        return None if client is None else client.pid

    @property
    def loaded_model_id(self) -> str | None:
        """The model in the engine's memory, or None."""
        loaded = self._loaded
        return None if loaded is None or self.engine_pid is None else loaded.model

    @property
    def device(self) -> str:
        """The engine's device, or the expected one before it starts: "metal", "cuda" or "cpu"."""
        client = self._client
        return expected_device() if client is None or client.ready is None else client.ready.device

    def plan(
        self, request: GenerationRequest | str, config: ImageGenerationConfig | None = None
    ) -> LocalPlan:
        """What `generate_image` would do, without doing it.

        Args:
            request: a request; a text is a prompt for one picture.
            config: settings of a text.

        Raises:
            AIError: as `generate_image` before any work.
        """
        if not isinstance(request, GenerationRequest):
            request = GenerationRequest.of(request, config)
        self.check_available()
        limit = self._memory_limit_bytes
        # The engine frees its current model for another one, so that memory counts as available.
        available_bytes = self._available_bytes() if limit is None else limit
        plan = self._build_plan(request, available_bytes=available_bytes)
        check_memory(plan.memory_plan_bytes, available_bytes=plan.available_bytes)
        is_cold = self.loaded_model_id != plan.model
        estimated_s = self._timings.estimate_s(plan.timing_key, steps=plan.run_steps, cold=is_cold)
        return replace(plan, estimated_s=estimated_s)

    def _available_bytes(self) -> int | None:
        """Memory that the next picture can use, of the machine and of the GPU.

        Video memory is what was free when the engine started: since then the engine itself uses it.
        """
        machine_bytes = available_memory_bytes(self.engine_pid)
        client = self._client
        ready = None if client is None else client.ready
        device_bytes = device_memory_bytes(self.device) if ready is None else ready.device_memory_bytes
        if self.device == "cuda":  # weights pass through the machine's memory one by one
            return device_bytes
        found = [size for size in (machine_bytes, device_bytes) if size is not None]
        return min(found, default=None)

    async def generate(
        self, plan: GenerationPlan, *, index: int = 0, on_progress: ProgressCallback | None = None
    ) -> GeneratedImage:
        """Makes picture `index` of a plan; see `PlanningGenerator.generate`.

        Raises:
            InvalidInputError: the plan is another provider's.
            GenerationCancelledError: `cancel_generation` was called.
            EngineDiedError: the engine's process ended; the next call starts a fresh one.
            GenerationFailedError: the engine failed otherwise.
        """
        if not isinstance(plan, LocalPlan):
            raise InvalidInputError("this plan was made by another provider", hint="call plan() of this one")
        reporter = ProgressReporter(on_progress, plan)
        client = await asyncio.to_thread(self._engine)
        if client.ready is None:
            reporter.enter(GenerationStage.STARTING_ENGINE, self.start_detail)
            # Import what encodes the picture while the engine starts.
            threading.Thread(target=_prepare_to_finish, args=(plan,), daemon=True).start()
        done = await client.run(make_command(plan, index), reporter)
        if not isinstance(done, Done):
            raise TypeError(type(done))
        self._loaded = plan
        versions = {} if client.ready is None else dict(client.ready.versions)
        recipe = make_recipe(plan, done, index=index, device=self.device, versions=versions)
        return await asyncio.to_thread(self._finish, done, recipe, plan, reporter)

    async def generate_image(
        self,
        prompt: str,
        *,
        negative_prompt: str | None = None,
        config: ImageGenerationConfig | None = None,
        on_progress: ProgressCallback | None = None,
    ) -> GeneratedImage:
        """Makes one picture: `plan` and `generate`; see `ImageGenerator.generate_image`.

        Raises:
            UnsupportedPlatformError, ProviderUnavailableError, InvalidInputError, ModelNotFoundError,
            ModelNotDownloadedError, InvalidModelFilesError, UnsupportedModelError,
            InsufficientMemoryError: before any work.
            AIError: as `generate`.
        """
        request = GenerationRequest.of(prompt, config, negative_prompt=negative_prompt)
        plan = await asyncio.to_thread(self.plan, request)
        return await self.generate(plan, on_progress=on_progress)

    async def cancel_generation(self) -> None:
        """Stops every running call, each with GenerationCancelledError."""
        client = self._client
        if client is not None:
            client.cancel_all()

    async def unload_model(self) -> None:
        """Drops the model from memory; the engine stays."""
        self._loaded = None
        client = self._client
        if client is not None and client.pid is not None:
            await client.run(Unload())

    async def status(self) -> Status | None:
        """The engine's status; None while none runs."""
        client = self._client
        if client is None or client.pid is None:
            return None
        answer = await client.run(AskStatus())
        return answer if isinstance(answer, Status) else None

    def close(self) -> None:
        """Cancels every call and ends the engine; the next call starts a new one."""
        with self._lock:
            client, self._client, self._loaded = self._client, None, None
        if client is not None:
            client.close()

    async def _load(self, plan: LocalPlan) -> None:
        """Reads the weights of a plan's model now."""
        client = await asyncio.to_thread(self._engine)
        answer = await client.run(LoadModel(model=model_files(plan)))
        if isinstance(answer, Loaded):
            self._timings.record_load(plan.timing_name, answer.load_s)
        self._loaded = plan

    def _engine(self) -> EngineClient:
        with self._lock:
            if self._client is None:
                self._client = self._make_client()
            return self._client

    @property
    def _timings(self) -> Timings:
        return Timings(self.registry.home / TIMINGS_FILE)

    def _finish(
        self, done: Done, recipe: Recipe, plan: LocalPlan, reporter: ProgressReporter
    ) -> GeneratedImage:
        """Encodes the picture and records its times; runs in a thread to keep the event loop responsive."""
        import numpy as np

        pixels = np.frombuffer(done.pixels, np.uint8).reshape(done.height, done.width, 3)
        image = GeneratedImage.from_pixels(pixels, recipe=recipe, elapsed_s=reporter.elapsed_s)
        timings = self._timings
        fixed_s = done.total_s - done.denoising_s - done.load_s
        timings.record(plan.timing_key, steps=done.steps, denoising_s=done.denoising_s, fixed_s=fixed_s)
        if reporter.load_s is not None:
            timings.record_load(plan.timing_name, reporter.load_s)
        return image


class ProgressReporter:
    """Converts the engine's events to progress.

    Args:
        on_progress: the user's callback, or None.
        plan: of the picture; its estimate is used until steps are measured.

    Attributes:
        load_s: seconds until the model was loaded; None when it was loaded already.
    """

    def __init__(self, on_progress: ProgressCallback | None, plan: GenerationPlan) -> None:
        self._on_progress, self._plan = on_progress, plan
        self._started_s = time.monotonic()
        self._stage_s = self._started_s
        self._step, self._total = 0, 0 if plan.steps is None else plan.steps
        self._stage_step = 0
        self.load_s: float | None = None

    @property
    def elapsed_s(self) -> float:
        """Seconds since the call began."""
        return time.monotonic() - self._started_s

    def __call__(self, event: Message) -> None:
        """Handles an event of the engine."""
        if isinstance(event, Stage):
            stage = GenerationStage(event.stage)
            if stage is GenerationStage.ENCODING_PROMPT and self.load_s is not None:
                self.load_s = self.elapsed_s
            self.enter(stage, event.detail)
        elif isinstance(event, Step):
            self._step, self._total = event.index + 1, event.total
            self._report(GenerationStage.DENOISING, preview=event.preview)

    def enter(self, stage: GenerationStage, detail: str = "") -> None:
        """Reports that a stage begins."""
        if stage is GenerationStage.LOADING_MODEL:
            self.load_s = 0.0
        self._stage_s, self._stage_step = time.monotonic(), self._step
        self._report(stage, detail=detail)

    def _report(self, stage: GenerationStage, *, detail: str = "", preview: bytes | None = None) -> None:
        if self._on_progress is None:
            return
        self._on_progress(
            ImageGenerationProgress(
                self._step,
                self._total,
                self.elapsed_s,
                estimated_time_remaining=self._remaining_s(),
                stage=stage,
                detail=detail,
                preview=preview,
            )
        )

    def _remaining_s(self) -> float | None:
        if self._step == self._stage_step:
            estimated_s = self._plan.estimated_s
            return None if estimated_s is None else max(0.0, estimated_s - self.elapsed_s)
        per_step_s = (time.monotonic() - self._stage_s) / (self._step - self._stage_step)
        return max(0.0, per_step_s * (self._total - self._step))


def _prepare_to_finish(plan: LocalPlan) -> None:
    import numpy  # noqa: F401
    from PIL import Image, PngImagePlugin  # noqa: F401

    with contextlib.suppress(OSError):  # reported when the picture's recipe needs it
        content_revision(plan)
