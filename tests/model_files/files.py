"""Writes files as models have them, small or sparse: nothing here takes room on disk."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

DTYPE_BYTES = {"F16": 2, "BF16": 2, "F32": 4, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "U32": 4}


def write_header(path: Path, header: dict[str, Any] | str, *, data_bytes: int = 0) -> Path:
    """A safetensors file with any header, right or wrong, and `data_bytes` zeros."""
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + data_bytes)
    return path


def write_weights(path: Path, dtype: str = "F32", **shapes: tuple[int, ...]) -> Path:
    """A safetensors file of zeros with these tensors."""
    header, at = {}, 0
    for name, shape in shapes.items():
        size = DTYPE_BYTES[dtype]
        for side in shape:
            size *= side
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    return write_header(path, header, data_bytes=at)


def write_json(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


GGUF_TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q5_0": 6, "Q5_1": 7, "Q8_0": 8, "Q2_K": 10,
              "Q3_K": 11, "Q4_K": 12, "Q5_K": 13, "Q6_K": 14, "BF16": 30, "IQ4_XS": 23}  # fmt: skip
_GGUF_VALUES = {int: (4, "<I"), float: (6, "<f"), bool: (7, "<?")}


def _gguf_text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _gguf_value(value: Any) -> bytes:
    if isinstance(value, str):
        return struct.pack("<I", 8) + _gguf_text(value)
    if isinstance(value, list):
        is_text = isinstance(value[0], str)
        items = b"".join(_gguf_text(v) if is_text else struct.pack("<i", v) for v in value)
        return struct.pack("<IIQ", 9, 8 if is_text else 5, len(value)) + items
    kind, form = _GGUF_VALUES[type(value)]
    return struct.pack("<I", kind) + struct.pack(form, value)


def write_gguf(
    path: Path,
    tensors: dict[str, tuple[str, tuple[int, ...], bytes]],
    values: dict[str, Any] | None = None,
    *,
    version: int = 3,
) -> Path:
    """A GGUF file of (type, shape, data) by name, shapes outermost first."""
    values = {"general.architecture": "flux"} if values is None else values
    header = bytearray(b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(values)))
    for key, value in values.items():
        header += _gguf_text(key) + _gguf_value(value)
    data = bytearray()
    for name, (kind, shape, content) in tensors.items():
        header += _gguf_text(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape[::-1])
        header += struct.pack("<IQ", GGUF_TYPES[kind], len(data))
        data += content + bytes(-len(content) % 32)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(header) + bytes(-len(header) % 32) + bytes(data))
    return path
