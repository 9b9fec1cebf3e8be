"""LoRAs on the loaded model: changed when a command asks for others, the model staying where it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swiftai_nb.core.config import LoraReference

if TYPE_CHECKING:
    from swiftai_nb.diffusion import DiffusionPipeline
    from swiftai_nb.diffusion.weights.lora import AppliedLora


@dataclass
class Adapters:
    """The LoRAs that are on a pipeline now.

    Args:
        pipeline: the loaded model.
    """

    pipeline: DiffusionPipeline
    _applied: list[AppliedLora] = field(default_factory=list)
    _state: tuple[Any, ...] = ()

    def switch(self, loras: tuple[LoraReference, ...]) -> bool:
        """Puts on exactly these, in order; a file that was replaced is read anew.

        Returns:
            whether anything changed; encoded prompts are then out of date.

        Raises:
            ModelNotFoundError: a LoRA that is not on this disk.
            InvalidModelFilesError: a LoRA that does not fit; none is on then.
        """
        state = tuple((lora, _stamp(lora)) for lora in loras)
        if state == self._state:
            return False
        self._take_off()
        try:
            for lora in loras:
                self._put_on(lora)
        except BaseException:
            self._take_off()
            raise
        self._state = state
        return True

    def _put_on(self, reference: LoraReference) -> None:
        from swiftai_nb.diffusion.weights.lora import apply_lora, load_lora

        lora = load_lora(reference.source)
        self._applied.append(apply_lora(self.pipeline, lora, reference.scale))

    def _take_off(self) -> None:
        while self._applied:
            self._applied.pop().remove()
        self._state = ()


def _stamp(reference: LoraReference) -> tuple[int, int] | None:
    """Size and time of a LoRA's file or folder; None when it is not there."""
    try:
        stat = Path(reference.source).expanduser().stat()
    except OSError:
        return None
    return stat.st_size, stat.st_mtime_ns
