"""Prompts with weights and of any length for CLIP, as AUTOMATIC1111's web UI encodes them.

Tokens are cut into chunks that fill the encoder. Each is encoded by itself, its hidden states are multiplied
by the tokens' weights and brought back to their mean, and the chunks are put behind each other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import mlx.core as mx
import numpy as np

from swiftai_nb.core.errors import InvalidInputError
from swiftai_nb.core.prompt_editing import edited_prompts
from swiftai_nb.core.prompt_syntax import (
    from_compel,
    parse_weights,
    reads_weights,
    split_and,
    syntax_notes,
)
from swiftai_nb.diffusion.models.clip import CLIPOutput
from swiftai_nb.diffusion.pipelines.text_stage import (
    CLIPTextStage,
    negative_prompt_list,
    prompt_list,
    unused_negative_notes,
)
from swiftai_nb.diffusion.tokenizers.clip_tokenizer import CLIPTokenizer

MAX_CHUNKS = 32
MAX_PARTS = 16
_COMMA_BACKTRACK = 20  # a chunk ends behind a comma among its last tokens
StateReader = Callable[[CLIPTextStage, CLIPOutput], mx.array]


@dataclass
class _Chunk:
    ids: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class PromptChunk:
    """One filling of the encoder.

    Attributes:
        ids: [L], with start, end and padding.
        weights: [L], 1.0 for those.
    """

    ids: tuple[int, ...]
    weights: tuple[float, ...]


def chunk_prompt(tokenizer: CLIPTokenizer, prompt: str) -> list[PromptChunk]:
    """Cuts a weighted prompt into chunks of the encoder's length; at least one.

    A new chunk begins at BREAK and where one is full; then what follows its last comma goes along, if that is
    at most 20 tokens.
    """
    room = tokenizer.max_length - 2
    chunks = [_Chunk()]
    last_comma: int | None = None
    for span in parse_weights(prompt):
        if span.is_break:
            chunks.append(_Chunk())
            last_comma = None
            continue
        for group in tokenizer.token_groups(span.text):
            chunk, is_comma = chunks[-1], group == (tokenizer.comma_id,)
            if is_comma:
                last_comma = len(chunk.ids)
            if len(chunk.ids) == room:
                kept = room
                if not is_comma and last_comma is not None:
                    kept = last_comma + 1 if room - last_comma <= _COMMA_BACKTRACK else room
                chunks.append(_Chunk(chunk.ids[kept:], chunk.weights[kept:]))
                del chunk.ids[kept:], chunk.weights[kept:]
                chunk, last_comma = chunks[-1], None
            if len(chunk.ids) + len(group) > room:  # an added word is not divided
                chunk, last_comma = _Chunk(), None
                chunks.append(chunk)
            chunk.ids += group[:room]
            chunk.weights += [span.weight] * len(group[:room])
    if len(chunks) > 1 and not chunks[-1].ids:
        chunks.pop()  # behind a BREAK at the end
    return [_filled(chunk, tokenizer) for chunk in chunks]


def _filled(chunk: _Chunk, tokenizer: CLIPTokenizer) -> PromptChunk:
    ids = [tokenizer.start_id, *chunk.ids, tokenizer.end_id]
    weights = [1.0, *chunk.weights]
    ids += [tokenizer.pad_id] * (tokenizer.max_length - len(ids))
    return PromptChunk(tuple(ids), (*weights, *[1.0] * (len(ids) - len(weights))))


def read_prompts(
    prompt: str | Sequence[str],
    negative_prompt: str | Sequence[str] | None,
    *,
    stage: CLIPTextStage,
    syntax: str | None,
    steps: int,
    is_guided: bool,
    takes_negative: bool,
) -> list[tuple[int, ReadPrompts]]:
    """Reads the arguments of `encode_prompt`; a prompt that is edited during the run is several.

    Args:
        prompt: as there.
        negative_prompt: as there.
        stage: the encoder whose length counts.
        syntax: one of `SYNTAXES`, or None.
        steps: of the run.
        is_guided: whether guidance is on.
        takes_negative: whether guidance, though it is off, could be turned on.

    Returns:
        (first step, prompts), the first one from step 0 on; its notes tell of the syntax, too.

    Raises:
        InvalidInputError: no text, another syntax, or prompts that cannot be followed.
    """
    prompts = prompt_list(prompt, "prompt")
    count = len(prompts)
    texts = prompts + (negative_prompt_list(negative_prompt, count) if is_guided else [])
    is_weighted = reads_weights(texts, syntax)
    notes = syntax_notes(texts, syntax)
    if not is_guided:
        notes += unused_negative_notes(negative_prompt, takes_one=takes_negative)
    if syntax == "compel":
        texts = [from_compel(text) for text in texts]
    changes = edited_prompts(texts, steps) if is_weighted else [(0, tuple(texts))]
    known: dict[tuple[str, ...], ReadPrompts] = {}
    for _, own in changes:
        if own not in known:
            known[own] = ReadPrompts.of(
                list(own[:count]),
                list(own[count:]),
                stage=stage,
                is_weighted=is_weighted,
                is_guided=is_guided,
            )
    all_notes = tuple(dict.fromkeys([*notes, *(note for one in known.values() for note in one.notes)]))
    known[changes[0][1]] = replace(known[changes[0][1]], notes=all_notes)
    return [(first, known[own]) for first, own in changes]


@dataclass(frozen=True, eq=False)
class ReadPrompts:
    """Prompts and how they are to be encoded.

    Attributes:
        prompts: B texts, or the parts of one text that AND joins.
        negatives: B texts; empty without guidance.
        and_weights: of the parts; empty without AND.
        is_weighted: whether brackets are weights, and long prompts are read in chunks.
        is_guided: whether negatives are used.
        notes: for the user.
    """

    prompts: list[str]
    negatives: list[str]
    and_weights: tuple[float, ...]
    is_weighted: bool
    is_guided: bool
    notes: tuple[str, ...]

    @classmethod
    def of(
        cls,
        prompts: list[str],
        negatives: list[str],
        *,
        stage: CLIPTextStage,
        is_weighted: bool,
        is_guided: bool,
    ) -> ReadPrompts:
        """Reads the prompts of a step.

        Args:
            prompts: B texts.
            negatives: B texts; empty without guidance.
            stage: the encoder whose length counts.
            is_weighted: whether brackets are weights.
            is_guided: whether guidance is on.

        Raises:
            InvalidInputError: a prompt with AND that cannot be followed.
        """
        notes = stage.unknown_word_notes([*prompts, *negatives])
        prompts, and_weights = joined_prompts(prompts, is_weighted=is_weighted, is_guided=is_guided)
        notes += chunk_notes(stage, prompts, "prompt", is_weighted=is_weighted)
        notes += chunk_notes(stage, negatives, "negative prompt", is_weighted=is_weighted)
        return cls(prompts, negatives, and_weights, is_weighted, is_guided, notes)

    @property
    def texts(self) -> list[str]:
        """The words of the prompts, without brackets and numbers that are weights."""
        if not self.is_weighted:
            return self.prompts
        return ["".join(span.text or " " for span in parse_weights(prompt)) for prompt in self.prompts]

    def encode(
        self, stages: Sequence[CLIPTextStage], prompts: Sequence[str], read_state: StateReader
    ) -> tuple[mx.array, mx.array]:
        """`encode_texts` of `prompts` or `negatives`."""
        is_joined = prompts is self.prompts and bool(self.and_weights)
        return encode_texts(stages, prompts, read_state, is_weighted=self.is_weighted, is_joined=is_joined)


def encode_texts(
    stages: Sequence[CLIPTextStage],
    prompts: Sequence[str],
    read_state: StateReader,
    *,
    is_weighted: bool,
    is_joined: bool = False,
) -> tuple[mx.array, mx.array]:
    """Encodes prompts with one encoder, or with several whose hidden states are put side by side.

    Args:
        stages: the encoders.
        prompts: B texts.
        read_state: picks the hidden states [n, L, D] of a stage's output.
        is_weighted: whether brackets are weights, and long prompts are read in chunks.
        is_joined: whether the prompts are parts of one prompt (AND): each is encoded alone, and the last
            vector of the shorter ones is repeated.

    Returns:
        hidden states [B, chunks * L, D], and the last encoder's pooled vectors [B, P].
    """
    if not is_weighted:
        outputs = [stage.encode(prompts) for stage in stages]
        states = [read_state(stage, output) for stage, output in zip(stages, outputs, strict=True)]
        return mx.concatenate(states, axis=-1), outputs[-1].pooled
    if not is_joined:
        weighted = [_encode_weighted(stage, prompts, read_state) for stage in stages]
        return mx.concatenate([states for states, _ in weighted], axis=-1), weighted[-1][1]
    parts = [encode_texts(stages, [prompt], read_state, is_weighted=True) for prompt in prompts]
    longest = max(states.shape[1] for states, _ in parts)
    padded = [_repeat_last(states, longest) for states, _ in parts]
    return mx.concatenate(padded), mx.concatenate([pooled for _, pooled in parts])


def _encode_weighted(
    stage: CLIPTextStage, prompts: Sequence[str], read_state: StateReader
) -> tuple[mx.array, mx.array]:
    """Hidden states [B, chunks * L, D] and pooled vectors of the first chunks; shorter prompts end empty."""
    chunks = [chunk_prompt(stage.tokenizer, prompt)[:MAX_CHUNKS] for prompt in prompts]
    count = max(len(one) for one in chunks)
    empty = _filled(_Chunk(), stage.tokenizer)
    filled = [chunk for one in chunks for chunk in (*one, *[empty] * (count - len(one)))]
    output = stage.encode_ids(np.array([chunk.ids for chunk in filled], dtype=np.int32))
    states = _weighted(read_state(stage, output), [chunk.weights for chunk in filled])
    joined = states.reshape(len(prompts), count * states.shape[1], states.shape[2])
    return joined, output.pooled[::count]


def _weighted(states: mx.array, weights: list[tuple[float, ...]]) -> mx.array:
    """[n, L, D] times the weights [n, L], each row with the mean it had."""
    if all(weight == 1.0 for row in weights for weight in row):
        return states
    values = states.astype(mx.float32)
    scaled = values * mx.array(weights, dtype=mx.float32)[:, :, None]
    before, after = (mx.mean(x, axis=(1, 2), keepdims=True) for x in (values, scaled))
    return (scaled * (before / mx.where(after == 0, 1.0, after))).astype(states.dtype)


def _repeat_last(states: mx.array, length: int) -> mx.array:
    """[1, L, D] -> [1, length, D]."""
    return mx.concatenate([states, mx.repeat(states[:, -1:], length - states.shape[1], axis=1)], axis=1)


def joined_prompts(
    prompts: list[str], *, is_weighted: bool, is_guided: bool
) -> tuple[list[str], tuple[float, ...]]:
    """Takes a prompt with AND apart: its parts and their weights; others as they are, without weights.

    Raises:
        InvalidInputError: AND among several prompts, too many parts, or without guidance.
    """
    found = [split_and(prompt) for prompt in prompts] if is_weighted else []
    if all(len(parts) == 1 for parts in found):
        return prompts, ()
    if len(prompts) > 1:
        raise InvalidInputError("AND joins parts of one prompt, but several were given", hint="encode one")
    if not is_guided:
        raise InvalidInputError(
            "AND needs guidance, and this picture is made without",
            hint="raise guidance above 1, or use BREAK",
        )
    parts = found[0]
    if len(parts) > MAX_PARTS:
        raise InvalidInputError(f"AND joins {len(parts)} prompts, {MAX_PARTS} is the most")
    return [text for text, _ in parts], tuple(weight for _, weight in parts)


def chunk_notes(
    stage: CLIPTextStage, prompts: Sequence[str], label: str, *, is_weighted: bool
) -> tuple[str, ...]:
    """One line for each prompt whose end was cut off."""
    if not is_weighted:
        return stage.truncation_notes(prompts, label)
    counts = [len(chunk_prompt(stage.tokenizer, prompt)) for prompt in prompts]
    return tuple(
        f"{label} cut after {MAX_CHUNKS} of {count} chunks of {stage.tokenizer.max_length - 2} tokens"
        for count in counts
        if count > MAX_CHUNKS
    )
