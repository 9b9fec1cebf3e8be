"""The pictures that a picture was made from, as its recipe keeps them: digest, size, name, even the file."""

from __future__ import annotations

import base64
import binascii
import hashlib
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from swiftai_nb.core.config import ImageGenerationConfig
from swiftai_nb.core.image_input import open_image_file, readable

SMALL_BYTES = 131_072  # up to this size pictures are always kept; those of the bundled model have half
RECENT_BYTES = 128 * 2**20
_MAX_NAME_LENGTH = 255
_DIGITS = 12


@dataclass(frozen=True)
class SourcePicture:
    """A start picture, mask or reference.

    Args:
        sha256: of its file as it was used (PNG, or the bytes given in Python), hexadecimal.
        width: pixels.
        height: pixels.
        name: the file it was read from, without its folder, or None.
        data: its file in base64, or None where the recipe does not keep it.
    """

    sha256: str
    width: int
    height: int
    name: str | None = None
    data: str | None = field(default=None, repr=False)

    @property
    def content(self) -> bytes | None:
        """Its file; None where it is not kept, or is not the one that the digest is of."""
        if self.data is None:
            return None
        try:
            content = base64.b64decode(self.data, validate=True)
        except (binascii.Error, ValueError):
            return None
        return content if digest_of(content) == self.sha256 else None

    def __str__(self) -> str:
        """Which picture it is: "SHA-256 1a2b3c4d5e6f, hat.png, 640x480"."""
        name = "" if self.name is None else f", {self.name}"
        return f"SHA-256 {self.sha256[:_DIGITS]}{name}, {self.width}x{self.height}"

    @classmethod
    def from_dict(cls, data: Any) -> SourcePicture:
        """Reads what `dataclasses.asdict` wrote.

        Raises:
            ValueError: a field is missing, of the wrong type, or too large.
        """
        if not isinstance(data, Mapping):
            raise ValueError("a source picture must be an object")
        sha256, width, height = data.get("sha256"), data.get("width"), data.get("height")
        name, content = data.get("name"), data.get("data")
        if not isinstance(sha256, str) or len(sha256) != 64:
            raise ValueError("a source picture must have a SHA-256")
        if type(width) is not int or type(height) is not int or min(width, height) < 1:
            raise ValueError("a source picture must have a size")
        if not isinstance(name, (str, type(None))) or not isinstance(content, (str, type(None))):
            raise ValueError("name and data of a source picture must be texts")
        short_name = None if name is None else " ".join(name.split())[:_MAX_NAME_LENGTH]
        return cls(sha256, width, height, short_name, content)


class RecentPictures:
    """Pictures that were given lately, by their SHA-256; the oldest go where they are too many bytes.

    Args:
        max_bytes: of all pictures together; a larger one is not kept.
    """

    def __init__(self, max_bytes: int = RECENT_BYTES) -> None:
        self._max_bytes = max_bytes
        self._contents: OrderedDict[str, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, content: bytes) -> None:
        """Keeps a picture's file."""
        with self._lock:
            digest = digest_of(content)
            self._contents[digest] = content
            self._contents.move_to_end(digest)
            while sum(map(len, self._contents.values())) > self._max_bytes:
                self._contents.popitem(last=False)

    def add_all(self, config: ImageGenerationConfig) -> None:
        """Keeps the pictures of some settings."""
        controls = (control.image for control in config.controls)
        for content in (config.image, config.mask, *config.references, *controls):
            if content is not None:
                self.add(content)

    def find(self, sha256: str) -> bytes | None:
        """The picture's file; None where it is not kept."""
        with self._lock:
            return self._contents.get(sha256)


def digest_of(content: bytes) -> str:
    """SHA-256 of a picture's file, hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def source_pictures(
    config: ImageGenerationConfig, *, names: Mapping[str, str] | None = None
) -> tuple[SourcePicture, ...]:
    """The pictures of some settings, each once.

    Args:
        config: `embed_references` decides which files are kept: None small ones, True all, False none.
        names: file names by digest, as far as they are known.

    Raises:
        InvalidInputError: one is not a picture.
    """
    given = [picture for picture in (config.image, config.mask, *config.references) if picture is not None]
    names = {} if names is None else names
    # Those of controls are given again together with a ControlNet, so they are only described.
    steering = {control.image for control in config.controls} - set(given)
    described = tuple(_source(content, is_kept=False, names=names) for content in sorted(steering))
    return described + tuple(
        _source(content, is_kept=_is_kept(content, config.embed_references), names=names)
        for content in dict.fromkeys(given)
    )


def _is_kept(content: bytes, embeds: bool | None) -> bool:
    return len(content) <= SMALL_BYTES if embeds is None else embeds


def _source(content: bytes, *, is_kept: bool, names: Mapping[str, str]) -> SourcePicture:
    _, picture = open_image_file(content)
    with picture, readable(content):
        width, height = picture.size
    digest = digest_of(content)
    data = base64.b64encode(content).decode("ascii") if is_kept else None
    return SourcePicture(digest, width, height, names.get(digest), data)
