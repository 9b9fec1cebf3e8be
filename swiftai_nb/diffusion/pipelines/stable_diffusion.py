"""Stable Diffusion 1.x and 2.x, LCM-distilled models of their shape, and XL, base and Turbo."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import mlx.core as mx

from swiftai_nb.core.errors import UnsupportedModelError
from swiftai_nb.diffusion.pipelines.denoising import Conditioning, DenoiseRequest
from swiftai_nb.diffusion.pipelines.image_stage import ImageStage
from swiftai_nb.diffusion.pipelines.text_stage import (
    CLIPTextStage,
    TrainingVocabulary,
    negative_prompt_list,
    prompt_list,
    unused_negative_notes,
)
from swiftai_nb.diffusion.pipelines.unet_pipeline import UNetPipeline
from swiftai_nb.diffusion.preview import SD_PREVIEW, SDXL_PREVIEW
from swiftai_nb.diffusion.weights.tensors import read_config
from swiftai_nb.model_files.model_folder import ModelFolder


class StableDiffusionPipeline(UNetPipeline):
    """See `DiffusionPipeline`.

    Args:
        model: its folder.
        dtype: compute dtype.
        quantization_bits: 4, 5, 6, 8 or None.
    """

    def __init__(self, model: ModelFolder, *, dtype: mx.Dtype, quantization_bits: int | None = None) -> None:
        self._text = CLIPTextStage.of(model, dtype=dtype, quantization_bits=quantization_bits)
        self._vocabulary = TrainingVocabulary.read(model.folder)
        config = scheduler_config(model)
        super().__init__(
            model,
            text_stages=(self._text,),
            image=ImageStage.of(model, dtype=dtype, published_preview=SD_PREVIEW),
            # Two fields that diffusers corrects in old files of this family.
            scheduler_config={**config, "steps_offset": 1, "clip_sample": False},
            dtype=dtype,
            quantization_bits=quantization_bits,
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
                a small model was not trained on are noted, too.
            negative_prompt: None is "".
            guidance_scale: above 1 turns guidance on.
            clip_skip: how many last layers to leave out, for the prompt only (as in diffusers).
            max_sequence_length: not used.

        Raises:
            InvalidInputError: clip_skip beyond the encoder's layers.
        """
        prompts = prompt_list(prompt, "prompt")
        output = self._text.encode(prompts)
        embeds = output.last_hidden_state
        if clip_skip is not None:
            embeds = self._text.skipped_state(output, clip_skip)
        notes = self._text.truncation_notes(prompts, "prompt")
        if self._vocabulary is not None:
            notes += self._vocabulary.notes(prompts)
        negative = None
        if guidance_scale > 1 and not self._has_guidance_embedding:
            negatives = negative_prompt_list(negative_prompt, len(prompts))
            negative = self._text.encode(negatives).last_hidden_state
            notes += self._text.truncation_notes(negatives, "negative prompt")
        else:
            notes += unused_negative_notes(negative_prompt, takes_one=not self._has_guidance_embedding)
        return Conditioning(embeds, negative, guidance_scale=guidance_scale, notes=notes).evaluated()


