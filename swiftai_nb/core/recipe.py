"""The recipe of a picture: everything needed to make it again, as JSON and in image files."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Protocol, cast

from swiftai_nb.core import recipe_metadata
from swiftai_nb.core.config import ImageGenerationConfig, LoraReference
from swiftai_nb.core.control import RecordedControl
from swiftai_nb.core.cpu_kernels import PRECISIONS
from swiftai_nb.core.enlargement import MAX_FACTOR
from swiftai_nb.core.errors import InvalidInputError
from swiftai_nb.core.image_input import open_image_file
from swiftai_nb.core.outpaint import Outpaint
from swiftai_nb.core.recipe_fields import checked_field, encodable, not_a_recipe
from swiftai_nb.core.sources import SMALL_BYTES, SourcePicture

if TYPE_CHECKING:
    import os

    from PIL.Image import Image

RECIPE_VERSION = 1


class HasRecipe(Protocol):
    """A picture with a recipe, such as `GeneratedImage`."""

    @property
    def recipe(self) -> Recipe | None:
        """Its recipe, if it has one."""
        ...


@dataclass(frozen=True, repr=False)
class Recipe:
    """All settings a picture was made with, every value concrete.

    Args:
        prompt: as given.
        filled_in: what was added to it, chosen by the seed, or None.
        negative_prompt: what to avoid, or None.
        model: catalog id, Hub id or folder.
        model_revision: commit or content hash of the weights, when known.
        width: pixels.
        height: pixels.
        steps: denoising steps.
        guidance_scale: weight of the prompt.
        seed: of this picture (picture k of a batch has seed + k).
        scheduler: sampler name.
        engine: the provider's name: "mlx", "huggingface" or that of another package.
        provider: the cloud provider or server, when there was one.
        request_id: the service's own name of the request.
        price: what the service said about its price, such as "0.04 USD" or "1056 tokens".
        device: "metal", "cuda", "cpu" or "cloud".
        dtype: of the network's computations.
        quantization_bits: 4, 5, 6, 8 or None.
        guidance_rescale: how far guidance was pulled back, or None.
        eta: noise of the sampler, or None for its own value.
        mask_feather: pixels over which the painting fades in at the mask's edge, or None.
        image_guidance_scale: how closely InstructPix2Pix kept to its picture, or None for its own value.
        clip_skip: text encoder layers skipped, or None.
        prompt_syntax: "plain", "weighted", "compel", or None for the default.
        outpaint: how far the initial image was continued beyond its edges, or None.
        hires: how many times larger the second pass was drawn, or None.
        hires_strength: how much it could change.
        hires_steps: of which it ran the share that hires_strength says.
        upscale: how many times the finished picture was enlarged, or None; width and height are those before.
        upscaler: of both, its catalog id or file, or "lanczos".
        strength: for a picture made from an initial image.
        image_sha256: SHA-256 of that initial image.
        mask_sha256: SHA-256 of the mask.
        references_sha256: SHA-256 of each reference picture, in order.
        controls: what steered it, in order, each with the SHA-256 of its picture.
        sources: size and name of these pictures, and the small ones themselves.
        loras: LoRAs applied, in order.
        vae: the autoencoder used instead of the model's own, or None.
        embeddings: files of textual inversions.
        versions: package name -> version, of the packages that took part.
        notes: such as a truncated prompt, an unknown word, or a cloud seed that may not have
            been honored.
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
    references_sha256: tuple[str, ...] = ()
    loras: tuple[LoraReference, ...] = ()
    embeddings: tuple[str, ...] = ()
    vae: str | None = None
    versions: dict[str, str] = field(default_factory=dict, hash=False)
    notes: tuple[str, ...] = ()
    guidance_rescale: float | None = None
    eta: float | None = None
    request_id: str | None = None
    price: str | None = None
    prompt_syntax: str | None = None
    filled_in: str | None = None
    mask_feather: int | None = None
    image_guidance_scale: float | None = None
    controls: tuple[RecordedControl, ...] = ()
    sources: tuple[SourcePicture, ...] = ()
    outpaint: Outpaint | None = None
    hires: float | None = None
    hires_strength: float | None = None
    hires_steps: int | None = None
    upscale: float | None = None
    upscaler: str | None = None

    @property
    def full_prompt(self) -> str:
        """The text that the model was given."""
        return join_prompt(self.prompt, self.filled_in)

    def __repr__(self) -> str:
        set_fields = ((f.name, getattr(self, f.name)) for f in fields(self))
        lines = [f"    {name}={value!r},\n" for name, value in set_fields if value not in (None, (), {})]
        return f"Recipe(\n{''.join(lines)})"

    def upscaled(self, factor: float, upscaler: str) -> Recipe:
        """The recipe of the picture enlarged `factor` times; one that was enlarged already is noted.

        Args:
            factor: how many times larger.
            upscaler: "lanczos", or the name that finds the upscaler again.
        """
        notes = self.notes
        if self.upscale is not None:
            note = f"enlarged by {factor:g} with {upscaler} after it was enlarged with {self.upscaler}"
            notes, factor = (*notes, note), factor * self.upscale
        return replace(self, upscale=min(float(factor), MAX_FACTOR), upscaler=upscaler, notes=notes)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; empty fields are omitted."""
        data = {k: v for k, v in asdict(self).items() if v not in (None, (), {})}
        if self.loras:
            data["loras"] = tuple(_given(lora) for lora in self.loras)
        if self.sources:
            data["sources"] = [_given(source) for source in self.sources]
        return {"recipe_version": RECIPE_VERSION, **data}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Recipe:
        """The inverse of `to_dict`; keys of newer versions are ignored.

        Raises:
            InvalidInputError: there is no prompt, or a value is of the wrong type; names the field.
        """
        if not isinstance(data, Mapping):
            raise not_a_recipe(f"it is a {type(data).__name__}")
        if data.get("prompt") is None:
            raise not_a_recipe("it has no prompt")
        values: dict[str, Any] = {}
        for name in (f.name for f in fields(cls)):
            value = data.get(name)
            if value is not None:
                values[name] = checked_field(name, value)
        return cls(**values)

    @classmethod
    def from_parameters(cls, text: str) -> Recipe | None:
        """The recipe in a text that AUTOMATIC1111's web UI writes; None when there is none.

        "Clip skip" is converted: its 1, the last layer, is our 0 skipped layers.
        """
        found = recipe_metadata.parse_parameters(text)
        return None if found is None else cls.from_dict(found)

    def to_json(self) -> str:
        """Compact JSON with sorted keys: the same recipe is the same bytes."""
        text = json.dumps(self.to_dict(), ensure_ascii=False, sort_keys=True, separators=(",", ":"))
        return encodable(text)

    def to_parameters(self) -> str:
        """The text that AUTOMATIC1111's web UI writes, which most viewers can read."""
        lines = [self.full_prompt]
        if self.negative_prompt:
            lines.append(f"Negative prompt: {self.negative_prompt}")
        size = None if self.width is None else f"{self.width}x{self.height}"
        upscaler = None if self.upscaler is None else self.upscaler.replace(",", " ")
        values = {
            "Steps": self.steps,
            "Sampler": self.scheduler,
            "CFG scale": self.guidance_scale,
            "Seed": self.seed,
            "Size": size,
            "Model": None if self.model is None else self.model.replace(",", " "),
            "CFG Rescale": self.guidance_rescale,
            "Eta": self.eta,
            "Image CFG scale": self.image_guidance_scale,
            "Clip skip": None if self.clip_skip is None else self.clip_skip + 1,
            "Denoising strength": self.strength if self.hires is None else self.hires_strength,
            "Hires upscale": self.hires,
            "Hires steps": self.hires_steps,
            "Hires upscaler": None if self.hires is None else upscaler,
            "Postprocess upscale by": self.upscale,
            "Postprocess upscaler": None if self.upscale is None else upscaler,
            "Prompt syntax": self.prompt_syntax,
            "Version": _version_text(self.versions),
            "Parameters version": None if self.clip_skip is None else recipe_metadata.PARAMETERS_VERSION,
        }
        lines.append(", ".join(f"{key}: {value}" for key, value in values.items() if value is not None))
        return encodable("\n".join(lines))

    def to_config(self) -> ImageGenerationConfig:
        """The settings that make this picture again.

        Pictures it was made from are among them as far as the recipe keeps them.
        """
        contents = {source.sha256: source.content for source in self.sources}
        image = contents.get(self.image_sha256 or "")
        references = [contents.get(digest) for digest in self.references_sha256]
        return ImageGenerationConfig(
            width=None if self.outpaint is not None else self.width,  # that of the picture and its margins
            height=None if self.outpaint is not None else self.height,
            steps=self.steps,
            guidance_scale=self.guidance_scale,
            seed=self.seed,
            scheduler=self.scheduler,
            model=self.model,
            guidance_rescale=self.guidance_rescale,
            eta=self.eta,
            mask_feather=self.mask_feather,
            image_guidance_scale=self.image_guidance_scale,
            clip_skip=self.clip_skip,
            prompt_syntax=self.prompt_syntax,
            outpaint=self.outpaint,
            hires=self.hires,
            hires_strength=self.hires_strength,
            hires_steps=self.hires_steps,
            upscale=self.upscale,
            upscaler=self.upscaler,
            strength=self.strength,
            loras=self.loras,
            embeddings=self.embeddings,
            vae=self.vae,
            quantization_bits=self.quantization_bits,
            precision=self.dtype if self.dtype in PRECISIONS else None,
            filled_in=self.filled_in or "",
            image=image,
            mask=None if image is None else contents.get(self.mask_sha256 or ""),
            references=() if None in references else references,
            embed_references=any(len(content or b"") > SMALL_BYTES for content in contents.values()) or None,
        )

    def describe_source(self, sha256: str) -> str:
        """Which picture a digest is of: its beginning, and name and size where they are known."""
        found = (str(source) for source in self.sources if source.sha256 == sha256)
        return next(found, f"SHA-256 {sha256[:12]}")

    @classmethod
    def find(cls, picture: Image) -> Recipe | None:
        """The recipe in a PIL image's metadata: ours or another program's; None when there is none."""
        for found in recipe_metadata.metadata_candidates(picture):
            with contextlib.suppress(InvalidInputError):
                return cls.from_dict(found)
        return None

    @classmethod
    def from_image(cls, source: Recipe | HasRecipe | Image | str | os.PathLike[str]) -> Recipe:
        """The recipe of a GeneratedImage, a PIL image or a file.

        Raises:
            InvalidInputError: not a picture, or one without a recipe.
        """
        if isinstance(source, cls):
            return source
        if hasattr(source, "recipe"):
            recipe: Recipe | None = source.recipe
        elif hasattr(source, "info") and hasattr(source, "size"):
            recipe = cls.find(cast("Image", source))
        else:
            _, picture = open_image_file(cast("str | os.PathLike[str]", source))
            with picture:
                recipe = cls.find(picture)
        if recipe is None:
            raise InvalidInputError(
                "this picture contains no recipe",
                hint="use one made by swiftai_nb, AUTOMATIC1111, InvokeAI or ComfyUI",
            )
        return recipe


def join_prompt(prompt: str, filled_in: str | None) -> str:
    """A prompt with what was added to it."""
    return add_phrase(prompt.rstrip(" .,;"), filled_in) if filled_in else prompt


def add_phrase(text: str, phrase: str) -> str:
    """`text phrase`, or `text, phrase` of one that begins with a comma; either may be empty."""
    return text + phrase if phrase.startswith(",") else f"{text} {phrase}".strip()


def _version_text(versions: dict[str, str]) -> str | None:
    own = versions.get("swiftai_nb")
    return None if own is None else f"swiftai_nb {own}"


def _given(item: Any) -> dict[str, Any]:
    """The fields of a dataclass that are not None."""
    return {name: value for name, value in asdict(item).items() if value is not None}
