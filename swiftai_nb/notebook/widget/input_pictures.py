"""The widget's pictures in: a start picture, a mask for it, reference pictures, and pictures that steer.

They are traits that hold `GeneratedImage`; assigning any picture (a path, bytes, PIL, NumPy) converts it.
What comes from the page is bounded and decoded here, so that nothing else sees bytes that are no picture.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import traitlets

from swiftai_nb.core.config import MAX_SIDE
from swiftai_nb.core.control import ControlReference, control_references, made_here
from swiftai_nb.core.errors import InvalidInputError
from swiftai_nb.core.format import format_bytes
from swiftai_nb.core.image import GeneratedImage
from swiftai_nb.core.image_input import mask_to_png_bytes, open_image_file, readable, to_pil, to_png_bytes
from swiftai_nb.core.sources import digest_of
from swiftai_nb.notebook.wire import MAX_RECEIVED_BYTES

if TYPE_CHECKING:
    from swiftai_nb.notebook.wire import Control, InputPicture, InputRole

MAX_INPUT_PIXELS = 64 * 2**20
MAX_REFERENCES = 16
MAX_SOURCE_LENGTH = 500
ID_PREFIX = "input-"
PREVIEW_SIDE = 384  # pixels of the picture that a control picture is made into, for the page
_ROLES: tuple[InputRole, ...] = ("image", "mask", "reference", "control")


class InputPictures(traitlets.HasTraits):  # type: ignore[misc]
    """The traits of the pictures in.

    Attributes:
        image: the picture to start from, or None.
        mask: white where `image` is painted anew, black where it is kept; None without one.
        references: pictures that the prompt refers to, for models that take them.
        controls: pictures that steer through ControlNets, as `ImageGenerationConfig.controls` takes them, for
            example [("canny", "photo.png", 0.8)].
    """

    image = traitlets.Any(None, allow_none=True)
    mask = traitlets.Any(None, allow_none=True)
    # Not `Any`, which takes None without validation.
    references = traitlets.TraitType(())
    controls = traitlets.TraitType(())

    @traitlets.validate("image", "mask")  # type: ignore[untyped-decorator]
    def _validate_picture(self, proposal: Mapping[str, Any]) -> GeneratedImage | None:
        value = proposal["value"]
        return None if value is None else input_picture(value, is_mask=proposal["trait"].name == "mask")

    @traitlets.validate("references")  # type: ignore[untyped-decorator]
    def _validate_references(self, proposal: Mapping[str, Any]) -> tuple[GeneratedImage, ...]:
        value = proposal["value"]
        if isinstance(value, (str, bytes)) or not isinstance(value, (list, tuple)):
            raise InvalidInputError("references must be a list of pictures", hint="references=[picture]")
        if len(value) > MAX_REFERENCES:
            raise InvalidInputError(f"references are limited to {MAX_REFERENCES} pictures (got {len(value)})")
        return tuple(input_picture(one) for one in value)

    @traitlets.validate("controls")  # type: ignore[untyped-decorator]
    def _validate_controls(self, proposal: Mapping[str, Any]) -> tuple[ControlReference, ...]:
        controls = control_references(proposal["value"])
        if any(len(control.source) > MAX_SOURCE_LENGTH for control in controls):
            raise InvalidInputError(f"a control's source has at most {MAX_SOURCE_LENGTH} characters")
        return tuple(replace(control, image=input_picture(control.image).data) for control in controls)

    @traitlets.observe("image")  # type: ignore[untyped-decorator]
    def _drop_mask(self, change: Mapping[str, Any]) -> None:
        if change["new"] is None:
            self.mask = None

    def set_input(self, role: str, source: Any) -> GeneratedImage:
        """Makes a picture the start picture or its mask, or adds a reference or a control; returns it.

        A new start picture has no mask yet.

        Raises:
            InvalidInputError: not a picture, or one outside the limits.
        """
        picture = input_picture(source, is_mask=role == "mask")
        if role == "image":
            self.image, self.mask = picture, None
        elif role == "reference":
            self.references = (*(one for one in self.references if one != picture), picture)
        elif role == "control":
            taken = {control.kind for control in self.controls if control.image == picture.data}
            kind = next((kind for kind in made_here() if kind not in taken), made_here()[0])
            self.controls = (*self.controls, ControlReference(kind, picture.data))
        elif role != "mask":
            raise InvalidInputError(f"no role {role!r} for a picture", hint=f"use {', '.join(_ROLES)}")
        elif self.image is None:
            raise InvalidInputError("mask without image", hint="choose a start picture first")
        else:
            self.mask = picture
        return picture

    def set_control(self, control_id: str, settings: Mapping[str, Any]) -> None:
        """Changes how the control picture of that id steers.

        Args:
            control_id: from `input_snapshots`.
            settings: any of source, scale, start, end, is_guess.

        Raises:
            InvalidInputError: it was removed, or a value is outside its limits.
        """
        if control_id not in control_ids(self.controls):
            raise InvalidInputError("this control picture was removed", hint="choose it again")
        at = control_ids(self.controls).index(control_id)
        names = ("source", "scale", "start", "end", "is_guess")
        given = {name: settings[name] for name in names if name in settings}
        if "is_guess" in given:
            given["is_guess"] = given["is_guess"] is True
        changed = replace(self.controls[at], **given)
        self.controls = (*self.controls[:at], changed, *self.controls[at + 1 :])

    def remove_input(self, picture_id: str) -> None:
        """Removes the picture of that id; nothing where it is gone already."""
        if self.image is not None and input_id(self.image) == picture_id:
            self.image = None
        elif self.mask is not None and input_id(self.mask, is_mask=True) == picture_id:
            self.mask = None
        elif picture_id in (ids := control_ids(self.controls)):
            at = ids.index(picture_id)
            self.controls = (*self.controls[:at], *self.controls[at + 1 :])
        else:
            self.references = tuple(one for one in self.references if input_id(one) != picture_id)

    def find_input(self, picture_id: str) -> GeneratedImage:
        """The picture of that id; of a control's preview, the picture that is made for its ControlNet.

        Raises:
            InvalidInputError: it was removed.
        """
        for control_id, control in zip(control_ids(self.controls), self.controls, strict=True):
            if picture_id in (control_id, _preview_id(control_id, control)):
                return _control_picture(control, is_made=picture_id != control_id)
        pictures: list[GeneratedImage | None] = [self.image, *self.references]
        for picture in pictures:
            if picture is not None and input_id(picture) == picture_id:
                return picture
        mask: GeneratedImage | None = self.mask
        if mask is not None and input_id(mask, is_mask=True) == picture_id:
            return mask
        raise InvalidInputError("this picture was removed", hint="choose it again")

    def input_snapshots(self, origins: Mapping[str, str]) -> list[InputPicture]:
        """The pictures as the page shows them.

        Args:
            origins: ids of the history's pictures, by the SHA-256 of what was sent.
        """
        found = [("image", self.image), ("mask", self.mask), *(("reference", one) for one in self.references)]
        snapshots = [_snapshot(role, one, origins) for role, one in found if one is not None]  # type: ignore[arg-type]
        for control_id, control in zip(control_ids(self.controls), self.controls, strict=True):
            steers = _control_snapshot(control_id, control)
            picture = _control_picture(control)
            snapshots.append({**_snapshot("control", picture, origins), "id": control_id, "control": steers})
        return snapshots


def input_picture(source: Any, *, is_mask: bool = False) -> GeneratedImage:
    """Any picture as PNG, at most 4096 pixels long, with its recipe.

    Args:
        source: a GeneratedImage, PIL image, array, path or encoded bytes.
        is_mask: read it as a mask: gray, and zeros and ones as black and white.

    Raises:
        InvalidInputError: not a picture, or one outside the limits.
    """
    if isinstance(source, (bytes, str)):
        source, recipe = _checked(source), None
    else:
        recipe = getattr(source, "recipe", None)
    picture = to_pil(source)
    if max(picture.size) > MAX_SIDE:
        picture.thumbnail((MAX_SIDE, MAX_SIDE))
    data = mask_to_png_bytes(picture) if is_mask else to_png_bytes(picture)
    return GeneratedImage(data=data, width=picture.width, height=picture.height, recipe=recipe)


def input_id(picture: GeneratedImage, *, is_mask: bool = False) -> str:
    """An id that follows from the content, so that a page never shows another picture under it."""
    return f"{ID_PREFIX}{'mask-' if is_mask else ''}{sha256(picture)[:20]}"


def control_ids(controls: Sequence[ControlReference]) -> list[str]:
    """An id for each control: of its picture, and which of several with the same picture it is."""
    seen: Counter[bytes] = Counter()
    ids = []
    for control in controls:
        seen[control.image] += 1
        ids.append(f"{ID_PREFIX}control-{digest_of(control.image)[:20]}-{seen[control.image]}")
    return ids


def _preview_id(control_id: str, control: ControlReference) -> str:
    return f"{control_id}-{control.kind}" if control.kind in made_here() else ""


def _control_picture(control: ControlReference, *, is_made: bool = False) -> GeneratedImage:
    """A control's picture, or a small one of what is made of it for the ControlNet."""
    _, picture = open_image_file(control.image)
    width, height = picture.size
    if not is_made:
        return GeneratedImage(data=control.image, width=width, height=height)
    from swiftai_nb.core.control_pictures import control_pixels

    scale = min(1.0, PREVIEW_SIDE / max(width, height))
    small = [max(1, round(side * scale)) for side in (width, height)]
    return GeneratedImage.from_pixels(control_pixels(control, width=small[0], height=small[1]))


