"""Reads a SentencePiece unigram file (`spiece.model`) into a `tokenizers` tokenizer.

mflux folders carry only this file, without `tokenizer.json`. The format is one protocol-buffer message
(sentencepiece_model.proto): pieces with scores, the trainer's special ids, and the normalizer's table.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from swiftai_nb.diffusion.tokenizers.fast_tokenizer import check_charsmap, tokenizer_errors

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_NORMAL, _CONTROL, _USER_DEFINED = 1, 3, 4
_UNIGRAM = 1
_LONGEST_VARINT_BITS = 63


@dataclass
class _Piece:
    text: str = ""
    score: float = 0.0
    kind: int = _NORMAL


@dataclass
class SentencePieceModel:
    """The parts of a SentencePiece file that T5 needs.

    Args:
        pieces: (text, log probability) in id order.
        special: ids of control and user-defined pieces.
        unk_id: id of the unknown token.
        model_type: 1 is unigram, 2 is BPE.
        charsmap: the compiled normalization table; empty when text is left as it is.
    """

    pieces: list[tuple[str, float]] = field(default_factory=list)
    special: list[int] = field(default_factory=list)
    unk_id: int = 0
    model_type: int = _UNIGRAM
    charsmap: bytes = b""


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        if shift > _LONGEST_VARINT_BITS:
            raise IndexError("a number of more than 64 bits")
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yields (field number, value) of one message; fixed-width numbers stay bytes."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, at = _varint(data, at)
            yield number, value
            continue
        if wire == _BYTES:
            size, at = _varint(data, at)
        else:
            size = {_FIXED64: 8, _FIXED32: 4}[wire]
        if at + size > len(data):
            raise IndexError("message ends inside a field")
        yield number, data[at : at + size]
        at += size


def _parse_piece(data: bytes) -> _Piece:
    piece = _Piece()
    for number, value in _fields(data):
        if number == 1 and isinstance(value, bytes):
            piece.text = value.decode("utf-8")
        elif number == 2 and isinstance(value, bytes):
            piece.score = struct.unpack("<f", value)[0]
        elif number == 3 and isinstance(value, int):
            piece.kind = value
    return piece


def parse_sentencepiece_model(data: bytes) -> SentencePieceModel:
    """Parses the bytes of a `spiece.model`.

    Raises:
        ValueError: the bytes are not such a message.
    """
    model = SentencePieceModel()
    try:
        for number, value in _fields(data):
            if not isinstance(value, bytes):
                continue
            if number == 1:
                piece = _parse_piece(value)
                if piece.kind in (_CONTROL, _USER_DEFINED):
                    model.special.append(len(model.pieces))
                model.pieces.append((piece.text, piece.score))
            elif number == 2:
                trainer = dict(_fields(value))
                model.model_type = int(trainer.get(3, _UNIGRAM))
                model.unk_id = int(trainer.get(40, 0))
            elif number == 3:
                charsmap = dict(_fields(value)).get(2, b"")
                model.charsmap = charsmap if isinstance(charsmap, bytes) else b""
    except (IndexError, KeyError, UnicodeDecodeError, struct.error) as error:
        raise ValueError(f"not a SentencePiece model: {error}") from error
    if not model.pieces or model.model_type != _UNIGRAM:
        raise ValueError(f"not a SentencePiece unigram model (type {model.model_type})")
    return model


def t5_tokenizer_from_sentencepiece(path: Path, *, extra_ids: int = 100) -> Tokenizer:
    """Builds T5's tokenizer from its SentencePiece file.

    T5 appends `extra_ids` sentinel tokens (`<extra_id_99>` first) behind the pieces of the file, splits at
    white space, marks word starts with U+2581, and ends every text with `</s>`.

    Raises:
        InvalidModelFilesError: the file is not a SentencePiece unigram model with `</s>`.
    """
    with tokenizer_errors(path):
        return _build(parse_sentencepiece_model(path.read_bytes()), extra_ids=extra_ids)


def _build(model: SentencePieceModel, *, extra_ids: int) -> Tokenizer:
    from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors

    sentinels = [f"<extra_id_{i}>" for i in range(extra_ids - 1, -1, -1)]
    eos_id = [text for text, _ in model.pieces].index("</s>")
    vocab = model.pieces + [(token, 0.0) for token in sentinels]
    tokenizer = Tokenizer(models.Unigram(vocab, unk_id=model.unk_id, byte_fallback=False))
    if model.charsmap:
        check_charsmap(model.charsmap)
        tokenizer.normalizer = normalizers.Precompiled(model.charsmap)
    words = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), words])
    special = [model.pieces[i][0] for i in model.special] + [model.pieces[model.unk_id][0], *sentinels]
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", eos_id)]
    )
    return tokenizer
