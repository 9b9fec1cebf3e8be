"""Stable Diffusion 1.x and 2.x, LCM-distilled models of their shape, and XL: base, Turbo and refiner."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import mlx.core as mx

from swiftai_nb.core.errors import InvalidModelFilesError
from swiftai_nb.diffusion.models.clip import CLIPOutput
from swiftai_nb.diffusion.pipelines.denoising import Conditioning, DenoiseRequest, DenoiseStep
from swiftai_nb.diffusion.pipelines.image_stage import ImageStage
from swiftai_nb.diffusion.pipelines.text_stage import (
    CLIPTextStage,
    TrainingVocabulary,
)
from swiftai_nb.diffusion.pipelines.unet_pipeline import UNetPipeline
from swiftai_nb.diffusion.pipelines.weighted_prompts import ReadPrompts
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
        text = CLIPTextStage.of(model, dtype=dtype, quantization_bits=quantization_bits)
        self._vocabulary = TrainingVocabulary.read(model.folder)
        config = scheduler_config(model)
        super().__init__(
            model,
            text_stages=(text,),
            image=ImageStage.of(model, published_preview=SD_PREVIEW),
            # Two fields that diffusers corrects in old files of this family.
            scheduler_config={**config, "steps_offset": 1, "clip_sample": False},
            dtype=dtype,
            quantization_bits=quantization_bits,
        )

    def _encode_texts(
        self, read: ReadPrompts, *, guidance_scale: float, clip_skip: int | None, has_negative: bool
    ) -> Conditioning:
        embeds, _ = self._encode(read, read.prompts, clip_skip)
        notes = read.notes
        if self._vocabulary is not None:
            notes += self._vocabulary.notes(read.texts)
        negative = None
        if read.is_guided:
            negative, _ = self._encode(read, read.negatives, None)
        return Conditioning(
            embeds, negative, guidance_scale=guidance_scale, and_weights=read.and_weights, notes=notes
        )

    def _encode(
        self, read: ReadPrompts, prompts: list[str], clip_skip: int | None
    ) -> tuple[mx.array, mx.array]:
        def state(stage: CLIPTextStage, output: CLIPOutput) -> mx.array:
            return output.last_hidden_state if clip_skip is None else stage.skipped_state(output, clip_skip)

        return read.encode(self._text_stages, prompts, state)


# What the refiner is told that the pictures it learned from were rated, as in diffusers.
_AESTHETIC_SCORE, _NEGATIVE_AESTHETIC_SCORE = 6.0, 2.5


class StableDiffusionXLPipeline(UNetPipeline):
    """See `DiffusionPipeline`. The refiner has the second text encoder alone, and needs `image_latents`.

    Args:
        model: its folder.
        dtype: compute dtype.
        quantization_bits: 4, 5, 6, 8 or None.
    """

    def __init__(self, model: ModelFolder, *, dtype: mx.Dtype, quantization_bits: int | None = None) -> None:
        self._model = model
        stages = [
            CLIPTextStage.of(
                model, name.removeprefix("text_encoder"), dtype=dtype, quantization_bits=quantization_bits
            )
            for name in model.family.components
            if name.startswith("text_encoder")
        ]
        config = scheduler_config(model)
        super().__init__(
            model,
            text_stages=tuple(stages),
            image=ImageStage.of(model, published_preview=SDXL_PREVIEW),
            scheduler_config=config,
            dtype=dtype,
            quantization_bits=quantization_bits,
        )
        self._is_scored = self._reads_score()

    def _reads_score(self) -> bool:
        """Whether the UNet reads five numbers about a picture, the last one its score, instead of six.

        Raises:
            InvalidModelFilesError: it reads texts of another width, or other numbers.
        """
        unet, texts = self._config, [stage.config for stage in self._text_stages]
        pooled = texts[-1].hidden_size if texts[-1].projection_dim is None else texts[-1].projection_dim
        given = (sum(text.hidden_size for text in texts), pooled)
        count, rest = divmod(
            unet.projection_class_embeddings_input_dim - pooled, unet.addition_time_embed_dim
        )
        if rest or count not in (5, 6) or set(unet.cross_attention_dims) != {given[0]}:
            raise InvalidModelFilesError(
                f"the UNet does not fit the text encoders, which give {given[0]} features, {given[1]} pooled",
                hint="check that unet/ and the text encoders belong together",
            )
        return count == 5

    def _encode_texts(
        self, read: ReadPrompts, *, guidance_scale: float, clip_skip: int | None, has_negative: bool
    ) -> Conditioning:
        embeds, pooled = self._encode(read, read.prompts, 0 if clip_skip is None else clip_skip)
        negative = negative_pooled = None
        if read.is_guided and not has_negative and self._model.zeros_empty_negative:
            pictures = 1 if read.and_weights else len(embeds)
            negative, negative_pooled = mx.zeros_like(embeds[:pictures]), mx.zeros_like(pooled[:pictures])
        elif read.is_guided:
            negative, negative_pooled = self._encode(read, read.negatives, 0)
        return Conditioning(
            embeds,
            negative,
            pooled,
            negative_pooled,
            guidance_scale=guidance_scale,
            and_weights=read.and_weights,
            notes=read.notes,
        )

    def _encode(self, read: ReadPrompts, prompts: list[str], skip: int) -> tuple[mx.array, mx.array]:
        """Hidden states of the encoders side by side [B, L, D1 + D2], and the last one's pooled text."""
        return read.encode(
            self._text_stages, prompts, lambda stage, output: stage.hidden_state(output, skip + 2)
        )

    def _denoise(self, conditioning: Conditioning, request: DenoiseRequest) -> Iterator[DenoiseStep]:
        self._model.check_image(is_given=request.image_latents is not None)
        if request.strength is None:
            request = replace(request, strength=self._model.family.refining_strength)
        return super()._denoise(conditioning, request)

    def _added_inputs(
        self, conditioning: Conditioning, request: DenoiseRequest
    ) -> Mapping[str, tuple[mx.array, mx.array]]:
        pooled, negative = conditioning.pooled_prompt_embeds, conditioning.negative_pooled_prompt_embeds
        if pooled is None:
            raise ValueError("this conditioning was encoded by another pipeline: it has no pooled text")
        # Original size, crop corner, and the target size or a score.
        size = [request.height, request.width]
        last = ([_NEGATIVE_AESTHETIC_SCORE], [_AESTHETIC_SCORE]) if self._is_scored else (size, size)
        without, time_ids = (mx.array([[*size, 0, 0, *end]] * len(pooled), dtype=mx.float32) for end in last)
        return {
            "text_embeds": (pooled if negative is None else negative, pooled),
            "time_ids": (without[: conditioning.batch_size], time_ids),
        }


def scheduler_config(model: ModelFolder) -> dict[str, Any]:
    """The sampler's configuration of a folder, where it has to be a file, or of a single file."""
    if model.checkpoint is not None:
        return dict(model.scheduler_config)
    return read_config(model.folder / "scheduler" / "scheduler_config.json")
