"""The end (and, for pictures given, the start) of a pipeline: latents <-> pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from swiftai_nb.core.errors import GenerationFailedError, InvalidInputError
from swiftai_nb.diffusion import ops
from swiftai_nb.diffusion.gpu import memory_policy, on_cpu
from swiftai_nb.diffusion.memory import return_freed_memory
from swiftai_nb.diffusion.models.tiny_vae import TinyAutoencoder
from swiftai_nb.diffusion.models.vae import Autoencoder, VAEConfig, fold_patches, unfold_patches
from swiftai_nb.diffusion.pipelines.denoising import Latents
from swiftai_nb.diffusion.preview import LinearPreview, fit_preview, read_preview, to_uint8
from swiftai_nb.diffusion.tiled_decoding import decode_tiled
from swiftai_nb.diffusion.weights.component import Component
from swiftai_nb.diffusion.weights.layouts import component_config, tensor_source
from swiftai_nb.diffusion.weights.tensors import TensorSource
from swiftai_nb.model_files.model_folder import ModelFolder

Pixels = NDArray[np.uint8]

# From here on the decoder's own needs are the peak of a picture's memory.
_LARGE_PIXELS = 384 * 384
_PUBLISHED_CHANNELS = (128, 256, 512, 512)


class ImageStage:
    """The autoencoder of a model and its previews.

    It computes in float32 whatever the other networks do: see `swiftai_nb.diffusion.gpu`.

    Args:
        source: the autoencoder's tensors.
        config: its shape.
        folder: the model; a `preview.json` in it is used for previews.
        published_preview: the linear map of the family's published autoencoder; used when this one has
            its shape. None where nothing is published.
    """

    def __init__(
        self,
        source: TensorSource,
        config: VAEConfig,
        *,
        folder: Path,
        published_preview: LinearPreview | None,
    ) -> None:
        self.config = config
        network = TinyAutoencoder if config.is_tiny else Autoencoder
        self.component: Component[Any] = Component(source, lambda: network(config), dtype=mx.float32)
        self._decode_side: int | None = None
        self._preview = read_preview(folder, config.latent_channels)
        if (
            self._preview is None
            and published_preview is not None
            and (config.block_out_channels == _PUBLISHED_CHANNELS or config.is_tiny)
            and config.latent_channels == len(published_preview.factors)
        ):
            self._preview = published_preview

    @classmethod
    def of(cls, model: ModelFolder, *, published_preview: LinearPreview) -> ImageStage:
        """Of a model with a UNet."""
        config = VAEConfig.from_dict(component_config(model, "vae"))
        source = tensor_source(model, "vae", "vae")
        return cls(source, config, folder=model.folder, published_preview=published_preview)

    @property
    def decode_side(self) -> int:
        """Pictures with more pixels than its square are decoded in tiles of that size."""
        given = self._decode_side
        return memory_policy().decode_side if given is None else given

    @decode_side.setter
    def decode_side(self, side: int) -> None:
        self._decode_side = side

    def decode(self, latents: Latents | mx.array) -> Pixels:
        """Latents [B, h, w, C] -> pixels [B, H, W, 3], uint8.

        Raises:
            InvalidInputError: latents of another shape.
            GenerationFailedError: the decoder overflowed.
        """
        pictures = [self._decode_one(picture) for picture in self._checked(latents)]
        return np.concatenate(pictures)

    def _decode_one(self, latents: Latents) -> Pixels:
        values = self._decode_values(latents[None])
        if not np.isfinite(values).all():
            raise GenerationFailedError(
                "the decoder produced values that are not numbers",
                hint="a lower guidance scale, another sampler, or another model",
            )
        return to_uint8(values)

    def _decode_values(self, latents: Latents) -> Latents:
        pixels = latents.shape[1] * latents.shape[2] * self.config.denoiser_scale**2
        if pixels > self.decode_side**2 and not self.config.is_tiny:
            side = self.decode_side // self.config.scale
            return decode_tiled(self.component.network, mx.array(latents), side=side)
        if pixels >= _LARGE_PIXELS and on_cpu():
            # The denoiser's pieces rarely fit the decoder's arrays.
            ops.clear_scratch()
            return_freed_memory()
        decoded = self.component.network.decode(mx.array(latents))
        mx.eval(decoded)
        return np.array(decoded)

    def _checked(self, latents: Latents | mx.array) -> Latents:
        array = np.asarray(latents, dtype=np.float32)
        channels = self.config.denoiser_channels
        if array.ndim != 4 or array.shape[-1] != channels:
            raise InvalidInputError(f"latents have shape {array.shape}, need [B, h, w, {channels}]")
        return array

    def encode_image(self, pixels: Pixels) -> Latents:
        """Pixels [H, W, 3] or [B, H, W, 3], uint8 -> latents [B, h, w, C], float32.

        The mean of the encoder's distribution: the same picture always gives the same latents.

        Raises:
            InvalidInputError: another shape, or sides that are not multiples of the scale.
        """
        return self._encode(self._to_values(pixels))

    def encode_masked_image(self, pixels: Pixels, mask: NDArray[np.float32]) -> Latents:
        """As `encode_image`, of a picture [H, W, 3] that is gray where the mask [H, W] is 0.5 or more.

        Raises:
            InvalidInputError: as `encode_image`, or a mask of another size.
        """
        if mask.shape != pixels.shape[:2]:
            raise InvalidInputError(f"mask has shape {mask.shape}, the picture {pixels.shape}")
        return self._encode(self._to_values(pixels) * (mask < 0.5)[None, :, :, None])

    def _to_values(self, pixels: Pixels) -> Latents:
        batch = pixels[None] if pixels.ndim == 3 else pixels
        scale = self.config.denoiser_scale
        if batch.ndim != 4 or batch.shape[-1] != 3 or batch.shape[1] % scale or batch.shape[2] % scale:
            raise InvalidInputError(
                f"image has shape {pixels.shape}, need [H, W, 3] with sides that are multiples of {scale}"
            )
        return batch.astype(np.float32) / 127.5 - 1.0

    def _encode(self, batch: Latents) -> Latents:
        network = self.component.network
        means = []
        for values in batch[:, None]:
            mean, _ = network.encode_moments(mx.array(values))
            scaled = network.scale_latents(mean)
            mx.eval(scaled)
            means.append(np.array(scaled))
        return np.concatenate(means)

    def preview(self, denoised: Latents | mx.array) -> Pixels:
        """Predicted x0 [B, h, w, C] -> small pictures, uint8: a pixel for each latent of the decoder."""
        latents = self._checked(denoised)
        linear = self.prepare_preview()
        return linear(np.asarray(unfold_patches(mx.array(latents), self.config.patch_size)))

    def prepare_preview(self) -> LinearPreview:
        """The linear map of previews; one that is nowhere published is fitted to the decoder, once."""
        if self._preview is None:
            self._preview = fit_preview(
                lambda z: self.decode(fold_patches(mx.array(z), self.config.patch_size)),
                channels=self.config.latent_channels,
                scale=self.config.scale,
            )
        return self._preview
