"""The networks of the Real-ESRGAN family: RRDBNet (Wang et al. 2018, 2021) and SRVGGNetCompact.

Parameter paths are BasicSR's. Both networks see only a neighborhood, so that pictures can be enlarged in
tiles: block by block, then at the size of the result (`diffusion.upscaling`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import mlx.core as mx
from mlx import nn

from swiftai_nb.diffusion import ops
from swiftai_nb.diffusion.cpu.workers import run_checkpoint
from swiftai_nb.diffusion.models.layers import Conv2d, upsample_nearest
from swiftai_nb.diffusion.models.vae import unfold_patches
from swiftai_nb.model_files.upscalers import UpscalerFile

_RESIDUAL_SCALE = 0.2
_SLOPE = 0.2


def _leaky_relu(x: mx.array) -> mx.array:
    return mx.maximum(x, _SLOPE * x)


def _evaluated(x: mx.array) -> mx.array:
    """Ends a block on every device: a tile takes seconds, and a cancel must not wait for it."""
    mx.eval(x)
    run_checkpoint()
    return x


class ResidualDenseBlock(nn.Module):  # type: ignore[misc]
    """Five convolutions, each of which sees all before it; residual: [B, h, w, C] -> the same shape."""

    def __init__(self, features: int, growth: int) -> None:
        super().__init__()
        for index in range(5):
            outputs = features if index == 4 else growth
            self[f"conv{index + 1}"] = Conv2d(features + index * growth, outputs)

    def __call__(self, x: mx.array) -> mx.array:
        maps = [x]
        for index in range(1, 5):
            maps.append(_leaky_relu(self[f"conv{index}"](ops.concatenate_channels(maps))))
        residual: mx.array = self.conv5(ops.concatenate_channels(maps))
        return x + _RESIDUAL_SCALE * residual


class RRDB(nn.Module):  # type: ignore[misc]
    """Residual in residual dense block: [B, h, w, C] -> the same shape."""

    def __init__(self, features: int, growth: int) -> None:
        super().__init__()
        self.rdb1 = ResidualDenseBlock(features, growth)
        self.rdb2 = ResidualDenseBlock(features, growth)
        self.rdb3 = ResidualDenseBlock(features, growth)

    def __call__(self, x: mx.array) -> mx.array:
        return _evaluated(self.rdb3(self.rdb2(self.rdb1(x))) * _RESIDUAL_SCALE + x)


class RRDBNet(nn.Module):  # type: ignore[misc]
    """Patches of pixels [B, h, w, 3 p^2] in 0..1 -> pixels [B, s h, s w, 3] in about 0..1.

    Args:
        file: its sizes; p is `unshuffle`, s is `scale * unshuffle`.
    """

    def __init__(self, file: UpscalerFile) -> None:
        super().__init__()
        width = file.features
        self.upsamplings = file.upsamplings
        self.conv_first = Conv2d(3 * file.unshuffle**2, width)
        self.body = [RRDB(width, file.growth) for _ in range(file.blocks)]
        self.conv_body = Conv2d(width, width)
        for index in range(file.upsamplings):
            self[f"conv_up{index + 1}"] = Conv2d(width, width)
        self.conv_hr = Conv2d(width, width)
        self.conv_last = Conv2d(width, 3)

    @property
    def stages(self) -> Sequence[Callable[[mx.array], mx.array]]:
        """One after the other: patches -> features [B, h, w, C]; each sees `UpscalerFile.stage_reach` far."""
        return (self.conv_first, *self.body)

    def join(self, x: mx.array, y: mx.array) -> mx.array:
        """Patches and what `stages` made of them -> features; sees 1 far."""
        return _evaluated(self.conv_first(x) + self.conv_body(y))

    def reconstruct(self, x: mx.array) -> mx.array:
        """Features -> [B, s h, s w, 3]; sees at most 2 far. Takes most memory."""
        for index in range(self.upsamplings):
            x = _evaluated(_leaky_relu(self[f"conv_up{index + 1}"](upsample_nearest(x))))
        return self.conv_last(_evaluated(_leaky_relu(self.conv_hr(x))))


class PReLU(nn.Module):  # type: ignore[misc]
    """x where it is positive, else weight x, with a weight for each channel (He et al. 2015)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = mx.zeros((channels,))

    def __call__(self, x: mx.array) -> mx.array:
        """[..., C] -> the same shape."""
        return mx.maximum(x, 0) + self.weight * mx.minimum(x, 0)


class SRVGGNetCompact(nn.Module):  # type: ignore[misc]
    """Pixels [B, h, w, 3] in 0..1 -> [B, s h, s w, 3]: a row of convolutions, added to the enlarged input.

    Args:
        file: its sizes; s is `scale`.
    """

    def __init__(self, file: UpscalerFile) -> None:
        super().__init__()
        self.scale = file.scale
        self.body: list[nn.Module] = [Conv2d(3, file.features), PReLU(file.features)]
        for _ in range(file.blocks):
            self.body += [Conv2d(file.features, file.features), PReLU(file.features)]
        self.body.append(Conv2d(file.features, 3 * file.scale**2))

    @property
    def stages(self) -> Sequence[Callable[[mx.array], mx.array]]:
        """None: `reconstruct` is the whole network."""
        return ()

    def join(self, x: mx.array, y: mx.array) -> mx.array:
        """The pixels as they are."""
        return x

    def reconstruct(self, x: mx.array) -> mx.array:
        """[B, h, w, 3] -> [B, s h, s w, 3]."""
        y = x
        for layer in self.body:
            y = layer(y) if isinstance(layer, Conv2d) else _evaluated(layer(y))
        enlarged = mx.repeat(mx.repeat(x, self.scale, axis=1), self.scale, axis=2)
        return unfold_patches(y, self.scale) + enlarged
