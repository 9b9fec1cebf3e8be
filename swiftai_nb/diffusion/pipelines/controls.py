"""Pictures that steer a run through ControlNets and T2I-Adapters: how strongly, and in which steps."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from swiftai_nb.core.control import acts_in
from swiftai_nb.core.errors import InvalidInputError
from swiftai_nb.core.paths import user_path
from swiftai_nb.diffusion.models.controlnet import ControlNet, ControlNetConfig
from swiftai_nb.diffusion.models.t2i_adapter import T2IAdapter, T2IAdapterConfig, unet_features
from swiftai_nb.diffusion.models.unet_config import UNetConfig
from swiftai_nb.diffusion.weights.component import Component
from swiftai_nb.diffusion.weights.layouts import control_source
from swiftai_nb.model_files.configs import sensible_config
from swiftai_nb.model_files.control_files import T2I_ADAPTER, UNET_CONTROL, open_control


class ControlInput(NamedTuple):
    """One control of a run.

    Attributes:
        source: folder or file of a ControlNet.
        pixels: [H, W, 3], uint8, of the size that is made: edges, depth, a pose, whatever it was trained on.
        scale: what it adds is multiplied by it.
        start: share of the run, 0..1, before which it adds nothing.
        end: share of the run after which it adds nothing.
        is_guess: follow the picture with a weak prompt or none (diffusers' `guess_mode`).
    """

    source: str | Path
    pixels: NDArray[np.uint8]
    scale: float = 1.0
    start: float = 0.0
    end: float = 1.0
    is_guess: bool = False

    def acts_in(self, call: int, calls: int) -> bool:
        """Whether it adds something in a network call, counted from 0, of so many."""
        return acts_in(call, calls, start=self.start, end=self.end)


def read_controls(controls: Iterable[Sequence[Any]], *, width: int, height: int) -> tuple[ControlInput, ...]:
    """The controls of a run, checked.

    Args:
        controls: each a `ControlInput`, or a tuple of its first values.
        width: pixels of the picture that is made.
        height: pixels.

    Raises:
        InvalidInputError: a picture of another size or kind, or a range that makes no sense.
    """
    result = tuple(ControlInput(*control) for control in controls)
    for control in result:
        pixels = np.asarray(control.pixels)
        if pixels.shape != (height, width, 3) or pixels.dtype != np.uint8:
            raise InvalidInputError(
                f"a control's picture has shape {pixels.shape} ({pixels.dtype}), "
                f"need {(height, width, 3)} (uint8)"
            )
        if not 0.0 <= control.start < control.end <= 1.0:
            raise InvalidInputError(
                f"a control acts from {control.start:g} to {control.end:g} of the run",
                hint="give a start and an end with 0 <= start < end <= 1",
            )
        if not np.isfinite(control.scale):
            raise InvalidInputError(f"a control's scale is {control.scale}, must be a finite number")
    return result


class OpenedControls:
    """The ControlNets of a pipeline; those of the last run stay loaded.

    Args:
        open_one: the network at a path, checked from its headers.
    """

    def __init__(self, open_one: Callable[[Path], Component[Any]]) -> None:
        self._open_one = open_one
        self._opened: dict[tuple[Any, ...], Component[Any]] = {}

    @property
    def components(self) -> dict[str, int]:
        """Bytes in memory, under the name "controlnet"; empty where there are none."""
        size_bytes = sum(component.size_bytes for component in self._opened.values())
        return {"controlnet": size_bytes} if size_bytes else {}

    def release(self) -> None:
        """Drops the weights; the next run reads them again."""
        for component in self._opened.values():
            component.release()

    def open(self, controls: Sequence[ControlInput]) -> list[Component[Any]]:
        """The networks of a run, checked from their headers; those of other runs are dropped.

        Raises:
            AIError: there is no such ControlNet, or it does not fit the model.
        """
        keys = [_file_key(user_path(control.source)) for control in controls]
        opened = {key: self._opened.get(key) or self._open_one(key[0]) for key in keys}
        for key in self._opened.keys() - opened.keys():
            self._opened[key].release()
        self._opened = opened
        return [opened[key] for key in keys]


def open_unet_control(
    path: Path, unet: UNetConfig, *, vae_scale: int, dtype: mx.Dtype, prefer_half: bool
) -> Component[Any]:
    """A `ControlNet` or `T2IAdapter` for a UNet.

    Args:
        path: its folder or file.
        unet: of the model.
        vae_scale: pixels per latent.
        dtype: compute dtype.
        prefer_half: take 16-bit files where there is a choice.

    Raises:
        AIError: there is no such control, or it does not fit the model.
    """
    control = open_control(path, prefer_half=prefer_half)
    if control.kind == T2I_ADAPTER:
        with sensible_config(path):
            adapter = T2IAdapterConfig.from_dict(control.config(unet.source))
        places, made = unet_features(unet, vae_scale=vae_scale), adapter.features()
        if made != places[: len(made)]:
            raise _misfit(path, "features (channels, pixels)", made, places)
        return Component(control_source(control), lambda: T2IAdapter(adapter), dtype=dtype)
    if control.kind != UNET_CONTROL:
        raise InvalidInputError(f"{path} is a {control.kind}", hint="use a ControlNet for this model")
    with sensible_config(path):
        config = ControlNetConfig.from_dict(control.config(unet.source))
    _check_fit(config, unet, path=path, vae_scale=vae_scale)
    return Component(control_source(control), lambda: ControlNet(config), dtype=dtype)


class ControlRun:
    """What the controls of a run add to the UNet at each of its steps.

    Args:
        controls: of the run.
        networks: of each.
        calls: steps of the run, with several network calls per step counted as the sampler makes them.
    """

    def __init__(
        self,
        controls: Sequence[ControlInput],
        networks: Sequence[Component[Any]],
        *,
        calls: int,
    ) -> None:
        self._controls = tuple(zip(controls, networks, strict=True))
        self._calls = calls
        # Embedded pictures and adapters' features, made once for all steps, when the networks have been read.
        self._pictures: list[Any] = []

    def inputs(
        self,
        number: int,
        sample: mx.array,
        times: mx.array,
        context: mx.array,
        *,
        added: Mapping[str, mx.array],
        first: int,
    ) -> dict[str, Sequence[mx.array]]:
        """What the UNet is given beside its other inputs, by name; empty where no control acts.

        Args:
            number: of the step, from 0.
            sample: [n, h, w, C], scaled latents.
            times: [n], timesteps.
            context: [n, L, D].
            added: SDXL's further inputs, each [n, ...].
            first: rows at the start that are without the prompt.
        """
        if not self._pictures:
            self._pictures = [_embed(net.network, control.pixels) for control, net in self._controls]
            mx.eval(self._pictures)
        total: list[mx.array] = []
        features: list[mx.array] = []
        for (control, component), picture in zip(self._controls, self._pictures, strict=True):
            if not control.acts_in(number, self._calls):
                continue
            network = component.network
            if isinstance(network, T2IAdapter):
                features = _sums(features, [feature * control.scale for feature in picture])
                continue
            # Where the picture alone is followed, nothing is added to what is drawn without the prompt.
            skipped = first if control.is_guess or network.control_config.pools_conditions else 0
            if skipped == len(sample):
                continue
            own = network(
                sample[skipped:],
                times[skipped:],
                context[skipped:],
                picture=picture,
                scales=network.residual_scales(control.scale, is_guess=control.is_guess),
                **{name: value[skipped:] for name, value in added.items()},
            )
            if skipped:
                own = [mx.pad(value, [(skipped, 0), (0, 0), (0, 0), (0, 0)]) for value in own]
            total = _sums(total, own)
        return {"additional_residuals": total, "adapter_features": features}


def _embed(network: ControlNet | T2IAdapter, pixels: NDArray[np.uint8]) -> Any:
    return network(pixels) if isinstance(network, T2IAdapter) else network.embed_picture(pixels)


def _sums(total: list[mx.array], more: list[mx.array]) -> list[mx.array]:
    pairs = itertools.zip_longest(total, more)
    return [b if a is None else a if b is None else a + b for a, b in pairs]


def _file_key(path: Path) -> tuple[Any, ...]:
    """A path and when its files were changed, to notice replaced ones."""
    files = sorted(path.glob("*")) if path.is_dir() else [path] if path.is_file() else []
    stats = [file.stat() for file in files if file.is_file()]
    return (path, *((stat.st_size, stat.st_mtime_ns) for stat in stats))


def _check_fit(config: ControlNetConfig, unet: UNetConfig, *, path: Path, vae_scale: int) -> None:
    """Raises InvalidInputError when a ControlNet is not a copy of this UNet's way down."""
    own = config.unet
    sizes = {
        "channels": (own.block_out_channels, unet.block_out_channels),
        "layers": (own.layers_per_block, unet.layers_per_block),
        "text width": (own.cross_attention_dims, unet.cross_attention_dims),
        "pixels per latent": (2 ** (len(config.embedding_channels) - 1), vae_scale),
    }
    for name, (made, needed) in sizes.items():
        if made != needed:
            raise _misfit(path, name, made, needed)


def _misfit(path: Path, what: str, made: object, needed: object) -> InvalidInputError:
    return InvalidInputError(
        f"the control {path.name} has {what} of {made}, this model {needed}",
        hint="use one that was made for this model's family",
    )
