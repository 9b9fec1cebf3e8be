"""A second engine beside Hypothesis: changes inputs that Hypothesis made, and those changed before.

Hypothesis takes milliseconds to make an input, a change takes microseconds. A change knows the formats: JSON
stays JSON, a safetensors header keeps its length, a PNG chunk its checksum, so that what is changed is what
the reader goes on to use. Everything follows from one seed: a case can be made again by its number.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

Case = dict[str, Any]  # the arguments of an attacked test
Path = tuple[Any, ...]  # an argument's name, then places in tuples; "*" is any place in a list

_INTEGERS = (
    0, 1, -1, 2, 3, 7, 8, 16, 63, 64, 255, 256, 65535, 2**24, 2**31 - 1, 2**31, 2**32, 2**53, 2**63 - 1, 2**63,
    2**64, 10**30, -(2**31), -(2**63), 10**400,
)  # fmt: skip
_FLOATS = (0.0, -0.0, 0.5, 1.0, -1.0, 1e-300, 1e300, 1e38, float("inf"), float("-inf"), float("nan"))
_TEXTS = (
    "", " ", "\0", "\n", "..", "../x", "/abs", "C:\\x", "\ud83d", "\u202e", "a" * 300, "a" * 5000, "{a}", "NaN",
    "1e999", "٣", "²", "9" * 400, "9" * 5000, "-1", "true", "null", "[", "]", "{", "}", "(", ")", ":", "::", ",",
    "=", "|", "$$", "\\", "'", '"', "%s", "%", "<", ">", "\r", "\t", "é", "𝔘", "__a__", "BREAK", "F32", "F8_E4M3",
    "main", "weight", "bias", ".weight", "0", "1", "a/b", "hf_" + "x" * 30, "http://127.0.0.1:9", "file:///x",
)  # fmt: skip
_LARGEST_BYTES = 300_000  # of an input that is kept for further changes
_KEPT = 4_000


class Mutator:
    """Makes cases from a corpus; what was understood is changed more often, as that goes deeper.

    Args:
        corpus: cases as the test takes them; never changed.
    """

    def __init__(self, corpus: list[Case]) -> None:
        self._corpus = corpus
        self._understood: list[Case] = []
        self._words, self._items = _choices(corpus)
        self._pieces = _pieces(corpus)

    def case(self, random: Random) -> Case:
        """Another case: an earlier one with one to four changes."""
        goes_deeper = self._understood and random.random() < 0.7
        case = dict(random.choice(self._understood if goes_deeper else self._corpus))
        for _ in range(random.choice((1, 1, 2, 3, 4))):
            name = random.choice(tuple(case))
            case[name] = self._typed(random, case[name], (name,))
        return case

    def keep(self, random: Random, case: Case) -> None:
        """Remembers a case that was understood."""
        if _size(case) > _LARGEST_BYTES:
            return
        if len(self._understood) < _KEPT:
            self._understood.append(case)
        else:
            self._understood[random.randrange(_KEPT)] = case

    def _typed(self, random: Random, value: Any, path: Path) -> Any:
        """A change that keeps the type, as the test's own code relies on it."""
        if path in self._words:
            return random.choice(self._words[path])
        if isinstance(value, tuple) and value:
            at = random.randrange(len(value))
            return (*value[:at], self._typed(random, value[at], (*path, at)), *value[at + 1 :])
        if isinstance(value, dict) and any(isinstance(one, bytes) for one in value.values()):
            name = random.choice(tuple(value))  # files by name
            return value | {name: self._typed(random, value[name], (*path, name))}
        if isinstance(value, list) and path in self._items:
            if not value:
                return [random.choice(self._items[path])]
            return self._list(random, value, lambda one: self._typed(random, one, (*path, "*")))
        return self._changed(random, value)

    def _changed(self, random: Random, value: Any) -> Any:
        if isinstance(value, bool):
            return not value
        for kind, change in (
            (int, self._integer),
            (float, self._float),
            (str, self._text),
            (bytes, self._bytes),
            (dict, self._dict),
            (list, self._items_of),
        ):
            if isinstance(value, kind):
                return change(random, value)
        return value

    def _integer(self, random: Random, value: int) -> int:
        return random.choice((value + 1, value - 1, value * 2, -value, random.choice(_INTEGERS)))

    def _float(self, random: Random, value: float) -> float:
        return random.choice((*_FLOATS, value * 2, value + 1))

    def _items_of(self, random: Random, value: list[Any]) -> list[Any]:
        return self._list(random, value, lambda one: self._any(random, one))

    def _any(self, random: Random, value: Any) -> Any:
        """A change of a value inside of data, which may have any type afterwards."""
        if random.random() < 0.25 or value is None:
            return self._odd(random)
        return self._changed(random, value)

    def _odd(self, random: Random) -> Any:
        kind = random.randrange(8)
        if kind == 0:
            return random.choice((None, True, False, [], {}, [[]], {"": None}))
        if kind == 1:
            return random.choice(_INTEGERS)
        if kind == 2:
            return random.choice(_FLOATS)
        if kind == 3:
            return random.choice(_TEXTS)
        if kind == 4:
            return [self._piece(random) for _ in range(random.randrange(4))]
        return self._piece(random)

    def _piece(self, random: Random) -> Any:
        return random.choice(self._pieces) if self._pieces else random.choice(_TEXTS)

    def _dict(self, random: Random, value: dict[Any, Any]) -> dict[Any, Any]:
        if not value or random.random() < 0.05:
            piece = self._piece(random)
            return {**value, **(piece if isinstance(piece, dict) else {str(piece)[:80]: self._odd(random)})}
        key, kind = random.choice(tuple(value)), random.random()
        if kind < 0.7:
            return value | {key: self._any(random, value[key])}
        if kind < 0.8:
            return {name: one for name, one in value.items() if name != key}
        if kind < 0.9:  # swapped with another
            other = random.choice(tuple(value))
            return value | {key: value[other], other: value[key]}
        name = self._text(random, str(key)) if random.random() < 0.8 else str(self._piece(random))[:80]
        return {(name if one == key else one): item for one, item in value.items()}

    def _list(self, random: Random, value: list[Any], change: Callable[[Any], Any]) -> list[Any]:
        if not value:
            return [self._odd(random)]
        at, kind = random.randrange(len(value)), random.random()
        if kind < 0.6:
            return [*value[:at], change(value[at]), *value[at + 1 :]]
        if kind < 0.75:
            return [*value[:at], *value[at + 1 :]]
        if kind < 0.9:
            return [*value[:at], value[at], *value[at:]]
        return value[at:] + value[:at]

    def _text(self, random: Random, text: str) -> str:
        at = random.randrange(len(text) + 1)
        end = min(len(text), at + random.choice((0, 0, 1, 1, 2, 5, 20)))
        kind = random.random()
        if kind < 0.15:
            return text[:at] + text[end:]
        if kind < 0.3:  # a piece of it again
            return text[:end] + text[at:]
        if kind < 0.4:
            return (
                text[:at] + chr(random.choice((random.randrange(128), random.randrange(0xFFFF)))) + text[end:]
            )
        if kind < 0.6:
            piece = self._piece(random)
            piece = piece if isinstance(piece, str) else str(piece)
            return text[:at] + piece[:200] + text[end:]
        if kind < 0.65 and len(text) < 2_000:
            return text * random.choice((2, 3, 10))
        return text[:at] + random.choice(_TEXTS) + text[end:]

    def _bytes(self, random: Random, data: bytes) -> bytes:
        if random.random() < 0.85:
            for change in (self._png, self._safetensors, self._json):
                changed = change(random, data)
                if changed is not None:
                    return changed
        out = bytearray(data)
        for _ in range(random.choice((1, 1, 1, 2, 4, 16))):
            at, kind = random.randrange(len(out) + 1), random.randrange(6)
            if kind == 0:
                out[at : at + 1] = bytes([random.randrange(256)])
            elif kind == 1:
                out[at:at] = random.randbytes(random.choice((1, 2, 4, 8)))
            elif kind == 2:
                del out[at : at + random.choice((1, 2, 4, 8, 64))]
            elif kind == 3:
                form = random.choice(("<I", ">I", "<Q", ">Q", "<H", ">H"))
                number = random.choice(_INTEGERS) % (1 << 8 * struct.calcsize(form))
                out[at : at + struct.calcsize(form)] = struct.pack(form, number)
            elif kind == 4:
                piece = random.choice(_TEXTS).encode("utf-8", "surrogatepass")
                out[at:at] = piece[:100]
            else:
                out[at:] = out[at:] + out[at : at + 64] if random.random() < 0.5 else b""
        return bytes(out)

    def _json(self, random: Random, data: bytes) -> bytes | None:
        if data[:1] not in (b"{", b"["):
            return None
        try:
            value = json.loads(data)
        except (ValueError, RecursionError):
            return None
        for _ in range(random.choice((1, 1, 2, 4))):
            value = self._changed(random, value)
        return json.dumps(value).encode("utf-8", "surrogatepass")

    def _safetensors(self, random: Random, data: bytes) -> bytes | None:
        length = int.from_bytes(data[:8], "little")
        if len(data) < 9 + length or data[8:9] != b"{":
            return None
        header = self._json(random, data[8 : 8 + length])
        return None if header is None else len(header).to_bytes(8, "little") + header + data[8 + length :]

    def _png(self, random: Random, data: bytes) -> bytes | None:
        if not data.startswith(b"\x89PNG"):
            return None
        chunks = list(_chunks(data))
        if not chunks:
            return None
        at = random.randrange(len(chunks))
        kind, body = chunks[at]
        if kind in (b"tEXt", b"zTXt", b"iTXt"):
            name, _, text = body.partition(b"\0")
            body = name + b"\0" + self._bytes(random, text)
        elif random.random() < 0.7:
            body = self._bytes(random, body)
        else:
            kind = random.choice(
                (b"tEXt", b"iTXt", b"zTXt", b"eXIf", b"iCCP", b"PLTE", b"acTL", b"fdAT", b"tRNS")
            )
        chunks[at : at + 1] = [(kind, body)] * random.choice((1, 1, 1, 2, 0))
        parts = [
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
            for kind, body in chunks
        ]
        return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 8
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        if at + 12 + length > len(data):
            return
        yield data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        at += 12 + length


