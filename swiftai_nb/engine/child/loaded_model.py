"""The one model an engine keeps in memory, with the LoRAs on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swiftai_nb.core.config import LoraReference
from swiftai_nb.engine.protocol import ModelFiles

if TYPE_CHECKING:
    from swiftai_nb.diffusion import DiffusionPipeline

PipelineLoader = Callable[..., Any]


class LoadedModel:
    """A loaded pipeline and what it was made from.

    Args:
        files: the weights to open; their LoRAs are put on by `wear`.
        load_pipeline: opens a model folder.

    Raises:
        AIError: the files do not fit.
    """

    def __init__(self, files: ModelFiles, load_pipeline: PipelineLoader) -> None:
        self._base = replace(files, loras=())
        self._fingerprint = fingerprint(Path(files.folder))
        self._worn: dict[tuple[str, Any, float], Any] = {}
        self.pipeline: DiffusionPipeline = load_pipeline(
            files.folder, dtype=files.dtype, quantization_bits=files.quantization_bits
        )

    @property
    def folder(self) -> str:
        """Where its weights are."""
        return self._base.folder

    def serves(self, files: ModelFiles) -> bool:
        """Whether these are the same weights, unchanged on disk; LoRAs aside."""
        return self._base == replace(files, loras=()) and self._fingerprint == fingerprint(Path(files.folder))

    def wear(self, loras: tuple[LoraReference, ...]) -> bool:
        """Puts on these LoRAs and takes off all others; whether anything changed.

        The scales of one given several times add up. Networks that change are read again when next used.
        When one LoRA does not fit, none is on.

        Raises:
            ModelNotFoundError: no such file.
            InvalidModelFilesError: not a LoRA, or one for another model.
        """
        scales: dict[str, float] = {}
        for lora in loras:
            source = str(Path(lora.source).expanduser().absolute())
            scales[source] = scales.get(source, 0.0) + lora.scale
        wanted = [(source, fingerprint(Path(source)), scale) for source, scale in scales.items()]
        if wanted == list(self._worn):
            return False
        from swiftai_nb.diffusion.weights.lora import apply_lora, load_lora

        self._undress()
        try:
            for source, files, scale in wanted:
                self._worn[source, files, scale] = apply_lora(self.pipeline, load_lora(source), scale)
        except BaseException:
            self._undress()
            raise
        return True

    def _undress(self) -> None:
        for applied in self._worn.values():
            applied.remove()
        self._worn.clear()


def fingerprint(place: Path) -> tuple[Any, ...]:
    """Size and time of a file, or of every file of a model folder: replaced files are read anew."""
    paths = [place] if place.is_file() else sorted((*place.glob("*"), *place.glob("*/*")))
    found = []
    for path in paths:
        try:
            stat = path.stat()
        except OSError:
            continue
        found.append((str(path), stat.st_size, stat.st_mtime_ns))
    return tuple(found)
