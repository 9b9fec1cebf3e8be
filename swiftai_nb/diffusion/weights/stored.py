"""The tensors of one file, unevaluated, whatever form their numbers are stored in.

MLX reads safetensors lazily, but neither float8 nor float64, and few forms of GGUF. For such files it is
given a view of the file whose header declares bytes, and the bytes are converted by operations on the
unevaluated arrays: nothing is read, and no converted copy made, until a tensor is used.
"""

from __future__ import annotations

import io
import json
import math
import mmap
import struct
import threading
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from swiftai_nb.core.errors import InvalidModelFilesError
from swiftai_nb.diffusion.weights.gguf_blocks import repack_blocks, widen_blocks
from swiftai_nb.model_files.gguf import QUANTIZED, packed_bits
from swiftai_nb.model_files.safetensors_headers import (
    FLOAT8_SCALES,
    StoredTensor,
    is_float8_extra,
    read_header,
)


def load_tensors(path: Path, *, is_packed: bool = True) -> dict[str, mx.array]:
    """The tensors of a safetensors or GGUF file by name, in its order.

    Plain float8 becomes float16, which holds each of its numbers; scaled float8 (`NAME.scale_weight`
    beside `NAME.weight`) becomes float32, as does float64. Blocks of GGUF become MLX's quantized form
    (`NAME.weight`, `NAME.scales`, `NAME.biases`) where that holds the same numbers, else float16.

    Args:
        path: the file.
        is_packed: False widens all, so that every tensor has the shape of its numbers.

    Raises:
        InvalidModelFilesError: it cannot be read.
        UnsupportedModelError: a quantization that cannot be read.
    """
    headers, _ = read_header(path)
    is_gguf = path.suffix.lower() == ".gguf"
    is_converted = any(tensor.dtype.startswith(("F8", "F64")) for tensor in headers.values())
    try:
        if is_gguf:
            return _read_blocks(_load_bytes(path, headers.values()), headers, is_packed=is_packed)
        if not is_converted:
            loaded = cast(dict[str, mx.array], mx.load(str(path), format="safetensors"))
            return {name: loaded[name] for name in headers}
        return _convert_floats(_load_bytes(path, headers.values()), headers)
    except (OSError, RuntimeError, ValueError) as error:
        raise InvalidModelFilesError(
            f"{path} cannot be read ({error})", hint="download the model again"
        ) from error


def check_numbers(tensors: Mapping[str, mx.array], path: Path) -> None:
    """Refuses an adapter with empty matrices, or values that are whole numbers or not finite.

    Args:
        tensors: of a LoRA or a textual inversion; single numbers are not checked.
        path: the file, for the message.

    Raises:
        InvalidModelFilesError: names the first one.
    """
    given = {name: value for name, value in tensors.items() if value.ndim}
    wrong = {
        name: f"has numbers of type {str(value.dtype).removeprefix('mlx.core.')}"
        if value.size
        else "is empty"
        for name, value in given.items()
        if not mx.issubdtype(value.dtype, mx.floating) or (value.ndim > 1 and not value.size)
    }
    if not wrong:
        finite = {name: mx.all(mx.isfinite(value)) for name, value in given.items()}
        mx.eval(list(finite.values()))
        wrong = {name: "holds values that are not numbers" for name, one in finite.items() if not one.item()}
    for name, what in wrong.items():
        raise InvalidModelFilesError(
            f"{path.name} is damaged: {name:.80} {what}", hint="download the file again, or use another one"
        )


def _read_blocks(
    tensors: Mapping[str, mx.array], headers: Mapping[str, StoredTensor], *, is_packed: bool
) -> dict[str, mx.array]:
    result: dict[str, mx.array] = {}
    for name, value in tensors.items():
        tensor = headers[name]
        if tensor.dtype not in QUANTIZED:
            result[name] = value
        elif is_packed and packed_bits(name, tensor.shape, tensor.dtype) is not None:
            rows, columns = tensor.shape
            module = name.removesuffix(".weight")
            parts = repack_blocks(value, tensor.dtype, (rows, columns))
            result |= dict(zip((name, f"{module}.scales", f"{module}.biases"), parts, strict=True))
        else:
            result[name] = widen_blocks(value, tensor.dtype).reshape(tensor.shape).astype(mx.float16)
    return result


def _convert_floats(tensors: dict[str, mx.array], headers: Mapping[str, StoredTensor]) -> dict[str, mx.array]:
    result = {}
    for name, value in tensors.items():
        dtype = headers[name].dtype
        module, _, role = name.rpartition(".")
        if dtype == "F64":
            result[name] = _narrow_float64(value).reshape(headers[name].shape)
        elif dtype in _FLOAT8_TABLES and role == "weight":
            scale = next((tensors[module + end] for end in FLOAT8_SCALES if module + end in tensors), None)
            widened = widen_float8(value, dtype)
            result[name] = widened if scale is None else _scaled(widened, scale)
        elif dtype in _FLOAT8_TABLES and role != "scaled_fp8":
            result[name] = widen_float8(value, dtype)
        elif not is_float8_extra(name):
            result[name] = value
    return result


