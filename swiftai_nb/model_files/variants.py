"""The model families by the names users give them, with the defaults of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any


@dataclass(frozen=True)
class VariantDefaults:
    """The settings of a family, for models without settings of their own.

    Args:
        display_name: as shown to users.
        steps: denoising steps.
        guidance_scale: 0.0 where the family was trained to run without guidance.
        width: native width in pixels.
        height: native height in pixels.
        size_bytes: typical download, decimal bytes.
    """

    display_name: str
    steps: int
    guidance_scale: float
    width: int
    height: int
    size_bytes: int


class DiffusionVariant(str, Enum):
    """A family of diffusion models: same networks, same file layout, same pipeline."""

    SDXL_TURBO = "sdxl-turbo"
    SDXL = "sdxl"
    SD_15 = "sd-1.5"
    SD_21 = "sd-2.1"
    FLUX = "flux"
    FLUX_2_KLEIN = "flux.2-klein"
    Z_IMAGE = "z-image"
    SD_3 = "sd-3"

    def __str__(self) -> str:
        return self.value

    @property
    def defaults(self) -> VariantDefaults:
        """All defaults of the family at once."""
        return _DEFAULTS[self]

    @property
    def display_name(self) -> str:
        """The family's name as shown to users: "SDXL Turbo"."""
        return self.defaults.display_name

    @property
    def default_steps(self) -> int:
        """Denoising steps."""
        return self.defaults.steps

    @property
    def default_guidance_scale(self) -> float:
        """Weight of the prompt; 0.0 where the family runs without guidance."""
        return self.defaults.guidance_scale

    @property
    def default_resolution(self) -> tuple[int, int]:
        """Native (width, height) in pixels."""
        return self.defaults.width, self.defaults.height

    @property
    def size_gb(self) -> float:
        """Typical download in GB (10**9 bytes), one decimal."""
        return round(self.defaults.size_bytes / 1e9, 1)


# SDXL Turbo, FLUX.1-schnell and Z-Image-Turbo are distilled to run without guidance (their model cards);
# sizes are those of the catalog entries that carry the family's name.
_DEFAULTS = {
    DiffusionVariant.SDXL_TURBO: VariantDefaults("SDXL Turbo", 4, 0.0, 512, 512, 6_940_000_000),
    DiffusionVariant.SDXL: VariantDefaults("Stable Diffusion XL", 30, 5.0, 1024, 1024, 6_940_000_000),
    DiffusionVariant.SD_15: VariantDefaults("Stable Diffusion 1.5", 20, 7.5, 512, 512, 2_130_000_000),
    DiffusionVariant.SD_21: VariantDefaults("Stable Diffusion 2.1", 20, 7.5, 512, 512, 2_580_000_000),
    DiffusionVariant.FLUX: VariantDefaults("FLUX.1 schnell", 4, 0.0, 1024, 1024, 9_850_000_000),
    DiffusionVariant.FLUX_2_KLEIN: VariantDefaults("FLUX.2 klein", 4, 0.0, 1024, 1024, 4_610_000_000),
    DiffusionVariant.Z_IMAGE: VariantDefaults("Z-Image-Turbo", 8, 0.0, 1024, 1024, 5_910_000_000),
    DiffusionVariant.SD_3: VariantDefaults("Stable Diffusion 3", 28, 5.0, 1024, 1024, 4_340_000_000),
}


@dataclass(frozen=True)
class GenerationDefaults:
    """What a model is made for, used where the user leaves a setting open.

    Attributes:
        width, height: pixels.
        steps: denoising steps.
        guidance_scale: 0.0 for models that run without guidance.
        scheduler: short name of its own sampler; a class name when that is not supported.
    """

    width: int
    height: int
    steps: int
    guidance_scale: float
    scheduler: str = ""

    @classmethod
    def of(cls, variant: DiffusionVariant) -> GenerationDefaults:
        """Those of a family."""
        family = variant.defaults
        return cls(family.width, family.height, family.steps, family.guidance_scale)


def defaults_of(
    given: Mapping[str, Any],
    variant: DiffusionVariant,
    *,
    scheduler: str,
    distilled: Mapping[str, float],
    native_side: int | None = None,
) -> GenerationDefaults:
    """The defaults of a model: the values of its own file, else of its distillation, else of the family.

    Args:
        given: the values of `generation_defaults.json`.
        variant: its family.
        scheduler: of its `scheduler_config.json`.
        distilled: what its distillation, or the lack of one, changes.
        native_side: pixels the network was trained at, where its configuration gives it.
    """
    values: dict[str, Any] = asdict(GenerationDefaults.of(variant)) | {"scheduler": scheduler}
    if native_side is not None:
        values |= {"width": native_side, "height": native_side}
    values |= distilled
    values |= {name: given[name] for name in values if name in given}
    return GenerationDefaults(**values)
