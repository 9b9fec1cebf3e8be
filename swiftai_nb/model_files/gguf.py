"""The header of GGUF files: which tensors they hold, in which form. No tensor is read.

A reader of our own: the `gguf` wheel requires PyYAML, requests and tqdm, converts with NumPy what MLX can
keep quantized, and trusts the counts in a header. What is needed here is small, and bounded: a hostile
header costs an error, never minutes or gigabytes.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from swiftai_nb.core.errors import InvalidModelFilesError, UnsupportedModelError

MAX_HEADER_BYTES = 64 * 2**20
_MAX_RANK = 8
_MAX_TENSORS = 100_000
_MAX_TEXT_BYTES = 2**16
_ALIGNMENT = 32
_AGAIN = "download the model again"
# GGUF's number of a value's type -> struct's code.
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_TEXT, _ARRAY = 8, 9
_SHAPE_KEY = "comfy.gguf.orig_shape."
_TABLES = ("embed", "embd", "shared", "attn_rel_b")  # pieces of the names of tables that are looked up


@dataclass(frozen=True)
class BlockType:
    """How numbers are stored: so many in a block of so many bytes.

    Attributes:
        name: ggml's, for plain numbers safetensors'.
        count: numbers in a block.
        size_bytes: of a block.
        packed_bits: of MLX's form with groups of 32 that holds the same numbers; None where it has none.
    """

    name: str
    count: int
    size_bytes: int
    packed_bits: int | None = None


BLOCK_TYPES: Mapping[int, BlockType] = {
    0: BlockType("F32", 1, 4),
    1: BlockType("F16", 1, 2),
    2: BlockType("Q4_0", 32, 18, 4),
    3: BlockType("Q4_1", 32, 20, 4),
    6: BlockType("Q5_0", 32, 22, 8),
    7: BlockType("Q5_1", 32, 24, 8),
    8: BlockType("Q8_0", 32, 34, 8),
    10: BlockType("Q2_K", 256, 84),
    11: BlockType("Q3_K", 256, 110),
    12: BlockType("Q4_K", 256, 144, 4),
    13: BlockType("Q5_K", 256, 176, 8),
    14: BlockType("Q6_K", 256, 210),
    30: BlockType("BF16", 1, 2),
}
QUANTIZED: Mapping[str, BlockType] = {t.name: t for t in BLOCK_TYPES.values() if t.count > 1}
_OTHER_TYPES = {
    16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S",
    23: "IQ4_XS", 29: "IQ1_M", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4",
}  # fmt: skip


@dataclass(frozen=True)
class GGUFTensor:
    """One tensor.

    Attributes:
        shape: outermost first, as PyTorch has it.
        dtype: name of its `BlockType`.
        offset: where its data begins in the file.
        size_bytes: of its data.
    """

    shape: tuple[int, ...]
    dtype: str
    offset: int
    size_bytes: int


def packed_bits(name: str, shape: tuple[int, ...], dtype: str) -> int | None:
    """Bits of MLX's form a tensor is repacked to; None for what is widened: tables, kernels, other forms.

    Args:
        name: in the file.
        shape: of the tensor.
        dtype: name of a `BlockType`, or of plain numbers.
    """
    form = QUANTIZED.get(dtype)
    is_map = name.endswith(".weight") and len(shape) == 2 and not any(piece in name for piece in _TABLES)
    return form.packed_bits if form is not None and is_map and shape[1] % 32 == 0 else None


def read_gguf_header(path: Path) -> tuple[dict[str, GGUFTensor], dict[str, str]]:
    """Tensors and text metadata of a GGUF file, checked against its length.

    Raises:
        InvalidModelFilesError: not GGUF, truncated, or with counts and sizes that make no sense.
        UnsupportedModelError: a version or a form of numbers that cannot be read.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        if path.stat().st_size < 24:
            raise _corrupt(path, "it is too short")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                return _Header(path, data).read()
            except (struct.error, IndexError, OverflowError):
                raise _corrupt(path, "its header is cut off") from None


