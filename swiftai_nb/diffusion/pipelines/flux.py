"""FLUX.1 schnell and dev: T5 and CLIP, a rectified-flow transformer, a 16-channel autoencoder.

In 16-bit precision FLUX computes in bfloat16, as it was trained: T5 overflows float16.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx

from swiftai_nb.core.errors import InvalidInputError
from swiftai_nb.diffusion.models.flux_config import FluxConfig
from swiftai_nb.diffusion.models.flux_transformer import FluxTransformer, rotary_embedding, token_positions
from swiftai_nb.diffusion.pipelines.denoising_stage import DenoiseRequest, latent_shape, sample
from swiftai_nb.diffusion.pipelines.flux_stages import FluxCLIPStage, FluxImageStage, T5Stage
from swiftai_nb.diffusion.pipelines.stages import (
    Conditioning,
    DenoiseStep,
    Latents,
    NoiseSource,
    PipelineDefaults,
    Pixels,
)
from swiftai_nb.diffusion.pipelines.text_stage import prompt_list
from swiftai_nb.diffusion.schedulers.factory import make_scheduler
from swiftai_nb.diffusion.weights.component import Component, read_config
from swiftai_nb.diffusion.weights.converted_component import ConvertedComponent
from swiftai_nb.diffusion.weights.flux_configs import flux_config_from_tensors, flux_scheduler_config
from swiftai_nb.diffusion.weights.flux_layouts import find_flux_folder
from swiftai_nb.model_files.samplers import canonical_name

_SCHEDULER = "flow-match-euler"
# Of T5, with its final </s>; what the two models were trained with.
SCHNELL_SEQUENCE_LENGTH, DEV_SEQUENCE_LENGTH = 256, 512
_PATCH = 2


class FluxPipeline:
    """See `DiffusionPipeline`.

    Args:
        folder: a model in any layout of `weights.flux_layouts`.
        dtype: compute dtype; float16 becomes bfloat16.
        quantization_bits: 4, 8 or None; layers that are packed already stay as they are.

    Raises:
        InvalidModelFilesError: parts missing, or tensors that do not fit.
        UnsupportedModelError: networks of another kind.
    """

    def __init__(self, folder: Path, *, dtype: mx.Dtype, quantization_bits: int | None = None) -> None:
        dtype = mx.bfloat16 if dtype == mx.float16 else dtype
        found = find_flux_folder(folder, prefer_half=dtype != mx.float32)
        bits = quantization_bits
        self._clip = FluxCLIPStage(found.parts["text_encoder"], found.tokenizer, dtype=dtype, bits=bits)
        self._t5 = T5Stage(found.parts["text_encoder_2"], found.tokenizer_2, dtype=dtype, bits=bits)
        self._image = FluxImageStage(found.parts["vae"], folder, dtype=dtype)
        part = found.parts["transformer"]
        self.config = FluxConfig.from_dict(part.config_or(flux_config_from_tensors))
        self.transformer = ConvertedComponent(
            part.name,
            part.paths,
            part.convert,
            lambda: FluxTransformer(self.config),
            dtype=dtype,
            quantization_bits=bits,
        )
        published = flux_scheduler_config(guidance_embeds=self.config.guidance_embeds)
        self.scheduler_config = published if found.scheduler_config is None else found.scheduler_config
        self.defaults = _read_defaults(folder, self.config)

    @property
    def vae_scale(self) -> int:
        """Pixels per latent in each direction."""
        return self._image.config.scale

    @property
    def size_multiple(self) -> int:
        """Width and height must be multiples of it: a token is 2x2 latents."""
        return _PATCH * self.vae_scale

    @property
    def latent_channels(self) -> int:
        """C, 16."""
        return self.config.latent_channels

    @property
    def networks(self) -> Mapping[str, Component[Any]]:
        """The components by folder name: where adapters (LoRA) attach."""
        parts = (self._clip.component, self._t5.component, self.transformer, self._image.component)
        return {part.name: part for part in parts}

    @property
    def components(self) -> Mapping[str, int]:
        """Bytes in memory by component; 0 when released."""
        return {name: part.size_bytes for name, part in self.networks.items()}

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
    ) -> Conditioning:
        """Encodes prompts with T5 (every token) and CLIP (one pooled vector).

        Args:
            prompt: one or several texts; what exceeds max_sequence_length is cut, with a note.
            negative_prompt: FLUX.1 is distilled to work without one; it is left out, with a note.
            guidance_scale: an input of dev's network; schnell has none.
            clip_skip: must be None or 0: only CLIP's pooled vector is used.
            max_sequence_length: T5 tokens, 1..512; None is 256 for schnell and 512 for dev.

        Raises:
            InvalidInputError: a length outside 1..512, or a clip_skip.
        """
        length = self.max_sequence_length if max_sequence_length is None else max_sequence_length
        if not 1 <= length <= DEV_SEQUENCE_LENGTH:
            raise InvalidInputError(f"max_sequence_length is {length}, must be in 1..{DEV_SEQUENCE_LENGTH}")
        if clip_skip:
            raise InvalidInputError(
                f"clip_skip is {clip_skip}, but FLUX uses CLIP's pooled vector only",
                hint="Leave clip_skip out.",
            )
        prompts = prompt_list(prompt, "prompt")
        notes = self._t5.truncation_notes(prompts, length)
        if negative_prompt is not None and any(prompt_list(negative_prompt, "negative_prompt")):
            notes += ("FLUX.1 takes no negative prompt; it was left out",)
        conditioning = Conditioning(
            prompt_embeds=self._t5.encode(prompts, length),
            pooled_prompt_embeds=self._clip.encode(prompts).pooled,
            guidance_scale=guidance_scale,
            notes=notes,
        )
        return conditioning.evaluated()

    def denoise(
        self,
        conditioning: Conditioning,
        *,
        width: int | None = None,
        height: int | None = None,
        steps: int | None = None,
        seed: int = 0,
        latents: Latents | None = None,
        noise: NoiseSource | None = None,
        scheduler: str | None = None,
        image_latents: Latents | None = None,
        strength: float | None = None,
        mask: Latents | None = None,
        guidance_rescale: float = 0.0,
    ) -> Iterator[DenoiseStep]:
        """Yields one evaluated step per network call; see `DiffusionPipeline.denoise`.

        Args:
            conditioning: from `encode_prompt`.
            width: pixels, a multiple of 16.
            height: pixels, a multiple of 16.
            steps: network calls.
            seed: of the start noise, when `latents` is None.
            latents: start noise, unit normal, [B, H/8, W/8, 16], float32.
            noise: not drawn by this sampler.
            scheduler: None or "flow-match-euler".
            image_latents: a picture to start from, from `encode_image`.
            strength: how far to leave it, 0..1.
            mask: [H/8, W/8, 1], 1 where to paint; needs image_latents.
            guidance_rescale: has no meaning without classifier-free guidance.

        Raises:
            InvalidInputError: sizes, latents, strength, mask or scheduler that do not fit; before any work.
        """
        request = DenoiseRequest(
            width=self.defaults.width if width is None else width,
            height=self.defaults.height if height is None else height,
            steps=self.defaults.steps if steps is None else steps,
            seed=seed,
            latents=latents,
            noise=noise,
            image_latents=image_latents,
            strength=_flow_strength(strength, steps=self.defaults.steps if steps is None else steps),
            mask=mask,
        )
        if scheduler is not None and canonical_name(scheduler) != _SCHEDULER:
            raise InvalidInputError(
                f"scheduler {scheduler!r} does not fit FLUX, which is a flow model", hint=f"use {_SCHEDULER}"
            )
        shape = latent_shape(
            conditioning,
            request,
            vae_scale=self.vae_scale,
            channels=self.latent_channels,
            size_multiple=self.size_multiple,
        )
        tokens = shape[1] // _PATCH * (shape[2] // _PATCH)
        plan = make_scheduler(self.scheduler_config, request.steps, sequence_length=tokens)
        return sample(request, plan, self._make_predict(conditioning, shape), shape=shape)

    def _make_predict(
        self, conditioning: Conditioning, shape: tuple[int, ...]
    ) -> Callable[[mx.array, float], mx.array]:
        """(latents [B, h, w, C], timestep in 0..1000) -> velocity, the same shape, float32."""
        batch, rows, columns = shape[0], shape[1] // _PATCH, shape[2] // _PATCH
        repeats = batch // conditioning.batch_size
        dtype = self.transformer.dtype
        text = mx.repeat(conditioning.prompt_embeds, repeats, axis=0).astype(dtype)
        pooled = mx.repeat(_pooled(conditioning), repeats, axis=0).astype(dtype)
        positions = token_positions(text.shape[1], rows, columns)
        rotary = rotary_embedding(positions, self.config.axes_dims_rope)
        guidance = None
        if self.config.guidance_embeds:
            guidance = mx.full((batch,), conditioning.guidance_scale, dtype=mx.float32)

        def predict(latents: mx.array, timestep: float) -> mx.array:
            velocity = self.transformer.network(
                pack_latents(latents).astype(dtype),
                encoder_hidden_states=text,
                pooled_projections=pooled,
                timestep=mx.full((batch,), timestep / 1000, dtype=mx.float32),
                rotary=rotary,
                guidance=guidance,
            )
            return unpack_latents(velocity.astype(mx.float32), rows, columns)

        return predict

    def decode(self, latents: Latents | mx.array) -> Pixels:
        """Latents [B, h, w, C] -> pixels [B, H, W, 3], uint8."""
        return self._image.decode(latents)

    def encode_image(self, pixels: Pixels) -> Latents:
        """Pixels [H, W, 3], uint8 -> latents [1, h, w, C]."""
        return self._image.encode_image(pixels)

    def preview(self, denoised: Latents | mx.array) -> Pixels:
        """Predicted x0 [B, h, w, C] -> small pictures [B, h, w, 3], uint8."""
        return self._image.preview(denoised)

    def preload(self) -> None:
        """Reads all weights now instead of on first use."""
        for part in self.networks.values():
            _ = part.network

    def release_text_encoders(self) -> None:
        """Drops both text encoders' weights; the next prompt reads them again."""
        self._clip.component.release()
        self._t5.component.release()

    def release_denoiser(self) -> None:
        """Drops the transformer's weights; the next run reads them again."""
        self.transformer.release()

    def release_decoder(self) -> None:
        """Drops the autoencoder's weights; the next decoding reads them again."""
        self._image.component.release()


