"""DiffusionKitImageProvider: Stable Diffusion 3 and Argmax's FLUX.1, run by DiffusionKit."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from swiftai_nb.core.config import ImageGenerationConfig
from swiftai_nb.core.errors import AIError, ModelNotFoundError, UnsupportedModelError
from swiftai_nb.core.generator import ProgressCallback
from swiftai_nb.core.image import GeneratedImage
from swiftai_nb.core.progress import GenerationStage
from swiftai_nb.core.recipe import Recipe
from swiftai_nb.engine.kernel.client import EngineClient
from swiftai_nb.engine.kernel.memory_plan import available_memory_bytes, check_memory
from swiftai_nb.engine.kernel.platform import expected_device
from swiftai_nb.engine.protocol import AskStatus, Done, Generate, LoadModel, Status, Unload
from swiftai_nb.guests.diffusionkit.checkpoint import find_checkpoint
from swiftai_nb.guests.diffusionkit.environment import CheckedInterpreters, find_interpreter
from swiftai_nb.guests.diffusionkit.models import ENGINE
from swiftai_nb.guests.diffusionkit.plan import make_command, make_plan
from swiftai_nb.guests.diffusionkit.process import diffusionkit_client
from swiftai_nb.jobs.timings import TimingKey, Timings
from swiftai_nb.providers.planning import GenerationPlan, model_revision
from swiftai_nb.providers.progress_reporter import ProgressReporter

if TYPE_CHECKING:
    from swiftai_nb.registry.model_info import DiffusionModelInfo, ResolvedModel
    from swiftai_nb.registry.registry import DiffusionModelRegistry

DEFAULT_MODEL = "sd3-medium"
_TIMINGS_FILE = "timings.sqlite"


class DiffusionKitImageProvider:
    """Makes pictures with DiffusionKit, in a process and an environment of its own.

    Nothing of DiffusionKit, torch or mlx enters this process. The worker is started on first use and
    kept warm. All members may be used from any thread and any event loop; several calls at once are
    worked off one after another.

    Args:
        registry: where models are looked up, and where our own environment lies; None is the shared one.
        memory_limit_bytes: memory to plan with; None is what the system has free.
    """

    def __init__(
        self, registry: DiffusionModelRegistry | None = None, *, memory_limit_bytes: int | None = None
    ) -> None:
        self._registry = registry
        self._memory_limit_bytes = memory_limit_bytes
        self._interpreters = CheckedInterpreters()
        self._client: EngineClient | None = None
        self._client_python: Path | None = None
        self._loaded: str | None = None

    @property
    def is_available(self) -> bool:
        """Whether there is an environment with DiffusionKit; `check_available` says why not."""
        try:
            self.check_available()
        except AIError:
            return False
        return True

    def check_available(self) -> None:
        """Raises ProviderUnavailableError with the reason when DiffusionKit cannot run here."""
        self._python()

    @property
    def registry(self) -> DiffusionModelRegistry:
        """Where models are looked up."""
        if self._registry is None:
            from swiftai_nb.registry.registry import DiffusionModelRegistry

            self._registry = DiffusionModelRegistry.shared
        return self._registry

    @property
    def engine_pid(self) -> int | None:
        """The worker's process; None while none runs."""
        return None if self._client is None else self._client.pid

    @property
    def loaded_model_id(self) -> str | None:
        """The model in the worker's memory, or None."""
        return None if self.engine_pid is None else self._loaded

    @property
    def device(self) -> str:
        """What the worker computes on, or most probably will: "metal", "cuda" or "cpu"."""
        ready = None if self._client is None else self._client.ready
        return expected_device() if ready is None else ready.device

    async def load_model(self, model: str | Path | None) -> None:
        """Reads a model's weights now, so that the first picture need not wait.

        Raises:
            AIError: whatever `generate_image` would refuse before any work.
        """
        python = self._python()
        resolved = self._resolve(None if model is None else str(model))
        plan = self._plan_of("load", ImageGenerationConfig(), resolved)
        check_memory(plan.memory_plan_bytes, available_bytes=plan.available_bytes)
        command = make_command(
            "load", None, ImageGenerationConfig(), plan, more_folders=resolved.more_folders
        )
        await self._engine(python).run(LoadModel(model=command.model))
        self._loaded = plan.model

    async def unload_model(self) -> None:
        """Drops the model from memory; the worker stays."""
        self._loaded = None
        if self._client is not None and self._client.pid is not None:
            await self._client.run(Unload())

    def plan(self, prompt: str, config: ImageGenerationConfig | None = None) -> GenerationPlan:
        """What `generate_image` would do, without doing it.

        Raises:
            AIError: whatever `generate_image` would refuse before any work.
        """
        self.check_available()
        config = ImageGenerationConfig() if config is None else config
        plan = self._plan_of(prompt, config, self._resolve(config.model))
        check_memory(plan.memory_plan_bytes, available_bytes=plan.available_bytes)
        return plan

    async def generate_image(
        self,
        prompt: str,
        *,
        negative_prompt: str | None = None,
        config: ImageGenerationConfig | None = None,
        on_progress: ProgressCallback | None = None,
    ) -> GeneratedImage:
        """Makes one picture; see `ImageGenerator.generate_image`.

        Raises:
            ProviderUnavailableError: the environment is missing, broken or of another version.
            InvalidInputError, ModelNotFoundError, ModelNotDownloadedError, InvalidModelFilesError,
            UnsupportedModelError, InsufficientMemoryError: before any work.
            GenerationCancelledError: `cancel_generation` was called.
            EngineDiedError: the worker's process ended; the next call starts a fresh one.
            GenerationFailedError: DiffusionKit failed otherwise.
        """
        python = await asyncio.to_thread(self._python)
        config = ImageGenerationConfig() if config is None else config
        resolved = self._resolve(config.model)
        plan = self._plan_of(prompt, config, resolved)
        check_memory(plan.memory_plan_bytes, available_bytes=plan.available_bytes)
        if negative_prompt and plan.guidance_scale == 0.0:
            plan = replace(plan, notes=(*plan.notes, "FLUX.1 schnell cannot use a negative prompt"))
        command = make_command(prompt, negative_prompt, config, plan, more_folders=resolved.more_folders)
        reporter = ProgressReporter(on_progress, plan)
        client = self._engine(python)
        if client.ready is None:
            reporter.enter(GenerationStage.STARTING_ENGINE, "DiffusionKit")
        done = await client.run(command, reporter)
        if not isinstance(done, Done):
            raise TypeError(type(done))
        self._loaded = plan.model
        ready = client.ready
        versions = {} if ready is None else dict(ready.versions)
        recipe = _recipe(command, plan, resolved, done, device=self.device, versions=versions)
        return await asyncio.to_thread(self._finish, done, recipe, plan, reporter)

    async def cancel_generation(self) -> None:
        """Stops every running call, each with GenerationCancelledError."""
        if self._client is not None:
            self._client.cancel_all()

    async def status(self) -> Status | None:
        """What the worker holds; None while none runs."""
        if self._client is None or self._client.pid is None:
            return None
        answer = await self._client.run(AskStatus())
        return answer if isinstance(answer, Status) else None

    def close(self) -> None:
        """Cancels every call and ends the worker; the next call starts a new one."""
        client, self._client, self._loaded = self._client, None, None
        if client is not None:
            client.close()

    def _python(self) -> Path:
        interpreter = find_interpreter(self.registry.home)
        self._interpreters.facts(interpreter)
        return interpreter.path

    def _engine(self, python: Path) -> EngineClient:
        if self._client is not None and self._client_python != python:
            self.close()  # the user has chosen another environment meanwhile
        if self._client is None:
            self._client, self._client_python = diffusionkit_client(python), python
        return self._client

    @property
    def _timings(self) -> Timings:
        return Timings(self.registry.home / _TIMINGS_FILE)

    def _resolve(self, model: str | None) -> ResolvedModel:
        name = self._default_model() if model is None else model
        try:
            info = self.registry.find(name)
        except ModelNotFoundError:
            folder = Path(name).expanduser()
            if not folder.is_dir():
                raise
            return _own_folder(folder.resolve())
        if info.engine != ENGINE:
            raise UnsupportedModelError(
                f"{info.id} is a model of the local engine, not of DiffusionKit",
                hint=f"--engine local, or --model {DEFAULT_MODEL}",
            )
        return self.registry.resolve(name)

    def _default_model(self) -> str:
        """The user's default model when DiffusionKit runs it, else ours."""
        wanted = self.registry.default_model
        with contextlib.suppress(ModelNotFoundError):
            if wanted is not None and self.registry.find(wanted).engine == ENGINE:
                return wanted
        return DEFAULT_MODEL

    def _plan_of(self, prompt: str, config: ImageGenerationConfig, resolved: ResolvedModel) -> GenerationPlan:
        limit = self._memory_limit_bytes
        # What the worker holds serves the next picture: not counting it would change the plan each time.
        available = available_memory_bytes(self.engine_pid) if limit is None else limit
        plan = make_plan(prompt, config, resolved, device=self.device, available_bytes=available)
        is_cold = self.loaded_model_id != plan.model
        return replace(
            plan, estimated_s=self._timings.estimate_s(_timing_key(plan), steps=plan.steps, cold=is_cold)
        )

    def _finish(
        self, done: Done, recipe: Recipe, plan: GenerationPlan, reporter: ProgressReporter
    ) -> GeneratedImage:
        import numpy as np

        pixels = np.frombuffer(done.pixels, np.uint8).reshape(done.height, done.width, 3)
        image = GeneratedImage.from_pixels(pixels, recipe=recipe, elapsed_s=reporter.elapsed_s)
        fixed_s = done.total_s - done.denoising_s - done.load_s
        self._timings.record(
            _timing_key(plan), steps=done.steps, denoising_s=done.denoising_s, fixed_s=fixed_s
        )
        return image


