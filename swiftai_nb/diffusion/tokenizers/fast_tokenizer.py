"""Tokenizers of the `tokenizers` library: its errors and panics as ours, and files checked before.

The library is written in Rust. What it does not expect in a file is an exception, a panic (a BaseException),
or an allocation by a number of the file, which ends the process when there is not so much memory.
"""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swiftai_nb.core.errors import InvalidModelFilesError
from swiftai_nb.core.format import shorten
from swiftai_nb.model_files.json_file import read_json_object

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

_AGAIN = "download the model again"


@contextlib.contextmanager
def tokenizer_errors(path: Path) -> Iterator[None]:
    """Turns what the tokenizers library raises for a file's content into one InvalidModelFilesError."""
    with _one_error(f"cannot read the tokenizer {path}"):
        yield


def read_tokenizer_json(file: Path) -> Tokenizer:
    """The tokenizer in a `tokenizer.json`.

    Raises:
        InvalidModelFilesError: it is broken, or too large.
    """
    from tokenizers import Tokenizer

    content = read_json_object(file)
    with tokenizer_errors(file):
        for table in _charsmaps(content.get("normalizer")):
            check_charsmap(base64.b64decode(table))
        return Tokenizer.from_str(file.read_text(encoding="utf-8"))


def check_charsmap(charsmap: bytes) -> None:
    """Refuses a compiled table of normalizations whose parts are not inside of it.

    It is the size of a trie in bytes (4 bytes, little-endian), the trie, and the texts that it points to.

    Raises:
        ValueError: the trie is longer than the table.
    """
    size_bytes = int.from_bytes(charsmap[:4], "little")
    if len(charsmap) < 4 or size_bytes % 4 or 4 + size_bytes > len(charsmap):
        raise ValueError(f"a table of {len(charsmap)} bytes whose trie has {size_bytes}")


def encode(tokenizer: Tokenizer, text: str, *, add_special_tokens: bool = True) -> Encoding:
    """Tokens of a text; half a surrogate pair counts as "?".

    Args:
        tokenizer: which.
        text: any.
        add_special_tokens: with those at the start and the end.

    Raises:
        InvalidModelFilesError: the tokenizer fails at it, as a damaged one does.
    """
    with _one_error("the model's tokenizer fails at this prompt"):
        return tokenizer.encode(without_surrogates(text), add_special_tokens=add_special_tokens)


def without_surrogates(text: str) -> str:
    """A text with "?" for half a surrogate pair, as a broken paste leaves it: no tokenizer takes one."""
    return text.encode("utf-8", "replace").decode("utf-8")


@contextlib.contextmanager
def _one_error(what: str) -> Iterator[None]:
    try:
        yield
    except (InvalidModelFilesError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        reason = shorten(str(error) or type(error).__name__, 200)
        raise InvalidModelFilesError(f"{what}: {reason}", hint=_AGAIN) from error


def _charsmaps(normalizer: Any) -> Iterator[str]:
    """Texts of all compiled tables in a normalizer, which may be a sequence of others."""
    if isinstance(normalizer, dict):
        for name, value in normalizer.items():
            if name == "precompiled_charsmap" and isinstance(value, str):
                yield value
            else:
                yield from _charsmaps(value)
    elif isinstance(normalizer, list):
        for one in normalizer:
            yield from _charsmaps(one)
