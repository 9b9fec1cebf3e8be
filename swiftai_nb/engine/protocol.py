"""The messages between kernel and engine, and their encoding.

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

Kernel to engine: Generate, LoadModel, Quantize, Cancel, Unload, AskStatus, Shutdown.
Engine to kernel: Ready once, then for each command any number of Stage and Step events and exactly one
of Done, Loaded, Status and Failed; Bye is the last message of an engine that exits.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, TypeVar

from swiftai_nb.core.config import LoraReference

PROTOCOL_VERSION = 1
MAGIC = b"SWAI"
MAX_HEADER_BYTES = 16 * 2**20
MAX_BODY_BYTES = 2**30
_PREFIX = struct.Struct(">4sHHII")


class ProtocolError(Exception):
    """The bytes are not a frame of this protocol; the message is one line."""


class TruncatedFrameError(ProtocolError):
    """The stream ended inside a frame: the sender ended while writing."""


@dataclass(frozen=True)
class Message:
    """Base of all messages; `job_id` names the command it belongs to, empty where there is none."""

    job_id: str = ""


@dataclass(frozen=True)
class ModelFiles:
    """Which weights to run, and how.

    Args:
        folder: the model, in diffusers layout.
        dtype: "float32", "float16", "bfloat16"; None is the device's best.
        quantization_bits: 4, 5, 6, 8 or None.
        loras: files or folders on this disk, and how strongly.
        more_folders: of parts that several models share, or of what a model in one file lacks.
    """

    folder: str
    dtype: str | None = None
    quantization_bits: int | None = None
    loras: tuple[LoraReference, ...] = ()
    more_folders: tuple[str, ...] = ()


@dataclass(frozen=True)
class Generate(Message):
    """Make one picture; every value is concrete. Sizes are in pixels.

    Args:
        model: the weights.
        prompt, negative_prompt: what to draw and what to avoid.
        width, height: of the picture.
        steps: denoising steps.
        guidance_scale: weight of the prompt.
        seed: of the initial noise.
        scheduler: sampler, None is the model's own.
        clip_skip: text encoder layers to skip.
        strength: 0 to 1, how far the result may differ from `image`.
        image, mask: encoded initial picture, and picture that is white where to paint.
        references: encoded pictures that the prompt refers to.
        preview: whether steps carry previews.
        preview_decoder: folder of a small decoder for them; None uses the linear map.
        is_staged: drop each network as soon as this picture no longer needs it.
        guidance_rescale, eta: 0 to 1, as in `ImageGenerationConfig`; None is 0 and the sampler's own.
    """

    model: ModelFiles = field(default_factory=lambda: ModelFiles(""))
    prompt: str = ""
    negative_prompt: str | None = None
    width: int = 0
    height: int = 0
    steps: int = 0
    guidance_scale: float = 0.0
    seed: int = 0
    scheduler: str | None = None
    clip_skip: int | None = None
    strength: float | None = None
    image: bytes | None = field(default=None, repr=False)
    mask: bytes | None = field(default=None, repr=False)
    references: tuple[bytes, ...] = field(default=(), repr=False)
    preview: bool = True
    preview_decoder: str | None = None
    is_staged: bool = False
    guidance_rescale: float | None = None
    eta: float | None = None


@dataclass(frozen=True)
class LoadModel(Message):
    """Check a model's files and read its weights, before the first picture."""

    model: ModelFiles = field(default_factory=lambda: ModelFiles(""))


@dataclass(frozen=True)
class Quantize(Message):
    """Save the model in `folder` with weights of `bits` bits as the folder `target`; answered by Status."""

    folder: str = ""
    target: str = ""
    bits: int = 0


@dataclass(frozen=True)
class Cancel(Message):
    """Cancel that command, running or waiting; it is answered by Failed with GenerationCancelledError."""


@dataclass(frozen=True)
class Unload(Message):
    """Drop the model and free its memory; answered by Status."""


@dataclass(frozen=True)
class AskStatus(Message):
    """Answered by Status once the commands before it are done."""


@dataclass(frozen=True)
class Shutdown(Message):
    """End after the current command."""


@dataclass(frozen=True)
class Ready(Message):
    """The engine has started.

    Args:
        pid: of the engine's process.
        device: "metal", "cuda" or "cpu".
        versions: package -> version, of the packages that compute.
        start_s: seconds its start took.
    """

    pid: int = 0
    device: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    start_s: float = 0.0


@dataclass(frozen=True)
class Stage(Message):
    """A command enters a stage; `stage` is a value of `core.progress.GenerationStage`."""

    stage: str = ""
    detail: str = ""


@dataclass(frozen=True)
class Step(Message):
    """A denoising step is computed.

    Args:
        index, total: 0-based, and the number of all steps.
        elapsed_s: seconds since the command began.
        preview: JPEG, or None.
    """

    index: int = 0
    total: int = 0
    elapsed_s: float = 0.0
    preview: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Done(Message):
    """The picture.

    Args:
        pixels: height * width * 3 bytes, RGB rows.
        width, height: pixels.
        scheduler: the sampler used.
        dtype: of the network's computations.
        notes: shown to the user.
        load_s: seconds reading weights; 0.0 when they were loaded.
        denoising_s, total_s: seconds in the steps, and in all.
        steps: network steps that ran.
        peak_memory_bytes: largest memory of the arrays during the command.
    """

    pixels: bytes = field(default=b"", repr=False)
    width: int = 0
    height: int = 0
    scheduler: str = ""
    dtype: str = ""
    notes: tuple[str, ...] = ()
    load_s: float = 0.0
    denoising_s: float = 0.0
    total_s: float = 0.0
    steps: int = 0
    peak_memory_bytes: int = 0


@dataclass(frozen=True)
class Loaded(Message):
    """The model's weights are in memory: bytes per component."""

    components: dict[str, int] = field(default_factory=dict)
    load_s: float = 0.0


@dataclass(frozen=True)
class Status(Message):
    """The loaded model's folder, or "", its bytes per component, and the memory of the engine's arrays."""

    folder: str = ""
    components: dict[str, int] = field(default_factory=dict)
    active_memory_bytes: int = 0
    peak_memory_bytes: int = 0
    cache_memory_bytes: int = 0


@dataclass(frozen=True)
class Failed(Message):
    """The command ended without a result; `error` is `AIError.to_dict()`."""

    error: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Bye(Message):
    """The engine ends; `error` is the reason when it could not continue (`AIError.to_dict()`)."""

    error: dict[str, Any] | None = None


ANSWERS = (Done, Loaded, Status, Failed)
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
    if isinstance(value, (ModelFiles, LoraReference)):
        return {k: v for k, v in vars(value).items() if v is not None}
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
    "ModelFiles": lambda value: _build(ModelFiles, _exactly(dict)(value)),
}
