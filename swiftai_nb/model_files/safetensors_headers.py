"""Safetensors headers and the weight files of a component folder: found and checked, no tensor is loaded.

A header is text that anybody may have written, so it is read within limits and in linear time: a hostile
one costs an error, never minutes or gigabytes.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from swiftai_nb.core.errors import InvalidModelFilesError, UnsupportedModelError
from swiftai_nb.model_files.gguf import read_gguf_header
from swiftai_nb.model_files.json_file import parse_json, read_json_object

MAX_HEADER_BYTES = 32 * 2**20  # published models stay below 2 MiB; the format allows 100 MB
_MAX_RANK = 16
_LONGEST_NAME = 255  # bytes; `Path.is_file` raises for what no disk can hold
_MAX_COUNT = 2**52
_STEMS = ("diffusion_pytorch_model", "model")
_DTYPE_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
    "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4,
    "U64": 8, "I64": 8, "F64": 8, "C64": 8,
}  # fmt: skip
_BITSANDBYTES = {
    ".quant_state.bitsandbytes__nf4": "nf4",
    ".quant_state.bitsandbytes__fp4": "fp4",
    ".weight.absmax": "4-bit",
    ".SCB": "int8",
}
FLOAT8_SCALES = (".scale_weight", ".weight_scale")  # behind the name of a float8 weight's module
# What quantizers note for kernels that compute in float8.
_FLOAT8_NOTES = (".scale_input", ".input_scale", ".comfy_quant")
_PICKLE_STARTS = (b"PK\x03\x04", b"\x80\x02", b"\x80\x04")  # torch.save, new and old
_AGAIN = "download the model again"
# How other files begin: what they are, and what to do.
_OTHER_STARTS = {
    b"version https://git-lfs": (
        "is a Git LFS pointer, not the file itself",
        "download the file itself, as with git lfs pull",
    ),
    b"<": (
        "is a web page, not a model file",
        "download the file itself; a site may answer with a page until you log in",
    ),
    b"GGUF": ("is a GGUF file under another name", "rename it to end in .gguf"),
}


@dataclass(frozen=True)
class StoredTensor:
    """One tensor in a safetensors file.

    Attributes:
        name: its key in the file.
        shape: as stored (convolutions are [O, I, kh, kw]).
        dtype: safetensors' name (F32, F16, BF16, F8_E4M3, I8, U32...), or ggml's (Q4_0, Q6_K...).
        path: the file.
        size_bytes: of its data.
        offset: where its data begins in the file, in bytes.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    path: Path
    size_bytes: int
    offset: int = 0


@dataclass(frozen=True)
class WeightFiles:
    """The headers of a component's files.

    Attributes:
        tensors: by key name.
        metadata: the files' own string metadata, merged.
    """

    tensors: Mapping[str, StoredTensor]
    metadata: Mapping[str, str]

    @property
    def size_bytes(self) -> int:
        """Bytes of all tensors on disk."""
        return sum(t.size_bytes for t in self.tensors.values())


def read_weight_files(folder: Path, *, prefer_half: bool = False) -> WeightFiles:
    """Finds and checks the weight files of one component.

    Args:
        folder: e.g. `<model>/unet`.
        prefer_half: take `X.fp16.safetensors` where `X.safetensors` exists too.

    Raises:
        InvalidModelFilesError: no file, a missing shard, or a file that is not valid safetensors.
    """
    tensors: dict[str, StoredTensor] = {}
    metadata: dict[str, str] = {}
    for path in find_weight_files(folder, prefer_half=prefer_half):
        found, meta = read_header(path)
        doubled = sorted(tensors.keys() & found.keys())
        if doubled:
            raise InvalidModelFilesError(f"{path}: {_names(doubled)} are also in another file of this folder")
        tensors.update(found)
        metadata.update(meta)
    return WeightFiles(tensors, metadata)


def find_weight_files(folder: Path, *, prefer_half: bool = False) -> tuple[Path, ...]:
    """The safetensors files of a component: plain, `.fp16.`, sharded with an index, or numbered (mflux).

    Raises:
        InvalidModelFilesError: nothing there, or shards missing (names them).
    """
    if not folder.is_dir():
        raise InvalidModelFilesError(
            f"{folder} is missing", hint="check the folder, or download the model again"
        )
    variants = (".fp16", "") if prefer_half else ("", ".fp16")
    for variant in variants:
        for stem in _STEMS:
            files = _files_of(folder, stem, variant)
            if files:
                return files
    numbered = _numbered_files(folder)
    if numbered:
        return numbered
    rest = sorted(folder.glob("*.safetensors"))
    if len(rest) == 1:
        return tuple(rest)
    pickles = sorted(p.name for p in (*folder.glob("*.bin"), *folder.glob("*.ckpt")))
    found = f"only {pickles[0]}, a pickle, which is never loaded" if pickles else "no safetensors file"
    raise InvalidModelFilesError(f"{folder} holds {found}", hint="use the safetensors files of this model")


