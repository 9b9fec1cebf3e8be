"""All that remakes a picture, and how it is written into image files."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any, cast

from swiftai_nb.core.config import ImageGenerationConfig, LoraReference
from swiftai_nb.core.errors import InvalidInputError

if TYPE_CHECKING:
    import os

    from PIL.Image import Image

    from swiftai_nb.core.image import GeneratedImage

RECIPE_VERSION = 1


@dataclass(frozen=True)
class Recipe:
    """Everything that went into a picture, every value concrete.

    Args:
        prompt: the words, as given.
        negative_prompt: what to avoid, or None.
        model: catalog id, Hub id or folder.
        model_revision: commit or content hash of the weights, when known.
        width: pixels.
        height: pixels.
        steps: denoising steps.
        guidance_scale: weight of the prompt.
        seed: the seed of this very picture (image k of a batch has seed + k).
        scheduler: sampler name.
        engine: the provider's name: "mlx", "huggingface" or that of another package.
        provider: the cloud provider that answered, when there was one.
        device: "metal", "cuda", "cpu" or "cloud".
        dtype: what the network computed in.
        quantization_bits: 4, 8 or None.
        clip_skip: text encoder layers skipped, or None.
        strength: for a picture made from a picture.
        image_sha256: fingerprint of that starting picture.
        mask_sha256: fingerprint of the mask.
        loras: LoRAs applied, in order.
        versions: package name -> version, of all that computed.
        notes: what the user should know: a truncated prompt, an unknown word, a cloud seed
            that may not have been honored.
    """

    prompt: str
    negative_prompt: str | None = None
    model: str | None = None
    model_revision: str | None = None
    width: int | None = None
    height: int | None = None
    steps: int | None = None
    guidance_scale: float | None = None
    seed: int | None = None
    scheduler: str | None = None
    engine: str | None = None
    provider: str | None = None
    device: str | None = None
    dtype: str | None = None
    quantization_bits: int | None = None
    clip_skip: int | None = None
    strength: float | None = None
    image_sha256: str | None = None
    mask_sha256: str | None = None
    loras: tuple[LoraReference, ...] = ()
    versions: dict[str, str] = field(default_factory=dict, hash=False)
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; fields that say nothing are left out."""
        data = {k: v for k, v in asdict(self).items() if v not in (None, (), {})}
        return {"recipe_version": RECIPE_VERSION, **data}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Recipe:
        """The inverse of `to_dict`; keys of newer versions are ignored.

        Raises:
            InvalidInputError: there is no prompt, or a value has the wrong shape.
        """
        known = {f.name for f in fields(cls)}
        values = {k: v for k, v in data.items() if k in known}
        try:
            values["loras"] = tuple(LoraReference(**lora) for lora in values.get("loras", ()))
            values["notes"] = tuple(values.get("notes", ()))
            return cls(**values)
        except TypeError as error:
            raise InvalidInputError(
                f"not a recipe: {error}", hint="use a picture made by swiftai_nb"
            ) from error

    def to_json(self) -> str:
        """Compact JSON with sorted keys: the same recipe is the same bytes."""
        return json.dumps(self.to_dict(), ensure_ascii=False, sort_keys=True, separators=(",", ":"))

    def to_parameters(self) -> str:
        """The text that AUTOMATIC1111's web UI writes, which most viewers can read."""
        lines = [self.prompt]
        if self.negative_prompt:
            lines.append(f"Negative prompt: {self.negative_prompt}")
        size = None if self.width is None else f"{self.width}x{self.height}"
        values = {
            "Steps": self.steps,
            "Sampler": self.scheduler,
            "CFG scale": self.guidance_scale,
            "Seed": self.seed,
            "Size": size,
            "Model": None if self.model is None else self.model.replace(",", " "),
            "Clip skip": self.clip_skip,
            "Denoising strength": self.strength,
            "Version": _version_text(self.versions),
        }
        lines.append(", ".join(f"{key}: {value}" for key, value in values.items() if value is not None))
        return "\n".join(lines)

    def to_config(self) -> ImageGenerationConfig:
        """The settings that ask for this picture again (a starting picture must be given anew)."""
        return ImageGenerationConfig(
            width=self.width,
            height=self.height,
            steps=self.steps,
            guidance_scale=self.guidance_scale,
            seed=self.seed,
            scheduler=self.scheduler,
            model=self.model,
            clip_skip=self.clip_skip,
            strength=self.strength,
            loras=self.loras,
            quantization_bits=self.quantization_bits,
        )

    @classmethod
    def find(cls, picture: Image) -> Recipe | None:
        """The recipe inside a PIL image: ours or another program's; or None."""
        from swiftai_nb.core import foreign_recipes as recipe_readers

        return recipe_readers.find(picture)

    @classmethod
    def from_image(cls, source: GeneratedImage | Image | str | os.PathLike[str]) -> Recipe:
        """The recipe of a picture, a PIL image or a file.

        Raises:
            InvalidInputError: not a picture, or one without a recipe.
        """
        from swiftai_nb.core.image import GeneratedImage

        if isinstance(source, cls):
            return source
        if isinstance(source, GeneratedImage):
            recipe = source.recipe
        elif hasattr(source, "info") and hasattr(source, "size"):
            recipe = cls.find(cast("Image", source))
        else:
            recipe = GeneratedImage.open(source).recipe
        if recipe is None:
            raise InvalidInputError(
                "this picture carries no recipe",
                hint="use one made by swiftai_nb, AUTOMATIC1111, InvokeAI or ComfyUI",
            )
        return recipe


def _version_text(versions: dict[str, str]) -> str | None:
    own = versions.get("swiftai_nb")
    return None if own is None else f"swiftai_nb {own}"