def pack_latents(latents: mx.array) -> mx.array:
    """[B, h, w, C] -> tokens [B, h/2 * w/2, 4 C], each 2x2 patch channel by channel."""
    batch, height, width, channels = latents.shape
    patches = latents.reshape(batch, height // _PATCH, _PATCH, width // _PATCH, _PATCH, channels)
    return patches.transpose(0, 1, 3, 5, 2, 4).reshape(batch, -1, channels * _PATCH**2)


def unpack_latents(tokens: mx.array, rows: int, columns: int) -> mx.array:
    """The inverse of `pack_latents`: [B, rows * columns, 4 C] -> [B, 2 rows, 2 columns, C]."""
    patches = tokens.reshape(tokens.shape[0], rows, columns, -1, _PATCH, _PATCH)
    return patches.transpose(0, 1, 4, 2, 5, 3).reshape(len(tokens), rows * _PATCH, columns * _PATCH, -1)


def _flow_strength(strength: float | None, *, steps: int) -> float | None:
    """A strength at which the shared rule, int(steps * strength), runs as many steps as diffusers' FLUX.

    That one leaves out int(steps - steps * strength) steps: with a broken number it runs one more.
    """
    if strength is None or not 0.0 < strength < 1.0:
        return strength
    runs = steps - int(steps - steps * strength)
    return min(1.0, (runs + 0.5) / steps)


def _pooled(conditioning: Conditioning) -> mx.array:
    if conditioning.pooled_prompt_embeds is None:
        raise InvalidInputError(
            "FLUX needs a conditioning with pooled_prompt_embeds",
            hint="Make it with this pipeline's encode_prompt.",
        )
    return conditioning.pooled_prompt_embeds


def _read_defaults(folder: Path, config: FluxConfig) -> PipelineDefaults:
    """The model cards' settings, over which the folder's `generation_defaults.json` wins."""
    path = folder / "generation_defaults.json"
    given = {k: v for k, v in read_config(path).items() if v is not None} if path.is_file() else {}
    dev = config.guidance_embeds
    return PipelineDefaults(
        width=int(given.get("width", 1024)),
        height=int(given.get("height", 1024)),
        steps=int(given.get("steps", 28 if dev else 4)),
        guidance_scale=float(given.get("guidance_scale", 3.5 if dev else 0.0)),
        scheduler=_SCHEDULER,
    )