def _narrow_float64(data: mx.array) -> mx.array:
    """Bytes of float64 as float32. MLX has float64 on the CPU only."""
    return mx.view(data, mx.float64, stream=mx.cpu).astype(mx.float32, stream=mx.cpu)


def _scaled(value: mx.array, scale: mx.array) -> mx.array:
    """A weight times its factor: one for all, or one for each output."""
    factors = scale.astype(mx.float32)
    if factors.size != 1:
        factors = factors.reshape((-1,) + (1,) * (value.ndim - 1))
    return value.astype(mx.float32) * factors.reshape(() if factors.size == 1 else factors.shape)


def widen_float8(codes: mx.array, dtype: str) -> mx.array:
    """Bytes of float8 as the float16 numbers they stand for, exactly.

    Args:
        codes: uint8, any shape.
        dtype: "F8_E4M3" or "F8_E5M2".
    """
    return mx.take(mx.array(_float8_table(dtype)), codes.astype(mx.uint32))


@lru_cache(maxsize=2)
def _float8_table(dtype: str) -> NDArray[np.float16]:
    """The numbers of all 256 codes."""
    return np.array([_FLOAT8_TABLES[dtype](code) for code in range(256)], dtype=np.float16)


def _e4m3(code: int) -> float:
    """E4M3FN: no infinities; all bits set is not a number."""
    exponent, fraction = code >> 3 & 15, code & 7
    if code & 127 == 127:
        return math.nan
    value = fraction / 8 * 2.0**-6 if exponent == 0 else (1 + fraction / 8) * 2.0 ** (exponent - 7)
    return -value if code & 128 else value


def _e5m2(code: int) -> float:
    """E5M2: the first byte of a float16."""
    return float(struct.unpack("<e", bytes((0, code)))[0])


_FLOAT8_TABLES = {"F8_E4M3": _e4m3, "F8_E5M2": _e5m2}


def _load_bytes(path: Path, headers: Iterable[StoredTensor]) -> dict[str, mx.array]:
    """The tensors of a file, unevaluated; what MLX has no dtype for as bytes of the same shape."""
    view = _FileView(path, tuple(headers))
    loaded = cast(dict[str, mx.array], mx.load(cast(Any, view), format="safetensors"))
    return {tensor.name: loaded[tensor.name] for tensor in view.tensors}


class _FileView(io.RawIOBase):
    """A file as MLX's reader shall see it: another header, then the file's own data, memory-mapped.

    MLX reads from several threads, each of which seeks first: each has its own position.

    Args:
        path: the file.
        tensors: of it, with their offsets.
    """

    def __init__(self, path: Path, tensors: tuple[StoredTensor, ...]) -> None:
        super().__init__()
        self.tensors = tensors
        self._start = min((tensor.offset for tensor in tensors), default=0)
        text = json.dumps({tensor.name: self._entry(tensor) for tensor in tensors}).encode()
        self._header = struct.pack("<Q", len(text)) + text
        with path.open("rb") as file:
            self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._at = threading.local()

    def _entry(self, tensor: StoredTensor) -> dict[str, Any]:
        begin = tensor.offset - self._start
        shape, blocks = list(tensor.shape), QUANTIZED.get(tensor.dtype)
        if blocks is not None:
            shape = [tensor.size_bytes // blocks.size_bytes, blocks.size_bytes]
        if tensor.dtype == "F64":
            shape = [*shape, 8]
        is_bytes = blocks is not None or tensor.dtype.startswith(("F8", "F64"))
        return {
            "dtype": "U8" if is_bytes else tensor.dtype,
            "shape": shape,
            "data_offsets": [begin, begin + tensor.size_bytes],
        }

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return getattr(self._at, "position", 0)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        size = len(self._header) + len(self._data) - self._start
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self.tell(), io.SEEK_END: size}[whence]
        self._at.position = origin + offset
        return self.tell()

    def readinto(self, buffer: Any) -> int:
        target = memoryview(buffer).cast("B")
        at, done = self.tell(), 0
        if at < len(self._header):
            piece = self._header[at : at + len(target)]
            target[: len(piece)] = piece
            done = len(piece)
        if done < len(target):
            begin = self._start + at + done - len(self._header)
            data = memoryview(self._data)[begin : begin + len(target) - done]
            target[done : done + len(data)] = data
            done += len(data)
        self._at.position = at + done
        return done

    def read(self, size: int = -1) -> bytes:
        buffer = bytearray(size)
        return bytes(buffer[: self.readinto(buffer)])
