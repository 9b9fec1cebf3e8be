"""Stable Diffusion 1.x and 2.x, and LCM-distilled models of their shape: one text encoder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import mlx.core as mx

from swiftai_nb.diffusion.pipelines.image_stage import ImageStage
from swiftai_nb.diffusion.pipelines.stages import Conditioning
from swiftai_nb.diffusion.pipelines.text_stage import (
    CLIPTextStage,
    negative_prompt_list,
    prompt_list,
    unheard_negative_notes,
)
from swiftai_nb.diffusion.pipelines.unet_pipeline import UNetPipeline
from swiftai_nb.diffusion.preview import SD_PREVIEW
from swiftai_nb.diffusion.training_vocabulary import TrainingVocabulary
from swiftai_nb.diffusion.weights.component import read_config
from swiftai_nb.model_files.samplers import is_distilled_turbo


class StableDiffusionPipeline(UNetPipeline):
    """See `DiffusionPipeline`.

    Args:
        folder: a model in diffusers layout.
        dtype: compute dtype.
        quantization_bits: 4, 8 or None.
    """

    def __init__(self, folder: Path, *, dtype: mx.Dtype, quantization_bits: int | None = None) -> None:
        self._text = CLIPTextStage(folder, dtype=dtype, quantization_bits=quantization_bits)
        self._trained_words = TrainingVocabulary.read(folder)
        config = read_config(folder / "scheduler" / "scheduler_config.json")
        is_turbo = is_distilled_turbo(config)
        super().__init__(
            folder,
            text_stages=(self._text,),
            image_stage=ImageStage(folder, dtype=dtype, published_preview=SD_PREVIEW),
            # Two fields that diffusers corrects in old files of this family.
            scheduler_config={**config, "steps_offset": 1, "clip_sample": False},
            dtype=dtype,
            quantization_bits=quantization_bits,
            steps=4 if is_turbo else 20,
            guidance_scale=0.0 if is_turbo else 7.5,
        )

    def encode_prompt(
        self,
        prompt: str | Sequence[str],
        negative_prompt: str | Sequence[str] | None = None,
        guidance_scale: float = 7.5,
        clip_skip: int | None = None,
        max_sequence_length: int | None = None,
    ) -> Conditioning:
        """Encodes prompts.

        Args:
            prompt: one or several texts; what exceeds the encoder's length is cut, with a note. Words that
                a small model was never taught are noted, too.
            negative_prompt: None is "".
            guidance_scale: above 1 turns guidance on.
            clip_skip: how many last layers to leave out, for the prompt only (as in diffusers).
            max_sequence_length: has no meaning here.

        Raises:
            InvalidInputError: clip_skip beyond the encoder's layers.
        """
        prompts = prompt_list(prompt, "prompt")
        output = self._text.encode(prompts)
        embeds = output.last_hidden_state
        if clip_skip is not None:
            embeds = self._text.skipped_state(output, clip_skip)
        notes = self._text.truncation_notes(prompts, "prompt")
        if self._trained_words is not None:
            notes += self._trained_words.notes(prompts, "prompt")
        negative = None
        if guidance_scale > 1 and not self._unet.uses_guidance_embedding:
            negatives = negative_prompt_list(negative_prompt, len(prompts))
            negative = self._text.encode(negatives).last_hidden_state
            notes += self._text.truncation_notes(negatives, "negative prompt")
        else:
            notes += unheard_negative_notes(negative_prompt, takes_one=not self._unet.uses_guidance_embedding)
        return Conditioning(embeds, negative, guidance_scale=guidance_scale, notes=notes).evaluated()
