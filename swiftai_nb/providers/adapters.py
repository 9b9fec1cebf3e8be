"""What LoRAs and textual inversions mean for a plan: settings of distilled LoRAs, and files on this disk.

A LoRA that distills a model to a few steps (LCM, Lightning, Hyper-SD, TCD, Turbo, DMD2) draws as it should
with its own sampler, steps and guidance only. Nothing in such a file says so: it is known by its name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from swiftai_nb.core.config import ImageGenerationConfig
from swiftai_nb.core.errors import InvalidInputError
from swiftai_nb.core.paths import user_path
from swiftai_nb.core.request import GenerationRequest
from swiftai_nb.model_files.adapter_files import check_embedding
from swiftai_nb.model_files.model_folder import ModelFolder
from swiftai_nb.registry.registry import DiffusionModelRegistry

_STEPS = re.compile(r"(?<!\d)(\d{1,2})[-_ ]?steps?(?![a-z])")


@dataclass(frozen=True)
class DistilledLora:
    """A kind of few-step LoRA.

    Args:
        label: for the note.
        pattern: of its path or Hub name, in lower case.
        steps: where the name has no number of steps.
        guidance_scale: 1.0 is off.
        scheduler: sampler; None keeps the model's own, as flow models do.
        is_flow: whether it is for flow models.
    """

    label: str
    pattern: str
    steps: int
    guidance_scale: float
    scheduler: str | None = None
    is_flow: bool = False


# As their model cards say. The first that matches counts.
DISTILLED_LORAS = (
    DistilledLora("Hyper-SD", r"hyper[-_]?sd\w*[-_].*cfg", 8, 5.0, "ddim-sgm-uniform"),
    DistilledLora("Hyper-SD", r"hyper[-_]?sd\w*[-_].*1[-_]?step", 1, 1.0, "tcd"),
    DistilledLora("Hyper-SD", r"hyper[-_]?sd", 4, 1.0, "ddim-sgm-uniform"),
    DistilledLora(
        "Lightning", r"(sd|xl)\w*[-_ ]?lightning|lightning[-_ ]?\d+step", 4, 1.0, "euler-sgm-uniform"
    ),
    DistilledLora("DMD2", r"(?<![a-z])dmd2(?![a-z])", 4, 1.0, "lcm"),
    DistilledLora("TCD", r"(?<![a-z])tcd(?![a-z])", 4, 1.0, "tcd"),
    DistilledLora("LCM", r"(?<![a-z])lcm(?![a-z])", 4, 1.0, "lcm"),
    DistilledLora("Turbo", r"sd[-_]?(xl)?[-_]?turbo|turbo[-_]?sd", 4, 1.0, "euler-a-sgm-uniform"),
    DistilledLora("Hyper-FLUX", r"hyper[-_]?flux", 8, 3.5, is_flow=True),
    DistilledLora("FLUX Turbo", r"flux[\w.-]*turbo|turbo[\w.-]*flux", 8, 3.5, is_flow=True),
)


def with_distilled_lora(
    request: GenerationRequest, model: ModelFolder
) -> tuple[GenerationRequest, tuple[str, ...]]:
    """Fills in the sampler, steps and guidance of a distilled LoRA where the user gave none; notes say so."""
    config = request.config
    found = next(_distilled(config, is_flow=model.is_flow), None)
    if found is None:
        return request, ()
    source, kind = found
    named = _STEPS.search(source)
    steps = kind.steps if named is None else max(1, int(named[1]))
    wanted = {"scheduler": kind.scheduler, "steps": steps, "guidance_scale": kind.guidance_scale}
    given = config.steps_factor != 1.0
    chosen = {
        name: value
        for name, value in wanted.items()
        if value is not None and getattr(config, name) is None and not (name == "steps" and given)
    }
    if not chosen:
        return request, ()
    text = ", ".join(f"{name.replace('_scale', '')} {value}" for name, value in chosen.items())
    note = f"{source.rsplit('/', 1)[-1][:60]} is a {kind.label} LoRA by its name, so this was set: {text}"
    return replace(request, config=config.replace(**chosen)), (note,)


def _distilled(config: ImageGenerationConfig, *, is_flow: bool) -> Iterator[tuple[str, DistilledLora]]:
    for lora in config.loras:
        path = lora.source.replace("\\", "/").lower()
        # A file may be called pytorch_lora_weights.safetensors: its folder has the name.
        name = "/".join(path.split("/")[-2:])
        for kind in DISTILLED_LORAS:
            if lora.scale > 0 and kind.is_flow == is_flow and re.search(kind.pattern, name):
                yield name, kind


def local_vae(registry: DiffusionModelRegistry, name: str | None) -> Path | None:
    """The absolute path of an autoencoder: a file, a folder, or the name of an installed model that has one.

    Raises:
        ModelNotFoundError: neither a path nor a known name.
        ModelNotDownloadedError: that model is not installed.
    """
    if name is None:
        return None
    path = user_path(name)
    return (path if path.exists() else registry.resolve(name).folder).absolute()


def embedding_files(config: ImageGenerationConfig, model: ModelFolder | None = None) -> tuple[str, ...]:
    """The absolute paths of textual inversions: the engine's working directory is not the kernel's.

    Raises:
        ModelNotFoundError: one is not there.
        InvalidModelFilesError: one is no textual inversion.
        InvalidInputError: the model takes none.
    """
    paths = [user_path(source).absolute() for source in config.embeddings]
    for path in paths:
        check_embedding(path)
    if paths and model is not None and model.is_flow:
        raise InvalidInputError(
            f"{model.family.name} takes no textual inversion", hint="use it with Stable Diffusion or SDXL"
        )
    return tuple(str(path) for path in paths)
