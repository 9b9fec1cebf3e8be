"""Puts the tensors of files into a module tree, strictly and one at a time.

First a plan is made from the headers alone: every parameter needs exactly one tensor of a fitting shape,
and every tensor a parameter; all that is wrong is one error. Then tensors are read, reshaped, cast and
(on request) quantized one by one, so the peak stays near the size of the result.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import mlx.core as mx
from mlx import nn
from mlx.utils import tree_flatten

from swiftai_nb.core.errors import InvalidModelFilesError
from swiftai_nb.diffusion.cpu.workers import run_checkpoint
from swiftai_nb.diffusion.models.layers import Conv2d, Linear
from swiftai_nb.diffusion.precision import storage_dtype
from swiftai_nb.diffusion.weights.key_mapping import Rule, normalize_key
from swiftai_nb.diffusion.weights.module_paths import assign, find_module
from swiftai_nb.diffusion.weights.quantization import prepare_stored_quantization, quantize_weight
from swiftai_nb.model_files.safetensors_headers import StoredTensor, WeightFiles

_INT8_PACKING = "int8-per-output-channel"
_SHOWN = 6


@dataclass(frozen=True)
class Assignment:
    """One tensor of a file and the parameter it becomes.

    Attributes:
        path: dotted parameter path in the module.
        stored: the tensor.
        shape: of the parameter.
        scale: the companion with one factor per output channel of an int8-packed tensor, or None.
    """

    path: str
    stored: StoredTensor
    shape: tuple[int, ...]
    scale: StoredTensor | None = None


def plan_weights(
    module: nn.Module, files: WeightFiles, *, rules: Iterable[Rule], component: str
) -> list[Assignment]:
    """Matches the tensors of files with the parameters of a module.

    A `Linear` whose file holds packed weights with scales becomes a `QuantizedLinear` first.

    Args:
        module: freshly built, unloaded.
        files: headers, from `read_weight_files`.
        rules: turn key names into parameter paths.
        component: named in the error, e.g. "unet".

    Raises:
        InvalidModelFilesError: names missing, extra and misshapen tensors, with both shapes.
    """
    stored, scales, extra = _by_path(files, tuple(rules))
    prepare_stored_quantization(module, {path: t.shape for path, t in stored.items()})
    wanted = {path: tuple(value.shape) for path, value in tree_flatten(module.parameters())}
    missing = [path for path in wanted if path not in stored]
    extra += [t.name for path, t in stored.items() if path not in wanted]
    misshapen = [
        f"{t.name} is {list(t.shape)}, needs {list(_file_shape(t.shape, wanted[path]))}"
        for path, t in stored.items()
        if path in wanted and not _fits(t.shape, wanted[path])
    ]
    _raise_if_any(component, missing=missing, extra=extra, misshapen=misshapen)
    return [Assignment(path, stored[path], shape, scales.get(path)) for path, shape in wanted.items()]


def _by_path(
    files: WeightFiles, rules: tuple[Rule, ...]
) -> tuple[dict[str, StoredTensor], dict[str, StoredTensor], list[str]]:
    """Tensors by parameter path, int8 scales by parameter path, and names that collide."""
    packed = files.metadata.get("swiftai_packing") == _INT8_PACKING
    stored: dict[str, StoredTensor] = {}
    scales: dict[str, StoredTensor] = {}
    collisions: list[str] = []
    for name, tensor in files.tensors.items():
        base = name.removesuffix("_scale")
        is_scale = packed and base != name and base in files.tensors
        path = normalize_key(base if is_scale else name, rules)
        if path is None:
            continue
        target = scales if is_scale else stored
        if path in target:
            collisions.append(name)
        target[path] = tensor
    for path, tensor in stored.items():
        if tensor.dtype == "I8" and path not in scales:
            raise InvalidModelFilesError(f"{tensor.path}: {tensor.name} is int8 without {tensor.name}_scale")
    return stored, scales, collisions


def _fits(file_shape: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    return _file_shape(file_shape, shape) == file_shape


def _file_shape(file_shape: tuple[int, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape a file must have for a parameter of `shape`: convolutions OIHW, 1x1 maps either way."""
    if len(shape) == 4:
        out, height, width, inner = shape
        if (height, width) == (1, 1) and len(file_shape) == 2:
            return (out, inner)
        return (out, inner, height, width)
    if len(shape) == 2 and len(file_shape) == 4:
        return (*shape, 1, 1)
    return shape


