"""Settings of a picture: size, steps, guidance, seed. `None` means the model's default."""

from __future__ import annotations

import json
import math
import operator
import os
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from swiftai_nb.core.control import control_references
from swiftai_nb.core.cpu_kernels import PRECISIONS
from swiftai_nb.core.enlargement import MAX_FACTOR, MAX_HIRES
from swiftai_nb.core.errors import InvalidInputError
from swiftai_nb.core.format import format_bytes, short_repr
from swiftai_nb.core.image_input import mask_to_png_bytes, to_png_bytes
from swiftai_nb.core.lora_blocks import block_scales
from swiftai_nb.core.outpaint import Outpaint
from swiftai_nb.core.prompt_syntax import SYNTAXES

MIN_SIDE = 16
MAX_SIDE = 4096
MAX_STEPS = 1000
QUANTIZATION_BITS = (4, 5, 6, 8)
MAX_GUIDANCE_SCALE = 100.0
MAX_FEATHER = 256
MAX_SEED = 2**53 - 1  # the largest integer that survives JSON in a browser
MAX_COUNT = 1000
MAX_FILLED_IN_LENGTH = 2000  # characters
MAX_EMBEDDED_BYTES = 24_000_000  # of all pictures that a recipe keeps


@dataclass(frozen=True)
class LoraReference:
    """A LoRA to apply: a file, a folder or a Hub repository, and how strongly.

    Args:
        source: path or `owner/name`.
        scale: weight of the LoRA; 1.0 is as trained, 0.0 is off. Finite, in [-10, 10].
        blocks: scales by block of the UNet, such as "1,0,0,1,…" or "IN04=0.5,M00=0" (`core.lora_blocks`).
    """

    source: str
    scale: float = 1.0
    blocks: str | None = None

    def __post_init__(self) -> None:
        if not self.source:
            raise InvalidInputError("lora has no source", hint="give a file or a Hub repository")
        _check_number("lora scale", self.scale, low=-10.0, high=10.0)
        if self.blocks is not None:
            block_scales(self.blocks)


