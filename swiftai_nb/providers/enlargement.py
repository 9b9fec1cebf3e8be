"""What a plan does to make pictures larger: a hires pass, an upscaler, and plans that only enlarge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from swiftai_nb.core.config import MAX_SIDE, ImageGenerationConfig
from swiftai_nb.core.enlargement import enlarged_size, hires_size
from swiftai_nb.core.errors import InvalidInputError
from swiftai_nb.core.image import GeneratedImage
from swiftai_nb.core.recipe import Recipe
from swiftai_nb.core.request import GenerationPlan, GenerationRequest
from swiftai_nb.engine.kernel.memory_plan import MemoryPlan, check_memory
from swiftai_nb.engine.messages import Done, Upscale
from swiftai_nb.model_files.model_folder import ModelFolder
from swiftai_nb.model_files.upscalers import upscaling_bytes
from swiftai_nb.registry.upscalers import ChosenUpscaler

DEFAULT_HIRES_STRENGTH = 0.4


@dataclass(frozen=True)
class Enlargement:
    """How a generated picture gets larger; nothing by default.

    Attributes:
        size: (width, height) that the model draws first.
        hires_size: of the second pass; None without one.
        hires_steps, hires_strength: of that pass.
        final_size: what the finished picture is enlarged to; None leaves it.
        upscaler: of both.
    """

    size: tuple[int, int] = (0, 0)
    hires_size: tuple[int, int] | None = None
    hires_steps: int = 0
    hires_strength: float = 0.0
    final_size: tuple[int, int] | None = None
    upscaler: ChosenUpscaler = field(default_factory=ChosenUpscaler)

    @property
    def is_needed(self) -> bool:
        """Whether the picture gets larger at all."""
        return self.hires_size is not None or self.final_size is not None

    @property
    def drawn_size(self) -> tuple[int, int]:
        """(width, height) of the largest picture that the model draws."""
        return self.size if self.hires_size is None else self.hires_size

    @property
    def notes(self) -> tuple[str, ...]:
        """For the user."""
        return () if self.upscaler.note is None or not self.is_needed else (self.upscaler.note,)

    @property
    def text(self) -> str:
        """Such as "hires pass at 768x768, strength 0.4; 1536x1536 by realesrgan-x4plus"."""
        parts = []
        if self.hires_size is not None:
            parts.append(f"hires pass at {_text(self.hires_size)}, strength {self.hires_strength:g}")
        if self.final_size is not None:
            parts.append(_text(self.final_size))
        return f"{'; '.join(parts)} by {self.upscaler.name}" if parts else ""

    def command_fields(self) -> dict[str, Any]:
        """The fields of `Generate`."""
        hires, final = self.hires_size or (0, 0), self.final_size or (0, 0)
        file = self.upscaler.file
        return {
            "hires_width": hires[0],
            "hires_height": hires[1],
            "hires_steps": self.hires_steps,
            "hires_strength": self.hires_strength,
            "final_width": final[0],
            "final_height": final[1],
            "upscaler": None if file is None or not self.is_needed else str(file.path),
        }

    def recipe_fields(self) -> dict[str, Any]:
        """The fields of `Recipe`; the size is that of the first pass, so that the recipe repeats it."""
        if not self.is_needed:
            return {}
        fields: dict[str, Any] = {
            "width": self.size[0],
            "height": self.size[1],
            "upscaler": self.upscaler.name,
        }
        if self.hires_size is not None:
            fields |= {"hires_strength": self.hires_strength, "hires_steps": self.hires_steps}
        return fields

    def memory_bytes(self, *, bytes_per_weight: int) -> int:
        """What enlarging needs while nothing is drawn; an estimate."""
        if not self.is_needed:
            return 0
        largest = self.drawn_size if self.final_size is None else self.final_size
        return upscaling_bytes(
            self.upscaler.file, self.drawn_size, largest, bytes_per_weight=bytes_per_weight
        )


def plan_enlargement(
    config: ImageGenerationConfig,
    model: ModelFolder,
    *,
    size: tuple[int, int],
    steps: int,
    upscaler: ChosenUpscaler,
) -> Enlargement:
    """Fills in what the settings leave open.

    Args:
        config: the settings.
        model: draws the second pass.
        size: (width, height) of the first pass.
        steps: of the first pass.
        upscaler: chosen for the settings.

    Raises:
        InvalidInputError: more pixels than a picture may have, or a second pass that the model cannot draw.
    """
    drawn, hires = size, None
    if config.hires is not None and config.hires > 1.0:
        drawn = hires = hires_size(size, config.hires, model.size_multiple)
        model.check_size(*hires)
        if max(hires) > MAX_SIDE:
            raise InvalidInputError(
                f"a hires pass of {_text(hires)} is too large; {MAX_SIDE} pixels a side is the most",
                hint=f"hires={int(MAX_SIDE / max(size) * 10) / 10:g}, or upscale instead",
            )
    is_enlarged = config.upscale is not None and config.upscale > 1.0
    strength = DEFAULT_HIRES_STRENGTH if config.hires_strength is None else config.hires_strength
    return Enlargement(
        size=size,
        hires_size=hires,
        hires_steps=0 if hires is None else steps if config.hires_steps is None else config.hires_steps,
        hires_strength=0.0 if hires is None else strength,
        final_size=enlarged_size(drawn, config.upscale or 1.0) if is_enlarged else None,
        upscaler=upscaler,
    )


@dataclass(frozen=True, kw_only=True)
class UpscalePlan(GenerationPlan):
    """A plan that enlarges pictures and draws none.

    Attributes:
        pictures: to enlarge; one for each seed of the request.
        factor: how many times larger.
        upscaler: what enlarges them.
        sizes: (width, height) of each result.
        memory_plan_bytes: the estimated need.
        available_bytes: memory that is free now; None where the system does not report it.
    """

    pictures: tuple[GeneratedImage, ...]
    factor: float
    upscaler: ChosenUpscaler
    sizes: tuple[tuple[int, int], ...]
    memory_plan_bytes: MemoryPlan
    available_bytes: int | None = None


def plan_upscale(
    pictures: Sequence[GeneratedImage],
    factor: float,
    upscaler: ChosenUpscaler,
    *,
    device: str,
    available_bytes: int | None,
) -> UpscalePlan:
    """The plan for enlarging finished pictures.

    Args:
        pictures: at least one.
        factor: 1 to 8.
        upscaler: what enlarges them.
        device: what it will run on.
        available_bytes: free memory; None where the system does not report it.

    Raises:
        InvalidInputError: no pictures, or a factor outside the limits.
        InsufficientMemoryError: the memory does not suffice.
    """
    if not pictures:
        raise InvalidInputError("there are no pictures to enlarge")
    sizes = tuple(enlarged_size((picture.width, picture.height), factor) for picture in pictures)
    need = max(
        upscaling_bytes(
            upscaler.file, (p.width, p.height), size, bytes_per_weight=4 if device == "cpu" else 2
        )
        for p, size in zip(pictures, sizes, strict=True)
    )
    memory_plan = MemoryPlan({}, 0, need)
    check_memory(memory_plan, available_bytes=available_bytes)
    prompt = pictures[0].prompt or "an enlarged picture"
    return UpscalePlan(
        request=GenerationRequest(
            prompt, None, ImageGenerationConfig(), tuple(range(len(pictures))), engine="mlx"
        ),
        engine="mlx",
        model_name=upscaler.name,
        width=sizes[0][0],
        height=sizes[0][1],
        device=device,
        notes=() if upscaler.note is None else (upscaler.note,),
        pictures=tuple(pictures),
        factor=factor,
        upscaler=upscaler,
        sizes=sizes,
        memory_plan_bytes=memory_plan,
        available_bytes=available_bytes,
    )


def make_upscale_command(plan: UpscalePlan, index: int) -> Upscale:
    """The engine's command for picture `index` of a plan."""
    width, height = plan.sizes[index]
    file = plan.upscaler.file
    return Upscale(
        image=plan.pictures[index].data,
        width=width,
        height=height,
        upscaler=None if file is None else str(file.path),
    )


def enlarged_image(plan: UpscalePlan, done: Done, *, index: int, elapsed_s: float) -> GeneratedImage:
    """The enlarged picture, with the recipe of the one before and the enlargement."""
    import numpy as np

    before: Recipe | None = plan.pictures[index].recipe
    recipe = None if before is None else before.upscaled(plan.factor, plan.upscaler.name)
    pixels = np.frombuffer(done.pixels, np.uint8).reshape(done.height, done.width, 3)
    return GeneratedImage.from_pixels(pixels, recipe=recipe, elapsed_s=elapsed_s)


def _text(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
