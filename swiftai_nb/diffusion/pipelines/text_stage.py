"""Prompts -> hidden states of one CLIP text encoder and its tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import mlx.core as mx
import numpy as np

from swiftai_nb.core.errors import InvalidInputError
from swiftai_nb.diffusion.models.clip import CLIPOutput, CLIPTextConfig, CLIPTextModel
from swiftai_nb.diffusion.tokenizers.clip_tokenizer import CLIPTokenizer, TokenizedPrompt
from swiftai_nb.diffusion.weights.component import Component, read_config
from swiftai_nb.diffusion.weights.key_mapping import CLIP_RULES, Rule

_SHOWN_CHARACTERS = 80


class CLIPTextStage:
    """A tokenizer and a text encoder of a model folder.

    Args:
        folder: the model.
        suffix: "" or "_2": which pair.
        dtype: compute dtype.
        quantization_bits: of the encoder's linear maps, or None.
    """

    def __init__(
        self, folder: Path, *, suffix: str = "", dtype: mx.Dtype, quantization_bits: int | None = None
    ) -> None:
        self.config = CLIPTextConfig.from_dict(read_config(folder / f"text_encoder{suffix}" / "config.json"))
        self.tokenizer = CLIPTokenizer(folder / f"tokenizer{suffix}")
        self.tokenizer.max_length = min(self.tokenizer.max_length, self.config.max_position_embeddings)
        has_projection = self.config.projection_dim is not None
        # Converted checkpoints carry a projection along that the plain text model does not use.
        unused = () if has_projection else (Rule(r"^text_projection\.weight$", None),)
        self.component = Component(
            folder / f"text_encoder{suffix}",
            lambda: CLIPTextModel(self.config),
            rules=(*CLIP_RULES, *unused),
            dtype=dtype,
            quantization_bits=quantization_bits,
        )

    def encode(self, prompts: Sequence[str]) -> CLIPOutput:
        """[B] prompts -> hidden states [B, L, D]."""
        ids = np.stack([self.tokenizer(prompt).ids for prompt in prompts])
        return self.component.network(mx.array(ids))

    def hidden_state(self, output: CLIPOutput, layers_from_end: int) -> mx.array:
        """The output of an earlier layer, 1 being the last; not normed.

        Raises:
            InvalidInputError: the encoder has fewer layers.
        """
        if not 1 <= layers_from_end <= len(output.hidden_states):
            raise InvalidInputError(
                f"clip_skip does not fit the {self.config.num_hidden_layers} layers of the text encoder",
                hint="Use 0, 1 or 2.",
            )
        return output.hidden_states[-layers_from_end]

    def skipped_state(self, output: CLIPOutput, clip_skip: int) -> mx.array:
        """The output of the layer `clip_skip` before the last, through the final layer norm."""
        return self.component.network.final_norm(self.hidden_state(output, clip_skip + 1))

    def truncation_notes(self, prompts: Sequence[str], label: str) -> tuple[str, ...]:
        """One line for each prompt whose end was cut off."""
        room = self.tokenizer.max_length - 2
        return tuple(_note(label, room, t) for p in prompts if (t := self.tokenizer(p)).cut_text)


def _note(label: str, room: int, tokenized: TokenizedPrompt) -> str:
    cut = " ".join(tokenized.cut_text.split())
    if len(cut) > _SHOWN_CHARACTERS:
        cut = f"{cut[:_SHOWN_CHARACTERS].rstrip()} ..."
    return f"{label} truncated at {room} of {tokenized.token_count} tokens; left out: {cut}"


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
    """Negative prompts for `count` prompts; one serves them all, None is "".

    Raises:
        InvalidInputError: neither one nor `count` of them.
    """
    prompts = [""] if value is None else prompt_list(value, "negative_prompt")
    if len(prompts) not in (1, count):
        raise InvalidInputError(f"{len(prompts)} negative prompts for {count} prompts")
    return prompts * count if len(prompts) == 1 else prompts


def unheard_negative_notes(
    negative_prompt: str | Sequence[str] | None, *, takes_one: bool
) -> tuple[str, ...]:
    """One line when a negative prompt was given and nothing will use it.

    Args:
        negative_prompt: as the user gave it.
        takes_one: whether guidance, though it is off now, could be turned on.
    """
    if negative_prompt is None or not any(prompt_list(negative_prompt, "negative_prompt")):
        return ()
    if takes_one:
        return ("the negative prompt has no effect without guidance; a guidance_scale above 1 turns it on",)
    return ("this model takes no negative prompt; it was left out",)
