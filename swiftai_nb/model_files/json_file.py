"""JSON files that others wrote: read within limits, and replaced in one step.

Standard library only: interpreters of other engines' environments read these files, too.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from swiftai_nb.core.errors import InvalidModelFilesError

MAX_JSON_BYTES = 64 * 2**20
_HINT = "download the model again"


def parse_json(text: str | bytes) -> Any:
    """`json.loads` whose only error is ValueError, for nesting that is too deep, too.

    Infinity and NaN are read: diffusers writes them into scheduler configurations.

    Raises:
        ValueError: not JSON, or nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def read_json_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file; an empty one when there is no such file.

    Raises:
        InvalidModelFilesError: it cannot be read, is larger than `MAX_JSON_BYTES`, or holds no JSON object.
    """
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise InvalidModelFilesError(
                f"{path} is larger than {MAX_JSON_BYTES // 2**20} MiB, which no model needs", hint=_HINT
            )
        data = parse_json(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError) as error:
        raise InvalidModelFilesError(f"{path} cannot be read ({_reason(error)})", hint=_HINT) from None
    if not isinstance(data, dict):
        raise InvalidModelFilesError(f"{path} is not a JSON object", hint=_HINT)
    return data


def write_json_atomically(path: Path, data: dict[str, Any]) -> None:
    """Replaces a file; a reader sees the old content or the new, never a part of it.

    Raises:
        OSError: the folder cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{time.time_ns()}")
    try:
        with temporary.open("w", encoding="utf-8") as stream:
            json.dump(data, stream, indent=1)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return type(error).__name__ if isinstance(error, UnicodeDecodeError) else str(error)
