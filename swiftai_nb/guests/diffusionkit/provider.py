"""DiffusionKitImageProvider: Stable Diffusion 3 and Argmax's FLUX.1, run by DiffusionKit."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from swiftai_nb.core.config import ImageGenerationConfig
from swiftai_nb.core.errors import InvalidInputError, ModelNotFoundError, UnsupportedModelError
from swiftai_nb.core.request import GenerationRequest
from swiftai_nb.engine.kernel.client import EngineClient
from swiftai_nb.engine.kernel.memory_plan import MemoryPlan
from swiftai_nb.guests.diffusionkit.checkpoint import (
    SIZE_MULTIPLE,
    Checkpoint,
    LocatedCheckpoint,
    find_checkpoint,
    locate,
)
from swiftai_nb.guests.diffusionkit.environment import (
    CheckedInterpreters,
    diffusionkit_client,
    find_interpreter,
)
from swiftai_nb.guests.diffusionkit.models import ENGINE
from swiftai_nb.providers.local_engine import LocalEngineProvider
from swiftai_nb.providers.planning import LocalPlan, model_name

if TYPE_CHECKING:
    from swiftai_nb.registry.model_info import DiffusionModelInfo, ResolvedModel
    from swiftai_nb.registry.registry import DiffusionModelRegistry

DEFAULT_MODEL = "sd3-medium"
SCHEDULER = "flow-match-euler"
SEED_BOUND = 2**32
_OWN_ENGINE = "leave it out, or use --engine local with a model it runs"
# Estimates by its networks' shapes; real memory has not been measured.
_BYTES_PER_TOKEN = 400_000
_DECODER_VALUES_PER_PIXEL = 128 * 4


class DiffusionKitImageProvider(LocalEngineProvider):
    """Makes pictures with DiffusionKit, in a process and an environment of its own.

    Neither DiffusionKit nor mlx is imported into this process. The engine is started on first use and kept
    running. All members may be used from any thread and any event loop; several calls at once are run one
    after another.

    Args:
        registry: where models are looked up, and where the installed environment is; None is the shared one.
        memory_limit_bytes: memory to plan with; None is what is available.
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
        """Loads a model's weights in advance.

        Raises:
            AIError: whatever `generate_image` would refuse before any work.
        """
        config = ImageGenerationConfig(model=None if model is None else str(model))
        await self._load(await asyncio.to_thread(self.plan, GenerationRequest.of("load", config)))

    def _build_plan(self, request: GenerationRequest, *, available_bytes: int | None) -> LocalPlan:
        resolved = self._resolve(request.config.model)
        return make_plan(request, resolved, device=self.device, available_bytes=available_bytes)

    def _make_client(self) -> EngineClient:
        self._client_python = self._python()
        return diffusionkit_client(self._client_python)

    def _engine(self) -> EngineClient:
        if self._client is not None and self._client_python != self._python():
            self.close()  # the user has set another environment meanwhile
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
            return _resolve_folder(folder.resolve())
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


def _resolve_folder(folder: Path) -> ResolvedModel:
    """An unregistered folder in DiffusionKit's layout; with this engine, a FLUX.1 folder as well."""
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


def make_plan(
    request: GenerationRequest, resolved: ResolvedModel, *, device: str, available_bytes: int | None
) -> LocalPlan:
    """Fills in what the request leaves open and refuses what cannot work.

    Args:
        request: what the user asked for.
        resolved: the model to use.
        device: what it will run on.
        available_bytes: free memory; None where the system does not report it.

    Raises:
        InvalidInputError: a size, seed or option that DiffusionKit cannot take.
        InvalidModelFilesError: files of the model are missing.
        UnsupportedModelError: the folder has none of its models.
    """
    _check_options(request)
    located = locate(resolved.folder, resolved.more_folders)
    checkpoint = located.checkpoint
    info = resolved.info
    request = request.with_native_size(info.default_resolution)
    config = request.config
    width = info.default_width if config.width is None else config.width
    height = info.default_height if config.height is None else config.height
    _check_size(checkpoint, width, height)
    guidance_scale, notes = _guidance(checkpoint, config.guidance_scale, info.default_guidance_scale)
    if request.negative_prompt and guidance_scale == 0.0:
        notes += ("FLUX.1 schnell cannot use a negative prompt",)
    guided = not checkpoint.is_flux
    memory = _memory(located, width * height, guided=guided, is_cpu=device == "cpu", is_staged=False)
    if available_bytes is not None and memory.peak_bytes > available_bytes:
        memory = _memory(located, width * height, guided=guided, is_cpu=device == "cpu", is_staged=True)
    dtype = "float32" if device == "cpu" else checkpoint.dtype
    return LocalPlan(
        request=request,
        engine=ENGINE,
        model=model_name(resolved),
        model_name=info.name,
        model_revision=resolved.revision,
        width=width,
        height=height,
        steps=config.resolved_steps(info.default_steps),
        guidance_scale=guidance_scale,
        scheduler=SCHEDULER,
        device=device,
        precision=f"{dtype}, weights in 4 bits" if checkpoint.is_quantized else dtype,
        quantization_bits=4 if checkpoint.is_quantized else None,
        notes=(*(() if resolved.note is None else (resolved.note,)), *notes),
        resolved=resolved,
        memory_plan_bytes=memory,
        available_bytes=available_bytes,
        is_guided=guided and guidance_scale > 1.0,
    )


