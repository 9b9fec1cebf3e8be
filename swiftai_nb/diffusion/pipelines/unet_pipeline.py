"""What Stable Diffusion and Stable Diffusion XL have in common: a UNet under classifier-free guidance."""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx
import numpy as np

from swiftai_nb.core.errors import InvalidInputError, UnsupportedModelError
from swiftai_nb.diffusion.models.layers import sinusoidal_embedding
from swiftai_nb.diffusion.models.unet import UNet
from swiftai_nb.diffusion.models.unet_config import UNetConfig
from swiftai_nb.diffusion.pipelines.controls import ControlRun, OpenedControls, open_unet_control
from swiftai_nb.diffusion.pipelines.denoising import (
    Conditioning,
    DenoiseRequest,
    DenoiseStep,
    Predict,
    find_start_index,
    latent_shape,
    rescale_guidance,
    sample,
)
from swiftai_nb.diffusion.pipelines.image_stage import ImageStage
from swiftai_nb.diffusion.pipelines.pipeline import DiffusionPipeline
from swiftai_nb.diffusion.pipelines.text_stage import CLIPTextStage
from swiftai_nb.diffusion.pipelines.weighted_prompts import ReadPrompts, read_prompts
from swiftai_nb.diffusion.schedulers.samplers import make_scheduler
from swiftai_nb.diffusion.weights.component import Component
from swiftai_nb.diffusion.weights.layouts import component_config, tensor_source
from swiftai_nb.diffusion.weights.textual_inversion import TextualInversion
from swiftai_nb.model_files.families import INPAINTING, INSTRUCT_PIX2PIX, TEXT_TO_IMAGE
from swiftai_nb.model_files.model_folder import ModelFolder
from swiftai_nb.model_files.references import ReferenceLimits
from swiftai_nb.model_files.samplers import find_sampler, scheduler_name


