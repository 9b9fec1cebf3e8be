"""One network of a model folder: checked at once, loaded on first use, released and loaded again."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Generic, TypeVar

import mlx.core as mx
from mlx import nn
from mlx.utils import tree_flatten

from swiftai_nb.core.errors import InvalidModelFilesError
from swiftai_nb.diffusion import allocator
from swiftai_nb.diffusion.weights.key_mapping import Rule
from swiftai_nb.diffusion.weights.load import Assignment, plan_weights, read_weights
from swiftai_nb.model_files.safetensors_headers import WeightFiles, read_weight_files

Network = TypeVar("Network", bound=nn.Module)


class Component(Generic[Network]):
    """A network and the folder its weights come from.

    Args:
        folder: e.g. `<model>/unet`; its name names the component in errors.
        build: makes the network, unloaded.
        rules: key names of files -> parameter paths.
        dtype: floating dtype of the loaded parameters.
        quantization_bits: packs linear maps on load; None leaves them.

    Raises:
        InvalidModelFilesError: the files do not fit; found here, from headers, before anything is loaded.
    """

    def __init__(
        self,
        folder: Path,
        build: Callable[[], Network],
        *,
        rules: Iterable[Rule],
        dtype: mx.Dtype,
        quantization_bits: int | None = None,
    ) -> None:
        self.name = folder.name
        self.dtype = dtype
        self.quantization_bits = quantization_bits
        self._folder, self._build, self._rules = folder, build, tuple(rules)
        self._network: Network | None = None
        self._after_load: list[Callable[[Network], None]] = []
        self._plan()

    def _plan(self) -> tuple[Network, list[Assignment]]:
        files = read_weight_files(self._folder, prefer_half=self.dtype != mx.float32)
        network = self._build()
        return network, plan_weights(network, files, rules=self._rules, component=self.name)

    @property
    def files(self) -> WeightFiles:
        """The headers of its files."""
        return read_weight_files(self._folder, prefer_half=self.dtype != mx.float32)

    @property
    def network(self) -> Network:
        """The network with its weights; loads them on first use."""
        if self._network is None:
            network = self._load()
            for change in self._after_load:
                change(network)
            network.eval()
            self._network = network
        return self._network

    def blank(self) -> Network:
        """The network without its weights: names and shapes only."""
        return self._build()

    def _load(self) -> Network:
        network, plan = self._plan()
        read_weights(network, plan, dtype=self.dtype, quantization_bits=self.quantization_bits)
        return network

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
        """Forgets a registered change; a loaded network is dropped, to be read again without it."""
        self._after_load = [c for c in self._after_load if c is not change]
        self.release()

    def release(self) -> None:
        """Drops the weights and gives their memory back."""
        self._network = None
        gc.collect()
        mx.clear_cache()
        allocator.return_freed_memory()


def read_config(path: Path) -> dict[str, Any]:
    """A JSON object from a model folder.

    Raises:
        InvalidModelFilesError: missing, not JSON, or not an object.
    """
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise InvalidModelFilesError(
            f"{path} is missing", hint="Check the folder, or download the model again."
        ) from None
    except ValueError as error:
        raise InvalidModelFilesError(f"{path} is not JSON ({error})") from None
    if not isinstance(config, dict):
        raise InvalidModelFilesError(f"{path} is not a JSON object")
    return config