def _files_of(folder: Path, stem: str, variant: str) -> tuple[Path, ...]:
    for index_name in (f"{stem}.safetensors.index{variant}.json", f"{stem}{variant}.safetensors.index.json"):
        if (folder / index_name).is_file():
            return _files_in_index(folder / index_name)
    single = folder / f"{stem}{variant}.safetensors"
    if single.is_file():
        return (single,)
    return _shards_without_index(folder, stem, variant)


def _files_in_index(index: Path) -> tuple[Path, ...]:
    weight_map = read_json_object(index).get("weight_map")
    if not isinstance(weight_map, dict):
        raise InvalidModelFilesError(f"{index} is not a weight index (no weight_map)", hint=_AGAIN)
    names = sorted({str(name) for name in weight_map.values()})
    if any(Path(name).name != name or len(name.encode("utf-8", "replace")) > _LONGEST_NAME for name in names):
        raise InvalidModelFilesError(f"{index} names files outside its folder or too long", hint=_AGAIN)
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing or not names:
        raise InvalidModelFilesError(
            f"{index.parent}: {index.name} names files that are missing: {_names(missing)}",
            hint=_AGAIN,
        )
    return tuple(index.parent / name for name in names)


def _numbered_files(folder: Path) -> tuple[Path, ...]:
    """`0.safetensors`, `1.safetensors`...: as mflux writes them, older versions without an index."""
    found = {int(p.stem): p for p in folder.glob("*.safetensors") if p.stem.isascii() and p.stem.isdecimal()}
    if not found:
        return ()
    gap = next((number for number in range(len(found)) if number not in found), None)
    if gap is not None:
        raise InvalidModelFilesError(f"{folder} lacks {gap}.safetensors", hint=_AGAIN)
    return tuple(found[number] for number in sorted(found))


def _shards_without_index(folder: Path, stem: str, variant: str) -> tuple[Path, ...]:
    number = r"-(\d{5})-of-(\d{5})"
    pattern = re.compile(
        f"{re.escape(stem)}(?:{number}{re.escape(variant)}|{re.escape(variant)}{number}).safetensors$"
    )
    found: dict[int, Path] = {}
    count = 0
    for path in sorted(folder.glob("*.safetensors")):
        match = pattern.match(path.name)
        if match:
            position, total = (int(g) for g in match.groups() if g is not None)
            found[position], count = path, total
    missing = [str(i) for i in range(1, count + 1) if i not in found]
    if missing:
        raise InvalidModelFilesError(
            f"{folder}: of {count} files {stem}{variant} number {_names(missing)} missing",
            hint=_AGAIN,
        )
    return tuple(found[i] for i in sorted(found))


def read_header(path: Path) -> tuple[Mapping[str, StoredTensor], Mapping[str, str]]:
    """Tensors and metadata of one safetensors or GGUF file, checked against the file's length.

    Raises:
        InvalidModelFilesError: missing, not safetensors, truncated (names the tensors cut off), or with
            tensors that overlap, leave holes, or have another size than their shape.
        UnsupportedModelError: its weights are quantized by bitsandbytes, or in the MX formats.
    """
    try:
        stat = path.stat()
        if path.suffix.lower() == ".gguf":
            return _read_gguf(path, stat.st_size, stat.st_mtime_ns)
        tensors, metadata, refused = _read_header(path, stat.st_size, stat.st_mtime_ns)
    except OSError as error:
        raise InvalidModelFilesError(
            f"{path} cannot be read ({error.strerror or error})", hint="check the path and its permissions"
        ) from None
    if refused is not None:
        raise UnsupportedModelError(
            f"{path.name} stores {refused} weights, which are not supported",
            hint="use its 16-bit, float8 or GGUF file; for a model, quantization_bits=4 or 8 saves memory",
        )
    return tensors, metadata


@lru_cache(maxsize=32)
def _read_gguf(
    path: Path, _size_bytes: int, _mtime_ns: int
) -> tuple[Mapping[str, StoredTensor], Mapping[str, str]]:
    found, texts = read_gguf_header(path)
    tensors = {
        name: StoredTensor(name, tensor.shape, tensor.dtype, path, tensor.size_bytes, tensor.offset)
        for name, tensor in found.items()
    }
    return MappingProxyType(tensors), MappingProxyType(texts)


