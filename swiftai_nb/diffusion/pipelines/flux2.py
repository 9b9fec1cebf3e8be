"""FLUX.2 klein: Qwen3, a rectified-flow transformer, a 32-channel autoencoder in 2x2 patches.

It makes pictures from text and changes given ones: the latents of reference pictures are further tokens of
the transformer. Latents are normalized patches, [B, H/16, W/16, 128]: `vae_scale` is 16, `latent_channels`
is 128. In 16-bit precision it computes in bfloat16: Qwen3 overflows float16. On GPUs without bfloat16 the
transformer computes in float16, with the residual stream clipped as in diffusers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import mlx.core as mx
import numpy as np

from swiftai_nb.core.errors import InvalidInputError, InvalidModelFilesError, UnsupportedModelError
from swiftai_nb.core.prompt_syntax import no_weights_notes
from swiftai_nb.diffusion.models.flux2_transformer import (
    Flux2Config,
    Flux2Transformer,
    clipped_as,
    make_rotary,
)
from swiftai_nb.diffusion.models.vae import VAEConfig
from swiftai_nb.diffusion.pipelines.denoising import (
    FLOW_SAMPLER,
    Conditioning,
    DenoiseRequest,
    DenoiseStep,
    Latents,
    Predict,
    flow_request,
    latent_shape,
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
from swiftai_nb.diffusion.schedulers.samplers import make_scheduler
from swiftai_nb.diffusion.weights.component import Component
from swiftai_nb.diffusion.weights.layouts import (
    FLUX2_SCHEDULER,
    component_config,
    flux2_config_from_tensors,
    flux2_vae_config_from_tensors,
    qwen3_config_from_tensors,
    tensor_source,
)
from swiftai_nb.diffusion.weights.precision import flow_dtypes
from swiftai_nb.model_files.families import Family
from swiftai_nb.model_files.model_folder import ModelFolder
from swiftai_nb.model_files.references import ReferenceLimits

MAX_SEQUENCE_LENGTH = 512


class Flux2Pipeline(DiffusionPipeline):
    """See `DiffusionPipeline`.

    Args:
        model: its folder, in any layout.
        dtype: compute dtype; for float16 see `flow_dtypes`.
        quantization_bits: of linear maps on load, or None; embedders and the final layer stay as they are,
            and so do layers that files hold quantized.

    Raises:
        InvalidModelFilesError: parts missing, or tensors that do not fit.
        UnsupportedModelError: networks of another kind.
    """

    def __init__(self, model: ModelFolder, *, dtype: mx.Dtype, quantization_bits: int | None = None) -> None:
        model.check_complete()
        text_dtype, dtype = flow_dtypes(dtype, fits_float16=True)
        self._references_taken = model.family.references
        self.is_distilled = model.is_turbo
        self._scheduler_config = model.scheduler_config if model.scheduler_config else FLUX2_SCHEDULER
        text = tensor_source(model, "text_encoder", "qwen3")
        qwen3 = component_config(model, "text_encoder", text, qwen3_config_from_tensors)
        layers = text_layers(model.family, count=int(qwen3.get("num_hidden_layers", 0)))
        self._text = Qwen3Stage(model, layers=layers, dtype=text_dtype, quantization_bits=quantization_bits)
        image = tensor_source(model, "vae", "flux2 vae")
        vae = VAEConfig.from_dict(component_config(model, "vae", image, flux2_vae_config_from_tensors))
        source = tensor_source(model, "transformer", "flux2")
        self.config = config = Flux2Config.from_dict(
            component_config(model, "transformer", source, flux2_config_from_tensors)
        )
        _check_widths(config, vae, text_width=len(layers) * int(qwen3.get("hidden_size", 0)))
        super().__init__(
            text_encoders=(self._text.component,),
            denoiser=Component(
                source,
                lambda: Flux2Transformer(config),
                dtype=dtype,
                quantization_bits=quantization_bits,
                sensitive_layers=model.family.sensitive_layers,
            ),
            image=ImageStage(
                image,
                vae,
                folder=model.folder,
                published_preview=None,
            ),
            defaults=replace(model.defaults, scheduler=FLOW_SAMPLER),
        )

    @property
    def references(self) -> ReferenceLimits | None:
        """The pictures that a prompt can refer to."""
        return self._references_taken

    def encode_prompt(
        self,
        prompt: str | Sequence[str],
        negative_prompt: str | Sequence[str] | None = None,
        guidance_scale: float = 4.0,
        clip_skip: int | None = None,
        max_sequence_length: int | None = None,
        *,
        prompt_syntax: str | None = None,
        steps: int | None = None,
    ) -> Conditioning:
        """Encodes prompts with Qwen3, padded to a fixed length; the transformer attends the padding too.

        Args:
            prompt: one or several texts; what exceeds max_sequence_length is cut, with a note.
            negative_prompt: for the base models, with guidance; None is "".
            guidance_scale: classifier-free guidance of the base models, on above 1; the distilled models run
                without it.
            clip_skip: must be None or 0.
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
            why="FLUX.2 has no CLIP",
        )
        prompts = prompt_list(prompt, "prompt")
        notes = self._text.truncation_notes(prompts, "prompt", max_length=length)
        notes += no_weights_notes(prompts, prompt_syntax, family="FLUX.2")
        is_guided = guidance_scale > 1 and not self.is_distilled
        negative = None
        if is_guided:
            negatives = negative_prompt_list(negative_prompt, len(prompts))
            notes += self._text.truncation_notes(negatives, "negative prompt", max_length=length)
            negative = self._encode(negatives, length)
        else:
            notes += unused_negative_notes(negative_prompt, takes_one=not self.is_distilled)
            if guidance_scale > 1:
                notes += ("this model is distilled to run without guidance; guidance_scale was left out",)
        conditioning = Conditioning(
            prompt_embeds=self._encode(prompts, length),
            negative_prompt_embeds=negative,
            guidance_scale=guidance_scale if is_guided else 1.0,
            notes=notes,
        )
        return conditioning.evaluated()

    def _encode(self, prompts: Sequence[str], length: int) -> mx.array:
        """[B] prompts -> [B, length, 3 D]; real tokens do not attend the padding."""
        tokens = self._text.tokenizer(prompts, max_length=length, thinking=False, pad_to=length)
        return mx.concatenate(self._text.encode(tokens), axis=-1)

    def _denoise(self, conditioning: Conditioning, request: DenoiseRequest) -> Iterator[DenoiseStep]:
        request = flow_request(request)
        shape = latent_shape(conditioning, request, vae_scale=self.vae_scale, channels=self.latent_channels)
        references = self._references(request)
        mu = empirical_mu(shape[1] * shape[2], request.steps)
        plan = make_scheduler(self._scheduler_config, request.steps, mu=mu)
        return sample(request, plan, self._make_predict(conditioning, shape, references), shape=shape)

    def _references(self, request: DenoiseRequest) -> list[Latents]:
        """The reference pictures of a run; with a mask, the picture that is painted on is the first one."""
        references = [np.asarray(latents, dtype=np.float32) for latents in request.reference_latents]
        for latents in references:
            if latents.ndim != 4 or latents.shape[0] != 1 or latents.shape[-1] != self.latent_channels:
                raise InvalidInputError(
                    f"reference_latents have shape {latents.shape}, need [1, h, w, {self.latent_channels}]",
                    hint="make them with this pipeline's encode_image",
                )
        picture = request.image_latents
        if request.mask is None or picture is None:
            return references
        picture = np.asarray(picture, dtype=np.float32)
        picture = (picture[None] if picture.ndim == 3 else picture)[:1]
        is_given = bool(references) and np.array_equal(references[0], picture)
        return references if is_given else [picture, *references]

    def _make_predict(
        self, conditioning: Conditioning, shape: tuple[int, ...], references: Sequence[Latents]
    ) -> Predict:
        """(latents [B, h, w, C], timestep in 0..1000) -> velocity, the same shape, float32."""
        batch, rows, columns, channels = shape
        count, dtype = rows * columns, self._denoiser.dtype
        repeats = batch // conditioning.batch_size
        text = conditioning.prompt_embeds
        rotary = make_rotary(
            self.config,
            text_length=text.shape[1],
            size=(rows, columns),
            references=[(latents.shape[1], latents.shape[2]) for latents in references],
        )
        fixed = [mx.array(latents).reshape(1, -1, channels) for latents in references]
        given = mx.concatenate(fixed, axis=1).astype(dtype) if fixed else None

        def velocity(tokens: mx.array, embeds: mx.array, timestep: float) -> mx.array:
            predicted = self._denoiser.network(
                tokens,
                encoder_hidden_states=clipped_as(mx.repeat(embeds, repeats, axis=0), dtype),
                timestep=mx.full((batch,), timestep / 1000, dtype=mx.float32),
                rotary=rotary,
            )
            result: mx.array = predicted[:, :count].astype(mx.float32)
            return result

        def predict(latents: mx.array, timestep: float) -> mx.array:
            tokens = latents.reshape(batch, count, channels).astype(dtype)
            if given is not None:
                repeated = mx.broadcast_to(given, (batch, *given.shape[1:]))
                tokens = mx.concatenate([tokens, repeated], axis=1)
            result = velocity(tokens, text, timestep)
            if conditioning.negative_prompt_embeds is not None:
                mx.eval(result)  # one pass at a time: together they need twice the memory
                negative = velocity(tokens, conditioning.negative_prompt_embeds, timestep)
                result = negative + conditioning.guidance_scale * (result - negative)
            return result.reshape(shape)

        return predict


