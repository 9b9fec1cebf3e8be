"""Writes a loaded model back as a folder, so that its weights are quantized once."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import mlx.core as mx
from mlx import nn
from mlx.utils import tree_flatten

from swiftai_nb.core.errors import InvalidInputError
from swiftai_nb.diffusion.weights.component import Component

_WEIGHTS = (".safetensors", ".safetensors.index.json", ".safetensors.index.fp16.json", ".bin", ".ckpt")
_STEMS = {"text_encoder": "model", "text_encoder_2": "model"}


def save_model(
    networks: Mapping[str, Component[Any]],
    source: Path,
    target: Path,
    *,
    notify: Callable[[str], None] = lambda _name: None,
) -> None:
    """Saves networks as they are in memory, quantized weights included, in diffusers layout.

    One after the other: what was not loaded before is released again.

    The new folder loads without `quantization_bits`: bits and group size follow from the shapes. It
    appears whole or not at all.

    Args:
        networks: a pipeline's, by folder name; loaded when they are not.
        source: the model folder they came from; its configs and tokenizers are copied.
        target: the folder to make.
        notify: given each network's name before it is read.

    Raises:
        InvalidInputError: the target exists.
    """
    if target.exists():
        raise InvalidInputError(f"{target} exists already", hint="give a folder that does not exist")
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        _copy_configs(source, unfinished)
        for name, component in networks.items():
            notify(name)
            _save_network(component, unfinished / name)
        unfinished.chmod(0o755)
        unfinished.rename(target)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _save_network(component: Component[Any], folder: Path) -> None:
    was_loaded = component.is_loaded
    folder.mkdir(exist_ok=True)
    path = folder / f"{_STEMS.get(component.name, 'diffusion_pytorch_model')}.safetensors"
    mx.save_safetensors(str(path), _arrays(component.network), {"format": "mlx"})
    if not was_loaded:
        component.release()


def _arrays(network: nn.Module) -> dict[str, mx.array]:
    """Parameters by path; kernels as files have them, [O, I, kh, kw]."""
    return {
        path: mx.contiguous(value.transpose(0, 3, 1, 2)) if value.ndim == 4 else value
        for path, value in tree_flatten(network.parameters())
    }


def _copy_configs(source: Path, target: Path) -> None:
    for path in source.rglob("*"):
        if path.is_file() and not path.name.endswith(_WEIGHTS):
            copy = target / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
