"""DiffusionKitImageProvider: Stable Diffusion 3 and Argmax's FLUX.1, run by DiffusionKit."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from swiftai_nb.core.config import ImageGenerationConfig
from swiftai_nb.core.errors import ModelNotFoundError, UnsupportedModelError
from swiftai_nb.core.request import GenerationRequest
from swiftai_nb.engine.kernel.client import EngineClient
from swiftai_nb.guests.diffusionkit.checkpoint import find_checkpoint
from swiftai_nb.guests.diffusionkit.environment import CheckedInterpreters, find_interpreter
from swiftai_nb.guests.diffusionkit.models import ENGINE
from swiftai_nb.guests.diffusionkit.plan import make_plan
from swiftai_nb.guests.diffusionkit.process import diffusionkit_client
from swiftai_nb.providers.local_engine import LocalEngineProvider
from swiftai_nb.providers.planning import LocalPlan

if TYPE_CHECKING:
    from swiftai_nb.registry.model_info import DiffusionModelInfo, ResolvedModel
    from swiftai_nb.registry.registry import DiffusionModelRegistry

DEFAULT_MODEL = "sd3-medium"


class DiffusionKitImageProvider(LocalEngineProvider):
    """Makes pictures with DiffusionKit, in a process and an environment of its own.

    Nothing of DiffusionKit, torch or mlx enters this process. The worker is started on first use and
    kept warm. All members may be used from any thread and any event loop; several calls at once are
    worked off one after another.

    Args:
        registry: where models are looked up, and where our own environment lies; None is the shared one.
        memory_limit_bytes: memory to plan with; None is what the system has free.
    """

    start_detail = "DiffusionKit"

    def __init__(
        self, registry: DiffusionModelRegistry | None = None, *, memory_limit_bytes: int | None = None
    ) -> None:
        super().__init__(registry, memory_limit_bytes=memory_limit_bytes)
        self._interpreters = CheckedInterpreters()
        self._client_python: Path | None = None

    def check_available(self) -> None:
        """Raises ProviderUnavailableError with the reason when DiffusionKit cannot run here."""
        self._python()

    async def load_model(self, model: str | Path | None) -> None:
        """Reads a model's weights now, so that the first picture need not wait.

        Raises:
            AIError: whatever `generate_image` would refuse before any work.
        """
        config = ImageGenerationConfig(model=None if model is None else str(model))
        await self._load(await asyncio.to_thread(self.plan, GenerationRequest.of("load", config)))

    def _make_plan(self, request: GenerationRequest, *, available_bytes: int | None) -> LocalPlan:
        resolved = self._resolve(request.config.model)
        return make_plan(request, resolved, device=self.device, available_bytes=available_bytes)

    def _make_client(self) -> EngineClient:
        self._client_python = self._python()
        return diffusionkit_client(self._client_python)

    def _engine(self) -> EngineClient:
        if self._client is not None and self._client_python != self._python():
            self.close()  # the user has chosen another environment meanwhile
        return super()._engine()

    def _python(self) -> Path:
        interpreter = find_interpreter(self.registry.home)
        self._interpreters.facts(interpreter)
        return interpreter.path

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