def _raise_if_any(component: str, *, missing: list[str], extra: list[str], misshapen: list[str]) -> None:
    parts = []
    for label, names in (("missing", missing), ("not part of it", extra), ("misshapen", misshapen)):
        if names:
            more = "" if len(names) <= _SHOWN else f" and {len(names) - _SHOWN} more"
            parts.append(f"{len(names)} {label}: {'; '.join(sorted(names)[:_SHOWN])}{more}")
    if parts:
        raise InvalidModelFilesError(
            f"the tensors of {component} do not fit its config.json. {' | '.join(parts)}",
            hint="Check that folder and config belong together, or download the model again.",
        )


def read_weights(
    module: nn.Module,
    plan: Iterable[Assignment],
    *,
    dtype: mx.Dtype,
    quantization_bits: int | None = None,
    group_size: int = 64,
) -> None:
    """Reads every planned tensor into the module, evaluated.

    The callback of `ops.set_block_callback` runs before each tensor, so that a cancel is heard.

    Args:
        module: the one the plan was made for.
        plan: from `plan_weights`.
        dtype: compute dtype; see `storage_dtype` for what stays in 16 bits.
        quantization_bits: pack the weights of linear maps whose input width group_size divides.
        group_size: weights that share a scale.

    Raises:
        InvalidModelFilesError: a file changed or cannot be read; names the tensor.
    """
    by_file: dict[Path, list[Assignment]] = {}
    for assignment in plan:
        by_file.setdefault(assignment.stored.path, []).append(assignment)
    tensors = _LazyTensors()
    for path, assignments in by_file.items():
        for assignment in assignments:
            run_checkpoint()
            bits = _bits_for(module, assignment, quantization_bits, group_size)
            may_stay_half = bits is None and _is_map(module, assignment)
            value = _read(assignment, tensors, dtype, may_stay_half=may_stay_half)
            if bits is None:
                assign(module, assignment.path, value)
            else:
                quantize_weight(module, assignment.path, value, bits=bits, group_size=group_size)
            del value
        tensors.forget(path)


class _LazyTensors:
    """Open files as dictionaries of unevaluated arrays; each array is handed out once."""

    def __init__(self) -> None:
        self._files: dict[Path, dict[str, mx.array]] = {}

    def take(self, tensor: StoredTensor) -> mx.array:
        if tensor.path not in self._files:
            loaded = mx.load(str(tensor.path), format="safetensors")
            self._files[tensor.path] = cast(dict[str, mx.array], loaded)
        return self._files[tensor.path].pop(tensor.name)

    def forget(self, path: Path) -> None:
        self._files.pop(path, None)


def _read(assignment: Assignment, tensors: _LazyTensors, dtype: mx.Dtype, *, may_stay_half: bool) -> mx.array:
    stored = assignment.stored
    try:
        value = tensors.take(stored)
        if assignment.scale is not None:
            scale = tensors.take(assignment.scale).astype(mx.float32)
            value = value.astype(mx.float32) * scale.reshape((-1,) + (1,) * (value.ndim - 1))
        if value.ndim == 4 and len(assignment.shape) == 4:
            value = value.transpose(0, 2, 3, 1)
        value = value.reshape(assignment.shape)
        if may_stay_half:
            dtype = storage_dtype(value.dtype, dtype, size=value.size)
        value = mx.contiguous(value.astype(dtype) if stored.dtype != "U32" else value)
        mx.eval(value)
    except (RuntimeError, ValueError, KeyError) as error:
        raise InvalidModelFilesError(
            f"{stored.path}: tensor {stored.name} cannot be read ({error})", hint="Download the model again."
        ) from error
    return value


def _is_map(module: nn.Module, assignment: Assignment) -> bool:
    """Whether it is the weight of a dense layer or a convolution, which compute through `ops`."""
    path, _, name = assignment.path.rpartition(".")
    return name == "weight" and isinstance(find_module(module, path), (Linear, Conv2d))


def _bits_for(module: nn.Module, assignment: Assignment, bits: int | None, group_size: int) -> int | None:
    if bits is None or not assignment.path.endswith(".weight"):
        return None
    owner = find_module(module, assignment.path.rpartition(".")[0])
    quantizable = isinstance(owner, Linear) and assignment.shape[-1] % group_size == 0
    return bits if quantizable else None