def _choices(corpus: list[Case]) -> tuple[dict[Path, tuple[str, ...]], dict[Path, list[Any]]]:
    """What must keep its type, by where it is in the arguments.

    Returns:
        Texts that are one of a few names, such as a column; and the items of lists of bytes or tuples.
    """
    texts: defaultdict[Path, list[str]] = defaultdict(list)
    items: defaultdict[Path, list[Any]] = defaultdict(list)

    def walk(value: Any, path: Path) -> None:
        if isinstance(value, str):
            texts[path].append(value)
        elif isinstance(value, tuple):
            for at, one in enumerate(value):
                walk(one, (*path, at))
        elif isinstance(value, list) and value and isinstance(value[0], (tuple, bytes)):
            items[path] += value
            for one in value:
                walk(one, (*path, "*"))

    for case in corpus:
        for name, value in case.items():
            walk(value, (name,))
    words = {path: tuple(sorted(set(found))) for path, found in texts.items() if len(found) > 80}
    return {path: found for path, found in words.items() if len(found) <= 20}, dict(items)


def _pieces(corpus: list[Case]) -> list[Any]:
    """Parts of all inputs, to put one into another."""
    found: list[Any] = []

    def walk(value: Any, depth: int) -> None:
        if len(found) > 5_000 or depth > 6:
            return
        if isinstance(value, bytes) and value[:1] in (b"{", b"["):
            try:
                value = json.loads(value)
            except (ValueError, RecursionError):
                return
        if isinstance(value, dict):
            found.extend(value)
        if isinstance(value, (dict, list, tuple)):
            for one in value.values() if isinstance(value, dict) else value:
                walk(one, depth + 1)
        if isinstance(value, (str, int, float, dict, list)) and _size(value) < 500 and _is_json(value):
            found.append(value)

    for case in corpus:
        walk(tuple(case.values()), 0)
    return found


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        return False
    return True


def _size(value: Any) -> int:
    """About how many bytes a value has, however deep it is."""
    found, rest = 0, [value]
    while rest:
        one = rest.pop()
        if isinstance(one, (str, bytes)):
            found += len(one)
        elif isinstance(one, dict):
            rest += [*one, *one.values()]
        elif isinstance(one, (list, tuple)):
            rest += one
        else:
            found += 8
    return found