def _check_options(request: GenerationRequest) -> None:
    """Refuses options that DiffusionKit, or this provider, does not support."""
    config = request.config
    given = {
        "image": config.image is not None,
        "strength": config.strength is not None,
        "mask": config.mask is not None,
        "references": bool(config.references),
        "controls": bool(config.controls),
        "loras": bool(config.loras),
        "vae": config.vae is not None,
        "embeddings": bool(config.embeddings),
        "guidance_rescale": config.guidance_rescale is not None,
        "eta": config.eta is not None,
        "hires": config.hires is not None,
        "upscale": config.upscale is not None,
        "clip_skip": config.clip_skip is not None,
        f"prompt_syntax={config.prompt_syntax!r}": config.prompt_syntax not in (None, "plain"),
        "quantization_bits": config.quantization_bits is not None,
        "preview='taesd'": config.preview == "taesd",
    }
    for name, is_given in given.items():
        if is_given:
            raise InvalidInputError(f"DiffusionKit does not support {name}", hint=_OWN_ENGINE)
    if config.scheduler not in (None, SCHEDULER):
        raise InvalidInputError(
            f"DiffusionKit has one scheduler, {SCHEDULER}, not {config.scheduler!r}", hint="leave it out"
        )
    if max(request.seeds) >= SEED_BOUND:
        raise InvalidInputError(
            f"seed {max(request.seeds)} is too large for DiffusionKit", hint=f"use 0 to {SEED_BOUND - 1}"
        )


def _check_size(checkpoint: Checkpoint, width: int, height: int) -> None:
    for name, side in (("width", width), ("height", height)):
        if side % SIZE_MULTIPLE:
            below = side - side % SIZE_MULTIPLE
            raise InvalidInputError(
                f"{name} {side} is not a multiple of {SIZE_MULTIPLE}, which DiffusionKit needs",
                hint=f"use {below} or {below + SIZE_MULTIPLE}" if below else f"use {SIZE_MULTIPLE}",
            )
        if side > checkpoint.max_side:
            raise InvalidInputError(
                f"{name} {side} exceeds {checkpoint.max_side}, the largest side of {checkpoint.name}",
                hint=f"use {checkpoint.max_side} or less",
            )


def _guidance(checkpoint: Checkpoint, asked: float | None, default: float) -> tuple[float, tuple[str, ...]]:
    if checkpoint.is_flux:
        notes = ("FLUX.1 schnell runs without guidance",) if asked is not None and asked > 0 else ()
        return 0.0, notes
    return max(1.0, default if asked is None else asked), ()


def _memory(
    located: LocatedCheckpoint, pixels: int, *, guided: bool, is_cpu: bool, is_staged: bool
) -> MemoryPlan:
    checkpoint = located.checkpoint
    sizes = {path: file.stat().st_size for path, file in located.files.items()}
    text = sum(size for path, size in sizes.items() if path.startswith(("clip_", "t5/")))
    denoiser = sizes[checkpoint.weights]
    decoder = sizes.get("ae.safetensors", 0)
    to_float32 = 2 if is_cpu else 1  # the CPU computes in float32; quantized weights stay as they are
    weights = {
        "text_encoder": text * to_float32,
        "transformer": denoiser * (1 if checkpoint.is_quantized else to_float32),
        "vae": decoder * to_float32,
    }
    batch = 2 if guided else 1
    return MemoryPlan(
        weights,
        pixels // SIZE_MULTIPLE**2 * batch * _BYTES_PER_TOKEN,
        pixels * _DECODER_VALUES_PER_PIXEL * (4 if is_cpu else 2),
        is_staged,
    )
