"""Z-Image and Z-Image-Turbo: Qwen3, a single-stream flow transformer, FLUX.1's autoencoder.

In 16-bit precision it computes in bfloat16, as it was trained: Qwen3's residual stream overflows float16. On
GPUs without bfloat16 the transformer of Turbo computes in float16; not that of the base model, which is
reported to overflow (ComfyUI issue 12176).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from swiftai_nb.core.errors import InvalidInputError
from swiftai_nb.core.prompt_syntax import no_weights_notes
from swiftai_nb.diffusion.models.vae import VAEConfig
from swiftai_nb.diffusion.models.z_image import ZImageConfig, ZImageLayout, ZImageTransformer, make_layout
from swiftai_nb.diffusion.models.z_image_control import ZImageControlConfig, ZImageControlNet
from swiftai_nb.diffusion.pipelines.controls import ControlInput, OpenedControls
from swiftai_nb.diffusion.pipelines.denoising import (
    FLOW_SAMPLER,
    Conditioning,
    DenoiseRequest,
    DenoiseStep,
    Predict,
    find_start_index,
    flow_request,
    latent_shape,
    rescale_guidance,
    sample,
)
from swiftai_nb.diffusion.pipelines.image_stage import ImageStage
from swiftai_nb.diffusion.pipelines.pipeline import DiffusionPipeline
from swiftai_nb.diffusion.pipelines.text_stage import (
    Qwen3Stage,
    negative_prompt_list,
    prompt_length,
    prompt_list,
    unused_negative_notes,
)
from swiftai_nb.diffusion.preview import FLUX_PREVIEW
from swiftai_nb.diffusion.schedulers.samplers import make_scheduler
from swiftai_nb.diffusion.weights.component import Component
from swiftai_nb.diffusion.weights.layouts import (
    Z_IMAGE_SCHEDULER,
    component_config,
    control_source,
    tensor_source,
    vae_config_from_tensors,
    z_image_config_from_tensors,
)
from swiftai_nb.diffusion.weights.precision import flow_dtypes
from swiftai_nb.diffusion.weights.z_image_tensors import convert_control, z_image_control_config
from swiftai_nb.model_files.configs import sensible_config
from swiftai_nb.model_files.control_files import Z_IMAGE_CONTROL, open_control
from swiftai_nb.model_files.families import Z_IMAGE
from swiftai_nb.model_files.model_folder import ModelFolder

MAX_SEQUENCE_LENGTH = 512
# (latents [B, h, w, C], time [B], ControlNets with their pictures) -> velocity, the same shape, float32
VelocityFunction = Callable[[mx.array, mx.array, Sequence[Any]], mx.array]


class ZImagePipeline(DiffusionPipeline):
    """See `DiffusionPipeline`.

    Args:
        model: its folder, in any layout.
        dtype: compute dtype; for float16 see `flow_dtypes`.
        quantization_bits: of linear maps on load, or None; modulation, embedders and the final layer stay as
            they are, and so do layers that files hold quantized.

    Raises:
        InvalidModelFilesError: parts missing, or tensors that do not fit.
        UnsupportedModelError: networks of another kind.
    """

    def __init__(self, model: ModelFolder, *, dtype: mx.Dtype, quantization_bits: int | None = None) -> None:
        model.check_complete()
        text_dtype, dtype = flow_dtypes(dtype, fits_float16=model.is_turbo)
        self._text = Qwen3Stage(model, dtype=text_dtype, quantization_bits=quantization_bits)
        vae = tensor_source(model, "vae", "vae")
        image = ImageStage(
            vae,
            VAEConfig.from_dict(component_config(model, "vae", vae, vae_config_from_tensors)),
            folder=model.folder,
            published_preview=FLUX_PREVIEW,
        )
        source = tensor_source(model, "transformer", "z_image")
        config = ZImageConfig.from_dict(
            component_config(model, "transformer", source, z_image_config_from_tensors)
        )
        self.config = config
        self._scheduler_config = model.scheduler_config if model.scheduler_config else Z_IMAGE_SCHEDULER
        self._controlnets = OpenedControls(self._open_control)
        super().__init__(
            text_encoders=(self._text.component,),
            denoiser=Component(
                source,
                lambda: ZImageTransformer(config),
                dtype=dtype,
                quantization_bits=quantization_bits,
                sensitive_layers=model.family.sensitive_layers,
            ),
            image=image,
            defaults=replace(model.defaults, scheduler=FLOW_SAMPLER),
        )

    @property
    def takes_controls(self) -> bool:
        """See `DiffusionPipeline.takes_controls`."""
        return True

    @property
    def components(self) -> dict[str, int]:
        """See `DiffusionPipeline.components`; with the ControlNets of the last run."""
        return super().components | self._controlnets.components

    def release_denoiser(self) -> None:
        """See `DiffusionPipeline.release_denoiser`; ControlNets as well."""
        super().release_denoiser()
        self._controlnets.release()

    def _open_control(self, path: Path) -> Component[ZImageControlNet]:
        control = open_control(path)
        if control.kind != Z_IMAGE_CONTROL:
            raise InvalidInputError(f"{path} is a {control.kind}", hint="use a ControlNet of Z-Image")
        with sensible_config(path):
            config = ZImageControlConfig.from_dict(z_image_control_config(control, self.config), self.config)
        convert = partial(convert_control, without_refiner=config.refiner == "control_layers")
        source = replace(control_source(control), convert=convert)
        return Component(source, lambda: ZImageControlNet(config), dtype=self._denoiser.dtype)

    @property
    def size_multiple(self) -> int:
        """Width and height must be multiples of it: a token is 2x2 latents."""
        return self.config.patch_size * self.vae_scale

    def encode_prompt(
        self,
        prompt: str | Sequence[str],
        negative_prompt: str | Sequence[str] | None = None,
        guidance_scale: float = 0.0,
        clip_skip: int | None = None,
        max_sequence_length: int | None = None,
        *,
        prompt_syntax: str | None = None,
        steps: int | None = None,
    ) -> Conditioning:
        """Encodes prompts with Qwen3, as the only message of a conversation.

        Args:
            prompt: one or several texts; what exceeds max_sequence_length is cut, with a note.
            negative_prompt: None is ""; used with guidance only.
            guidance_scale: s in positive + s (positive - negative), as in diffusers' `ZImagePipeline`: 0
                turns guidance off, which is what Turbo was distilled for.
            clip_skip: must be None or 0: there is no CLIP.
            max_sequence_length: tokens with those of the chat template, 1..512; None is 512.
            prompt_syntax: has no effect but a note: these encoders know no weights.
            steps: not used.

        Raises:
            InvalidInputError: a length outside 1..512, or a clip_skip.
        """
        length = prompt_length(
            max_sequence_length,
            default=MAX_SEQUENCE_LENGTH,
            limit=MAX_SEQUENCE_LENGTH,
            clip_skip=clip_skip,
            why="Z-Image has no CLIP text encoder",
        )
        prompts = prompt_list(prompt, "prompt")
        embeds, lengths = self._encode(prompts, length)
        notes = self._text.truncation_notes(prompts, "prompt", max_length=length)
        notes += no_weights_notes(prompts, prompt_syntax, family="Z-Image")
        negative, negative_lengths = None, None
        if Z_IMAGE.is_guided(guidance_scale):
            negatives = negative_prompt_list(negative_prompt, len(prompts))
            negative, negative_lengths = self._encode(negatives, length)
            notes += self._text.truncation_notes(negatives, "negative prompt", max_length=length)
        else:
            notes += unused_negative_notes(negative_prompt, takes_one=True, guidance_above=0.0)
        return Conditioning(
            embeds,
            negative,
            guidance_scale=guidance_scale,
            prompt_lengths=lengths,
            negative_prompt_lengths=negative_lengths,
            notes=notes,
        ).evaluated()

    def _encode(self, prompts: Sequence[str], length: int) -> tuple[mx.array, tuple[int, ...]]:
        """[B, L, hidden_size], zeros behind each prompt's own tokens, and their numbers."""
        tokens = self._text.tokenizer(prompts, max_length=length)
        (states,) = self._text.encode(tokens)
        lengths = tuple(int(n) for n in tokens.mask.sum(axis=1))
        return mx.where(mx.array(tokens.mask)[..., None], states, 0), lengths

    def _denoise(self, conditioning: Conditioning, request: DenoiseRequest) -> Iterator[DenoiseStep]:
        request = flow_request(request)
        shape = latent_shape(
            conditioning,
            request,
            vae_scale=self.vae_scale,
            channels=self.latent_channels,
            size_multiple=self.size_multiple,
        )
        tokens = shape[1] // 2 * (shape[2] // 2)
        scheduler = make_scheduler(self._scheduler_config, request.steps, sequence_length=tokens)
        calls = len(scheduler.timesteps) - find_start_index(request, scheduler)
        predict = self._make_predict(conditioning, request, shape, calls=calls)
        return sample(request, scheduler, predict, shape=shape)

    def _make_predict(
        self, conditioning: Conditioning, request: DenoiseRequest, shape: tuple[int, ...], *, calls: int
    ) -> Predict:
        """(latents [B, h, w, C], timestep in 0..1000) -> velocity, the same shape, float32."""
        batch, dtype, scale = shape[0], self._denoiser.dtype, conditioning.guidance_scale
        prompts = [(conditioning.prompt_embeds, conditioning.prompt_lengths)]
        if conditioning.negative_prompt_embeds is not None:
            prompts.append((conditioning.negative_prompt_embeds, conditioning.negative_prompt_lengths))
        captions = [self._captions(embeds, lengths, shape) for embeds, lengths in prompts]
        passes: list[VelocityFunction] = []  # made once for all steps, when the network has been read
        if any(control.is_guess for control in request.controls):
            raise InvalidInputError("guess mode is for ControlNets of Stable Diffusion", hint="leave it out")
        networks = self._controlnets.open(request.controls)
        pictures: list[mx.array] = []
        numbers = itertools.count()

        def predict(latents: mx.array, timestep: float) -> mx.array:
            number = next(numbers)
            if not passes:
                pictures.extend(self._encode_pictures(request.controls))
                network = self._denoiser.network
                passes.extend(_velocity_function(network, c, layout) for c, layout in captions)
            controls = [
                partial(component.network, picture=picture, scale=control.scale)
                for control, component, picture in zip(request.controls, networks, pictures, strict=True)
                if control.acts_in(number, calls)
            ]
            time = mx.full((batch,), (1000 - np.float32(timestep)) / 1000, dtype=mx.float32)
            positive = passes[0](latents.astype(dtype), time, controls)
            if len(passes) == 1:
                return positive
            mx.eval(positive)  # one pass at a time: together they need twice the memory
            negative = passes[1](latents.astype(dtype), time, controls)
            combined = positive + scale * (positive - negative)
            return rescale_guidance(combined, positive, request.guidance_rescale)

        return predict

    def _encode_pictures(self, controls: Sequence[ControlInput]) -> list[mx.array]:
        """Latents of the controls' pictures; an autoencoder read for them alone is dropped again."""
        was_loaded = self._image.component.is_loaded
        pictures = [mx.array(self._image.encode_image(control.pixels)) for control in controls]
        if pictures and not was_loaded:
            self._image.component.release()
        return pictures

    def _captions(
        self, embeds: mx.array, lengths: tuple[int, ...] | None, shape: tuple[int, ...]
    ) -> tuple[mx.array, ZImageLayout]:
        """Captions of a run [B, C, D], as long as the layout that comes with them."""
        repeats = shape[0] // embeds.shape[0]
        own = [embeds.shape[1]] * embeds.shape[0] if lengths is None else lengths
        layout = make_layout(
            self.config,
            rows=shape[1] // self.config.patch_size,
            columns=shape[2] // self.config.patch_size,
            caption_lengths=[length for length in own for _ in range(repeats)],
        )
        filling = layout.caption_pads.shape[1] - embeds.shape[1]
        captions = mx.repeat(mx.pad(embeds, [(0, 0), (0, filling), (0, 0)]), repeats, axis=0)
        return captions, layout


def _velocity_function(
    network: ZImageTransformer, captions: mx.array, layout: ZImageLayout
) -> VelocityFunction:
    """One pass with these captions.

    Captions before the joint layers and rotary tables are the same at every step: computed now.
    """
    refined = network.refine_captions(captions, layout)
    mx.eval(refined, *layout.image_rotary, *layout.joint_rotary)

    def velocity(latents: mx.array, time: mx.array, controls: Sequence[Any]) -> mx.array:
        output: mx.array = network(latents, captions=refined, timestep=time, layout=layout, controls=controls)
        return -output.astype(mx.float32)  # the network predicts image minus noise

    return velocity
