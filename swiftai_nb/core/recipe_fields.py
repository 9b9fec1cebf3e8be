"""The values of a recipe's fields, from JSON: each checked, so that a recipe of strangers is data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from swiftai_nb.core.config import LoraReference
from swiftai_nb.core.control import RecordedControl
from swiftai_nb.core.errors import InvalidInputError
from swiftai_nb.core.format import shorten
from swiftai_nb.core.outpaint import Outpaint
from swiftai_nb.core.sources import SourcePicture

_NUMBERS = (
    "guidance_scale",
    "image_guidance_scale",
    "guidance_rescale",
    "eta",
    "strength",
    "hires",
    "hires_strength",
    "upscale",
)
_WHOLE_NUMBERS = (
    "width",
    "height",
    "steps",
    "seed",
    "quantization_bits",
    "clip_skip",
    "mask_feather",
    "hires_steps",
)


def checked_field(name: str, value: Any) -> Any:
    """The value of a field, from JSON.

    Raises:
        InvalidInputError: it is of the wrong type.
    """
    if name in _ITEM_READERS:
        return tuple(_ITEM_READERS[name](name, item) for item in _list(name, value))
    if name in _READERS:
        return _READERS[name](value)
    if name in _WHOLE_NUMBERS:
        if isinstance(value, bool) or not isinstance(value, int):
            raise _wrong_type(name, value, "a whole number")
        return value
    if name in _NUMBERS:
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not is_number or not abs(value) <= _LARGEST:  # true for NaN
            raise _wrong_type(name, value, "a number")
        return value
    return _text(name, value)


def _versions(value: Any) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise _wrong_type("versions", value, "an object of texts")
    return {_text("versions", key): _text("versions", item) for key, item in value.items()}


_LARGEST = 1e300  # of a number
_MOST_ITEMS = 1000  # of a list
_READERS: Mapping[str, Callable[[Any], Any]] = {"outpaint": Outpaint.of, "versions": _versions}


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise _wrong_type(name, value, "a text")
    return encodable(value)


def encodable(text: str) -> str:
    """`text` with surrogates that no file can hold (half of an emoji) replaced by U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _list(name: str, value: Any) -> list[Any] | tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise _wrong_type(name, value, "a list")
    if len(value) > _MOST_ITEMS:
        raise not_a_recipe(f"{name} has {len(value)} items, {_MOST_ITEMS} is the most")
    return value


def _lora(_: str, item: Any) -> LoraReference:
    if isinstance(item, LoraReference):
        return item
    if not isinstance(item, Mapping) or not isinstance(item.get("source"), str):
        raise _wrong_type("loras", item, "a list of objects with a source")
    blocks = item.get("blocks")
    if blocks is not None and not isinstance(blocks, str):
        raise _wrong_type("loras", item, "a list of objects whose blocks are text")
    return LoraReference(source=item["source"], scale=item.get("scale", 1.0), blocks=blocks)


def _control(_: str, item: Any) -> RecordedControl:
    if isinstance(item, RecordedControl):
        return item
    if not isinstance(item, Mapping) or not isinstance(item.get("image_sha256"), str):
        raise _wrong_type("controls", item, "a list of objects with an image_sha256")
    return RecordedControl.from_dict(item)


def _source(_: str, item: Any) -> SourcePicture:
    try:
        return item if isinstance(item, SourcePicture) else SourcePicture.from_dict(item)
    except ValueError as error:
        raise not_a_recipe(str(error)) from None


_ITEM_READERS: dict[str, Callable[[str, Any], Any]] = {
    "loras": _lora,
    "sources": _source,
    "controls": _control,
    "notes": _text,
    "references_sha256": _text,
    "embeddings": _text,
}


def _wrong_type(name: str, value: Any, wanted: str) -> InvalidInputError:
    return not_a_recipe(f"{name} must be {wanted}, not {shorten(repr(value), 40)}")


def not_a_recipe(reason: str) -> InvalidInputError:
    """The error for data that is no recipe."""
    return InvalidInputError(f"not a recipe: {reason}", hint="use a picture made by swiftai_nb")