class StableDiffusionXLPipeline(UNetPipeline):
    """See `DiffusionPipeline`.

    Args:
        model: its folder.
        dtype: compute dtype; an autoencoder marked `force_upcast` computes in float32 all the same,
            because it overflows float16.
        quantization_bits: 4, 5, 6, 8 or None.
    """

    def __init__(self, model: ModelFolder, *, dtype: mx.Dtype, quantization_bits: int | None = None) -> None:
        if model.checkpoint is None:
            _refuse_refiner(read_config(model.folder / "model_index.json"))
        self._zero_empty_negatives = model.zeros_empty_negative
        self._text = CLIPTextStage.of(model, dtype=dtype, quantization_bits=quantization_bits)
        self._text_2 = CLIPTextStage.of(model, "_2", dtype=dtype, quantization_bits=quantization_bits)
        config = scheduler_config(model)
        super().__init__(
            model,
            text_stages=(self._text, self._text_2),
            image=ImageStage.of(model, dtype=dtype, published_preview=SDXL_PREVIEW, may_upcast=True),
            scheduler_config=config,
            dtype=dtype,
            quantization_bits=quantization_bits,
        )

    def encode_prompt(
        self,
        prompt: str | Sequence[str],
        negative_prompt: str | Sequence[str] | None = None,
        guidance_scale: float = 5.0,
        clip_skip: int | None = None,
        max_sequence_length: int | None = None,
    ) -> Conditioning:
        """Encodes prompts with both encoders.

        Args:
            prompt: one or several texts; what exceeds the encoders' length is cut, with a note.
            negative_prompt: None is all zeros where the model asks for it (SDXL does), else "".
            guidance_scale: above 1 turns guidance on.
            clip_skip: how many layers to leave out beyond the one SDXL always leaves out; for the
                prompt only (as in diffusers).
            max_sequence_length: not used.

        Raises:
            InvalidInputError: clip_skip beyond the encoders' layers.
        """
        prompts = prompt_list(prompt, "prompt")
        embeds, pooled = self._encode(prompts, skip=0 if clip_skip is None else clip_skip)
        notes = self._text.truncation_notes(prompts, "prompt")
        negative = negative_pooled = None
        if guidance_scale > 1 and not self._has_guidance_embedding:
            if negative_prompt is None and self._zero_empty_negatives:
                negative, negative_pooled = mx.zeros_like(embeds), mx.zeros_like(pooled)
            else:
                negatives = negative_prompt_list(negative_prompt, len(prompts))
                negative, negative_pooled = self._encode(negatives, skip=0)
                notes += self._text.truncation_notes(negatives, "negative prompt")
        else:
            notes += unused_negative_notes(negative_prompt, takes_one=not self._has_guidance_embedding)
        return Conditioning(
            embeds, negative, pooled, negative_pooled, guidance_scale=guidance_scale, notes=notes
        ).evaluated()

    def _encode(self, prompts: list[str], *, skip: int) -> tuple[mx.array, mx.array]:
        """Hidden states of both encoders side by side [B, L, D1 + D2], and the second's pooled text."""
        states = []
        for stage in (self._text, self._text_2):
            output = stage.encode(prompts)
            states.append(stage.hidden_state(output, skip + 2))
        return mx.concatenate(states, axis=-1), output.pooled

    def _added_inputs(
        self, conditioning: Conditioning, request: DenoiseRequest
    ) -> Mapping[str, tuple[mx.array, mx.array]]:
        pooled, negative = conditioning.pooled_prompt_embeds, conditioning.negative_pooled_prompt_embeds
        if pooled is None:
            raise ValueError("this conditioning was encoded by another pipeline: it has no pooled text")
        # Original size, crop corner, target size.
        sizes = [request.height, request.width, 0, 0, request.height, request.width]
        time_ids = mx.array([sizes] * conditioning.batch_size, dtype=mx.float32)
        return {
            "text_embeds": (pooled if negative is None else negative, pooled),
            "time_ids": (time_ids, time_ids),
        }


def scheduler_config(model: ModelFolder) -> dict[str, Any]:
    """The sampler's configuration of a folder, where it has to be a file, or of a single file."""
    if model.checkpoint is not None:
        return dict(model.scheduler_config)
    return read_config(model.folder / "scheduler" / "scheduler_config.json")


def _refuse_refiner(index: Mapping[str, Any]) -> None:
    for name in ("text_encoder", "text_encoder_2"):
        entry = index.get(name)
        if not entry or entry[0] is None:
            raise UnsupportedModelError(
                f"this Stable Diffusion XL has no {name}: refiners are not supported",
                hint="use the base model",
            )
