"""CLIP's byte-pair encoding, from `vocab.json` and `merges.txt` of a tokenizer folder."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from swiftai_nb.core.errors import InvalidModelFilesError
from swiftai_nb.diffusion.tokenizers.fast_tokenizer import encode, tokenizer_errors, without_surrogates
from swiftai_nb.model_files.json_file import read_json_object

if TYPE_CHECKING:
    from tokenizers import Tokenizer

START, END = "<|startoftext|>", "<|endoftext|>"
_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


_LONGEST_WORD = 24
_UNLIMITED = 100_000  # files without a limit carry null or 1e30
_MOST_TOKENS = 2**24
_AGAIN = "download the model again"


@dataclass(frozen=True)
class TokenizedPrompt:
    """Token ids of one prompt.

    Attributes:
        ids: [L], int32, padded to the model's length.
        token_count: how many tokens the prompt has, start and end not counted.
        cut_text: the words that did not fit, "" when all did.
    """

    ids: NDArray[np.int32]
    token_count: int
    cut_text: str


class CLIPTokenizer:
    """Prompt -> ids, as transformers' CLIPTokenizer with padding="max_length" and truncation.

    Args:
        folder: holds vocab.json, merges.txt and, optionally, tokenizer_config.json and
            special_tokens_map.json (for `pad_token` and `model_max_length`).

    Raises:
        InvalidModelFilesError: files missing or not readable.
    """

    def __init__(self, folder: Path) -> None:
        config = {
            **read_json_object(folder / "special_tokens_map.json"),
            **read_json_object(folder / "tokenizer_config.json"),
        }
        pad_token = _token_text(config.get("pad_token"), END)
        self._tokenizer, self._vocabulary = _build(folder, pad_token)
        self.max_length = _max_length(config.get("model_max_length"), folder)
        self.start_id = self._vocabulary[START]
        self.end_id = self._vocabulary[END]
        self.pad_id = self._vocabulary.get(pad_token, self.end_id)
        self.comma_id = self._vocabulary.get(",</w>")
        self._words: dict[str, tuple[int, ...]] = {}

    @property
    def vocabulary_size(self) -> int:
        """Number of tokens."""
        return len(self._vocabulary)

    def __call__(self, prompt: str) -> TokenizedPrompt:
        """Encodes one prompt; what exceeds the length is cut and reported."""
        prompt = without_surrogates(prompt)
        tokens = [(token, start) for group, start in self._groups(prompt) for token in group]
        room = self.max_length - 2
        cut_text = ""
        if len(tokens) > room:
            cut_text = prompt[_source_start(tokens[room][1], prompt) :].strip()
        ids = [self.start_id, *(token for token, _ in tokens[:room]), self.end_id]
        ids += [self.pad_id] * (self.max_length - len(ids))
        return TokenizedPrompt(np.asarray(ids, dtype=np.int32), len(tokens), cut_text)

    def token_groups(self, text: str) -> list[tuple[int, ...]]:
        """The ids of a text of any length, without start and end; those of an added word in one tuple."""
        return [group for group, _ in self._groups(without_surrogates(text))]

    def set_words(self, words: Mapping[str, tuple[int, ...]]) -> None:
        """Adds words with ids of their own, in place of those added before.

        Args:
            words: name -> ids. In a prompt a name stands alone or behind "embedding:", in any case.
        """
        self._words = {name.lower(): ids for name, ids in words.items()}
        names = sorted(self._words, key=len, reverse=True)
        self._word = re.compile(
            "|".join(rf"(?<!\w)(?:embedding:)?{re.escape(name)}(?:\.safetensors)?(?!\w)" for name in names),
            re.IGNORECASE,
        )

    @property
    def words(self) -> Collection[str]:
        """Names of the added words, in lower case."""
        return self._words.keys()

    def _groups(self, text: str) -> list[tuple[tuple[int, ...], int]]:
        """(ids, place in the text) of each token, or of each added word."""
        if not self._words:
            return self._encoded(text, 0)
        found, end = [], 0
        for word in self._word.finditer(text):
            found += self._encoded(text[end : word.start()], end)
            name = word[0].lower().removeprefix("embedding:").removesuffix(".safetensors")
            found.append((self._words[name], word.start()))
            end = word.end()
        return found + self._encoded(text[end:], end)

    def _encoded(self, text: str, start: int) -> list[tuple[tuple[int, ...], int]]:
        encoding = encode(self._tokenizer, text, add_special_tokens=False)
        pairs = zip(encoding.ids, encoding.offsets, strict=True)
        return [((token,), start + offset) for token, (offset, _) in pairs]


def _max_length(value: Any, folder: Path) -> int:
    """The length in a tokenizer's configuration, with start and end; 77 where it has none.

    Raises:
        InvalidModelFilesError: not a number of tokens.
    """
    if value is None or (isinstance(value, (int, float)) and value > _UNLIMITED):
        return 77
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 2 <= value == int(value):
        raise InvalidModelFilesError(
            f"{folder / 'tokenizer_config.json'}: model_max_length cannot be {value!r:.80}", hint=_AGAIN
        )
    return int(value)


def _source_start(cut: int, prompt: str) -> int:
    """Where in the prompt the word around a place begins."""
    start = cut
    while start > 0 and not prompt[start - 1].isspace():
        start -= 1
    # Scripts without spaces have no words to begin at.
    return start if cut - start <= _LONGEST_WORD else cut


def _build(folder: Path, pad_token: str) -> tuple[Tokenizer, dict[str, int]]:
    from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

    vocabulary, merges = _read_bpe(folder)
    if START not in vocabulary or END not in vocabulary:
        raise InvalidModelFilesError(f"{folder / 'vocab.json'} is missing or lacks {START} and {END}")
    with tokenizer_errors(folder):
        tokenizer = Tokenizer(
            models.BPE(
                vocab=vocabulary,
                merges=merges,
                end_of_word_suffix="</w>",
                unk_token=END,
                continuing_subword_prefix="",
                fuse_unk=False,
            )
        )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    # Special tokens count where a prompt spells them, too: with pad token "!", so does every "!".
    special = [token for token in (START, END, pad_token) if token in vocabulary]
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    return tokenizer, vocabulary


def _read_bpe(folder: Path) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges; transformers 5 saves both in `tokenizer.json` and nothing else."""
    if (folder / "vocab.json").is_file():
        vocabulary = read_json_object(folder / "vocab.json")
        return _checked_vocabulary(folder / "vocab.json", vocabulary), _read_merges(folder / "merges.txt")
    path = folder / "tokenizer.json"
    model = read_json_object(path).get("model")
    model = model if isinstance(model, dict) else {}
    vocabulary, merges = model.get("vocab", {}), model.get("merges", [])
    if not isinstance(merges, list):
        raise _wrong(path, "merges")
    pairs = [m.split() if isinstance(m, str) else m for m in merges]
    if not all(isinstance(pair, list) and all(isinstance(part, str) for part in pair) for pair in pairs):
        raise _wrong(path, "merges")
    return _checked_vocabulary(path, vocabulary), [(pair[0], pair[1]) for pair in pairs if len(pair) == 2]


def _checked_vocabulary(path: Path, vocabulary: Any) -> dict[str, int]:
    """A vocabulary from JSON: token -> id, ids below `_MOST_TOKENS`."""
    is_right = isinstance(vocabulary, dict) and all(
        type(number) is int and 0 <= number < _MOST_TOKENS for number in vocabulary.values()
    )
    if not is_right:
        raise _wrong(path, "the vocabulary")
    checked: dict[str, int] = vocabulary
    return checked


def _wrong(path: Path, what: str) -> InvalidModelFilesError:
    return InvalidModelFilesError(f"{path}: {what} is not readable", hint=_AGAIN)


def _read_merges(path: Path) -> list[tuple[str, str]]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidModelFilesError(f"{path} cannot be read: {error}") from error
    pairs = (tuple(line.split()) for line in lines if line.strip() and not line.startswith("#version"))
    return [(pair[0], pair[1]) for pair in pairs if len(pair) == 2]


def _token_text(token: Any, default: str) -> str:
    """A token in a config is a string or {"content": string}."""
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else default
