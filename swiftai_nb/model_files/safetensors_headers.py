"""Finds the weight files of a component folder and reads their headers, without loading a tensor."""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from swiftai_nb.core.errors import InvalidModelFilesError

_STEMS = ("diffusion_pytorch_model", "model")
_DTYPE_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1,
    "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4,
    "U64": 8, "I64": 8, "F64": 8,
}  # fmt: skip
_MAX_HEADER_BYTES = 100_000_000


@dataclass(frozen=True)
class StoredTensor:
    """One tensor in a safetensors file.

    Attributes:
        name: its key in the file.
        shape: as stored (convolutions are [O, I, kh, kw]).
        dtype: safetensors' name: F32, F16, BF16, I8, U32...
        path: the file.
        size_bytes: of its data.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    path: Path
    size_bytes: int


@dataclass(frozen=True)
class WeightFiles:
    """Everything the headers of a component's files say.

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
    """The safetensors files of a component: plain, `.fp16.`, or sharded with an index.

    Raises:
        InvalidModelFilesError: nothing there, or shards missing (names them).
    """
    if not folder.is_dir():
        raise InvalidModelFilesError(
            f"{folder} is missing", hint="Download the model again, or check the folder."
        )
    variants = (".fp16", "") if prefer_half else ("", ".fp16")
    for variant in variants:
        for stem in _STEMS:
            files = _files_of(folder, stem, variant)
            if files:
                return files
    rest = sorted(folder.glob("*.safetensors"))
    if len(rest) == 1:
        return tuple(rest)
    pickles = sorted(p.name for p in (*folder.glob("*.bin"), *folder.glob("*.ckpt")))
    found = f"only {pickles[0]}, a pickle, which is never loaded" if pickles else "no safetensors file"
    raise InvalidModelFilesError(f"{folder} holds {found}", hint="Use the safetensors files of this model.")


def _files_of(folder: Path, stem: str, variant: str) -> tuple[Path, ...]:
    for index_name in (f"{stem}.safetensors.index{variant}.json", f"{stem}{variant}.safetensors.index.json"):
        if (folder / index_name).is_file():
            return _files_in_index(folder / index_name)
    single = folder / f"{stem}{variant}.safetensors"
    if single.is_file():
        return (single,)
    return _shards_without_index(folder, stem, variant)


def _files_in_index(index: Path) -> tuple[Path, ...]:
    try:
        names = sorted({str(n) for n in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()})
    except (ValueError, KeyError, AttributeError, TypeError):
        raise InvalidModelFilesError(f"{index} is not a weight index (no weight_map)") from None
    if any(Path(name).name != name for name in names):
        raise InvalidModelFilesError(f"{index} names files outside its folder")
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing or not names:
        raise InvalidModelFilesError(
            f"{index.parent}: {index.name} names files that are missing: {_names(missing)}",
            hint="Download the model again.",
        )
    return tuple(index.parent / name for name in names)


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
            hint="Download the model again.",
        )
    return tuple(found[i] for i in sorted(found))


def read_header(path: Path) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    """Tensors and metadata of one safetensors file, checked against the file's length.

    Raises:
        InvalidModelFilesError: not safetensors, truncated (names the tensors cut off), or inconsistent.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= min(_MAX_HEADER_BYTES, size - 8):
            raise _corrupt(path, "its header is missing or cut off")
        text = file.read(length)
    try:
        header = json.loads(text)
        metadata = header.pop("__metadata__", None) or {}
        tensors = {name: _stored(name, entry, path) for name, entry in header.items()}
        ends = {name: entry["data_offsets"][1] for name, entry in header.items()}
    except (ValueError, KeyError, AttributeError, TypeError, IndexError):
        raise _corrupt(path, "its header is not readable") from None
    data_bytes = size - 8 - length
    cut = sorted(name for name, end in ends.items() if end > data_bytes)
    if cut:
        raise _corrupt(path, f"it is truncated: {_names(cut)} cut off ({size:,} bytes on disk)")
    return tensors, {str(k): str(v) for k, v in metadata.items()}


def _stored(name: str, entry: Mapping[str, object], path: Path) -> StoredTensor:
    shape = tuple(int(n) for n in entry["shape"])  # type: ignore[attr-defined]
    dtype = str(entry["dtype"])
    begin, end = entry["data_offsets"]  # type: ignore[misc]
    expected = math.prod(shape) * _DTYPE_BYTES.get(dtype, 0)
    if (dtype in _DTYPE_BYTES and end - begin != expected) or begin < 0:  # type: ignore[has-type]
        raise _corrupt(path, f"tensor {name} of shape {list(shape)} has {end - begin} bytes, not {expected}")  # type: ignore[has-type]
    return StoredTensor(name, shape, dtype, path, end - begin)  # type: ignore[has-type]


def _corrupt(path: Path, why: str) -> InvalidModelFilesError:
    return InvalidModelFilesError(f"{path} is corrupt: {why}", hint="Download the model again.")


def _names(names: list[str], limit: int = 4) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
