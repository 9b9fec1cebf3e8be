"""Pictures that steer a generation through a ControlNet: which one, made into what, how strongly, when."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from swiftai_nb.core.errors import InvalidInputError
from swiftai_nb.core.format import short_repr
from swiftai_nb.core.image_input import to_pil, to_png_bytes

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_CONTROLS = 8
MAX_SCALE = 10.0


@dataclass(frozen=True)
class ControlKind:
    """What a ControlNet follows.

    Attributes:
        is_made_here: whether the picture for it is made from a photo here; else the user brings it.
        names: other names of it.
        description: of the picture, for messages.
    """

    is_made_here: bool
    description: str
    names: tuple[str, ...] = ()


KINDS: dict[str, ControlKind] = {
    "canny": ControlKind(True, "edges", ("edges",)),
    "lineart": ControlKind(True, "lines as of a drawing", ("line",)),
    "scribble": ControlKind(True, "rough lines", ("sketch",)),
    "tile": ControlKind(True, "the picture without its details", ("blur",)),
    "depth": ControlKind(False, "a depth map, near things bright, in shades of gray"),
    "pose": ControlKind(False, "a skeleton as OpenPose draws it, on black", ("openpose",)),
}
_NAMES = {name: kind for kind, spec in KINDS.items() for name in (kind, *spec.names)}


@dataclass(frozen=True)
class ControlReference:
    """A picture that steers, and the ControlNet for it.

    Args:
        source: a kind of `KINDS` ("canny": the picture is made into edges, and the catalog's ControlNet for
            the model is used), a ControlNet (catalog name, folder or file: the picture is used as it is), or
            both as "canny@NAME".
        image: the picture: a GeneratedImage, PIL image, array, path or encoded bytes; kept as encoded bytes.
        scale: what the ControlNet adds is multiplied by it; finite, in [-10, 10].
        start: share of the steps, 0..1, before which it adds nothing.
        end: share of the steps after which it adds nothing; more than `start`.
        is_guess: follow the picture alone, with a weak prompt or none (diffusers' guess_mode).

    Raises:
        InvalidInputError: a value outside its limits; names it.
    """

    source: str
    image: Any = field(default=b"", repr=False)
    scale: float = 1.0
    start: float = 0.0
    end: float = 1.0
    is_guess: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.source, str) or not self.source.strip():
            raise InvalidInputError("a control has no source", hint=f"give one of {', '.join(KINDS)}")
        if not isinstance(self.image, bytes):
            object.__setattr__(self, "image", to_png_bytes(self.image))
        for name, low, high in (("scale", -MAX_SCALE, MAX_SCALE), ("start", 0.0, 1.0), ("end", 0.0, 1.0)):
            value = getattr(self, name)
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not is_number or not low <= value <= high:
                raise InvalidInputError(
                    f"a control's {name} must be a number between {low:g} and {high:g} (got {value!r})"
                )
            object.__setattr__(self, name, float(value))
        if self.start >= self.end:
            raise InvalidInputError(
                f"a control acts from {self.start:g} to {self.end:g} of the steps",
                hint="give a start below the end, such as 0-0.6",
            )

    @property
    def kind(self) -> str | None:
        """A key of `KINDS`; None where only a ControlNet is named."""
        return _NAMES.get(self.source.partition("@")[0].strip().casefold())

    @property
    def model(self) -> str | None:
        """The ControlNet that is named; None for the catalog's own."""
        if self.kind is None:
            return self.source
        return self.source.partition("@")[2].strip() or None

    def describe(self) -> str:
        """Such as "canny at 0.8, steps 0-60 %"."""
        text = f"{self.source} at {self.scale:g}"
        if (self.start, self.end) != (0.0, 1.0):
            text += f", steps {self.start * 100:g}-{self.end * 100:g} %"
        return text + (", guess mode" if self.is_guess else "")

    def check_picture(self) -> None:
        """Refuses a photo given for a kind whose picture is not made here.

        Raises:
            InvalidInputError: it is no picture, or a photo where a depth map or a pose is needed.
        """
        picture, kind = to_pil(self.image), self.kind
        if kind is None or KINDS[kind].is_made_here:
            return
        if not _LOOKS_RIGHT[kind](picture):
            raise InvalidInputError(
                f"the picture for {kind} is not {KINDS[kind].description}: none is made from a photo here",
                hint=f"bring one made by another program, or use one of {', '.join(made_here())}",
            )


@dataclass(frozen=True)
class RecordedControl:
    """A control as a recipe keeps it: as `ControlReference`, with its picture's SHA-256 for the picture."""

    source: str
    image_sha256: str
    scale: float = 1.0
    start: float = 0.0
    end: float = 1.0
    is_guess: bool = False

    @classmethod
    def of(cls, control: ControlReference) -> RecordedControl:
        """Of a control with its picture."""
        values = {f.name: getattr(control, f.name) for f in fields(cls) if f.name != "image_sha256"}
        return cls(image_sha256=hashlib.sha256(control.image).hexdigest(), **values)

    @property
    def option(self) -> str:
        """As it is given again: "canny=PICTURE:0.8"."""
        steps = "" if (self.start, self.end) == (0.0, 1.0) else f":{self.start:g}-{self.end:g}"
        return f"{self.source}=PICTURE:{self.scale:g}{steps}{':guess' if self.is_guess else ''}"

    def describe(self) -> str:
        """As `ControlReference.describe`."""
        return self.reference(b"").describe()

    def reference(self, image: bytes) -> ControlReference:
        """The control again, with its picture."""
        return ControlReference(self.source, image, self.scale, self.start, self.end, self.is_guess)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> RecordedControl:
        """From JSON; what is left out has its usual value.

        Raises:
            InvalidInputError: no source, or a value outside its limits.
        """
        names = [f.name for f in fields(cls) if f.name != "image_sha256"]
        given = {name: data[name] for name in names if name in data}
        if not isinstance(given.get("is_guess", False), bool):
            raise InvalidInputError("a control's is_guess must be true or false")
        control = ControlReference(**{"source": "", **given})
        values = {name: getattr(control, name) for name in names}
        return cls(image_sha256=str(data["image_sha256"]), **values)


def acts_in(step: int, steps: int, *, start: float, end: float) -> bool:
    """Whether a control adds something in a step, counted from 0, of so many; as in diffusers."""
    return step / steps >= start and (step + 1) / steps <= end


def made_here() -> tuple[str, ...]:
    """The kinds whose pictures are made from a photo, without a model."""
    return tuple(kind for kind, spec in KINDS.items() if spec.is_made_here)


def control_references(controls: Sequence[Any]) -> tuple[ControlReference, ...]:
    """The controls of a configuration; tuples become `ControlReference`s.

    Raises:
        InvalidInputError: not a list of controls with pictures, or too many.
    """
    if isinstance(controls, (str, bytes)) or not isinstance(controls, Sequence):
        raise InvalidInputError(
            f"controls must be a list, not a {type(controls).__name__}",
            hint='controls=[("canny", picture, 0.8)]',
        )
    if len(controls) > MAX_CONTROLS:
        raise InvalidInputError(f"{len(controls)} controls; {MAX_CONTROLS} is the most")
    result = []
    for control in controls:
        if not isinstance(control, ControlReference):
            is_tuple = isinstance(control, Sequence) and not isinstance(control, (str, bytes))
            if not is_tuple or not 1 <= len(control) <= len(fields(ControlReference)):
                raise InvalidInputError(
                    f"{short_repr(control)} is not a control", hint='use ("canny", picture, 0.8)'
                )
            control = ControlReference(*control)  # noqa: PLW2901
        if not control.image:
            raise InvalidInputError(f"the control {control.source} has no picture")
        result.append(control)
    return tuple(result)


def refuse_controls(controls: Sequence[ControlReference], *, who: str) -> None:
    """Raises InvalidInputError for controls given to a generator that takes none.

    Args:
        controls: of the configuration.
        who: the generator, for the message.
    """
    if controls:
        raise InvalidInputError(
            f"{who} cannot follow pictures by ControlNets",
            hint="use the local engine, with Stable Diffusion, SDXL or Z-Image",
        )


def _is_gray(picture: Image) -> bool:
    """Whether a picture has hardly any color."""
    saturation = picture.resize((64, 64)).convert("HSV").getchannel("S")
    return sum(saturation.histogram()[48:]) < 0.05 * 64 * 64


def _is_mostly_black(picture: Image) -> bool:
    """Whether at least a third of a picture is black."""
    return sum(picture.convert("L").resize((64, 64)).histogram()[:24]) > 64 * 64 / 3


_LOOKS_RIGHT = {"depth": _is_gray, "pose": _is_mostly_black}
