"""Writes files as models have them, small or sparse: nothing here takes room on disk."""

from __future__ import annotations

import json
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