@dataclass(frozen=True)
class _Part:
    """One network call of a step: some of the branches of guidance, one behind the other in the batch.

    Attributes:
        context: [n, L, D].
        added: SDXL's further inputs, each [n, ...].
        timestep_cond: [n, T], the guidance embedding of LCM UNets.
        unprompted: how many of the first rows are without the prompt.
    """

    context: mx.array
    added: Mapping[str, mx.array]
    timestep_cond: mx.array | None
    unprompted: int


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
        if config.out_channels != image.config.latent_channels:
            raise UnsupportedModelError(
                f"the UNet gives {config.out_channels} channels, but the latents have "
                f"{image.config.latent_channels}",
                hint="check that unet/ and vae/ belong together",
            )
        self._task, self._references = model.task, model.references
        self._config, self._scheduler_config = config, dict(scheduler_config)
        self._text_stages = text_stages
        self._controlnets = OpenedControls(
            lambda path: open_unet_control(
                path,
                config,
                vae_scale=image.config.scale,
                dtype=dtype,
                prefer_half=model.prefer_half,
            )
        )
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

    @property
    def task(self) -> str:
        """See `DiffusionPipeline.task`."""
        return self._task

    @property
    def references(self) -> ReferenceLimits | None:
        """See `DiffusionPipeline.references`: InstructPix2Pix takes one, of the size that is made."""
        return self._references

    @property
    def _has_guidance_embedding(self) -> bool:
        """Whether guidance is an input of the network (LCM), which rules out negative prompts."""
        return self._config.time_cond_proj_dim is not None

    def set_embeddings(self, embeddings: Sequence[TextualInversion]) -> None:
        """See `DiffusionPipeline.set_embeddings`."""
        widths = tuple(stage.config.hidden_size for stage in self._text_stages)
        fitted = {embedding.names: embedding.fitted(widths) for embedding in embeddings}
        for index, stage in enumerate(self._text_stages):
            stage.set_embeddings({names: vectors[index] for names, vectors in fitted.items()})
        self.embeddings = tuple(embeddings)

    def encode_prompt(
        self,
        prompt: str | Sequence[str],
        negative_prompt: str | Sequence[str] | None = None,
        guidance_scale: float = 7.5,
        clip_skip: int | None = None,
        max_sequence_length: int | None = None,
        *,
        prompt_syntax: str | None = None,
        steps: int | None = None,
    ) -> Conditioning:
        """Encodes prompts.

        Args:
            prompt: one or several texts; what exceeds the encoders' length is cut, with a note. Words that
                a small model was not trained on are noted, too.
            negative_prompt: None is ""; with SDXL it is all zeros where the model asks for that.
            guidance_scale: above 1 turns guidance on.
            clip_skip: how many last layers to leave out, for the prompt only (as in diffusers); SDXL leaves
                out one more.
            max_sequence_length: not used.
            prompt_syntax: see `DiffusionPipeline.encode_prompt`.
            steps: the same.

        Raises:
            InvalidInputError: clip_skip beyond the encoders' layers, a weight out of range, or AND without
                guidance.
        """
        takes_negative = not self._has_guidance_embedding
        changes = read_prompts(
            prompt,
            negative_prompt,
            stage=self._text_stages[0],
            syntax=prompt_syntax,
            steps=self.defaults.steps if steps is None else steps,
            is_guided=guidance_scale > 1 and takes_negative,
            takes_negative=takes_negative,
        )
        encoded = {
            read: self._encode_texts(
                read,
                guidance_scale=guidance_scale,
                clip_skip=clip_skip,
                has_negative=negative_prompt is not None,
            ).evaluated()
            for read in dict.fromkeys(read for _, read in changes)
        }
        later = tuple((first, encoded[read]) for first, read in changes[1:])
        return replace(encoded[changes[0][1]], changes=later)

    @abstractmethod
    def _encode_texts(
        self, read: ReadPrompts, *, guidance_scale: float, clip_skip: int | None, has_negative: bool
    ) -> Conditioning:
        """Encodes the prompts of a step."""

    def _denoise(self, conditioning: Conditioning, request: DenoiseRequest) -> Iterator[DenoiseStep]:
        name = self._sampler_name(request.scheduler)
        scheduler = make_scheduler(
            self._scheduler_config,
            request.steps,
            name=name,
            eta=request.eta,
            is_sdxl=self._config.addition_embed_type == "text_time",
        )
        shape = latent_shape(conditioning, request, vae_scale=self.vae_scale, channels=self.latent_channels)
        self._check_pictures(request, shape)
        started = _without_blending(request) if self._task == INPAINTING else request
        calls = len(scheduler.timesteps) - find_start_index(started, scheduler)
        stages = [(first * scheduler.calls_per_step, own) for first, own in conditioning.changes]
        predict = self._make_predict([(0, conditioning), *stages], request, shape, calls=calls)
        return sample(started, scheduler, predict, shape=shape)

    def _check_pictures(self, request: DenoiseRequest, shape: tuple[int, ...]) -> None:
        """Refuses pictures that do not fit the UNet's input.

        Raises:
            InvalidInputError: one is missing, or of another size.
        """
        if self._task == INSTRUCT_PIX2PIX:
            shapes = [tuple(np.shape(latents)) for latents in request.reference_latents]
            if len(shapes) != 1 or shapes[0][0] not in (1, shape[0]) or shapes[0][1:] != shape[1:]:
                raise InvalidInputError(
                    f"InstructPix2Pix changes one picture of the size that is made, not {shapes or 'none'}",
                    hint=f"give reference_latents of one picture of {request.width}x{request.height}",
                )
        elif request.masked_image_latents is not None and self._task != INPAINTING:
            raise InvalidInputError(
                "masked_image_latents are for inpainting models, and this is none",
                hint="give image_latents and mask",
            )
        elif self._task == INPAINTING and (request.mask is None) != (request.masked_image_latents is None):
            raise InvalidInputError(
                "an inpainting model takes mask and masked_image_latents together, or neither",
                hint="masked_image_latents=pipeline.encode_masked_image(pixels, mask)",
            )

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

    def _make_predict(
        self,
        stages: list[tuple[int, Conditioning]],
        request: DenoiseRequest,
        shape: tuple[int, ...],
        *,
        calls: int,
    ) -> Predict:
        """What the sampler calls; `stages` are (first call, the conditioning from there on)."""
        scale = stages[0][1].guidance_scale
        image_scale = 1.5 if request.image_guidance_scale is None else request.image_guidance_scale
        is_edit = self._task == INSTRUCT_PIX2PIX
        # The branches of guidance: no prompt; for edits no prompt, but the picture; the prompts.
        is_guided = stages[0][1].negative_prompt_embeds is not None and not (is_edit and image_scale < 1.0)
        unprompted = 0 if not is_guided else 2 if is_edit else 1
        known = {
            id(own): (self._parts(own, request, unprompted=unprompted, batch=shape[0]), own.and_weights)
            for _, own in stages
        }
        controls = ControlRun(request.controls, self._controlnets.open(request.controls), calls=calls)
        pictures: dict[int, mx.array] = {}  # made once for all steps, when the networks have been read
        numbers = itertools.count()

        def predict(latents: mx.array, timestep: float) -> mx.array:
            number, outputs, row = next(numbers), [], 0
            parts, weights = known[next(id(own) for first, own in reversed(stages) if first <= number)]
            total = sum(len(part.context) for part in parts)
            if total not in pictures and self._task != TEXT_TO_IMAGE:
                pictures[total] = self._picture_channels(request, shape, total, unprompted=unprompted)
            for part in parts:
                rows = len(part.context)
                sample = mx.concatenate([latents] * (rows // shape[0]))
                times = mx.full((rows,), timestep, dtype=mx.float32)
                steered = controls.inputs(
                    number, sample, times, part.context, added=part.added, first=part.unprompted
                )
                own = [pictures[total][row : row + rows]] if pictures else []
                output: mx.array = self._denoiser.network(
                    mx.concatenate([sample, *own], axis=-1) if own else sample,
                    times,
                    part.context,
                    timestep_cond=part.timestep_cond,
                    **part.added,
                    **steered,
                )
                outputs.append(output)
                row += rows
            predicted = mx.concatenate(outputs).astype(mx.float32)
            if not is_guided:
                return predicted[: shape[0]]
            branches = mx.split(predicted, row // shape[0])
            unconditional, without, conditional = branches[0], branches[unprompted - 1], branches[unprompted]
            if weights:
                weighed = zip(weights, branches[unprompted:], strict=True)
                conditional = unconditional + sum(weight * (one - unconditional) for weight, one in weighed)
            combined = unconditional + scale * (conditional - without)
            if is_edit:
                combined = combined + image_scale * (without - unconditional)
            return rescale_guidance(combined, conditional, request.guidance_rescale)

        return predict

    def _parts(
        self, conditioning: Conditioning, request: DenoiseRequest, *, unprompted: int, batch: int
    ) -> list[_Part]:
        """The network calls of a step: one, or two where the negative prompt has another length."""
        negative, repeats = conditioning.negative_prompt_embeds, batch // conditioning.batch_size
        added = self._added_inputs(conditioning, request)
        groups = [(conditioning.prompt_embeds, {name: own for name, (_, own) in added.items()}, 0)]
        if negative is not None and unprompted:
            without = {name: mx.concatenate([own] * unprompted) for name, (own, _) in added.items()}
            context = mx.concatenate([negative] * unprompted)
            groups.insert(0, (context, without, len(context)))
            if negative.shape[1] == conditioning.prompt_embeds.shape[1]:
                both = {name: mx.concatenate([own[name] for _, own, _ in groups]) for name in added}
                groups = [(mx.concatenate([own for own, _, _ in groups]), both, len(context))]
        width, parts = self._config.time_cond_proj_dim, []
        for context, inputs, count in groups:
            repeated = {name: mx.repeat(value, repeats, axis=0) for name, value in inputs.items()}
            rows = len(context) * repeats
            embedding = None
            if width is not None:
                embedding = _guidance_embedding(conditioning.guidance_scale, width, rows)
            parts.append(_Part(mx.repeat(context, repeats, axis=0), repeated, embedding, count * repeats))
        return parts

    def _picture_channels(
        self, request: DenoiseRequest, shape: tuple[int, ...], rows: int, *, unprompted: int
    ) -> mx.array:
        """What the UNet takes beside the latents at every step: [rows, h, w, channels]."""
        branches = rows // shape[0]
        if self._task == INSTRUCT_PIX2PIX:
            # The network was trained on latents that are not scaled.
            scaled = mx.broadcast_to(mx.array(request.reference_latents[0]), shape)
            picture = scaled / self._image.config.scaling_factor
            first = [mx.zeros_like(picture)] if unprompted else []
            return mx.concatenate([*first, *[picture] * (branches - len(first))])
        mask, masked = request.mask, request.masked_image_latents
        if mask is None or masked is None:  # paint everything
            gray = np.full((request.height, request.width, 3), 127, dtype=np.uint8)
            mask = np.ones((*shape[1:3], 1), dtype=np.float32)
            masked = self._image.encode_masked_image(gray, np.ones(gray.shape[:2], dtype=np.float32))
        parts = [
            mx.broadcast_to(
                mx.array(np.asarray(array[..., :channels], dtype=np.float32)), (*shape[:3], channels)
            )
            for array, channels in ((mask, 1), (masked, shape[-1]))
        ]
        return mx.concatenate([mx.concatenate(parts, axis=-1)] * branches)


def _without_blending(request: DenoiseRequest) -> DenoiseRequest:
    """A request whose mask is an input of the network: only the start is made from the picture."""
    is_full = request.strength == 1.0 or (request.strength is None and request.mask is not None)
    if request.image_latents is None or is_full:
        return replace(request, image_latents=None, mask=None)
    return replace(request, mask=None)


def _guidance_embedding(guidance_scale: float, width: int, batch: int) -> mx.array:
    """The guidance input of LCM UNets (Luo et al. 2023): [B, width] of 1000 (scale - 1), sines first."""
    values = mx.full((batch,), (guidance_scale - 1.0) * 1000.0, dtype=mx.float32)
    return sinusoidal_embedding(values, width, cosine_first=False, frequency_shift=1.0)
