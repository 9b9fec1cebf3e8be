"""What a model wants when the user says nothing, from its own files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from swiftai_nb.diffusion.models.unet_config import UNetConfig
from swiftai_nb.diffusion.pipelines.stages import PipelineDefaults
from swiftai_nb.diffusion.weights.component import read_config
from swiftai_nb.model_files.samplers import scheduler_name


def read_defaults(
    folder: Path,
    *,
    unet: UNetConfig,
    vae_scale: int,
    scheduler_config: Mapping[str, Any],
    steps: int,
    guidance_scale: float,
) -> PipelineDefaults:
    """Defaults of a model with a UNet.

    Args:
        folder: the model; its `generation_defaults.json`, if there, wins.
        unet: its sample_size gives the native size; a guidance embedding marks an LCM model.
        vae_scale: pixels per latent.
        scheduler_config: names the sampler.
        steps: of the family.
        guidance_scale: of the family.
    """
    side = (64 if unet.sample_size is None else unet.sample_size) * vae_scale
    scheduler = scheduler_name(scheduler_config)
    if unet.time_cond_proj_dim is not None or scheduler == "lcm":
        steps, guidance_scale = 4, 8.5
    path = folder / "generation_defaults.json"
    given = read_config(path) if path.is_file() else {}

    def pick(name: str, otherwise: Any) -> Any:
        value = given.get(name)
        return otherwise if value is None else value

    return PipelineDefaults(
        width=int(pick("width", side)),
        height=int(pick("height", side)),
        steps=int(pick("steps", steps)),
        guidance_scale=float(pick("guidance_scale", guidance_scale)),
        scheduler=str(pick("scheduler", scheduler)),
    )
