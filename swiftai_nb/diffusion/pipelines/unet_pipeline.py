"""What Stable Diffusion and Stable Diffusion XL have in common: a UNet under classifier-free guidance."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import mlx.core as mx

from swiftai_nb.core.errors import InvalidInputError, UnsupportedModelError
from swiftai_nb.diffusion.models.layers import sinusoidal_embedding
from swiftai_nb.diffusion.models.unet import UNet
from swiftai_nb.diffusion.models.unet_config import UNetConfig
from swiftai_nb.diffusion.pipelines.denoising import (
    Conditioning,
    DenoiseRequest,
    DenoiseStep,
    Predict,
    latent_shape,
    rescale_guidance,
    sample,
)
from swiftai_nb.diffusion.pipelines.image_stage import ImageStage
from swiftai_nb.diffusion.pipelines.pipeline import DiffusionPipeline
from swiftai_nb.diffusion.pipelines.text_stage import CLIPTextStage
from swiftai_nb.diffusion.pipelines.weighted_prompts import ReadPrompts
from swiftai_nb.diffusion.schedulers.samplers import make_scheduler
from swiftai_nb.diffusion.weights.component import Component
from swiftai_nb.diffusion.weights.layouts import component_config, tensor_source
from swiftai_nb.model_files.model_folder import ModelFolder
from swiftai_nb.model_files.samplers import find_sampler, scheduler_name


class UNetPipeline(DiffusionPipeline):
    """All of a pipeline but `encode_prompt`, which each family adds.

    Args:
        model: its folder.
        text_stages: the text encoders.
        image: the autoencoder.
        scheduler_config: to plan runs from.
        dtype: compute dtype of the UNet.
        quantization_bits: 4, 5, 6, 8 or None.

    Raises:
        InvalidModelFilesError: files that do not fit.
        UnsupportedModelError: networks that are not supported.
    """

    def __init__(
        self,
        model: ModelFolder,
        *,
        text_stages: tuple[CLIPTextStage, ...],
        image: ImageStage,
        scheduler_config: Mapping[str, Any],
        dtype: mx.Dtype,
        quantization_bits: int | None,
    ) -> None:
        config = UNetConfig.from_dict(component_config(model, "unet"))
        if config.in_channels != image.config.latent_channels:
            raise UnsupportedModelError(
                f"the UNet takes {config.in_channels} channels, the latents have "
                f"{image.config.latent_channels}: inpainting and depth models are not supported",
                hint="use the text-to-image model of this family; masks work with it",
            )
        self._config, self._scheduler_config = config, dict(scheduler_config)
        self._text_stages = text_stages
        super().__init__(
            text_encoders=[stage.component for stage in text_stages],
            denoiser=Component(
                tensor_source(model, "unet", "unet"),
                lambda: UNet(config),
                dtype=dtype,
                quantization_bits=quantization_bits,
            ),
            image=image,
            defaults=model.defaults,
        )

    @property
    def _has_guidance_embedding(self) -> bool:
        """Whether guidance is an input of the network (LCM), which rules out negative prompts."""
        return self._config.time_cond_proj_dim is not None

    def _read_prompts(
        self,
        prompt: str | Sequence[str],
        negative_prompt: str | Sequence[str] | None,
        guidance_scale: float,
        syntax: str | None,
    ) -> ReadPrompts:
        takes_negative = not self._has_guidance_embedding
        return ReadPrompts.of(
            prompt,
            negative_prompt,
            stage=self._text_stages[0],
            syntax=syntax,
            is_guided=guidance_scale > 1 and takes_negative,
            takes_negative=takes_negative,
        )

    def _denoise(self, conditioning: Conditioning, request: DenoiseRequest) -> Iterator[DenoiseStep]:
        name = self._sampler_name(request.scheduler)
        scheduler = make_scheduler(
            self._scheduler_config,
            request.steps,
            name=name,
            eta=request.eta,
            is_sdxl=self._config.addition_embed_type == "text_time",
        )
        shape = latent_shape(
            conditioning, request, vae_scale=self.vae_scale, channels=self._config.in_channels
        )
        predict = self._make_predict(conditioning, request, batch=shape[0])
        return sample(request, scheduler, predict, shape=shape)

    def _sampler_name(self, name: str | None) -> str | None:
        """The sampler to plan with: None is the config's own, of whatever class."""
        choice = self.defaults.scheduler if name is None else name
        if choice == scheduler_name(self._scheduler_config):
            return None
        sampler = find_sampler(choice)
        if sampler.kind == "flow":
            raise InvalidInputError(
                "flow-match-euler samples flow models, and this is none", hint="use euler"
            )
        if sampler.kind == "edm" and "sigma_data" not in self._scheduler_config:
            raise InvalidInputError(
                f"{sampler.name} samples models trained with EDM's preconditioning, and this is none",
                hint="use euler or dpm++2m",
            )
        return choice

    def _added_inputs(
        self, conditioning: Conditioning, request: DenoiseRequest
    ) -> Mapping[str, tuple[mx.array, mx.array]]:
        """Further UNet inputs as (negative, positive) pairs, each [n, ...] with n prompts."""
        return {}

    def _make_predict(self, conditioning: Conditioning, request: DenoiseRequest, *, batch: int) -> Predict:
        repeats = batch // conditioning.batch_size
        negative, scale = conditioning.negative_prompt_embeds, conditioning.guidance_scale
        guided, weights = negative is not None, conditioning.and_weights
        added = self._added_inputs(conditioning, request)
        calls = [(conditioning.prompt_embeds, {name: positive for name, (_, positive) in added.items()})]
        if negative is not None:
            unprompted = {name: negated for name, (negated, _) in added.items()}
            calls.insert(0, (negative, unprompted))
            if negative.shape[1] == calls[1][0].shape[1]:  # else each prompt is attended by itself
                names = added.keys()
                both = {name: mx.concatenate([inputs[name] for _, inputs in calls]) for name in names}
                calls = [(mx.concatenate([context for context, _ in calls]), both)]
        calls = [
            (
                mx.repeat(context, repeats, axis=0),
                {name: mx.repeat(value, repeats, axis=0) for name, value in inputs.items()},
            )
            for context, inputs in calls
        ]
        if self._config.time_cond_proj_dim is not None:
            for context, inputs in calls:
                inputs["timestep_cond"] = _guidance_embedding(
                    scale, self._config.time_cond_proj_dim, len(context)
                )

        def predict(latents: mx.array, timestep: float) -> mx.array:
            outputs = []
            for context, inputs in calls:
                sample = mx.concatenate([latents] * (len(context) // batch))
                times = mx.full((len(sample),), timestep, dtype=mx.float32)
                outputs.append(self._denoiser.network(sample, times, context, **inputs))
            predicted = mx.concatenate(outputs).astype(mx.float32)
            if not guided:
                return predicted
            unconditional, *conditionals = mx.split(predicted, len(predicted) // batch)
            conditional = conditionals[0]
            if weights:
                parts = zip(weights, conditionals, strict=True)
                conditional = unconditional + sum(weight * (part - unconditional) for weight, part in parts)
            combined = unconditional + scale * (conditional - unconditional)
            return rescale_guidance(combined, conditional, request.guidance_rescale)

        return predict


def _guidance_embedding(guidance_scale: float, width: int, batch: int) -> mx.array:
    """The guidance input of LCM UNets (Luo et al. 2023): [B, width] of 1000 (scale - 1), sines first."""
    values = mx.full((batch,), (guidance_scale - 1.0) * 1000.0, dtype=mx.float32)
    return sinusoidal_embedding(values, width, cosine_first=False, frequency_shift=1.0)