@dataclass(frozen=True)
class ImageGenerationConfig:
    """How a picture is made. A field that is None takes the model's default.

    Args:
        width: pixels, 16..4096, a multiple of what the model needs (8 for most).
        height: pixels, as `width`.
        steps: number of denoising steps, 1..1000.
        guidance_scale: prompt strength (CFG), 0..100; 1 or less disables it.
        seed: 0..2**53-1; the same seed, settings and machine give the same bytes.
        scheduler: sampler name such as "ddim", "euler", "dpm++2m".
        model: catalog id, alias, Hub id or folder.
        guidance_rescale: 0..1: pulls strong guidance back to the contrast of the prompt alone, against
            over-exposed pictures; 0.7 suits models that predict velocity.
        prompt_syntax: "plain", "weighted" or "compel": whether brackets such as "(red:1.3)" are text or
            weights, or compel's "red++" is one; None reads weights where there is a bracket with a number.
        precision: "auto", "float32" or "bfloat16": what products on the CPU, or a GPU, are computed in; None
            is "auto", the faster one of a CPU and the usual one of a GPU.
        eta: 0..1: fresh noise in the samplers ddim (0 is its own value) and tcd (0.3).
        filled_in: a text that is added to the prompt. None: a model with a table of what prompts leave open,
            as the bundled one, chooses by the seed; "" adds nothing.
        vae: an autoencoder instead of the model's own: folder, safetensors file or catalog id.
        embeddings: files of textual inversions; the prompt names each by its file's name.
        embed_references: whether the recipe keeps the pictures themselves (initial image, mask, references):
            None keeps those up to 128 kB, True all, False none.
        clip_skip: how many of the text encoder's last layers to skip, 0..12.
        image: an initial image: encoded PNG, JPEG or WebP bytes, kept as they are; or as in `references`.
        strength: how much to change the initial image, 0..1.
        mask: where to paint (white) and what to keep (black), as `image`, which it needs.
        mask_feather: 0..256 pixels inside the mask's edge over which the painting fades in; what the mask
            leaves out is kept exactly. None is 0.
        image_guidance_scale: 0..100: how closely InstructPix2Pix keeps to its picture; None is 1.5.
        references: pictures that the prompt refers to, for models that change pictures by the prompt: each a
            GeneratedImage, PIL image, array, path or encoded bytes; kept as encoded bytes.
        controls: pictures that steer through ControlNets: each a `ControlReference`, or a tuple of its first
            values such as ("canny", picture, 0.8); 8 at most.
        loras: LoRAs to apply, in order.
        quantization_bits: 4, 5, 6 or 8: quantize the weights at load time.
        steps_factor: multiplies the model's default steps when `steps` is None; the presets use it.
        preview: "rgb" (fast), "taesd" (sharper, needs its decoder), "off"; None is the fastest one.
        outpaint: continue `image` beyond its edges, such as "left=128,top=64"; the picture itself is returned
            exactly.
        hires: 1..4: draw the picture a second time at so many times the size, from the first one enlarged.
        hires_strength: how much the second pass may change, 0..1; None is 0.4.
        hires_steps: of which the second pass runs the share that its strength says; None is `steps`.
        upscale: 1..8: enlarge the finished picture so many times.
        upscaler: of both: a catalog id, a file, or "lanczos"; None is an installed one, else Lanczos.
        extra_body: a cloud provider's own settings, JSON values by name such as {"quality": "high"}.

    Raises:
        InvalidInputError: a value is outside its limits; names the value and the limits.
    """

    width: int | None = None
    height: int | None = None
    steps: int | None = None
    guidance_scale: float | None = None
    seed: int | None = None
    scheduler: str | None = None
    model: str | None = None
    clip_skip: int | None = None
    image: Any = field(default=None, repr=False)
    strength: float | None = None
    mask: Any = field(default=None, repr=False)
    references: Sequence[Any] = field(default=(), repr=False)
    loras: tuple[LoraReference, ...] = ()
    embeddings: tuple[str, ...] = ()
    vae: str | None = None
    quantization_bits: int | None = None
    steps_factor: float = 1.0
    preview: str | None = None
    guidance_rescale: float | None = None
    eta: float | None = None
    extra_body: Mapping[str, Any] | None = field(default=None, hash=False, repr=False)
    prompt_syntax: str | None = None
    filled_in: str | None = None
    mask_feather: int | None = None
    image_guidance_scale: float | None = None
    controls: Sequence[Any] = field(default=(), repr=False)
    embed_references: bool | None = None
    outpaint: Any = None
    precision: str | None = None
    hires: float | None = None
    hires_strength: float | None = None
    hires_steps: int | None = None
    upscale: float | None = None
    upscaler: str | None = None

    def __post_init__(self) -> None:
        for name in ("width", "height"):
            self._check_int(name, low=MIN_SIDE, high=MAX_SIDE, unit="pixels")
        self._check_int("steps", low=1, high=MAX_STEPS)
        self._check_int("seed", low=0, high=MAX_SEED)
        self._check_int("clip_skip", low=0, high=12)
        self._check_int("mask_feather", low=0, high=MAX_FEATHER, unit="pixels")
        for name in ("guidance_scale", "image_guidance_scale"):
            self._check_float(name, low=0.0, high=MAX_GUIDANCE_SCALE)
        for name in ("strength", "guidance_rescale", "eta", "hires_strength"):
            self._check_float(name, low=0.0, high=1.0)
        self._check_int("hires_steps", low=1, high=MAX_STEPS)
        self._check_float("hires", low=1.0, high=MAX_HIRES)
        self._check_float("upscale", low=1.0, high=MAX_FACTOR)
        self._check_float("steps_factor", low=0.01, high=100.0)
        self._check_choice("quantization_bits", QUANTIZATION_BITS)
        self._check_choice("embed_references", (True, False))
        self._check_choice("preview", ("rgb", "taesd", "off"))
        self._check_choice("prompt_syntax", SYNTAXES)
        self._check_choice("precision", PRECISIONS)
        for name in ("scheduler", "model", "vae", "upscaler"):
            self._check_name(name)
        self._check_items("loras", LoraReference, 'loras=(LoraReference("style.safetensors", 0.8),)')
        self._check_items("embeddings", str, 'embeddings=("style.safetensors",)')
        self._convert()
        if self.embed_references:
            self._check_embedded()
        if self.mask is not None and self.image is None:
            raise InvalidInputError("mask without image", hint="pass the picture to paint on as image")
        for name in ("hires_strength", "hires_steps"):
            if getattr(self, name) is not None and self.hires is None:
                raise InvalidInputError(f"{name} without hires", hint="hires=1.5")
        if self.outpaint is not None:
            object.__setattr__(self, "outpaint", Outpaint.of(self.outpaint))
        if self.hires is not None and (self.mask is not None or self.outpaint is not None):
            raise InvalidInputError(
                "a hires pass draws everything again, also what a mask or outpaint keeps",
                hint="leave out hires or mask",
            )

    @classmethod
    def default(cls) -> ImageGenerationConfig:
        """The model's own defaults throughout."""
        return cls()

    @classmethod
    def high_quality(cls) -> ImageGenerationConfig:
        """Twice the model's default steps."""
        return cls(steps_factor=2.0)

    @classmethod
    def fast(cls) -> ImageGenerationConfig:
        """Half the model's default steps (at least one)."""
        return cls(steps_factor=0.5)

    def replace(self, **changes: Any) -> ImageGenerationConfig:
        """A copy with some fields changed, validated again."""
        return replace(self, **changes)

    def resolved_steps(self, default_steps: int) -> int:
        """`steps`, or the model's `default_steps` scaled by `steps_factor`."""
        if self.steps is not None:
            return self.steps
        return min(MAX_STEPS, max(1, round(default_steps * self.steps_factor)))

    def refuse_pictures(self, provider: str) -> None:
        """For providers that make pictures from text alone.

        Args:
            provider: its name, for the error.

        Raises:
            InvalidInputError: a start picture, a mask or references are given.
        """
        for name in ("image", "mask", "references"):
            if getattr(self, name):
                raise InvalidInputError(
                    f"{provider} makes pictures from text and takes no {name}",
                    hint="leave it out, or use the local engine: every model there takes an image, "
                    "FLUX.2 klein references",
                )

    def to_dict(self) -> dict[str, Any]:
        """The fields that differ from their defaults; bytes stay bytes."""
        return {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}

    def _convert(self) -> None:
        """Pictures, lists and objects as this class keeps them."""
        for name, encode in (("image", to_png_bytes), ("mask", mask_to_png_bytes)):
            given = getattr(self, name)
            if given is not None and not isinstance(given, bytes):
                object.__setattr__(self, name, encode(given))
        if self.filled_in is not None:
            object.__setattr__(self, "filled_in", _check_line("filled_in", self.filled_in))
        object.__setattr__(self, "references", _encoded_pictures(self.references))
        object.__setattr__(self, "controls", control_references(self.controls))
        if self.extra_body is not None:
            object.__setattr__(self, "extra_body", _json_object("extra_body", self.extra_body))

    def _check_embedded(self) -> None:
        given = (picture for picture in (self.image, self.mask, *self.references) if picture is not None)
        size_bytes = sum(map(len, given))
        if size_bytes > MAX_EMBEDDED_BYTES:
            raise InvalidInputError(
                f"the pictures have {format_bytes(size_bytes)}; "
                f"a recipe keeps {format_bytes(MAX_EMBEDDED_BYTES)} at most",
                hint="leave out --embed-references, and keep the files",
            )

    def _check_int(self, name: str, *, low: int, high: int, unit: str = "") -> None:
        value = getattr(self, name)
        if value is not None:
            object.__setattr__(self, name, checked_int(name, value, low=low, high=high, unit=unit))

    def _check_float(self, name: str, *, low: float, high: float) -> None:
        value = getattr(self, name)
        if value is not None:
            object.__setattr__(self, name, _check_number(name, value, low=low, high=high))

    def _check_choice(self, name: str, choices: tuple[Any, ...]) -> None:
        value = getattr(self, name)
        # Arrays, which are compared element by element, are not hashable.
        if value is not None and not (isinstance(value, Hashable) and value in choices):
            listed = ", ".join(str(c) for c in choices)
            raise InvalidInputError(f"{name} must be one of {listed} (got {short_repr(value)})")

    def _check_name(self, name: str) -> None:
        """A text, or a path as one."""
        value = getattr(self, name)
        if isinstance(value, os.PathLike):
            value = os.fspath(value)
            object.__setattr__(self, name, value)
        if value is not None and not isinstance(value, str):
            raise InvalidInputError(f"{name} must be a text (got {short_repr(value)})")

    def _check_items(self, name: str, kind: type, example: str) -> None:
        """A tuple of one type, from any list of it."""
        value = getattr(self, name)
        items = tuple(value) if isinstance(value, (list, tuple)) else (None,)
        if not all(isinstance(item, kind) for item in items):
            what = "texts" if kind is str else f"{kind.__name__}s"
            raise InvalidInputError(
                f"{name} must be a list of {what} (got {short_repr(value)})", hint=example
            )
        object.__setattr__(self, name, items)


