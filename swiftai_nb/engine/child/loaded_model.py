"""The model in the engine's memory: its pipeline, the files it came from, and the LoRAs applied to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swiftai_nb.core.config import LoraReference
from swiftai_nb.core.paths import user_path
from swiftai_nb.engine.messages import ModelFiles

if TYPE_CHECKING:
    from swiftai_nb.diffusion import DiffusionPipeline

PipelineLoader = Callable[..., Any]


class LoadedModel:
    """A loaded pipeline, the files it was made from, and the LoRAs applied to it.

    Args:
        files: the weights to open; their LoRAs are applied by `set_loras`.
        load_pipeline: opens a model folder.

    Raises:
        AIError: the files do not fit.
    """

    def __init__(self, files: ModelFiles, load_pipeline: PipelineLoader) -> None:
        self._base = replace(files, loras=(), embeddings=())
        self._fingerprint = fingerprint(Path(files.folder))
        self._loras: dict[tuple[str, Any, float, str | None], Any] = {}
        self._embeddings: list[Any] = []
        is_file = bool(files.more_folders) and Path(files.folder).is_file()
        base = {"base": files.more_folders[0]} if is_file else {}
        base |= {} if files.vae is None else {"vae": files.vae}
        self.pipeline: DiffusionPipeline = load_pipeline(
            files.folder, dtype=files.dtype, quantization_bits=files.quantization_bits, **base
        )

    @property
    def folder(self) -> str:
        """The model's folder."""
        return self._base.folder

    def matches(self, files: ModelFiles) -> bool:
        """Whether these are the same weights, unchanged on disk; LoRAs aside."""
        base = replace(files, loras=(), embeddings=())
        return self._base == base and self._fingerprint == fingerprint(Path(files.folder))

    def set_loras(self, loras: tuple[LoraReference, ...]) -> bool:
        """Applies these LoRAs and removes all others; returns whether anything changed.

        The scales of one given several times add up. Networks that change are read again when next used.
        When one LoRA does not fit, none is applied.

        Raises:
            ModelNotFoundError: no such file.
            InvalidModelFilesError: not a LoRA, or one for another model.
        """
        scales: dict[tuple[str, str | None], float] = {}
        for lora in loras:
            key = (str(user_path(lora.source).absolute()), lora.blocks)
            scales[key] = scales.get(key, 0.0) + lora.scale
        wanted = [
            (source, fingerprint(Path(source)), scale, blocks) for (source, blocks), scale in scales.items()
        ]
        if wanted == list(self._loras):
            return False
        from swiftai_nb.diffusion.weights.lora import apply_lora, load_lora

        self._remove_loras()
        try:
            for source, files, scale, blocks in wanted:
                lora_weights = load_lora(source)
                applied = apply_lora(self.pipeline, lora_weights, scale, blocks=blocks)
                self._loras[source, files, scale, blocks] = applied
        except BaseException:
            self._remove_loras()
            raise
        return True

    def set_embeddings(self, files: tuple[str, ...]) -> bool:
        """Adds these textual inversions and removes all others; returns whether anything changed.

        Those of LoRAs stay. Call it after `set_loras`.

        Raises:
            ModelNotFoundError: no such file.
            InvalidInputError: the model takes none.
            InvalidModelFilesError: not a textual inversion, or one for another model.
        """
        wanted = [fingerprint(Path(file)) for file in files]
        if wanted == self._embeddings:
            return False
        from swiftai_nb.diffusion.weights.textual_inversion import load_embedding

        bundled = [one for applied in self._loras.values() for one in applied.lora.embeddings]
        self.pipeline.set_embeddings([*bundled, *(load_embedding(file) for file in files)])
        self._embeddings = wanted
        return True

    def _remove_loras(self) -> None:
        for applied in self._loras.values():
            applied.remove()
        self._loras.clear()


def fingerprint(path: Path) -> tuple[Any, ...]:
    """Size and time of a file, or of every file of a model folder, to notice replaced files."""
    paths = [path] if path.is_file() else sorted((*path.glob("*"), *path.glob("*/*")))
    found = []
    for file in paths:
        try:
            stat = file.stat()
        except OSError:
            continue
        found.append((str(file), stat.st_size, stat.st_mtime_ns))
    return tuple(found)
