"""Stable Diffusion XL, base and Turbo: two text encoders, pooled text and sizes as further inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx

from swiftai_nb.core.errors import UnsupportedModelError
from swiftai_nb.diffusion.models.vae import VAEConfig
from swiftai_nb.diffusion.pipelines.denoising_stage import DenoiseRequest
from swiftai_nb.diffusion.pipelines.image_stage import ImageStage
from swiftai_nb.diffusion.pipelines.stages import Conditioning
from swiftai_nb.diffusion.pipelines.text_stage import (
    CLIPTextStage,
    negative_prompt_list,
    prompt_list,
    unheard_negative_notes,
)
from swiftai_nb.diffusion.pipelines.unet_pipeline import UNetPipeline
from swiftai_nb.diffusion.preview import SDXL_PREVIEW
from swiftai_nb.diffusion.weights.component import read_config


class StableDiffusionXLPipeline(UNetPipeline):
    """See `DiffusionPipeline`.

    Args:
        folder: a model in diffusers layout.
        dtype: compute dtype; an autoencoder marked `force_upcast` computes in float32 all the same,
            because it overflows float16.
        quantization_bits: 4, 8 or None.
    """

    def __init__(self, folder: Path, *, dtype: mx.Dtype, quantization_bits: int | None = None) -> None:
        index = read_config(folder / "model_index.json")
        _refuse_refiner(index)
        self._zero_empty_negatives = bool(index.get("force_zeros_for_empty_prompt", True))
        self._text = CLIPTextStage(folder, dtype=dtype, quantization_bits=quantization_bits)
        self._text_2 = CLIPTextStage(folder, suffix="_2", dtype=dtype, quantization_bits=quantization_bits)
        config = read_config(folder / "scheduler" / "scheduler_config.json")
        steps, guidance_scale = _family_defaults(config)
        super().__init__(
            folder,
            text_stages=(self._text, self._text_2),
            image_stage=ImageStage(folder, dtype=_vae_dtype(folder, dtype), published_preview=SDXL_PREVIEW),
            scheduler_config=config,
            dtype=dtype,
            quantization_bits=quantization_bits,
            steps=steps,
            guidance_scale=guidance_scale,
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
            max_sequence_length: has no meaning here.

        Raises:
            InvalidInputError: clip_skip beyond the encoders' layers.
        """
        prompts = prompt_list(prompt, "prompt")
        embeds, pooled = self._encode(prompts, skip=0 if clip_skip is None else clip_skip)
        notes = self._text.truncation_notes(prompts, "prompt")
        negative = negative_pooled = None
        if guidance_scale > 1 and not self._unet.uses_guidance_embedding:
            if negative_prompt is None and self._zero_empty_negatives:
                negative, negative_pooled = mx.zeros_like(embeds), mx.zeros_like(pooled)
            else:
                negatives = negative_prompt_list(negative_prompt, len(prompts))
                negative, negative_pooled = self._encode(negatives, skip=0)
                notes += self._text.truncation_notes(negatives, "negative prompt")
        else:
            notes += unheard_negative_notes(negative_prompt, takes_one=not self._unet.uses_guidance_embedding)
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


def _refuse_refiner(index: Mapping[str, Any]) -> None:
    for name in ("text_encoder", "text_encoder_2"):
        entry = index.get(name)
        if not entry or entry[0] is None:
            raise UnsupportedModelError(
                f"this Stable Diffusion XL has no {name}: refiners are not supported",
                hint="Use the base model.",
            )


def _family_defaults(scheduler_config: Mapping[str, Any]) -> tuple[int, float]:
    """(steps, guidance_scale): Turbo is known by its sampler, and runs without guidance."""
    is_turbo = (
        scheduler_config.get("_class_name") == "EulerAncestralDiscreteScheduler"
        and scheduler_config.get("timestep_spacing") == "trailing"
    )
    return (4, 0.0) if is_turbo else (30, 5.0)


def _vae_dtype(folder: Path, dtype: mx.Dtype) -> mx.Dtype:
    config = VAEConfig.from_dict(read_config(folder / "vae" / "config.json"))
    return mx.float32 if config.force_upcast and dtype == mx.float16 else dtype
