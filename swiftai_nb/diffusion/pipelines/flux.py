"""FLUX.1 schnell and dev: T5 and CLIP, a rectified-flow transformer, a 16-channel autoencoder.

In 16-bit precision FLUX computes in bfloat16, as it was trained: T5 overflows float16.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import mlx.core as mx

from swiftai_nb.core.errors import InvalidInputError
from swiftai_nb.core.prompt_syntax import no_weights_notes
from swiftai_nb.diffusion.models.clip import CLIPTextConfig
from swiftai_nb.diffusion.models.flux_transformer import (
    FluxConfig,
    FluxTransformer,
    rotary_embedding,
    token_positions,
)
from swiftai_nb.diffusion.models.t5 import T5Config
from swiftai_nb.diffusion.models.vae import VAEConfig, fold_patches, unfold_patches
from swiftai_nb.diffusion.pipelines.denoising import (
    FLOW_SAMPLER,
    Conditioning,
    DenoiseRequest,
    DenoiseStep,
    Predict,
    flow_request,
    latent_shape,
    sample,
)
from swiftai_nb.diffusion.pipelines.image_stage import ImageStage
from swiftai_nb.diffusion.pipelines.pipeline import DiffusionPipeline
from swiftai_nb.diffusion.pipelines.text_stage import CLIPTextStage, T5Stage, prompt_length, prompt_list
from swiftai_nb.diffusion.preview import FLUX_PREVIEW
from swiftai_nb.diffusion.schedulers.samplers import make_scheduler
from swiftai_nb.diffusion.weights.component import Component
from swiftai_nb.diffusion.weights.layouts import (
    clip_config_from_tensors,
    component_config,
    flux_config_from_tensors,
    flux_scheduler_config,
    t5_config_from_tensors,
    tensor_source,
    vae_config_from_tensors,
)
from swiftai_nb.model_files.model_folder import ModelFolder

# Of T5, with its final </s>; what the two models were trained with.
SCHNELL_SEQUENCE_LENGTH, DEV_SEQUENCE_LENGTH = 256, 512
_PATCH = 2


class FluxPipeline(DiffusionPipeline):
    """See `DiffusionPipeline`.

    Args:
        model: its folder, in any layout.
        dtype: compute dtype; float16 becomes bfloat16.
        quantization_bits: 4, 5, 6, 8 or None; layers that are quantized already stay as they are.

    Raises:
        InvalidModelFilesError: parts missing, or tensors that do not fit.
        UnsupportedModelError: networks of another kind.
    """

    def __init__(self, model: ModelFolder, *, dtype: mx.Dtype, quantization_bits: int | None = None) -> None:
        model.check_complete()
        dtype = mx.bfloat16 if dtype == mx.float16 else dtype
        clip = tensor_source(model, "text_encoder", "clip")
        clip_config = component_config(model, "text_encoder", clip, clip_config_from_tensors)
        self._clip = CLIPTextStage(
            clip,
            replace(CLIPTextConfig.from_dict(clip_config), projection_dim=None),
            model.tokenizers["tokenizer"],
            dtype=dtype,
            quantization_bits=quantization_bits,
        )
        t5 = tensor_source(model, "text_encoder_2", "t5")
        self._t5 = T5Stage(
            t5,
            T5Config.from_dict(component_config(model, "text_encoder_2", t5, t5_config_from_tensors)),
            model.tokenizers["tokenizer_2"],
            dtype=dtype,
            quantization_bits=quantization_bits,
        )
        vae = tensor_source(model, "vae", "vae")
        image = ImageStage(
            vae,
            VAEConfig.from_dict(component_config(model, "vae", vae, vae_config_from_tensors)),
            folder=model.folder,
            published_preview=FLUX_PREVIEW,
        )
        flux = tensor_source(model, "transformer", "flux")
        config = FluxConfig.from_dict(component_config(model, "transformer", flux, flux_config_from_tensors))
        self.config = config
        published = flux_scheduler_config(guidance_embeds=config.guidance_embeds)
        self._scheduler_config = model.scheduler_config if model.scheduler_config else published
        super().__init__(
            text_encoders=(self._clip.component, self._t5.component),
            denoiser=Component(
                flux, lambda: FluxTransformer(config), dtype=dtype, quantization_bits=quantization_bits
            ),
            image=image,
            defaults=replace(model.defaults, scheduler=FLOW_SAMPLER),
        )

    @property
    def size_multiple(self) -> int:
        """Width and height must be multiples of it: a token is 2x2 latents."""
        return _PATCH * self.vae_scale

    @property
    def max_sequence_length(self) -> int:
        """T5 tokens a prompt may have: 256 for schnell, 512 for dev."""
        return DEV_SEQUENCE_LENGTH if self.config.guidance_embeds else SCHNELL_SEQUENCE_LENGTH

    def encode_prompt(
        self,
        prompt: str | Sequence[str],
        negative_prompt: str | Sequence[str] | None = None,
        guidance_scale: float = 3.5,
        clip_skip: int | None = None,
        max_sequence_length: int | None = None,
        *,
        prompt_syntax: str | None = None,
        steps: int | None = None,
    ) -> Conditioning:
        """Encodes prompts with T5 (every token) and CLIP (one pooled vector).

        Args:
            prompt: one or several texts; what exceeds max_sequence_length is cut, with a note.
            negative_prompt: FLUX.1 is distilled to work without one; it is left out, with a note.
            guidance_scale: an input of dev's network; schnell has none.
            clip_skip: must be None or 0: only CLIP's pooled vector is used.
            max_sequence_length: T5 tokens, 1..512; None is 256 for schnell and 512 for dev.
            prompt_syntax: has no effect but a note: these encoders know no weights.
            steps: not used.

        Raises:
            InvalidInputError: a length outside 1..512, or a clip_skip.
        """
        length = prompt_length(
            max_sequence_length,
            default=self.max_sequence_length,
            limit=DEV_SEQUENCE_LENGTH,
            clip_skip=clip_skip,
            why="FLUX uses CLIP's pooled vector only",
        )
        prompts = prompt_list(prompt, "prompt")
        notes = self._t5.truncation_notes(prompts, length)
        notes += no_weights_notes(prompts, prompt_syntax, family="FLUX.1")
        if negative_prompt is not None and any(prompt_list(negative_prompt, "negative_prompt")):
            notes += ("FLUX.1 takes no negative prompt; it was left out",)
        conditioning = Conditioning(
            prompt_embeds=self._t5.encode(prompts, length),
            pooled_prompt_embeds=self._clip.encode(prompts).pooled,
            guidance_scale=guidance_scale,
            notes=notes,
        )
        return conditioning.evaluated()

    def _denoise(self, conditioning: Conditioning, request: DenoiseRequest) -> Iterator[DenoiseStep]:
        request = flow_request(request)
        shape = latent_shape(
            conditioning,
            request,
            vae_scale=self.vae_scale,
            channels=self.latent_channels,
            size_multiple=self.size_multiple,
        )
        tokens = shape[1] // _PATCH * (shape[2] // _PATCH)
        plan = make_scheduler(self._scheduler_config, request.steps, sequence_length=tokens)
        return sample(request, plan, self._make_predict(conditioning, shape), shape=shape)

    def _make_predict(self, conditioning: Conditioning, shape: tuple[int, ...]) -> Predict:
        """(latents [B, h, w, C], timestep in 0..1000) -> velocity, the same shape, float32."""
        batch, rows, columns = shape[0], shape[1] // _PATCH, shape[2] // _PATCH
        repeats = batch // conditioning.batch_size
        dtype = self._denoiser.dtype
        text = mx.repeat(conditioning.prompt_embeds, repeats, axis=0).astype(dtype)
        pooled = mx.repeat(_pooled(conditioning), repeats, axis=0).astype(dtype)
        positions = token_positions(text.shape[1], rows, columns)
        rotary = rotary_embedding(positions, self.config.axes_dims_rope)
        guidance = None
        if self.config.guidance_embeds:
            guidance = mx.full((batch,), conditioning.guidance_scale, dtype=mx.float32)

        def predict(latents: mx.array, timestep: float) -> mx.array:
            velocity = self._denoiser.network(
                pack_latents(latents).astype(dtype),
                encoder_hidden_states=text,
                pooled_projections=pooled,
                timestep=mx.full((batch,), timestep / 1000, dtype=mx.float32),
                rotary=rotary,
                guidance=guidance,
            )
            return unpack_latents(velocity.astype(mx.float32), rows, columns)

        return predict


def pack_latents(latents: mx.array) -> mx.array:
    """[B, h, w, C] -> tokens [B, h/2 * w/2, 4 C], each 2x2 patch channel by channel."""
    folded = fold_patches(latents, _PATCH)
    return folded.reshape(folded.shape[0], -1, folded.shape[-1])


def unpack_latents(tokens: mx.array, rows: int, columns: int) -> mx.array:
    """The inverse of `pack_latents`: [B, rows * columns, 4 C] -> [B, 2 rows, 2 columns, C]."""
    return unfold_patches(tokens.reshape(tokens.shape[0], rows, columns, -1), _PATCH)


def _pooled(conditioning: Conditioning) -> mx.array:
    if conditioning.pooled_prompt_embeds is None:
        raise InvalidInputError(
            "FLUX needs a conditioning with pooled_prompt_embeds",
            hint="make it with this pipeline's encode_prompt",
        )
    return conditioning.pooled_prompt_embeds
