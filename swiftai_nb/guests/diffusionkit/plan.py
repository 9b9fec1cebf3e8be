"""From what the user asked to what DiffusionKit will run: every refusal before any work."""

from __future__ import annotations

import secrets
from pathlib import Path

from swiftai_nb.core.config import ImageGenerationConfig
from swiftai_nb.core.errors import InvalidInputError
from swiftai_nb.engine.kernel.memory_plan import MemoryPlan, available_memory_bytes
from swiftai_nb.engine.protocol import Generate, ModelFiles
from swiftai_nb.guests.diffusionkit.checkpoint import SIZE_MULTIPLE, Checkpoint, LocatedCheckpoint, locate
from swiftai_nb.providers.planning import SEED_BOUND, GenerationPlan, check_prompt, model_name
from swiftai_nb.registry.model_info import ResolvedModel

SCHEDULER = "flow-match-euler"
_OWN_ENGINE = "leave it out, or use --engine local with a model it runs"
# Estimates by its networks' shapes; real memory has not been measured.
_BYTES_PER_TOKEN = 400_000
_DECODER_VALUES_PER_PIXEL = 128 * 4


def make_plan(
    prompt: str,
    config: ImageGenerationConfig,
    resolved: ResolvedModel,
    *,
    device: str,
    available_bytes: int | None = None,
) -> GenerationPlan:
    """Fills what the user left open and refuses what cannot work.

    Args:
        prompt: what to draw.
        config: the user's settings.
        resolved: the model to use.
        device: what it will run on.
        available_bytes: memory to count with; None asks the system.

    Raises:
        InvalidInputError: empty prompt, a size, seed or option that DiffusionKit cannot take.
        InvalidModelFilesError: files of the model are missing.
        UnsupportedModelError: the folder holds none of its models.
    """
    check_prompt(prompt)
    _check_options(config)
    located = locate(resolved.folder, resolved.more_folders)
    checkpoint = located.checkpoint
    info = resolved.info
    width = info.default_width if config.width is None else config.width
    height = info.default_height if config.height is None else config.height
    _check_size(checkpoint, width, height)
    guidance_scale, notes = _guidance(checkpoint, config.guidance_scale, info.default_guidance_scale)
    available = available_memory_bytes() if available_bytes is None else available_bytes
    guided = not checkpoint.is_flux
    memory = _memory(located, width * height, guided=guided, is_cpu=device == "cpu", is_staged=False)
    if available is not None and memory.peak_bytes > available:
        memory = _memory(located, width * height, guided=guided, is_cpu=device == "cpu", is_staged=True)
    dtype = "float32" if device == "cpu" else checkpoint.dtype
    return GenerationPlan(
        model=model_name(resolved),
        folder=resolved.folder,
        width=width,
        height=height,
        steps=config.resolved_steps(info.default_steps),
        guidance_scale=guidance_scale,
        scheduler=SCHEDULER,
        strength=None,
        device=device,
        precision=f"{dtype}, weights in 4 bits" if checkpoint.is_quantized else dtype,
        quantization_bits=4 if checkpoint.is_quantized else None,
        memory_plan_bytes=memory,
        available_bytes=available,
        notes=(*(() if resolved.note is None else (resolved.note,)), *notes),
    )


def make_command(
    prompt: str,
    negative_prompt: str | None,
    config: ImageGenerationConfig,
    plan: GenerationPlan,
    *,
    more_folders: tuple[Path, ...],
) -> Generate:
    """What the worker is told; draws a seed when the config has none."""
    files = ModelFiles(str(plan.folder), more_folders=tuple(str(folder) for folder in more_folders))
    return Generate(
        model=files,
        prompt=prompt,
        negative_prompt=negative_prompt,
        width=plan.width,
        height=plan.height,
        steps=plan.steps,
        guidance_scale=plan.guidance_scale,
        seed=secrets.randbelow(SEED_BOUND) if config.seed is None else config.seed,
        preview=config.preview != "off",
        is_staged=plan.memory_plan_bytes.is_staged,
    )


def _check_options(config: ImageGenerationConfig) -> None:
    """Refuses what our own engine can do and DiffusionKit, or this bridge to it, cannot."""
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
    if config.seed is not None and config.seed >= SEED_BOUND:
        raise InvalidInputError(
            f"seed {config.seed} is too large for DiffusionKit", hint=f"use 0 to {SEED_BOUND - 1}"
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
