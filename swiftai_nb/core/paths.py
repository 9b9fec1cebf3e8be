"""Files at the paths that users and recipes give: names are checked, files written whole or not at all."""

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path

from swiftai_nb.core.errors import InvalidInputError
from swiftai_nb.core.format import shorten

_LONGEST_NAME_BYTES = 255  # of every usual file system
_LONGEST_PATH_BYTES = 4095


def user_path(path: str | os.PathLike[str]) -> Path:
    """A path with "~" expanded.

    Without these checks each later use of it, `Path.exists` included, may raise an error of its own.

    Raises:
        InvalidInputError: no file can have that name: too long, with a NUL, or in the home of a user that the
            system does not know.
    """
    text = os.fspath(path)
    try:
        expanded = Path(text).expanduser()
        encoded = [os.fsencode(part) for part in expanded.parts]
    except (RuntimeError, UnicodeError, ValueError) as error:
        raise _not_a_path(text, str(error)) from None
    if "\0" in text:
        raise _not_a_path(text, "it holds a NUL character")
    if sys.platform == "win32" and is_device_name(expanded.name):
        raise _not_a_path(text, "Windows takes that name for a device")
    size_bytes = sum(len(part) + 1 for part in encoded)
    if size_bytes > _LONGEST_PATH_BYTES or any(len(part) > _LONGEST_NAME_BYTES for part in encoded):
        raise _not_a_path(text, "it is too long")
    return expanded


# Names that Windows gives to devices, with any extension: a picture saved as nul.png is gone.
_DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))}


def is_device_name(name: str) -> bool:
    """Whether Windows takes a file's name for a device. Such names are avoided on every system."""
    return name.split(".", maxsplit=1)[0].rstrip(" ").casefold() in _DEVICES


def _not_a_path(text: str, reason: str) -> InvalidInputError:
    reason = shorten(reason, 80).rstrip(".")
    return InvalidInputError(f"{shorten(text, 60)!r} cannot be a path: {reason}", hint="check the path")


def write_atomically(target: Path, data: bytes, *, is_synced: bool = False) -> None:
    """Writes a file whole or not at all; the umask decides who may read it.

    Args:
        target: the file; replaced when there is one.
        data: its content.
        is_synced: flush it to the disk before it gets its name.

    Raises:
        OSError: the folder cannot be written, or the disk is full.
    """
    # Not by `tempfile`, whose files are always 0600: reading the umask, to widen that, changes it for a
    # moment for all threads. The name is short: the target's may be as long as the disk allows.
    temporary = target.with_name(f".{secrets.token_hex(8)}.part")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            if is_synced:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