def text_layers(family: Family, *, count: int) -> tuple[int, ...]:
    """The hidden states that the transformer reads of a Qwen3 with `count` layers.

    Published encoders have 36 layers; for smaller ones, in tests, the same fractions.
    """
    layers = family.text_layers
    return layers if count >= layers[-1] else tuple(count * n // 4 for n in (1, 2, 3))


def empirical_mu(sequence_length: int, steps: int) -> float:
    """The logarithm of the sigmas' shift, fitted by Black Forest Labs for 10 and 200 steps.

    Args:
        sequence_length: tokens of the picture, without those of references.
        steps: of the run.
    """
    at_200 = 0.00016927 * sequence_length + 0.45666666
    if sequence_length > 4300:
        return at_200
    at_10 = 8.73809524e-05 * sequence_length + 1.89833333
    slope = (at_200 - at_10) / 190.0
    return slope * steps + at_200 - 200.0 * slope


def _check_widths(config: Flux2Config, vae: VAEConfig, *, text_width: int) -> None:
    if config.guidance_embeds:
        raise UnsupportedModelError("FLUX.2 dev is not supported", hint="use FLUX.2 klein")
    if config.in_channels != vae.denoiser_channels:
        raise InvalidModelFilesError(
            f"the transformer takes {config.in_channels} channels, the latents have {vae.denoiser_channels}",
            hint="check that the folder's files belong together",
        )
    if config.joint_attention_dim != text_width:
        raise InvalidModelFilesError(
            f"the transformer takes text of {config.joint_attention_dim} features, the text encoder gives "
            f"{text_width}",
            hint="klein 4B needs Qwen3-4B, klein 9B needs Qwen3-8B",
        )
