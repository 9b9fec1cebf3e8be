"""A network whose files are of a foreign layout: renamed on load, strictly, one tensor at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import cast

import mlx.core as mx
from mlx import nn
from mlx.utils import tree_flatten

from swiftai_nb.core.errors import InvalidModelFilesError, UnsupportedModelError
from swiftai_nb.diffusion.cpu.workers import run_checkpoint
from swiftai_nb.diffusion.models.layers import Conv2d, Embedding, Linear
from swiftai_nb.diffusion.models.quantized_embedding import QuantizedEmbedding
from swiftai_nb.diffusion.precision import storage_dtype
from swiftai_nb.diffusion.weights.component import Component, Network
from swiftai_nb.diffusion.weights.flux_convert import Convert, Tensors
from swiftai_nb.diffusion.weights.module_paths import assign, find_module, has_path
from swiftai_nb.diffusion.weights.quantization import (
    DEFAULT_GROUP_SIZE,
    prepare_stored_quantization,
    quantize_weight,
)
from swiftai_nb.model_files.safetensors_headers import StoredTensor, WeightFiles, read_header

_SHOWN = 6


class ConvertedComponent(Component[Network]):
    """See `Component`; the tensors pass through `convert` on their way.

    Args:
        name: of the component, for errors.
        paths: its safetensors files.
        convert: foreign tensors -> names and shapes of the module, unevaluated.
        build: makes the network, unloaded.
        dtype: floating dtype of the loaded parameters.
        quantization_bits: packs linear maps that are not packed already.

    Raises:
        InvalidModelFilesError: tensors are missing, extra or misshapen; found from headers.
    """

    def __init__(
        self,
        name: str,
        paths: Sequence[Path],
        convert: Convert,
        build: Callable[[], Network],
        *,
        dtype: mx.Dtype,
        quantization_bits: int | None = None,
    ) -> None:
        self._paths, self._convert = tuple(paths), convert
        self._build, self._network, self._after_load = build, None, []
        self.name, self.dtype, self.quantization_bits = name, dtype, quantization_bits
        check_converted(build(), open_tensors(self._paths, convert), component=name)

    @property
    def files(self) -> WeightFiles:
        """The headers of its files."""
        return read_headers(self._paths)

    def _load(self) -> Network:
        network, tensors = self._build(), open_tensors(self._paths, self._convert)
        check_converted(network, tensors, component=self.name)
        read_converted(network, tensors, dtype=self.dtype, quantization_bits=self.quantization_bits)
        return network


def read_headers(paths: Iterable[Path]) -> WeightFiles:
    """Headers of several files, checked against their lengths.

    Raises:
        InvalidModelFilesError: a file is no safetensors, truncated, or repeats a tensor.
        UnsupportedModelError: float8 tensors.
    """
    tensors: dict[str, StoredTensor] = {}
    metadata: dict[str, str] = {}
    for path in paths:
        found, meta = read_header(path)
        doubled = sorted(tensors.keys() & found.keys())
        if doubled:
            raise InvalidModelFilesError(f"{path}: {doubled[0]} is also in another file of this model")
        tensors.update(found)
        metadata.update(meta)
    eights = next((t for t in tensors.values() if t.dtype.startswith("F8")), None)
    if eights is not None:
        raise UnsupportedModelError(
            f"{eights.path.name} stores float8 weights, which this engine cannot read",
            hint="use the bfloat16 file with quantization_bits=8, or a ready 4- or 8-bit model",
        )
    return WeightFiles(tensors, metadata)


def open_tensors(paths: Iterable[Path], convert: Convert) -> Tensors:
    """The converted tensors of the files, unevaluated: nothing but headers is read."""
    paths = tuple(paths)
    read_headers(paths)
    tensors: Tensors = {}
    for path in paths:
        tensors.update(cast(Tensors, mx.load(str(path), format="safetensors")))
    return convert(tensors)


def check_converted(module: nn.Module, tensors: Mapping[str, mx.array], *, component: str) -> None:
    """Swaps in packed layers where tensors are packed, then wants exactly the module's parameters.

    Raises:
        InvalidModelFilesError: counts and names what is missing, extra or misshapen.
    """
    shapes = {path: tuple(value.shape) for path, value in tensors.items()}
    prepare_stored_quantization(module, shapes)
    _prepare_stored_tables(module, shapes)
    wanted = {path: tuple(value.shape) for path, value in tree_flatten(module.parameters())}
    problems = {
        "missing": [path for path in wanted if path not in shapes],
        "not part of it": [path for path in shapes if path not in wanted],
        "misshapen": [
            f"{path} is {list(shape)}, needs {list(wanted[path])}"
            for path, shape in shapes.items()
            if path in wanted and not _fits(shape, wanted[path])
        ],
    }
    parts = [_describe(label, names) for label, names in problems.items() if names]
    if parts:
        raise InvalidModelFilesError(
            f"the tensors of {component} do not fit. {' | '.join(parts)}",
            hint="check that the folder's files belong together, or download the model again",
        )


def _describe(label: str, names: list[str]) -> str:
    more = "" if len(names) <= _SHOWN else f" and {len(names) - _SHOWN} more"
    return f"{len(names)} {label}: {'; '.join(sorted(names)[:_SHOWN])}{more}"


def _fits(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """Equal, or a 1x1 kernel for a matrix or the other way round."""
    bare = tuple(n for n in shape if n != 1) if len(shape) != len(wanted) else shape
    target = tuple(n for n in wanted if n != 1) if len(shape) != len(wanted) else wanted
    return bare == target


def _prepare_stored_tables(module: nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> None:
    for scales_path, scales in ((p, s) for p, s in shapes.items() if p.endswith(".scales")):
        path = scales_path.removesuffix(".scales")
        packed = shapes.get(f"{path}.weight")
        if packed is None or not has_path(module, path):
            continue
        table = find_module(module, path)
        if isinstance(table, Embedding):
            count, width = table.weight.shape
            bits, group_size = packed[-1] * 32 // width, width // max(scales[-1], 1)
            assign(module, path, QuantizedEmbedding(count, width, group_size=group_size, bits=bits))


def read_converted(
    module: nn.Module, tensors: Tensors, *, dtype: mx.Dtype, quantization_bits: int | None = None
) -> None:
    """Evaluates the tensors one by one into the module; `tensors` is emptied on the way.

    Raises:
        InvalidModelFilesError: a file changed or cannot be read; names the tensor.
    """
    wanted = {path: tuple(value.shape) for path, value in tree_flatten(module.parameters())}
    for path in list(tensors):
        run_checkpoint()
        value = tensors.pop(path).reshape(wanted[path])
        owner = find_module(module, path.rpartition(".")[0])
        is_weight = path.endswith(".weight")
        packs = is_weight and isinstance(owner, Linear) and quantization_bits is not None
        kept = dtype
        if is_weight and isinstance(owner, (Linear, Conv2d)) and not packs:
            kept = storage_dtype(value.dtype, dtype, size=value.size)
        try:
            value = mx.contiguous(value if value.dtype == mx.uint32 else value.astype(kept))
            mx.eval(value)
        except (RuntimeError, ValueError) as error:
            raise InvalidModelFilesError(
                f"tensor {path} cannot be read ({error})", hint="download the model again"
            ) from error
        if quantization_bits is not None and packs and value.shape[-1] % DEFAULT_GROUP_SIZE == 0:
            quantize_weight(module, path, value, bits=quantization_bits)
        else:
            assign(module, path, value)