@lru_cache(maxsize=32)
def _read_header(
    path: Path, size_bytes: int, _mtime_ns: int
) -> tuple[Mapping[str, StoredTensor], Mapping[str, str], str | None]:
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= min(MAX_HEADER_BYTES, size_bytes - 8):
            raise _not_safetensors(path, start + file.read(32))
        text = file.read(length)
    try:
        header = parse_json(text)
    except ValueError:
        raise _corrupt(path, "its header is not readable") from None
    metadata = header.pop("__metadata__", None) if isinstance(header, dict) else None
    texts = {} if metadata is None else metadata
    if not isinstance(header, dict) or not isinstance(texts, dict):
        raise _corrupt(path, "its header is not readable")
    texts = {key: value for key, value in texts.items() if isinstance(value, str)}
    spans = {name: _span(path, name, entry) for name, entry in header.items()}
    _check_spans(path, {name: span[2:] for name, span in spans.items()}, size_bytes, 8 + length)
    tensors = {
        name: StoredTensor(name, shape, dtype, path, end - begin, 8 + length + begin)
        for name, (shape, dtype, begin, end) in spans.items()
    }
    return MappingProxyType(tensors), MappingProxyType(texts), _unsupported_quantization(tensors)


def _not_safetensors(path: Path, start: bytes) -> InvalidModelFilesError:
    """The error for a file that does not begin as the format does."""
    if start.startswith(_PICKLE_STARTS):
        return InvalidModelFilesError(
            f"{path} is a pickle file, which can run code and is never loaded", hint="use a safetensors file"
        )
    for mark, (what, hint) in _OTHER_STARTS.items():
        if start.lstrip().startswith(mark):
            return InvalidModelFilesError(f"{path} {what}", hint=hint)
    if path.suffix.lower() not in (".safetensors", ""):  # files of the Hub's cache may have no suffix
        return InvalidModelFilesError(
            f"{path} is not a safetensors file", hint="use a safetensors or GGUF file"
        )
    return _corrupt(path, "its header is missing or cut off")


def is_float8_extra(key: str) -> bool:
    """Whether a tensor is a quantizer's own: a float8 weight's factor, or a note for the kernels."""
    return key.endswith((*FLOAT8_SCALES, *_FLOAT8_NOTES)) or key.rpartition(".")[2] == "scaled_fp8"


def _unsupported_quantization(tensors: Mapping[str, StoredTensor]) -> str | None:
    """The name of a quantization that this package cannot read."""
    for name, tensor in tensors.items():
        if tensor.dtype == "F8_E8M0":
            return "MX-quantized (F8_E8M0)"
        for suffix, kind in _BITSANDBYTES.items():
            if name.endswith(suffix):
                return f"bitsandbytes {kind}"
    return None


def _span(path: Path, name: str, entry: object) -> tuple[tuple[int, ...], str, int, int]:
    """(shape, dtype, first byte, byte after the last) of one entry, each checked."""
    fields: dict[str, Any] = entry if isinstance(entry, dict) else {}
    shape, offsets, dtype = (
        _counts(fields.get("shape")),
        _counts(fields.get("data_offsets")),
        fields.get("dtype"),
    )
    if shape is None or offsets is None or len(offsets) != 2 or not isinstance(dtype, str):
        raise _corrupt(path, f"its header is not readable at {_short(name)}")
    begin, end = offsets
    expected = math.prod(shape) * _DTYPE_BYTES.get(dtype, 0)
    if dtype in _DTYPE_BYTES and end - begin != expected:
        raise _corrupt(
            path, f"tensor {_short(name)} of shape {list(shape)} has {end - begin} bytes, not {expected}"
        )
    return shape, dtype, begin, end


def _counts(value: object) -> tuple[int, ...] | None:
    """A list of whole numbers that can be sizes or positions in a file; None for anything else."""
    if not isinstance(value, list) or len(value) > _MAX_RANK:
        return None
    return tuple(value) if all(type(n) is int and 0 <= n <= _MAX_COUNT for n in value) else None


def _check_spans(path: Path, spans: Mapping[str, tuple[int, int]], size_bytes: int, data_start: int) -> None:
    """Tensors follow each other without holes and end with the file, as the format demands."""
    data_bytes = size_bytes - data_start
    cut = sorted(_short(name) for name, (_, end) in spans.items() if end > data_bytes)
    if cut:
        raise _corrupt(path, f"it is truncated: {_names(cut)} cut off ({size_bytes:,} bytes on disk)")
    at = 0
    for name, (begin, end) in sorted(spans.items(), key=lambda item: item[1]):
        if begin != at:
            problem = "overlaps another tensor" if begin < at else "leaves a hole before it"
            raise _corrupt(path, f"tensor {_short(name)} {problem}")
        at = end
    if at != data_bytes:
        raise _corrupt(path, f"{data_bytes - at:,} bytes at its end belong to no tensor")


def _corrupt(path: Path, why: str) -> InvalidModelFilesError:
    return InvalidModelFilesError(f"{path} is corrupt: {why}", hint=_AGAIN)


def _short(name: str, limit: int = 120) -> str:
    return name if len(name) <= limit else f"{name[:limit]}…"


def _names(names: list[str], limit: int = 4) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
