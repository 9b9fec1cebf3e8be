"""From what the user asked to what will run: every value concrete, every refusal before any work."""

from __future__ import annotations

import hashlib
import math
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swiftai_nb.core.config import MAX_SIDE, MIN_SIDE, ImageGenerationConfig
from swiftai_nb.core.errors import InvalidInputError, UnsupportedModelError
from swiftai_nb.core.image_input import to_pil
from swiftai_nb.engine.kernel.memory_plan import (
    MemoryPlan,
    available_memory_bytes,
    keeps_model,
    plan_memory,
)
from swiftai_nb.engine.protocol import Generate, ModelFiles
from swiftai_nb.model_files.folder import ModelFolder, content_hash, open_model
from swiftai_nb.registry.model_info import ResolvedModel

DEFAULT_STRENGTH = 0.8
SEED_BOUND = 2**32


@dataclass(frozen=True)
class GenerationPlan:
    """What a request will do, before it does it.

    Attributes:
        model: name that finds it again: catalog id or folder.
        folder: where its files are.
        width: pixels.
        height: pixels.
        steps: denoising steps asked for.
        guidance_scale: weight of the prompt.
        scheduler: short name of the sampler.
        strength: how far to leave the start picture; None without one.
        device: "metal", "cuda" or "cpu".
        precision: what the network computes in, with its quantization.
        quantization_bits: 4, 8 or None.
        memory_plan_bytes: the estimated need, by component and stage.
        available_bytes: memory that is free now; None where the system does not say.
        estimated_s: seconds, from earlier pictures on this machine; None before the first.
        notes: what the user should know.
    """

    model: str
    folder: Path
    width: int
    height: int
    steps: int
    guidance_scale: float
    scheduler: str
    strength: float | None
    device: str
    precision: str
    quantization_bits: int | None
    memory_plan_bytes: MemoryPlan
    available_bytes: int | None
    estimated_s: float | None = None
    notes: tuple[str, ...] = ()

    @property
    def memory_bytes(self) -> int:
        """The largest need at any moment, an estimate."""
        return self.memory_plan_bytes.peak_bytes

    @property
    def memory(self) -> str:
        """The need beside what there is, in words."""
        need = f"about {self.memory_bytes / 1e9:.1f} GB"
        return need if self.available_bytes is None else f"{need} of {self.available_bytes / 1e9:.1f} GB free"

    @property
    def memory_plan(self) -> str:
        """What is kept while it runs, in words."""
        if self.memory_plan_bytes.is_staged:
            return "each network is dropped when no longer needed"
        return "the model stays loaded"

    @property
    def is_guided(self) -> bool:
        """Whether the network sees two pictures at a time."""
        return self.guidance_scale > 1.0


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
        InvalidInputError: empty prompt, a size or scheduler that does not fit, strength without image.
        InvalidModelFilesError: the model's files cannot be read.
        UnsupportedModelError: it is another engine's model.
    """
    check_prompt(prompt)
    if resolved.info.engine != "mlx":
        raise UnsupportedModelError(
            f"{resolved.info.id} runs on the engine {resolved.info.engine}, not on the local one",
            hint=f"--engine {resolved.info.engine}",
        )
    facts = open_model(resolved.folder, prefer_half=device != "cpu")
    width, height = _size(config, resolved, facts)
    facts.check_size(width, height)
    own_scheduler = facts.defaults.scheduler
    scheduler = own_scheduler if config.scheduler is None else facts.check_scheduler(config.scheduler)
    steps, guidance_scale = _defaults(resolved, facts)
    guidance_scale = guidance_scale if config.guidance_scale is None else config.guidance_scale
    bits = resolved.info.quantization_bits if config.quantization_bits is None else config.quantization_bits
    available = available_memory_bytes() if available_bytes is None else available_bytes
    memory = _memory(
        facts,
        available,
        width=width,
        height=height,
        guided=guidance_scale > 1.0 and not facts.is_flow,
        bytes_per_weight=4 if device == "cpu" else 2,
        quantization_bits=bits,
    )
    dtype = "float32" if device == "cpu" else "bfloat16" if facts.is_flow else "float16"
    return GenerationPlan(
        model=model_name(resolved),
        folder=resolved.folder,
        width=width,
        height=height,
        steps=config.resolved_steps(steps),
        guidance_scale=guidance_scale,
        scheduler=scheduler,
        strength=_strength(config),
        device=device,
        precision=dtype if bits is None else f"{dtype}, weights in {bits} bits",
        quantization_bits=bits,
        memory_plan_bytes=memory,
        available_bytes=available,
        notes=() if resolved.note is None else (resolved.note,),
    )


def check_prompt(prompt: str) -> None:
    """Raises InvalidInputError for a prompt that says nothing."""
    if not isinstance(prompt, str) or not prompt.strip():
        raise InvalidInputError("the prompt is empty", hint="say what to draw: a red apple")


def make_command(
    prompt: str, negative_prompt: str | None, config: ImageGenerationConfig, plan: GenerationPlan
) -> Generate:
    """What the engine is told; draws a seed when the config has none. LoRAs are files by now."""
    from swiftai_nb.core.image_input import to_png_bytes

    return Generate(
        model=ModelFiles(str(plan.folder), quantization_bits=plan.quantization_bits, loras=config.loras),
        prompt=prompt,
        negative_prompt=negative_prompt,
        width=plan.width,
        height=plan.height,
        steps=plan.steps,
        guidance_scale=plan.guidance_scale,
        seed=secrets.randbelow(SEED_BOUND) if config.seed is None else config.seed,
        scheduler=None if config.scheduler is None else plan.scheduler,
        clip_skip=config.clip_skip,
        strength=plan.strength,
        image=None if config.image is None else to_png_bytes(config.image),
        mask=None if config.mask is None else to_png_bytes(config.mask),
        preview=config.preview != "off",
        is_staged=plan.memory_plan_bytes.is_staged,
    )


def model_name(resolved: ResolvedModel) -> str:
    """The name that finds this model again: its id, or the folder of one nobody registered."""
    info = resolved.info
    is_own_folder = info.local_folder is not None and Path(info.local_folder).name == info.id
    return str(resolved.folder) if is_own_folder else info.id


def model_revision(resolved: ResolvedModel) -> str:
    """The commit of a downloaded model, else a hash of its content."""
    return content_hash(resolved.folder) if resolved.revision is None else resolved.revision


def sha256(data: bytes | None) -> str | None:
    """Hex digest, or None."""
    return None if data is None else hashlib.sha256(data).hexdigest()


def _defaults(resolved: ResolvedModel, facts: ModelFolder) -> tuple[int, float]:
    """Steps and guidance: the folder's own word, else the catalog's, else the family's."""
    steps, guidance_scale = resolved.info.default_steps, resolved.info.default_guidance_scale
    if resolved.info.is_custom and facts.is_consistency:
        steps, guidance_scale = 4, 8.5
    elif resolved.info.is_custom and facts.is_turbo:
        steps, guidance_scale = 4, 0.0
    given = facts.given
    return int(given.get("steps", steps)), float(given.get("guidance_scale", guidance_scale))


