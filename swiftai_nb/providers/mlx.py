"""MLXImageProvider: pictures made on this machine."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from swiftai_nb.core.config import ImageGenerationConfig
from swiftai_nb.core.errors import InvalidInputError
from swiftai_nb.core.generator import ProgressCallback
from swiftai_nb.core.image import GeneratedImage
from swiftai_nb.core.machine import available_memory_bytes
from swiftai_nb.core.progress import GenerationStage
from swiftai_nb.core.request import GenerationPlan, GenerationRequest
from swiftai_nb.engine.kernel.client import EngineClient, process_client, thread_client
from swiftai_nb.engine.kernel.platform import local_engine_obstacle
from swiftai_nb.engine.kernel.report import installation_findings
from swiftai_nb.engine.messages import Done
from swiftai_nb.providers.adapters import local_vae
from swiftai_nb.providers.enlargement import UpscalePlan, enlarged_image, make_upscale_command, plan_upscale
from swiftai_nb.providers.local_engine import LocalEngineProvider, ProgressReporter
from swiftai_nb.providers.planning import LocalPlan, make_plan
from swiftai_nb.registry.controls import local_controls
from swiftai_nb.registry.loras import local_loras
from swiftai_nb.registry.upscalers import ChosenUpscaler, choose_upscaler

if TYPE_CHECKING:
    from swiftai_nb.model_files.variants import DiffusionVariant
    from swiftai_nb.registry.model_info import ResolvedModel
    from swiftai_nb.registry.registry import DiffusionModelRegistry


class MLXImageProvider(LocalEngineProvider):
    """Makes pictures with the local engine, which is started on first use and keeps running.

    MLX is not imported in this process unless `isolation` is "thread". All members may be used from
    any thread and any event loop; concurrent calls run one after another.

    Args:
        isolation: "process" runs the engine in a child process; if that ends unexpectedly, only the
            current picture is lost; "thread" runs it in this process, for debugging and embedding.
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
        super().__init__(registry, memory_limit_bytes=memory_limit_bytes)
        self._isolation = isolation
        self._chosen_model: str | None = None

    def check_available(self) -> None:
        """Raises UnsupportedPlatformError with the reason when the local engine cannot run here."""
        obstacle = local_engine_obstacle()
        if obstacle is not None:
            raise obstacle

    def installation_findings(self) -> list[tuple[str, str, str]]:
        """What keeps MLX from the device it could use: (topic, what was found, what to do about it)."""
        return list(installation_findings())

    @property
    def loaded_variant(self) -> DiffusionVariant | None:
        """The family of the model in the engine's memory, or None."""
        loaded = self._loaded
        return None if loaded is None or self.engine_pid is None else loaded.resolved.info.variant

    async def load_model(
        self, model: str | Path | None, variant: DiffusionVariant | str | None = None
    ) -> None:
        """Loads a model's weights before the first picture; it becomes the default model.

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
        name = self.registry.resolve(None).info.id if model is None else str(model)
        request = GenerationRequest.of("load", ImageGenerationConfig(model=name))
        plan = await asyncio.to_thread(self.plan, request)
        info = plan.resolved.info
        if variant is not None and str(variant) != str(info.variant):
            raise InvalidInputError(f"{info.id} is {info.variant}, not {variant}", hint="leave variant out")
        await self._load(plan)
        self._chosen_model = plan.model

    async def unload_model(self) -> None:
        """Drops the model from memory; the engine keeps running, with the registry's default model."""
        self._chosen_model = None
        await super().unload_model()

    def plan_upscale(
        self, pictures: Sequence[GeneratedImage], factor: float = 2.0, *, upscaler: str | None = None
    ) -> UpscalePlan:
        """What `generate` needs to enlarge pictures.

        Args:
            pictures: at least one.
            factor: how many times larger, 1 to 8.
            upscaler: a catalog id, a file, or "lanczos"; None is an installed one, else Lanczos' filter.

        Raises:
            AIError: as `upscale_image` before any work.
        """
        chosen = choose_upscaler(self.registry, upscaler)
        self.check_available()
        limit = self._memory_limit_bytes
        free = available_memory_bytes(self.engine_pid) if limit is None else limit
        return plan_upscale(pictures, factor, chosen, device=self.device, available_bytes=free)

    async def upscale_image(
        self,
        picture: GeneratedImage,
        factor: float = 2.0,
        *,
        upscaler: str | None = None,
        on_progress: ProgressCallback | None = None,
    ) -> GeneratedImage:
        """Enlarges a picture in the engine; cancel its task to stop it.

        Args:
            picture: with or without a recipe.
            factor: how many times larger, 1 to 8.
            upscaler: as `plan_upscale`.
            on_progress: called with the stage and the tile.

        Returns:
            the larger picture; its recipe makes it again.

        Raises:
            InvalidInputError: a factor outside the limits.
            ModelNotFoundError, ModelNotDownloadedError: no such upscaler, or it is not installed.
            InvalidModelFilesError, UnsupportedModelError: its file cannot be used.
            InsufficientMemoryError: the memory does not suffice.
            GenerationCancelledError: `cancel_generation` was called.
        """
        plan = await asyncio.to_thread(partial(self.plan_upscale, [picture], factor, upscaler=upscaler))
        return await self.generate(plan, on_progress=on_progress)

    async def generate(
        self, plan: GenerationPlan, *, index: int = 0, on_progress: ProgressCallback | None = None
    ) -> GeneratedImage:
        """Makes picture `index` of a plan of `plan` or `plan_upscale`; see `PlanningGenerator.generate`."""
        if not isinstance(plan, UpscalePlan):
            return await super().generate(plan, index=index, on_progress=on_progress)
        reporter = ProgressReporter(on_progress, plan)
        client = await asyncio.to_thread(self._engine)
        if client.ready is None:
            reporter.enter(GenerationStage.STARTING_ENGINE)
        done = await client.run(make_upscale_command(plan, index), reporter)
        if not isinstance(done, Done):
            raise TypeError(type(done))
        finish = partial(enlarged_image, plan, done, index=index, elapsed_s=reporter.elapsed_s)
        return await asyncio.to_thread(finish)

    def _build_plan(self, request: GenerationRequest, *, available_bytes: int | None) -> LocalPlan:
        config = request.config
        resolved = self.registry.resolve(self._chosen_model if config.model is None else config.model)
        return make_plan(
            request,
            resolved,
            device=self.device,
            available_bytes=available_bytes,
            loras=local_loras(self.registry, config.loras),
            vae=local_vae(self.registry, config.vae),
            controls=local_controls(self.registry, config.controls, resolved.info.variant),
            preview_decoder=self._preview_decoder(resolved) if config.preview == "taesd" else None,
            upscaler=self._upscaler(config),
        )

    def _upscaler(self, config: ImageGenerationConfig) -> ChosenUpscaler:
        wants_it = any(factor is not None and factor > 1.0 for factor in (config.hires, config.upscale))
        return choose_upscaler(self.registry, config.upscaler) if wants_it else ChosenUpscaler()

    def _make_client(self) -> EngineClient:
        return process_client() if self._isolation == "process" else thread_client()

    def _preview_decoder(self, resolved: ResolvedModel) -> Path:
        name = resolved.info.preview_decoder
        if name is None:
            raise InvalidInputError(
                f"{resolved.info.id} has no small preview decoder", hint="use preview='rgb'"
            )
        return self.registry.resolve_info(self.registry.find(name)).folder