def _control_snapshot(control_id: str, control: ControlReference) -> Control:
    return {
        "kind": control.kind or "",
        "model": control.model or "",
        "scale": control.scale,
        "start": control.start,
        "end": control.end,
        "is_guess": control.is_guess,
        "preview": _preview_id(control_id, control),
    }


def sha256(picture: GeneratedImage) -> str:
    """Of the encoded picture, as recipes have it."""
    return digest_of(picture.data)


def _checked(source: bytes | str) -> Any:
    """The decoded picture; limits are checked before any pixel is."""
    if isinstance(source, bytes) and len(source) > MAX_RECEIVED_BYTES:
        raise InvalidInputError(
            f"the picture has {format_bytes(len(source))}, more than {format_bytes(MAX_RECEIVED_BYTES)}",
            hint="make it smaller first",
        )
    _, picture = open_image_file(source)
    width, height = picture.size
    if width * height > MAX_INPUT_PIXELS:
        raise InvalidInputError(
            f"the picture is {width}x{height}, more than {MAX_INPUT_PIXELS // 2**20} megapixels",
            hint="make it smaller first",
        )
    with readable(source):
        picture.load()
    return picture


def _snapshot(role: InputRole, picture: GeneratedImage, origins: Mapping[str, str]) -> InputPicture:
    return {
        "id": input_id(picture, is_mask=role == "mask"),
        "role": role,
        "width": picture.width,
        "height": picture.height,
        "origin": origins.get(sha256(picture), ""),
        "control": None,
    }