def _encoded_pictures(pictures: Sequence[Any]) -> tuple[bytes, ...]:
    if isinstance(pictures, (str, bytes)) or not isinstance(pictures, Sequence):
        raise InvalidInputError(
            f"references must be a list of pictures, not a {type(pictures).__name__}",
            hint="references=[picture]",
        )
    return tuple(one if isinstance(one, bytes) else to_png_bytes(one) for one in pictures)


def _json_object(name: str, value: Any) -> dict[str, Any] | None:
    """A copy of a mapping, or of pairs, that JSON can hold; None for an empty one."""
    try:
        found = dict(value)
        if not all(isinstance(key, str) and key for key in found):
            raise TypeError("names must be texts")
        copied: dict[str, Any] = json.loads(json.dumps(found, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInputError(
            f"{name} must hold JSON values by name ({error})", hint=f'{name}={{"quality": "high"}}'
        ) from None
    return copied or None


def checked_int(name: str, value: Any, *, low: int, high: int, unit: str = "") -> int:
    """`value` as an int within [low, high].

    Raises:
        InvalidInputError: not a whole number, or outside the limits.
    """
    limits = f"between {low} and {high}{f' {unit}' if unit else ''}"
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise InvalidInputError(f"{name} must be a whole number {limits} (got {short_repr(value)})") from None
    if not low <= number <= high:
        raise InvalidInputError(f"{name} must be {limits} (got {short_repr(number)})")
    return number


def _check_line(name: str, value: Any) -> str:
    if not isinstance(value, str) or len(value) > MAX_FILLED_IN_LENGTH:
        raise InvalidInputError(
            f"{name} must be a text of {MAX_FILLED_IN_LENGTH} characters at most (got {short_repr(value)})"
        )
    return " ".join(value.split())


def _check_number(name: str, value: Any, *, low: float, high: float) -> float:
    try:
        if isinstance(value, (bool, str)):
            raise TypeError
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise InvalidInputError(
            f"{name} must be a number between {low:g} and {high:g} (got {short_repr(value)})"
        ) from None
    if not math.isfinite(number) or not low <= number <= high:
        raise InvalidInputError(f"{name} must be between {low:g} and {high:g} (got {number:g})")
    return number
