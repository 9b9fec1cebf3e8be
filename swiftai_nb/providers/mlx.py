"""MLXImageProvider: pictures made on this machine."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from swiftai_nb.core.config import ImageGenerationConfig
from swiftai_nb.core.errors import InvalidInputError
from swiftai_nb.core.generator import ProgressCallback
from swiftai_nb.core.image import GeneratedImage
from swiftai_nb.core.progress import GenerationStage
from swiftai_nb.core.recipe import Recipe
from swiftai_nb.engine.kernel.client import EngineClient, process_client, thread_client
from swiftai_nb.engine.kernel.memory_plan import available_memory_bytes, check_memory
from swiftai_nb.engine.kernel.platform import expected_device, local_engine_obstacle
from swiftai_nb.engine.protocol import AskStatus, Done, Loaded, LoadModel, ModelFiles, Status, Unload
from swiftai_nb.jobs.timings import TimingKey, Timings
from swiftai_nb.providers.planning import (
    GenerationPlan,
    make_command,
    make_plan,
    model_name,
    model_revision,
    sha256,
)
from swiftai_nb.providers.progress_reporter import ProgressReporter
from swiftai_nb.registry.loras import local_loras

if TYPE_CHECKING:
    from swiftai_nb.engine.protocol import Generate
    from swiftai_nb.model_files.variants import DiffusionVariant
    from swiftai_nb.registry.model_info import ResolvedModel
    from swiftai_nb.registry.registry import DiffusionModelRegistry

TIMINGS_FILE = "timings.sqlite"


class MLXImageProvider:
    """Makes pictures with the local engine, which is started on first use and kept warm.

    Nothing of MLX enters this process unless `isolation` is "thread". All members may be used from
    any thread and any event loop; several calls at once are worked off one after another.

    Args:
        isolation: "process" runs the engine in a child process, whose death costs one picture and
            nothing else; "thread" runs it here, for debugging and embedding.
        registry: where models are looked up; None is the shared one.
        memory_limit_bytes: memory to plan with; None is what the system has free.
    """

    def __init__(
        self,
        isolation: Literal["process", "thread"] = "process",
        registry: DiffusionModelRegistry | None = None,
        *,
        memory_limit_bytes: int | None = None,
    ) -> None:
        if isolation not in ("process", "thread"):
            raise InvalidInputError(f"isolation {isolation!r} is unknown", hint="use process or thread")
        self._make_client = process_client if isolation == "process" else thread_client
        self._client: EngineClient | None = None
        self._registry = registry
        self._memory_limit_bytes = memory_limit_bytes
        self._loaded: tuple[str, DiffusionVariant] | None = None
        self._chosen_model: str | None = None

    @property
    def is_available(self) -> bool:
        """Whether this machine can run the local engine; `check_available` says why not."""
        return local_engine_obstacle() is None

    def check_available(self) -> None:
        """Raises UnsupportedPlatformError with the reason when the local engine cannot run here."""
        obstacle = local_engine_obstacle()
        if obstacle is not None:
            raise obstacle

    @property
    def registry(self) -> DiffusionModelRegistry:
        """Where models are looked up."""
        if self._registry is None:
            from swiftai_nb.registry.registry import DiffusionModelRegistry

            self._registry = DiffusionModelRegistry.shared
        return self._registry

    @property
    def loaded_model_id(self) -> str | None:
        """The model in the engine's memory, or None."""
        loaded = self._loaded if self._client is not None and self._client.pid is not None else None
        return None if loaded is None else loaded[0]

    @property
    def loaded_variant(self) -> DiffusionVariant | None:
        """Its family, or None."""
        loaded = self._loaded if self._client is not None and self._client.pid is not None else None
        return None if loaded is None else loaded[1]

    @property
    def engine_pid(self) -> int | None:
        """The engine's process; None while none runs."""
        return None if self._client is None else self._client.pid

    @property
    def device(self) -> str:
        """What the engine computes on, or most probably will: "metal", "cuda" or "cpu"."""
        ready = None if self._client is None else self._client.ready
        return expected_device() if ready is None else ready.device

    async def load_model(
        self, model: str | Path | None, variant: DiffusionVariant | str | None = None
    ) -> None:
        """Reads a model's weights now, so that the first picture need not wait; it becomes the default.

        Args:
            model: catalog id, alias or folder; None is the registry's default.
            variant: the family the caller expects; None accepts any.

        Raises:
            ModelNotFoundError, ModelNotDownloadedError: it is not on this disk.
            UnsupportedModelError, InvalidModelFilesError: its files do not fit.
            InsufficientMemoryError: it does not fit this machine.
            InvalidInputError: it is of another family than `variant`.
        """
        self.check_available()
        resolved = self.registry.resolve(None if model is None else str(model))
        found = resolved.info.variant
        if variant is not None and str(variant) != str(found):
            raise InvalidInputError(f"{resolved.info.id} is {found}, not {variant}", hint="leave variant out")
        plan = self._plan_of("load", ImageGenerationConfig(), resolved)
        check_memory(plan.memory_plan_bytes, available_bytes=plan.available_bytes)
        files = ModelFiles(str(plan.folder), quantization_bits=plan.quantization_bits)
        answer = await self._engine().run(LoadModel(model=files))
        if isinstance(answer, Loaded):
            self._timings.record_load(_timing_name(plan), answer.load_s)
        self._loaded = (plan.model, found)
        self._chosen_model = plan.model

    async def unload_model(self) -> None:
        """Drops the model from memory; the engine stays, and the registry's default model holds again."""
        self._loaded = self._chosen_model = None
        if self.engine_pid is not None:
            await self._engine().run(Unload())

    def plan(self, prompt: str, config: ImageGenerationConfig | None = None) -> GenerationPlan:
        """What `generate_image` would do, without doing it.

        Raises:
            AIError: whatever `generate_image` would refuse before any work.
        """
        self.check_available()
        config = ImageGenerationConfig() if config is None else config
        plan = self._plan_of(prompt, config, self._resolve(config))
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
            UnsupportedPlatformError, InvalidInputError, ModelNotFoundError, ModelNotDownloadedError,
            InvalidModelFilesError, UnsupportedModelError, InsufficientMemoryError: before any work.
            GenerationCancelledError: `cancel_generation` was called.
            EngineDiedError: the engine's process ended; the next call starts a fresh one.
            GenerationFailedError: the engine failed otherwise.
        """
        self.check_available()
        config = ImageGenerationConfig() if config is None else config
        resolved = self._resolve(config)
        plan = self._plan_of(prompt, config, resolved)
        check_memory(plan.memory_plan_bytes, available_bytes=plan.available_bytes)
        local = config.replace(loras=local_loras(self.registry, config.loras))
        command = make_command(prompt, negative_prompt, local, plan)
        if config.preview == "taesd":
            command = replace(command, preview_decoder=self._preview_decoder(resolved))
        reporter = ProgressReporter(on_progress, plan)
        client = self._engine()
        if client.ready is None:
            reporter.enter(GenerationStage.STARTING_ENGINE)
            # What finishing the first picture will need is fetched while the engine starts.
            threading.Thread(target=_prepare_to_finish, args=(resolved,), daemon=True).start()
        done = await client.run(command, reporter)
        if not isinstance(done, Done):
            raise TypeError(type(done))
        self._loaded = (plan.model, resolved.info.variant)
        recipe = self._recipe(command, config, plan, resolved, done)
        return await asyncio.to_thread(self._finish, done, recipe, plan, reporter)

    async def cancel_generation(self) -> None:
        """Stops every running call, each with GenerationCancelledError."""
        if self._client is not None:
            self._client.cancel_all()

    async def status(self) -> Status | None:
        """What the engine holds; None while none runs."""
        if self.engine_pid is None:
            return None
        answer = await self._engine().run(AskStatus())
        return answer if isinstance(answer, Status) else None

    def close(self) -> None:
        """Cancels every call and ends the engine; the next call starts a new one."""
        client, self._client, self._loaded = self._client, None, None
        if client is not None:
            client.close()

    def _engine(self) -> EngineClient:
        if self._client is None:
            self._client = self._make_client()
        return self._client

    @property
    def _timings(self) -> Timings:
        return Timings(self.registry.home / TIMINGS_FILE)

    def _resolve(self, config: ImageGenerationConfig) -> ResolvedModel:
        return self.registry.resolve(self._chosen_model if config.model is None else config.model)

    def _plan_of(self, prompt: str, config: ImageGenerationConfig, resolved: ResolvedModel) -> GenerationPlan:
        limit = self._memory_limit_bytes
        # What the engine holds now it gives up for another model: counting it would refuse what works.
        available = available_memory_bytes(self.engine_pid) if limit is None else limit
        local_loras(self.registry, config.loras)  # refuses what is not here
        plan = make_plan(prompt, config, resolved, device=self.device, available_bytes=available)
        is_cold = self.loaded_model_id != model_name(resolved)
        estimate_s = self._timings.estimate_s(_timing_key(plan), steps=plan.steps, cold=is_cold)
        return replace(plan, estimated_s=estimate_s)

    def _preview_decoder(self, resolved: ResolvedModel) -> str:
        name = resolved.info.preview_decoder
        if name is None:
            raise InvalidInputError(
                f"{resolved.info.id} has no small preview decoder", hint="use preview='rgb'"
            )
        return str(self.registry.resolve_info(self.registry.find(name)).folder)

    def _recipe(
        self,
        command: Generate,
        config: ImageGenerationConfig,
        plan: GenerationPlan,
        resolved: ResolvedModel,
        done: Done,
    ) -> Recipe:
        ready = self._engine().ready
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
            engine="mlx",
            device=self.device,
            dtype=done.dtype,
            quantization_bits=plan.quantization_bits,
            clip_skip=config.clip_skip,
            strength=plan.strength,
            image_sha256=sha256(config.image),
            mask_sha256=sha256(config.mask),
            loras=config.loras,
            versions={} if ready is None else dict(ready.versions),
            notes=(*plan.notes, *done.notes),
        )

    def _finish(
        self, done: Done, recipe: Recipe, plan: GenerationPlan, reporter: ProgressReporter
    ) -> GeneratedImage:
        """Encodes the picture and keeps its times; in a thread, so that the loop stays free."""
        import numpy as np

        pixels = np.frombuffer(done.pixels, np.uint8).reshape(done.height, done.width, 3)
        image = GeneratedImage.from_pixels(pixels, recipe=recipe, elapsed_s=reporter.elapsed_s)
        timings = self._timings
        fixed_s = done.total_s - done.denoising_s - done.load_s
        timings.record(_timing_key(plan), steps=done.steps, denoising_s=done.denoising_s, fixed_s=fixed_s)
        if reporter.load_s is not None:
            timings.record_load(_timing_name(plan), reporter.load_s)
        return image


def _prepare_to_finish(resolved: ResolvedModel) -> None:
    import numpy  # noqa: F401
    from PIL import Image, PngImagePlugin  # noqa: F401

    with contextlib.suppress(OSError):  # told when the picture's recipe needs it
        model_revision(resolved)


def _timing_name(plan: GenerationPlan) -> str:
    return plan.model if plan.quantization_bits is None else f"{plan.model} {plan.quantization_bits} bits"


def _timing_key(plan: GenerationPlan) -> TimingKey:
    return TimingKey(_timing_name(plan), plan.width, plan.height, guided=plan.is_guided)