class _Header:
    """Reads one header from start to end; a position beyond the data is a `struct.error`."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self._path, self._data, self._at = path, data, 0

    def read(self) -> tuple[dict[str, GGUFTensor], dict[str, str]]:
        if self._data[:4] != b"GGUF":
            raise _corrupt(self._path, "it does not begin with GGUF")
        self._at = 4
        version = self._number("I")
        if version not in (2, 3):
            raise UnsupportedModelError(
                f"{self._path.name} is GGUF version {version}, which is not supported",
                hint="use another file",
            )
        tensor_count, value_count = self._number("Q"), self._number("Q")
        if tensor_count > _MAX_TENSORS or value_count > _MAX_TENSORS:
            raise _corrupt(self._path, "its header counts more than any model has")
        texts, shapes, alignment = self._values(value_count)
        entries = [self._entry() for _ in range(tensor_count)]
        start = -(-self._at // alignment) * alignment
        tensors: dict[str, GGUFTensor] = {}
        for name, shape, number, offset in entries:
            if name in tensors:
                raise _corrupt(self._path, f"tensor {name[:120]} is there twice")
            tensors[name] = self._tensor(name, shapes.get(name, shape), shape, number, start + offset)
        return tensors, texts

    def _tensor(
        self, name: str, shape: tuple[int, ...], stored: tuple[int, ...], number: int, offset: int
    ) -> GGUFTensor:
        form = BLOCK_TYPES.get(number)
        if form is None:
            kind = _OTHER_TYPES.get(number, f"of the type {number}")
            raise UnsupportedModelError(
                f"{self._path.name} stores {kind} weights, which are not supported",
                hint="use a file in Q4_0 to Q8_0 or in K-quants (Q2_K to Q6_K)",
            )
        count = math.prod(stored)
        size_bytes = count // form.count * form.size_bytes
        row = stored[-1] if stored else 1
        if row % form.count or math.prod(shape) != count or not count:
            raise _corrupt(self._path, f"tensor {name[:120]} has a shape that does not fit {form.name}")
        if offset + size_bytes > len(self._data):
            raise _corrupt(self._path, f"it is truncated: {name[:120]} is cut off")
        return GGUFTensor(shape, form.name, offset, size_bytes)

    def _entry(self) -> tuple[str, tuple[int, ...], int, int]:
        name, rank = self._text(), self._number("I")
        if rank > _MAX_RANK:
            raise _corrupt(self._path, f"tensor {name[:120]} has {rank} dimensions")
        shape = tuple(self._number("Q") for _ in range(rank))[::-1]
        return name, shape, self._number("I"), self._number("Q")

    def _values(self, count: int) -> tuple[dict[str, str], dict[str, tuple[int, ...]], int]:
        """Texts, shapes that tensors had before they were laid flat, and the alignment of the data."""
        texts, shapes, alignment = {}, {}, _ALIGNMENT
        for _ in range(count):
            key, kind = self._text(), self._number("I")
            value = self._value(kind)
            if isinstance(value, str):
                texts[key] = value
            elif key.startswith(_SHAPE_KEY) and isinstance(value, tuple):
                shapes[key.removeprefix(_SHAPE_KEY)] = value
            elif key == "general.alignment" and isinstance(value, int):
                alignment = value
        if not 0 < alignment <= 2**20:
            raise _corrupt(self._path, "its header gives an impossible alignment")
        return texts, shapes, alignment

    def _value(self, kind: int) -> object:
        """A text, a number, or a short array of numbers; None for others, which are skipped."""
        if kind in _SCALARS:
            return self._number(_SCALARS[kind])
        if kind == _TEXT:
            return self._text(limit=MAX_HEADER_BYTES)
        if kind != _ARRAY:
            raise _corrupt(self._path, f"its header has a value of the unknown type {kind}")
        item, count = self._number("I"), self._number("Q")
        if item == _TEXT:
            if count > MAX_HEADER_BYTES // 8:
                raise _corrupt(self._path, "its header is too long")
            for _ in range(count):
                self._skip(self._number("Q"))
            return None
        if item not in _SCALARS:
            raise _corrupt(self._path, f"its header has an array of the type {item}")
        if count <= _MAX_RANK:
            return tuple(int(self._number(_SCALARS[item])) for _ in range(count)) if item != 6 else None
        self._skip(count * struct.calcsize(_SCALARS[item]))
        return None

    def _number(self, code: str) -> int:
        (value,) = struct.unpack_from(f"<{code}", self._data, self._at)
        self._skip(struct.calcsize(code))
        return int(value) if code not in ("f", "d") else 0

    def _text(self, limit: int = _MAX_TEXT_BYTES) -> str:
        size_bytes = self._number("Q")
        if size_bytes > limit:
            raise _corrupt(self._path, "its header is not readable")
        begin = self._at
        self._skip(size_bytes)
        return self._data[begin : self._at].decode("utf-8", "replace")

    def _skip(self, size_bytes: int) -> None:
        self._at += size_bytes
        if self._at > min(len(self._data), MAX_HEADER_BYTES):
            raise _corrupt(self._path, "its header is cut off or too long")


def _corrupt(path: Path, why: str) -> InvalidModelFilesError:
    return InvalidModelFilesError(f"{path} is corrupt: {why}", hint=_AGAIN)
