"""A short name for the content of a model that has no published revision: recipes keep it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from swiftai_nb.model_files.attributes import ATTRIBUTES_FILE

_WHOLE_FILE_BYTES = 64 * 2**20
_SAMPLE_BYTES = 2**18
_SAMPLES = 16
_SUFFIXES = (".json", ".txt", ".model", ".safetensors", ".gguf")


def content_hash(folder: Path) -> str:
    """A hash of the model's content, folder or file: "sha256:" and 16 hex digits.

    Files to 64 MiB count whole; of larger ones their size, both ends (the tensors' names and shapes
    stand first) and 16 samples between. `attributes.json` does not count: recipes hold what it filled in.
    """
    found = [folder] if folder.is_file() else (*folder.glob("*"), *folder.glob("*/*"))
    files = sorted(p for p in found if p.is_file() and p.name != ATTRIBUTES_FILE)
    stats = ((p, p.stat()) for p in files if p.suffix in _SUFFIXES)
    return _content_hash(folder, tuple((str(p), s.st_size, s.st_mtime_ns) for p, s in stats))


@lru_cache(maxsize=16)
def _content_hash(folder: Path, files: tuple[tuple[str, int, int], ...]) -> str:
    digest = hashlib.sha256()
    for name, size_bytes, _ in files:
        place = Path(name).name if Path(name) == folder else Path(name).relative_to(folder).as_posix()
        digest.update(f"{place}:{size_bytes}\n".encode())
        with open(name, "rb") as file:  # noqa: PTH123 - the names are text for the cache's key
            for start, count in _pieces(size_bytes):
                file.seek(start)
                digest.update(file.read(count))
    return f"sha256:{digest.hexdigest()[:16]}"


def _pieces(size_bytes: int) -> Iterable[tuple[int, int]]:
    if size_bytes <= _WHOLE_FILE_BYTES:
        return [(0, size_bytes)]
    last = size_bytes - _SAMPLE_BYTES
    return [(last * index // _SAMPLES, _SAMPLE_BYTES) for index in range(_SAMPLES + 1)]