def _own_folder(folder: Path) -> ResolvedModel:
    """A folder nobody registered, in DiffusionKit's layout; FLUX.1 too, when asked for by this engine."""
    from swiftai_nb.model_files.variants import DiffusionVariant
    from swiftai_nb.registry.model_info import DiffusionModelInfo, ResolvedModel

    checkpoint = find_checkpoint(folder)
    variant = DiffusionVariant.FLUX if checkpoint.is_flux else DiffusionVariant.SD_3
    width, height = variant.default_resolution
    info: DiffusionModelInfo = DiffusionModelInfo(
        id=folder.name,
        name=folder.name,
        variant=variant,
        description=f"Own folder ({checkpoint.name})",
        default_steps=variant.default_steps,
        default_guidance_scale=variant.default_guidance_scale,
        default_width=width,
        default_height=height,
        local_folder=str(folder),
        is_custom=True,
        engine=ENGINE,
    )
    return ResolvedModel(info, folder)


def _recipe(
    command: Generate,
    plan: GenerationPlan,
    resolved: ResolvedModel,
    done: Done,
    *,
    device: str,
    versions: dict[str, str],
) -> Recipe:
    return Recipe(
        prompt=command.prompt,
        negative_prompt=command.negative_prompt,
        model=plan.model,
        model_revision=model_revision(resolved),
        width=done.width,
        height=done.height,
        steps=plan.steps,
        guidance_scale=plan.guidance_scale,
        seed=command.seed,
        scheduler=done.scheduler,
        engine=ENGINE,
        device=device,
        dtype=done.dtype,
        quantization_bits=plan.quantization_bits,
        versions=versions,
        notes=(*plan.notes, *done.notes),
    )


def _timing_key(plan: GenerationPlan) -> TimingKey:
    return TimingKey(f"{ENGINE} {plan.model}", plan.width, plan.height, guided=plan.is_guided)
