"""From what the user asked to what DiffusionKit will run: every refusal before any work."""

from __future__ import annotations

from swiftai_nb.core.errors import InvalidInputError
from swiftai_nb.core.request import GenerationRequest
from swiftai_nb.engine.kernel.memory_plan import MemoryPlan
from swiftai_nb.guests.diffusionkit.checkpoint import SIZE_MULTIPLE, Checkpoint, LocatedCheckpoint, locate
from swiftai_nb.guests.diffusionkit.models import ENGINE
from swiftai_nb.providers.planning import LocalPlan, model_name
from swiftai_nb.registry.model_info import ResolvedModel

SCHEDULER = "flow-match-euler"
SEED_BOUND = 2**32
_OWN_ENGINE = "leave it out, or use --engine local with a model it runs"
# Estimates by its networks' shapes; real memory has not been measured.
_BYTES_PER_TOKEN = 400_000
_DECODER_VALUES_PER_PIXEL = 128 * 4


def make_plan(
    request: GenerationRequest, resolved: ResolvedModel, *, device: str, available_bytes: int | None
) -> LocalPlan:
    """Fills in what the request leaves open and refuses what cannot work.

    Args:
        request: what the user asked for.
        resolved: the model to use.
        device: what it will run on.
        available_bytes: free memory; None where the system does not say.

    Raises:
        InvalidInputError: a size, seed or option that DiffusionKit cannot take.
        InvalidModelFilesError: files of the model are missing.
        UnsupportedModelError: the folder holds none of its models.
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
    )


def _check_options(request: GenerationRequest) -> None:
    """Refuses what our own engine can do and DiffusionKit, or this bridge to it, cannot."""
    config = request.config
    given = {
        "image": config.image is not None,
        "strength": config.strength is not None,
        "mask": config.mask is not None,
        "loras": bool(config.loras),
        "clip_skip": config.clip_skip is not None,
        "quantization_bits": config.quantization_bits is not None,
        "preview='taesd'": config.preview == "taesd",
    }
    for name, is_given in given.items():
        if is_given:
            raise InvalidInputError(f"DiffusionKit takes no {name} here", hint=_OWN_ENGINE)
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
                f"{name} {side} exceeds {checkpoint.max_side}, the most {checkpoint.name} has learned",
                hint=f"use {checkpoint.max_side} or less",
            )


def _guidance(checkpoint: Checkpoint, asked: float | None, default: float) -> tuple[float, tuple[str, ...]]:
    if checkpoint.is_flux:
        notes = ("FLUX.1 schnell runs without guidance here",) if asked is not None and asked > 0 else ()
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
    to_float32 = 2 if is_cpu else 1  # halves become float32 on the CPU; packed weights stay packed
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
