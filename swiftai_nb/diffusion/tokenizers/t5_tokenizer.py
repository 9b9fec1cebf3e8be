"""T5's tokenizer: a unigram vocabulary of 32,100 pieces, `</s>` at the end, padded with `<pad>`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from swiftai_nb.core.errors import InvalidModelFilesError
from swiftai_nb.diffusion.tokenizers.fast_tokenizer import encode, read_tokenizer_json
from swiftai_nb.diffusion.tokenizers.sentencepiece_model import t5_tokenizer_from_sentencepiece

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_SENTENCEPIECE_NAMES = ("spiece.model", "tokenizer.model")


class T5Tokenizer:
    """Prompts -> T5 token ids.

    Args:
        tokenizer: a unigram tokenizer of the `tokenizers` library that appends `</s>`.

    Raises:
        InvalidModelFilesError: the vocabulary lacks `<pad>` or `</s>`.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        pad_id, eos_id = tokenizer.token_to_id("<pad>"), tokenizer.token_to_id("</s>")
        if pad_id is None or eos_id is None:
            raise InvalidModelFilesError(
                "this T5 tokenizer has no <pad> or </s> token", hint="download the model again"
            )
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self.pad_id, self.eos_id = int(pad_id), int(eos_id)
        self._tokenizer = tokenizer

    @classmethod
    def from_folder(cls, folder: Path) -> T5Tokenizer:
        """Reads `tokenizer.json`, or failing that `spiece.model`.

        Raises:
            InvalidModelFilesError: the folder holds neither, or the file is broken.
        """
        file = folder / "tokenizer.json"
        if file.is_file():
            return cls(read_tokenizer_json(file))
        for name in _SENTENCEPIECE_NAMES:
            if (folder / name).is_file():
                return cls(t5_tokenizer_from_sentencepiece(folder / name))
        raise InvalidModelFilesError(
            f"no T5 tokenizer in {folder}: neither tokenizer.json nor spiece.model",
            hint="download the model again with its tokenizer folders",
        )

    def token_count(self, text: str) -> int:
        """Tokens of `text` with its final `</s>`, before any truncation."""
        return len(encode(self._tokenizer, text).ids)

    def cut_text(self, text: str, *, max_length: int) -> str:
        """The words of `text` that do not fit, "" when all do."""
        encoding = encode(self._tokenizer, text)
        if len(encoding.ids) <= max_length:
            return ""
        start = int(encoding.offsets[max_length - 1][0])
        while start > 0 and not text[start - 1].isspace():
            start -= 1
        return text[start:].strip()

    def __call__(self, texts: Sequence[str], *, max_length: int) -> np.ndarray:
        """Token ids, cut and padded to the same length.

        Args:
            texts: B prompts.
            max_length: L, with `</s>`; a longer prompt keeps its first L - 1 tokens.

        Returns:
            [B, L], int32.
        """
        ids = np.full((len(texts), max_length), self.pad_id, dtype=np.int32)
        for row, text in zip(ids, texts, strict=True):
            tokens = encode(self._tokenizer, text).ids
            if len(tokens) > max_length:
                tokens = [*tokens[: max_length - 1], self.eos_id]
            row[: len(tokens)] = tokens
        return ids