def _size(config: ImageGenerationConfig, resolved: ResolvedModel, facts: ModelFolder) -> tuple[int, int]:
    native = (resolved.info.default_width, resolved.info.default_height)
    if resolved.info.is_custom and facts.native_side is not None:
        native = (facts.native_side, facts.native_side)
    native = (int(facts.given.get("width", native[0])), int(facts.given.get("height", native[1])))
    if config.image is not None:
        picture = to_pil(config.image)
        if config.width is None and config.height is None:
            return _fitted(picture.size, native, facts.size_multiple)
    width = native[0] if config.width is None else config.width
    height = native[1] if config.height is None else config.height
    return width, height


def _fitted(size: tuple[int, int], native: tuple[int, int], multiple: int) -> tuple[int, int]:
    """A start picture's proportions, with about the model's own number of pixels."""
    scale = math.sqrt(native[0] * native[1] / (size[0] * size[1]))
    largest = MAX_SIDE // multiple * multiple
    smallest = -(-MIN_SIDE // multiple) * multiple
    width, height = (min(max(round(side * scale / multiple) * multiple, smallest), largest) for side in size)
    return width, height


def _strength(config: ImageGenerationConfig) -> float | None:
    if config.image is None:
        if config.strength is not None:
            raise InvalidInputError("strength without image", hint="give the picture to start from as image")
        return None
    return DEFAULT_STRENGTH if config.strength is None else config.strength


def _memory(facts: ModelFolder, available: int | None, **need: Any) -> MemoryPlan:
    """The plan that keeps the model loaded where machine and policy allow, else one that drops its parts."""
    whole = plan_memory(facts, **need)
    if keeps_model(whole, available):
        return whole
    return plan_memory(facts, **need, is_staged=True)
