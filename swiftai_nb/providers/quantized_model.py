"""A packed copy of a model on this disk: made once, listed and deleted like a download."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

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
    """Packs a model's linear maps to 4 or 8 bits and keeps the result as a model of its own.

    It loads without the time and memory of packing, and draws what `quantization_bits` draws.

    Args:
        registry: finds the model and keeps the copy's entry.
        name: catalog id, own entry or folder; must be on this disk.
        bits: 4 or 8.
        id: of the copy; None adds "-q4" or "-q8".
        say: shows a line at once.

    Returns:
        the copy's entry, registered; `size_bytes` is its size on disk.

    Raises:
        InvalidInputError: other bits, a name that is taken, or a model that is packed already.
        ModelNotFoundError, ModelNotDownloadedError, InvalidModelFilesError: the model cannot be read.
        InsufficientDiskSpaceError, InsufficientMemoryError: before any work.
    """
    if bits not in (4, 8):
        raise InvalidInputError(f"bits {bits} is not 4 or 8", hint="--bits 4 or --bits 8")
    resolved = registry.resolve(name)
    copy = quantized_info(registry.home, resolved.info, bits=bits, id=id)
    target = Path(str(copy.local_folder))
    taken = {info.id for info in registry.available_models}
    if copy.id in taken or target.exists():
        raise InvalidInputError(
            f"{copy.id} is there already", hint=f"delete {copy.id} first, or give another --id"
        )
    _check_room(resolved.folder, registry, bits)
    say(f"packing {resolved.info.id} to {bits} bits")
    save_quantized(resolved.folder, target, bits=bits, on_network=lambda network: say(f"  {network}"))
    return registry.add_custom(replace(copy, size_bytes=folder_bytes(target)))


def _check_room(folder: Path, registry: DiffusionModelRegistry, bits: int) -> None:
    on_cpu = expected_device() == "cpu"
    facts = open_model(folder, prefer_half=not on_cpu)
    if facts.is_quantized:
        raise InvalidInputError(f"{folder.name} is packed already", hint="use it as it is")
    packed = plan_memory(
        facts,
        width=64,
        height=64,
        guided=False,
        bytes_per_weight=4 if on_cpu else 2,
        quantization_bits=bits,
    ).weights_bytes
    check_memory(MemoryPlan({"largest": max(packed.values())}, 0, 0))
    registry.home.mkdir(parents=True, exist_ok=True)
    free, needed = shutil.disk_usage(registry.home).free, sum(packed.values())
    if needed > free:
        raise InsufficientDiskSpaceError(
            f"the copy takes {format_bytes(needed)} and the disk has {format_bytes(free)} free",
            hint=f"free {format_bytes(needed - free)}, or set SWIFTAI_HOME to a larger disk",
        )
