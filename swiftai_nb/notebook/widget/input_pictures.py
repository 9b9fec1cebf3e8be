"""The widget's pictures in: a start picture, a mask for it, and reference pictures.

They are traits that hold `GeneratedImage`; assigning any picture (a path, bytes, PIL, NumPy) converts it.
What comes from the page is bounded and decoded here, so that nothing else sees bytes that are no picture.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import traitlets

from swiftai_nb.core.config import MAX_SIDE
from swiftai_nb.core.errors import InvalidInputError
from swiftai_nb.core.format import format_bytes
from swiftai_nb.core.image import GeneratedImage
from swiftai_nb.core.image_input import mask_to_png_bytes, open_image_file, readable, to_pil, to_png_bytes
from swiftai_nb.notebook.wire import MAX_RECEIVED_BYTES

if TYPE_CHECKING:
    from swiftai_nb.notebook.wire import InputPicture, InputRole

MAX_INPUT_PIXELS = 64 * 2**20
MAX_REFERENCES = 16
ID_PREFIX = "input-"
_ROLES: tuple[InputRole, ...] = ("image", "mask", "reference")


class InputPictures(traitlets.HasTraits):  # type: ignore[misc]
    """The traits of the pictures in.

    Attributes:
        image: the picture to start from, or None.
        mask: white where `image` is painted anew, black where it is kept; None without one.
        references: pictures that the prompt refers to, for models that take them.
    """

    image = traitlets.Any(None, allow_none=True)
    mask = traitlets.Any(None, allow_none=True)
    references = traitlets.Any(())

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

    @traitlets.observe("image")  # type: ignore[untyped-decorator]
    def _drop_mask(self, change: Mapping[str, Any]) -> None:
        if change["new"] is None:
            self.mask = None

    def set_input(self, role: str, source: Any) -> GeneratedImage:
        """Makes a picture the start picture or its mask, or adds a reference; returns it as it was taken.

        A new start picture has no mask yet.

        Raises:
            InvalidInputError: not a picture, or one outside the limits.
        """
        picture = input_picture(source, is_mask=role == "mask")
        if role == "image":
            self.image, self.mask = picture, None
        elif role == "reference":
            self.references = (*(one for one in self.references if one != picture), picture)
        elif role != "mask":
            raise InvalidInputError(f"no role {role!r} for a picture", hint=f"use {', '.join(_ROLES)}")
        elif self.image is None:
            raise InvalidInputError("mask without image", hint="choose a start picture first")
        else:
            self.mask = picture
        return picture

    def remove_input(self, picture_id: str) -> None:
        """Removes the picture of that id; nothing where it is gone already."""
        if self.image is not None and input_id(self.image) == picture_id:
            self.image = None
        elif self.mask is not None and input_id(self.mask, is_mask=True) == picture_id:
            self.mask = None
        else:
            self.references = tuple(one for one in self.references if input_id(one) != picture_id)

    def find_input(self, picture_id: str) -> GeneratedImage:
        """The picture of that id.

        Raises:
            InvalidInputError: it was removed.
        """
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
        return [_snapshot(role, one, origins) for role, one in found if one is not None]  # type: ignore[arg-type]


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


def sha256(picture: GeneratedImage) -> str:
    """Of the encoded picture, as recipes have it."""
    return hashlib.sha256(picture.data).hexdigest()


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
    }
