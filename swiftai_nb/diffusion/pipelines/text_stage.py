"""Prompts -> hidden states: tokenizers with their text encoders, and notes on what a prompt loses."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from swiftai_nb.core.errors import InvalidInputError, InvalidModelFilesError
from swiftai_nb.diffusion.models.clip import CLIPOutput, CLIPTextConfig, CLIPTextModel
from swiftai_nb.diffusion.models.qwen3 import Qwen3Config, Qwen3Encoder
from swiftai_nb.diffusion.models.t5 import T5Config, T5Encoder
from swiftai_nb.diffusion.tokenizers.clip_tokenizer import CLIPTokenizer
from swiftai_nb.diffusion.tokenizers.qwen_tokenizer import QwenTokenizer, QwenTokens
from swiftai_nb.diffusion.tokenizers.t5_tokenizer import T5Tokenizer
from swiftai_nb.diffusion.weights.component import Component
from swiftai_nb.diffusion.weights.layouts import (
    component_config,
    qwen3_config_from_tensors,
    tensor_source,
)
from swiftai_nb.diffusion.weights.tensors import TensorSource
from swiftai_nb.diffusion.weights.textual_inversion import extend_vocabulary
from swiftai_nb.diffusion.weights.z_image_tensors import first_layers
from swiftai_nb.model_files.model_folder import ModelFolder

_SHOWN_CHARACTERS = 80
_SHOWN_WORDS = 6
_VOCABULARY_FILE = "trained_words.txt"
_EMBEDDING = re.compile(r"\bembedding:([\w.-]*\w)", re.IGNORECASE)
_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*|\d+")


class CLIPTextStage:
    """CLIP and its tokenizer.

    Args:
        source: the encoder's tensors.
        config: its shape.
        tokenizer: folder.
        dtype: compute dtype.
        quantization_bits: of the encoder's linear maps, or None.
    """

    def __init__(
        self,
        source: TensorSource,
        config: CLIPTextConfig,
        tokenizer: Path,
        *,
        dtype: mx.Dtype,
        quantization_bits: int | None = None,
    ) -> None:
        self.config = config
        self.tokenizer = CLIPTokenizer(tokenizer)
        self.tokenizer.max_length = min(self.tokenizer.max_length, config.max_position_embeddings)
        self.component = Component(
            source, lambda: CLIPTextModel(config), dtype=dtype, quantization_bits=quantization_bits
        )
        self._extension: Callable[[CLIPTextModel], None] | None = None
        self._added_count = 0

    @classmethod
    def of(
        cls, model: ModelFolder, suffix: str = "", *, dtype: mx.Dtype, quantization_bits: int | None = None
    ) -> CLIPTextStage:
        """Of a model with a UNet; suffix "" or "_2" says which of its encoders."""
        name = f"text_encoder{suffix}"
        config = CLIPTextConfig.from_dict(component_config(model, name))
        network = "clip" if config.projection_dim is None else "clip with projection"
        stage = cls(
            tensor_source(model, name, network),
            config,
            model.tokenizers.get(f"tokenizer{suffix}", model.folder / f"tokenizer{suffix}"),
            dtype=dtype,
            quantization_bits=quantization_bits,
        )
        if model.checkpoint is not None and stage.tokenizer.vocabulary_size != config.vocab_size:
            raise InvalidModelFilesError(
                f"the tokenizer has {stage.tokenizer.vocabulary_size} tokens, {name} of {model.folder.name} "
                f"{config.vocab_size}",
                hint="give a base of the same family",
            )
        return stage

    def encode(self, prompts: Sequence[str]) -> CLIPOutput:
        """[B] prompts -> hidden states [B, L, D]."""
        return self.encode_ids(np.stack([self.tokenizer(prompt).ids for prompt in prompts]))

    def encode_ids(self, ids: NDArray[np.int32]) -> CLIPOutput:
        """Token ids [B, L] -> hidden states [B, L, D]."""
        _check_ids(ids, self.config.vocab_size + self._added_count)
        return self.component.network(mx.array(ids))

    def set_embeddings(self, words: Mapping[tuple[str, ...], mx.array]) -> None:
        """Adds words to the vocabulary, in place of those added before.

        Args:
            words: the names of a word -> its vectors [n, D].
        """
        if self._extension is not None:
            self.component.remove_after_load(self._extension)
            self._extension = None
        ids: dict[str, tuple[int, ...]] = {}
        end = self.config.vocab_size
        for names, vectors in words.items():
            own = tuple(range(end, end := end + vectors.shape[0]))
            ids |= dict.fromkeys(names, own)
        self._added_count = end - self.config.vocab_size
        self.tokenizer.set_words(ids)
        if words:
            vectors = mx.concatenate(list(words.values()))
            self._extension = partial(extend_vocabulary, vectors=vectors)
            self.component.after_load(self._extension)

    def unknown_word_notes(self, prompts: Sequence[str]) -> tuple[str, ...]:
        """One line for each word behind "embedding:" that was not added."""
        known = self.tokenizer.words
        named = [name for prompt in prompts for name in _EMBEDDING.findall(prompt)]
        unknown = [n for n in dict.fromkeys(named) if n.lower().removesuffix(".safetensors") not in known]
        return tuple(
            f"embedding:{name[:60]} is not loaded and is read as text; --embedding FILE loads it"
            for name in unknown[:_SHOWN_WORDS]
        )

    def hidden_state(self, output: CLIPOutput, layers_from_end: int) -> mx.array:
        """The output of an earlier layer, 1 being the last; not normed.

        Raises:
            InvalidInputError: the encoder has fewer layers.
        """
        if not 1 <= layers_from_end <= len(output.hidden_states):
            raise InvalidInputError(
                f"clip_skip does not fit the {self.config.num_hidden_layers} layers of the text encoder",
                hint="use 0, 1 or 2",
            )
        return output.hidden_states[-layers_from_end]

    def skipped_state(self, output: CLIPOutput, clip_skip: int) -> mx.array:
        """The output of the layer `clip_skip` before the last, through the final layer norm."""
        return self.component.network.final_norm(self.hidden_state(output, clip_skip + 1))

    def truncation_notes(self, prompts: Sequence[str], label: str) -> tuple[str, ...]:
        """One line for each prompt whose end was cut off."""
        limit = self.tokenizer.max_length - 2
        tokenized = (self.tokenizer(prompt) for prompt in prompts)
        return tuple(
            f"{_truncation_note(label, t.cut_text, limit=limit, count=t.token_count)}; "
            "--prompt-syntax weighted reads it all, in chunks"
            for t in tokenized
            if t.cut_text
        )


class T5Stage:
    """T5 and its tokenizer; arguments as for `CLIPTextStage`."""

    def __init__(
        self,
        source: TensorSource,
        config: T5Config,
        tokenizer: Path,
        *,
        dtype: mx.Dtype,
        quantization_bits: int | None = None,
    ) -> None:
        self.config = config
        self.tokenizer = T5Tokenizer.from_folder(tokenizer)
        self.component = Component(
            source, lambda: T5Encoder(config), dtype=dtype, quantization_bits=quantization_bits
        )

    def encode(self, prompts: Sequence[str], length: int) -> mx.array:
        """[B] prompts -> hidden states [B, length, D]."""
        ids = self.tokenizer(prompts, max_length=length)
        _check_ids(ids, self.config.vocab_size)
        return self.component.network(mx.array(ids))

    def truncation_notes(self, prompts: Sequence[str], length: int) -> tuple[str, ...]:
        """One line for each prompt whose end was cut off."""
        cut = ((prompt, self.tokenizer.cut_text(prompt, max_length=length)) for prompt in prompts)
        return tuple(
            _truncation_note("prompt", text, limit=length - 1, count=self.tokenizer.token_count(prompt) - 1)
            for prompt, text in cut
            if text
        )


class Qwen3Stage:
    """Qwen3 and its tokenizer.

    Args:
        model: whose "text_encoder" and "tokenizer" are read.
        layers: numbers of the hidden states to read, 0 being the embeddings; None is the second-last one.
            Layers above the last of them are not loaded.
        dtype: compute dtype.
        quantization_bits: of the encoder's linear maps, or None.

    Raises:
        InvalidModelFilesError: files missing, or tensors that do not fit.
        UnsupportedModelError: another language model.
    """

    def __init__(
        self,
        model: ModelFolder,
        *,
        layers: Sequence[int] | None = None,
        dtype: mx.Dtype,
        quantization_bits: int | None = None,
    ) -> None:
        source = tensor_source(model, "text_encoder", "qwen3")
        fields = component_config(model, "text_encoder", source, qwen3_config_from_tensors)
        last = None if layers is None else max(layers)
        config = Qwen3Config.from_dict(fields, used_layers=last)
        self.vocab_size = config.vocab_size
        self.layers = (config.used_layers,) if layers is None else tuple(layers)
        self.tokenizer = QwenTokenizer.from_folder(model.tokenizers["tokenizer"])
        convert = source.convert
        source = replace(source, convert=lambda tensors: first_layers(convert(tensors), config.used_layers))
        self.component = Component(
            source, lambda: Qwen3Encoder(config), dtype=dtype, quantization_bits=quantization_bits
        )

    def encode(self, tokens: QwenTokens) -> list[mx.array]:
        """Tokens [B, L] -> the hidden states of `layers`, each [B, L, D]; padding is not attended."""
        mask = None if tokens.mask.all() else tokens.mask
        _check_ids(tokens.ids, self.vocab_size)
        return self.component.network(mx.array(tokens.ids), layers=self.layers, attention_mask=mask)

    def truncation_notes(self, prompts: Sequence[str], label: str, *, max_length: int) -> tuple[str, ...]:
        """One line for each prompt whose end was cut off."""
        limit = self.tokenizer.prompt_limit(max_length)
        cut = ((prompt, self.tokenizer.cut_text(prompt, max_length=max_length)) for prompt in prompts)
        return tuple(
            _truncation_note(label, text, limit=limit, count=self.tokenizer.token_count(prompt))
            for prompt, text in cut
            if text
        )


def _check_ids(ids: NDArray[np.int32], vocab_size: int) -> None:
    """A tokenizer of another model gives ids behind the embedding table, which MLX reads unchecked.

    Raises:
        InvalidModelFilesError: an id is not in the table.
    """
    if not 0 <= ids.min() <= ids.max() < vocab_size:
        raise InvalidModelFilesError(
            f"the tokenizer gives token {ids.max()}, but the text encoder knows {vocab_size}",
            hint="download the model again",
        )


def _truncation_note(label: str, text: str, *, limit: int, count: int) -> str:
    cut = " ".join(text.split())
    if len(cut) > _SHOWN_CHARACTERS:
        cut = f"{cut[:_SHOWN_CHARACTERS].rstrip()} ..."
    return f"{label} truncated at {limit} of {count} tokens; left out: {cut}"


@dataclass(frozen=True)
class TrainingVocabulary:
    """The words of a small model's captions; models trained on large data sets have no such list.

    Args:
        words: lower case, one or more letters or one number each.
    """

    words: frozenset[str]

    @classmethod
    def read(cls, folder: Path) -> TrainingVocabulary | None:
        """The list of a model folder, `trained_words.txt` with one word in a line; None without one."""
        path = folder / _VOCABULARY_FILE
        if not path.is_file():
            return None
        return cls(frozenset(path.read_text(encoding="utf-8").split()))

    def unknown_in(self, text: str) -> tuple[str, ...]:
        """The words of `text` that are not in the list, in order, each once, lower case."""
        found = dict.fromkeys(match.group().lower() for match in _WORD.finditer(text))
        return tuple(word for word in found if not self._knows(word))

    def notes(self, prompts: Sequence[str]) -> tuple[str, ...]:
        """One line for each prompt that holds words outside the list."""
        unknown = (self.unknown_in(prompt) for prompt in prompts)
        return tuple(_unknown_note(words) for words in unknown if words)

    def _knows(self, word: str) -> bool:
        parts = re.split(r"['’-]", word)
        return word in self.words or all(part in self.words for part in parts)


def _unknown_note(words: tuple[str, ...]) -> str:
    listed = ", ".join(words[:_SHOWN_WORDS]) + (", ..." if len(words) > _SHOWN_WORDS else "")
    what = "this word" if len(words) == 1 else "these words"
    return f"this model doesn't know {what}: {listed}. It uses the closest ones it knows."


def prompt_length(asked: int | None, *, default: int, limit: int, clip_skip: int | None, why: str) -> int:
    """The tokens a prompt may have, for encoders with a limit of their own and no layers to skip.

    Args:
        asked: `max_sequence_length` of the call; None is the default.
        default: of the model.
        limit: the largest length.
        clip_skip: must be None or 0.
        why: completes "clip_skip is N, but ...".

    Raises:
        InvalidInputError: a length outside 1..limit, or a clip_skip.
    """
    length = default if asked is None else asked
    if not 1 <= length <= limit:
        raise InvalidInputError(f"max_sequence_length is {length}, must be in 1..{limit}")
    if clip_skip:
        raise InvalidInputError(f"clip_skip is {clip_skip}, but {why}", hint="leave clip_skip out")
    return length


def prompt_list(value: str | Sequence[str], name: str) -> list[str]:
    """One prompt or several as a list.

    Raises:
        InvalidInputError: an empty list or something that is not text.
    """
    prompts = [value] if isinstance(value, str) else list(value)
    if not prompts or not all(isinstance(p, str) for p in prompts):
        raise InvalidInputError(f"{name} must be text or a list of texts")
    return prompts


def negative_prompt_list(value: str | Sequence[str] | None, count: int) -> list[str]:
    """Negative prompts for `count` prompts; a single one is for all of them, None is "".

    Raises:
        InvalidInputError: neither one nor `count` of them.
    """
    prompts = [""] if value is None else prompt_list(value, "negative_prompt")
    if len(prompts) not in (1, count):
        raise InvalidInputError(f"{len(prompts)} negative prompts for {count} prompts")
    return prompts * count if len(prompts) == 1 else prompts


def unused_negative_notes(
    negative_prompt: str | Sequence[str] | None, *, takes_one: bool, guidance_above: float = 1.0
) -> tuple[str, ...]:
    """One line when a negative prompt was given and nothing will use it.

    Args:
        negative_prompt: as the user gave it.
        takes_one: whether guidance, though it is off now, could be turned on.
        guidance_above: larger guidance scales turn it on.
    """
    if negative_prompt is None or not any(prompt_list(negative_prompt, "negative_prompt")):
        return ()
    if takes_one:
        return (
            "the negative prompt has no effect without guidance; "
            f"a guidance_scale above {guidance_above:g} turns it on",
        )
    return ("this model takes no negative prompt; it was left out",)
