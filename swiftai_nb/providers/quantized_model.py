"""Saves quantized models, which are listed and deleted like downloads."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from swiftai_nb.core.config import QUANTIZATION_BITS
from swiftai_nb.core.errors import InsufficientDiskSpaceError, InvalidInputError
from swiftai_nb.core.format import format_bytes
from swiftai_nb.engine.kernel.client import save_quantized
from swiftai_nb.engine.kernel.memory_plan import MemoryPlan, check_memory, plan_memory
from swiftai_nb.engine.kernel.platform import expected_device
from swiftai_nb.model_files.folder import open_model
from swiftai_nb.registry.entries import folder_bytes, quantized_info
from swiftai_nb.registry.model_info import DiffusionModelInfo
from swiftai_nb.registry.registry import DiffusionModelRegistry


def quantize_model(
    registry: DiffusionModelRegistry,
    name: str,
    *,
    bits: int,
    id: str | None = None,  # noqa: A002
    say: Callable[[str], None] = lambda _line: None,
) -> DiffusionModelInfo:
    """Quantizes a model's linear layers to 4, 5, 6 or 8 bits and saves the result as a new model.

    It loads without the time and memory of quantizing, and makes the pictures that `quantization_bits` makes.

    Args:
        registry: finds the model and keeps the entry of the new one.
        name: catalog id, own entry or folder; must be installed.
        bits: 4, 5, 6 or 8.
        id: of the quantized model; None adds "-q4" or "-q8".
        say: called with each line of progress.

    Returns:
        the new entry, registered; `size_bytes` is its size on disk.

    Raises:
        InvalidInputError: other bits, a name that is taken, or a model that is quantized already.
        ModelNotFoundError, ModelNotDownloadedError, InvalidModelFilesError: the model cannot be read.
        InsufficientDiskSpaceError, InsufficientMemoryError: before any work.
    """
    if bits not in QUANTIZATION_BITS:
        raise InvalidInputError(f"bits {bits} is not 4, 5, 6 or 8", hint="--bits 4 saves the most memory")
    resolved = registry.resolve(name)
    quantized = quantized_info(registry.home, resolved.info, bits=bits, id=id)
    target = Path(str(quantized.local_folder))
    taken = {info.id for info in registry.available_models}
    if quantized.id in taken or target.exists():
        raise InvalidInputError(
            f"{quantized.id} exists already", hint=f"delete {quantized.id} first, or choose another --id"
        )
    if resolved.folder.is_file():
        raise InvalidInputError(
            f"{resolved.folder.name} is a single file; only model folders can be quantized and kept",
            hint=f"quantization_bits={bits} quantizes it whenever it is loaded",
        )
    _check_room(resolved.folder, registry, bits)
    say(f"quantizing {resolved.info.id} to {bits} bits")
    save_quantized(resolved.folder, target, bits=bits, on_network=lambda network: say(f"  {network}"))
    return registry.add_custom(replace(quantized, size_bytes=folder_bytes(target)))


def _check_room(folder: Path, registry: DiffusionModelRegistry, bits: int) -> None:
    on_cpu = expected_device() == "cpu"
    model = open_model(folder, prefer_half=not on_cpu)
    if model.is_quantized:
        raise InvalidInputError(f"{folder.name} is quantized already", hint="use it as it is")
    weights_bytes = plan_memory(
        model,
        width=64,
        height=64,
        guided=False,
        bytes_per_weight=4 if on_cpu else 2,
        quantization_bits=bits,
    ).weights_bytes
    check_memory(MemoryPlan({"largest": max(weights_bytes.values())}, 0, 0))
    registry.home.mkdir(parents=True, exist_ok=True)
    free, needed = shutil.disk_usage(registry.home).free, sum(weights_bytes.values())
    if needed > free:
        raise InsufficientDiskSpaceError(
            f"the quantized model takes {format_bytes(needed)} and the disk has {format_bytes(free)} free",
            hint=f"free {format_bytes(needed - free)}, or set SWIFTAI_HOME to a larger disk",
        )
