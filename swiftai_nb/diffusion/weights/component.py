"""One network of a model: checked at once, loaded on first use, released and loaded again.

A component is a config class, a network class and the rules of its files' layout:

    source = TensorSource.in_folder(folder / "unet", UNET_RULES)
    unet = Component(source, lambda: UNet(config), dtype=mx.float16)
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

import mlx.core as mx
from mlx import nn
from mlx.utils import tree_flatten

from swiftai_nb.core.errors import AIError, InvalidModelFilesError
from swiftai_nb.core.format import shorten
from swiftai_nb.diffusion import gpu, memory
from swiftai_nb.diffusion.cpu.workers import run_checkpoint, spans
from swiftai_nb.diffusion.models.layers import Conv2d, Embedding, Linear
from swiftai_nb.diffusion.weights.precision import (
    DEFAULT_GROUP_SIZE,
    assign,
    find_module,
    prepare_stored_quantization,
    quantize_weight,
    storage_dtype,
)
from swiftai_nb.diffusion.weights.tensors import Tensors, TensorSource

Network = TypeVar("Network", bound=nn.Module)
_SHOWN = 6
_PIECE_ELEMENTS = 1 << 20  # of a tensor, converted between two checks for a cancel: some 10 ms


class Component(Generic[Network]):
    """A network and where its weights come from.

    Args:
        source: its files and their layout; gives the component its name.
        build: makes the network, unloaded.
        dtype: floating dtype of the loaded parameters.
        quantization_bits: quantizes linear maps on load; None leaves them. Layers that files hold quantized
            stay as they are.
        sensitive_layers: pieces of the paths of linear maps that are never quantized on load.

    Raises:
        InvalidModelFilesError: the tensors do not fit; found from headers, before anything is loaded.
    """

    def __init__(
        self,
        source: TensorSource,
        build: Callable[[], Network],
        *,
        dtype: mx.Dtype,
        quantization_bits: int | None = None,
        sensitive_layers: tuple[str, ...] = (),
    ) -> None:
        self.source, self.dtype, self.quantization_bits = source, dtype, quantization_bits
        self.sensitive_layers = sensitive_layers
        self._build = build
        self._network: Network | None = None
        self._after_load: list[Callable[[Network], None]] = []
        run_checkpoint()
        check_tensors(_build_blank(build, source.name), source.open(), component=source.name)

    @property
    def name(self) -> str:
        """E.g. "unet"."""
        return self.source.name

    @property
    def network(self) -> Network:
        """The network with its weights; loads them on first use."""
        if self._network is None:
            network = load_network(
                self.source,
                self._build,
                dtype=self.dtype,
                quantization_bits=self.quantization_bits,
                sensitive_layers=self.sensitive_layers,
            )
            for change in self._after_load:
                change(network)
            network.eval()
            self._network = network
        return self._network

    def blank(self) -> Network:
        """The network without its weights: names and shapes only."""
        return self._build()

    @property
    def is_loaded(self) -> bool:
        """Whether its weights are in memory."""
        return self._network is not None

    @property
    def size_bytes(self) -> int:
        """Bytes of its weights in memory; 0 when released."""
        if self._network is None:
            return 0
        return sum(int(a.nbytes) for _, a in tree_flatten(self._network.parameters()))

    def after_load(self, change: Callable[[Network], None]) -> None:
        """Registers a change of the network (a LoRA) that is repeated after every load."""
        self._after_load.append(change)
        if self._network is not None:
            change(self._network)

    def remove_after_load(self, change: Callable[[Network], None]) -> None:
        """Removes a registered change; a loaded network is dropped, to be read again without it."""
        self._after_load = [c for c in self._after_load if c is not change]
        self.release()

    def release(self) -> None:
        """Drops the weights and gives their memory back."""
        self._network = None
        gc.collect()
        mx.clear_cache()
        memory.return_freed_memory()


def _build_blank(build: Callable[[], Network], name: str) -> Network:
    """The network without weights.

    Raises:
        InvalidModelFilesError: its configuration gives sizes that no network can have.
    """
    try:
        return build()
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        if isinstance(error, AIError):
            raise
        raise InvalidModelFilesError(
            f"{name}: its configuration does not describe a network ({shorten(str(error), 120)})",
            hint="download the model again",
        ) from error


def load_network(
    source: TensorSource,
    build: Callable[[], Network],
    *,
    dtype: mx.Dtype,
    quantization_bits: int | None = None,
    sensitive_layers: tuple[str, ...] = (),
) -> Network:
    """Builds a network and reads its weights, checked, a few tensors at a time on a GPU, one on a CPU.

    The callback of `ops.set_block_callback` runs before each tensor, so that loading can be cancelled.

    Args:
        source: the files.
        build: makes the network, unloaded.
        dtype: compute dtype; see `storage_dtype` for what stays in 16 bits.
        quantization_bits: quantizes linear maps whose input width is a multiple of the group size.
        sensitive_layers: pieces of the paths of those that are not.

    Raises:
        InvalidModelFilesError: tensors that do not fit, or cannot be read; names them.
    """
    network, tensors = build(), source.open()
    check_tensors(network, tensors, component=source.name)
    shapes = _parameter_shapes(network)
    pending, pending_bytes = {}, 0
    # Tensors leave the dictionary one by one: the peak stays near the size of the result.
    for path in list(tensors):
        run_checkpoint()
        value = tensors.pop(path).reshape(shapes[path])
        owner_path, _, name = path.rpartition(".")
        owner = find_module(network, owner_path)
        is_map = name == "weight" and isinstance(owner, (Linear, Conv2d, Embedding))
        quantizes = (
            quantization_bits is not None
            and is_map
            and isinstance(owner, Linear)
            and value.shape[-1] % DEFAULT_GROUP_SIZE == 0
            and not any(piece in path for piece in sensitive_layers)
        )
        keeps_dtype = is_map and not quantizes
        kept = storage_dtype(value.dtype, dtype, size=value.size) if keeps_dtype else dtype
        if isinstance(owner, Embedding):
            owner.dtype = dtype
        label = f"{source.name}: tensor {path}"
        value = _converted(value, value.dtype if value.dtype == mx.uint32 else kept, label)
        if quantizes and quantization_bits is not None:
            _evaluate({label: value})
            quantize_weight(network, path, value, bits=quantization_bits)
        else:
            assign(network, path, value)
            pending[label], pending_bytes = value, pending_bytes + value.nbytes
        del value
        if pending_bytes >= gpu.loaded_together_bytes():
            _evaluate(pending)
            pending, pending_bytes = {}, 0
    _evaluate(pending)
    return network


def _converted(value: mx.array, dtype: mx.Dtype, label: str) -> mx.array:
    """A stored tensor in another dtype and in the order of its axes; on a CPU a large one piece by piece.

    MLX reads a tensor in one piece (59 MB of a UNet in 20 to 40 ms); it converts on one thread, which takes
    0.2 s for the largest tensor of a text encoder.
    """
    if value.size <= _PIECE_ELEMENTS or not gpu.on_cpu():
        return mx.contiguous(value.astype(dtype))
    _evaluate({label: value})
    run_checkpoint()
    if value.dtype == dtype:
        return mx.contiguous(value)
    pieces = []
    for rows in spans(len(value), max(1, _PIECE_ELEMENTS * len(value) // value.size)):
        run_checkpoint()
        pieces.append(mx.contiguous(value[rows].astype(dtype)))
        _evaluate({label: pieces[-1]})
    return mx.concatenate(pieces)


def _evaluate(values: Mapping[str, mx.array]) -> None:
    """Reads tensors, by the labels that an error names."""
    try:
        mx.eval(*values.values())
    except (RuntimeError, ValueError) as error:
        raise InvalidModelFilesError(
            f"{' or '.join(values)} cannot be read ({error})", hint="download the model again"
        ) from error


def check_tensors(network: nn.Module, tensors: Tensors, *, component: str) -> None:
    """Requires exactly one tensor of a fitting shape for every parameter, and no other tensor.

    Layers that files hold quantized are swapped in first.

    Args:
        network: freshly built.
        tensors: by parameter path; only their shapes are looked at.
        component: named in the error.

    Raises:
        InvalidModelFilesError: counts and names what is missing, extra or misshapen, with both shapes.
    """
    shapes = {path: tuple(value.shape) for path, value in tensors.items()}
    prepare_stored_quantization(network, shapes)
    needed = _parameter_shapes(network)
    problems = {
        "missing": [path for path in needed if path not in shapes],
        "not part of it": [path for path in shapes if path not in needed],
        "misshapen": [
            f"{path} is {_stored_shape(shape)}, needs {_stored_shape(needed[path])}"
            for path, shape in shapes.items()
            if path in needed and not _fits(shape, needed[path])
        ],
    }
    parts = [_describe(label, names) for label, names in problems.items() if names]
    if parts:
        raise InvalidModelFilesError(
            f"the tensors of {component} do not fit its config.json. {' | '.join(parts)}",
            hint="check that the folder's files belong together, or download the model again",
        )


def _parameter_shapes(network: nn.Module) -> Mapping[str, tuple[int, ...]]:
    parameters: Any = tree_flatten(network.parameters())
    return {path: tuple(value.shape) for path, value in parameters}


def _fits(shape: tuple[int, ...], needed: tuple[int, ...]) -> bool:
    """Equal, or a 1x1 kernel for a matrix, or the other way round."""
    short, long = sorted((shape, needed), key=len)
    return shape == needed or (len(short) == 2 and long == (short[0], 1, 1, short[1]))


def _stored_shape(shape: tuple[int, ...]) -> list[int]:
    """A kernel's shape as files have it: [O, I, kh, kw]."""
    return [shape[0], shape[3], shape[1], shape[2]] if len(shape) == 4 else list(shape)


def _describe(label: str, names: list[str]) -> str:
    more = "" if len(names) <= _SHOWN else f" and {len(names) - _SHOWN} more"
    return f"{len(names)} {label}: {'; '.join(sorted(names)[:_SHOWN])}{more}"
