"""Qwen's tokenizer: byte-level BPE, and the chat template that prompts are put into."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from swiftai_nb.core.errors import InvalidModelFilesError, UnsupportedModelError
from swiftai_nb.diffusion.tokenizers.fast_tokenizer import encode, read_tokenizer_json, tokenizer_errors
from swiftai_nb.model_files.json_file import read_json_object

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
_BEFORE, _AFTER = f"{START}user\n", f"{END}\n{START}assistant\n"
_NO_THINKING = "<think>\n\n</think>\n\n"
_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
_AGAIN = "download the model again with its tokenizer folder"


@dataclass(frozen=True)
class QwenTokens:
    """Prompts as token ids.

    Attributes:
        ids: [B, L], int32.
        mask: [B, L], true for real tokens, which come first in each row.
    """

    ids: np.ndarray
    mask: np.ndarray


class QwenTokenizer:
    """Turns prompts into token ids, each as the only message of a conversation whose answer comes next.

    Args:
        tokenizer: a byte-level BPE tokenizer of the `tokenizers` library.

    Raises:
        InvalidModelFilesError: the vocabulary lacks the tokens that the chat template needs.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        numbers = {token: tokenizer.token_to_id(token) for token in (PAD, START, END)}
        missing = [token for token, number in numbers.items() if number is None]
        if missing:
            raise InvalidModelFilesError(f"this Qwen tokenizer has no {', '.join(missing)}", hint=_AGAIN)
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self.pad_id = numbers[PAD] or 0
        self._tokenizer = tokenizer

    @classmethod
    def from_folder(cls, folder: Path) -> QwenTokenizer:
        """Reads `tokenizer.json`, or `vocab.json` and `merges.txt`.

        Raises:
            InvalidModelFilesError: the folder holds neither, or the files are broken.
            UnsupportedModelError: its chat template is not Qwen's.
        """
        config = read_json_object(folder / "tokenizer_config.json")
        _check_template(folder, config)
        if (folder / "tokenizer.json").is_file():
            tokenizer = read_tokenizer_json(folder / "tokenizer.json")
            if str(config.get("tokenizer_class", "")).startswith("Qwen2Tokenizer"):
                _split_as_qwen(tokenizer)  # whatever the file has, as transformers does
            return cls(tokenizer)
        if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
            return cls(_read_vocabulary(folder, config))
        raise InvalidModelFilesError(
            f"no Qwen tokenizer in {folder}: neither tokenizer.json nor vocab.json with merges.txt",
            hint=_AGAIN,
        )

    def __call__(
        self, prompts: Sequence[str], *, max_length: int, thinking: bool = True, pad_to: int = 0
    ) -> QwenTokens:
        """Token ids in the chat template, cut and padded at the end.

        Args:
            prompts: B texts.
            max_length: tokens with those of the template, at least 1.
            thinking: False adds the empty thoughts that tell Qwen3 to answer at once.
            pad_to: the least L; else rows are as long as the longest one.
        """
        after = _AFTER if thinking else _AFTER + _NO_THINKING
        rows = [encode(self._tokenizer, _BEFORE + text + after).ids[:max_length] for text in prompts]
        length = max(pad_to, *(len(row) for row in rows))
        ids = np.full((len(rows), length), self.pad_id, dtype=np.int32)
        mask = np.zeros(ids.shape, dtype=bool)
        for index, row in enumerate(rows):
            ids[index, : len(row)], mask[index, : len(row)] = row, True
        return QwenTokens(ids, mask)

    def token_count(self, prompt: str) -> int:
        """Tokens of a prompt, without those of the template."""
        return len(encode(self._tokenizer, prompt).ids)

    def prompt_limit(self, max_length: int) -> int:
        """How many tokens of a prompt are among the first `max_length`."""
        return max(0, max_length - len(encode(self._tokenizer, _BEFORE).ids))

    def cut_text(self, prompt: str, *, max_length: int) -> str:
        """The words of a prompt that do not fit, "" when all do."""
        encoding = encode(self._tokenizer, _BEFORE + prompt)
        if len(encoding.ids) <= max_length:
            return ""
        start = max(0, int(encoding.offsets[max_length][0]) - len(_BEFORE))
        while start > 0 and not prompt[start - 1].isspace():
            start -= 1
        return prompt[start:].strip()


def _check_template(folder: Path, config: Mapping[str, Any]) -> None:
    """Refuses a folder whose own template is another conversation format than the one written out here."""
    path = folder / "chat_template.jinja"
    template = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else None
    template = config.get("chat_template") if template is None else template
    if isinstance(template, str) and not all(piece in template for piece in (START, END, "assistant")):
        raise UnsupportedModelError(
            f"the chat template in {folder} is not Qwen's", hint="use the tokenizer folder of Qwen3"
        )


def _read_vocabulary(folder: Path, config: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer of the files that transformers 4 saves for `Qwen2Tokenizer`."""
    from tokenizers import AddedToken, Tokenizer
    from tokenizers.models import BPE

    with tokenizer_errors(folder / "vocab.json"):
        tokenizer = Tokenizer(BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt")))
    _split_as_qwen(tokenizer)
    for number, token in sorted(_added_tokens(folder, config).items()):
        with tokenizer_errors(folder / "tokenizer_config.json"):
            tokenizer.add_special_tokens([AddedToken(token, normalized=False)])
        if tokenizer.token_to_id(token) != number:
            raise InvalidModelFilesError(
                f"{folder}: token {token!r} is number {number}, but {tokenizer.get_vocab_size()} come before",
                hint=_AGAIN,
            )
    return tokenizer


def _added_tokens(folder: Path, config: Mapping[str, Any]) -> dict[int, str]:
    """Tokens that are not in `vocab.json`, by number."""
    found = {str(token): number for token, number in read_json_object(folder / "added_tokens.json").items()}
    try:
        added = {int(number): str(entry["content"]) for number, entry in _entries(config)}
        return added or {int(number): token for token, number in found.items()}
    except (TypeError, ValueError, KeyError) as error:
        raise InvalidModelFilesError(
            f"{folder}: cannot read its added tokens: {error}", hint=_AGAIN
        ) from None


def _entries(config: Mapping[str, Any]) -> list[tuple[Any, Any]]:
    decoder = config.get("added_tokens_decoder")
    return list(decoder.items()) if isinstance(decoder, dict) else []


def _split_as_qwen(tokenizer: Tokenizer) -> None:
    from tokenizers import Regex, normalizers, pre_tokenizers

    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
