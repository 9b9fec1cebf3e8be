"""How the messages between kernel and engine are encoded.

One frame carries one message:

    offset  size  field
    0       4     magic, the bytes "SWAI"
    4       2     protocol version, unsigned, big endian
    6       2     zero
    8       4     length of the header in bytes, at most 16 MiB
    12      4     length of the body in bytes, at most 1 GiB
    16      …     header: a JSON object, UTF-8; "type" names the message, "parts" lists the bytes fields
                  as [name, length] in the order in which the body holds them
    …       …     body: the bytes fields, one after the other

Fields that are None are left out; a field of several bytes values has a part for each. A reader ignores
unknown fields and rejects another version: kernel and engine come from the same installation.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, ClassVar, TypeVar

from swiftai_nb.core.config import LoraReference
from swiftai_nb.core.control import ControlReference
from swiftai_nb.core.outpaint import Outpaint
from swiftai_nb.engine.messages import Message, ModelFiles

PROTOCOL_VERSION = 1
MAGIC = b"SWAI"
MAX_HEADER_BYTES = 16 * 2**20
MAX_BODY_BYTES = 2**30
_PREFIX = struct.Struct(">4sHHII")


class ProtocolError(Exception):
    """The bytes are not a frame of this protocol; the message is one line."""


class TruncatedFrameError(ProtocolError):
    """The stream ended inside a frame: the sender ended while writing."""


_TYPES: dict[str, type[Message]] = {kind.__name__: kind for kind in Message.__subclasses__()}
_Kind = TypeVar("_Kind")


class Frame:
    """Sizes of one frame, from its first 16 bytes."""

    SIZE: ClassVar[int] = _PREFIX.size

    def __init__(self, prefix: bytes) -> None:
        """Reads the prefix.

        Raises:
            ProtocolError: not a frame, another version, or larger than the limits.
        """
        if len(prefix) != _PREFIX.size:
            raise TruncatedFrameError(
                f"the stream ended after {len(prefix)} of {_PREFIX.size} bytes of a prefix"
            )
        magic, version, reserved, self.header_bytes, self.body_bytes = _PREFIX.unpack(prefix)
        if magic != MAGIC or reserved != 0:
            raise ProtocolError(f"not a frame: it starts with {prefix[:8]!r}")
        if version != PROTOCOL_VERSION:
            raise ProtocolError(f"protocol version {version}, need {PROTOCOL_VERSION}")
        if self.header_bytes > MAX_HEADER_BYTES:
            raise ProtocolError(f"a header of {self.header_bytes} bytes is too large")
        if self.body_bytes > MAX_BODY_BYTES:
            raise ProtocolError(f"a body of {self.body_bytes} bytes is too large")


def encode(message: Message) -> list[bytes]:
    """A message as the chunks of one frame, bytes fields uncopied.

    Raises:
        ProtocolError: it exceeds the limits.
    """
    parts: list[tuple[str, bytes]] = []
    header: dict[str, Any] = {"type": type(message).__name__}
    for name, value in ((f.name, getattr(message, f.name)) for f in fields(message)):
        items = value if isinstance(value, tuple) else (value,)
        if any(isinstance(item, bytes) for item in items):
            parts += [(name, item) for item in items]
        elif value is not None:
            header[name] = value
    header["parts"] = [[name, len(value)] for name, value in parts]
    data = json.dumps(header, default=_plain, separators=(",", ":")).encode()
    body = [value for _, value in parts]
    prefix = _PREFIX.pack(MAGIC, PROTOCOL_VERSION, 0, *_sizes(len(data), sum(map(len, body))))
    Frame(prefix)
    return [prefix + data, *body]


def decode(header: bytes | bytearray, body: bytes | bytearray) -> Message:
    """The inverse of `encode`, given header and body of one frame.

    Raises:
        ProtocolError: not JSON, an unknown type, or fields of the wrong kind.
    """
    try:
        data = json.loads(header)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"a header that is not JSON ({type(error).__name__})") from None
    kind = _TYPES.get(str(data.pop("type", None))) if isinstance(data, dict) else None
    if kind is None:
        raise ProtocolError("a header without a known type")
    several = {f.name for f in fields(kind) if str(f.type) == "tuple[bytes, ...]"}
    split = _split_body(data.pop("parts", []), memoryview(body))
    data.update({part: values if part in several else values[-1] for part, values in split.items()})
    return _build(kind, data)


def _sizes(*sizes_bytes: int) -> list[int]:
    # A size that does not fit the field is rejected by the limits, not wrapped around.
    return [min(size, 2**32 - 1) for size in sizes_bytes]


def _plain(value: Any) -> Any:
    if isinstance(value, (ModelFiles, LoraReference, ControlReference, Outpaint)):
        return {k: v for k, v in vars(value).items() if v is not None and not isinstance(v, bytes)}
    raise ProtocolError(f"{type(value).__name__} cannot be sent")


def _split_body(parts: Any, body: memoryview) -> dict[str, list[bytes]]:
    try:
        named = [(_exactly(str)(name), _exactly(int)(size)) for name, size in _exactly(list)(parts)]
    except (TypeError, ValueError):
        raise ProtocolError("parts that are not [name, length] pairs") from None
    sizes = [size for _, size in named]
    if min(sizes, default=0) < 0 or sum(sizes) != len(body):
        raise ProtocolError(f"parts of {sum(sizes)} bytes in a body of {len(body)}")
    split: dict[str, list[bytes]] = {}
    for name, size in named:
        split.setdefault(name, []).append(bytes(body[:size]))
        body = body[size:]
    return split


def _build(kind: type[_Kind], data: Mapping[str, Any]) -> _Kind:
    """A dataclass from JSON values, each checked against its field's declared type."""
    values = {}
    for item in fields(kind):  # type: ignore[arg-type]
        if item.name in data:
            reader = _READERS[str(item.type).removesuffix(" | None")]
            try:
                values[item.name] = reader(data[item.name])
            except (TypeError, ValueError):
                raise ProtocolError(f"{kind.__name__}.{item.name} is not {item.type}") from None
    try:
        return kind(**values)
    except (TypeError, ValueError) as error:
        raise ProtocolError(f"{kind.__name__}: {error}") from None


def _exactly(*types: type) -> Callable[[Any], Any]:
    def read(value: Any) -> Any:
        if type(value) not in types:
            raise TypeError
        return value

    return read


def _each(read: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: tuple(read(item) for item in _exactly(list)(value))


def _values(read: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: {name: read(item) for name, item in _exactly(dict)(value).items()}


_READERS: dict[str, Callable[[Any], Any]] = {
    "str": _exactly(str),
    "int": _exactly(int),
    "float": _exactly(float, int),
    "bool": _exactly(bool),
    "bytes": _exactly(bytes),
    "dict[str, str]": _values(_exactly(str)),
    "dict[str, int]": _values(_exactly(int)),
    "dict[str, Any]": _exactly(dict),
    "tuple[str, ...]": _each(_exactly(str)),
    "tuple[bytes, ...]": _each(_exactly(bytes)),
    "tuple[LoraReference, ...]": _each(lambda value: _build(LoraReference, _exactly(dict)(value))),
    "tuple[ControlReference, ...]": _each(lambda value: _build(ControlReference, _exactly(dict)(value))),
    "Outpaint": lambda value: _build(Outpaint, _exactly(dict)(value)),
    "ModelFiles": lambda value: _build(ModelFiles, _exactly(dict)(value)),
}
