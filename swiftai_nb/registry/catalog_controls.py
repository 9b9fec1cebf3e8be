"""The catalog's ControlNets and T2I-Adapters: a table.

As in `catalog_entries`, nothing here was checked against the live Hub. A ControlNet's id is a family and
what it follows (`core.control.KINDS`), by which `registry.controls` finds it.
"""

from __future__ import annotations

from dataclasses import dataclass

from swiftai_nb.model_files.variants import DiffusionVariant
from swiftai_nb.registry.model_info import GB, DiffusionModelInfo, ModelFile, family_settings

_NOT_LIVE = "repository, size and license come from public pages and were not checked against the live Hub"
_OPENRAIL = "free to use, also commercially, within the use restrictions of its annex A"
_APACHE = "free to use, also commercially"
_FP16, _PLAIN = "diffusion_pytorch_model.fp16.safetensors", "diffusion_pytorch_model.safetensors"


@dataclass(frozen=True)
class _Row:
    """A ControlNet in diffusers layout: `config.json` and one file of weights."""

    id: str
    variant: DiffusionVariant
    what: str
    repository: str
    weights: str
    gigabytes: float
    license: str
    license_summary: str


_SD_15, _SDXL = DiffusionVariant.SD_15, DiffusionVariant.SDXL
# fmt: off
_ROWS = (
    _Row("sd-1.5-canny", _SD_15, "edges", "lllyasviel/control_v11p_sd15_canny", _FP16, 0.7227,
         "openrail", _OPENRAIL),
    _Row("sd-1.5-lineart", _SD_15, "lines", "lllyasviel/control_v11p_sd15_lineart", _FP16, 0.7227,
         "openrail", _OPENRAIL),
    _Row("sd-1.5-scribble", _SD_15, "rough lines", "lllyasviel/control_v11p_sd15_scribble", _FP16, 0.7227,
         "openrail", _OPENRAIL),
    _Row("sd-1.5-tile", _SD_15, "a picture's colors without its details",
         "lllyasviel/control_v11f1e_sd15_tile", _PLAIN, 1.4451, "openrail", _OPENRAIL),
    _Row("sd-1.5-depth", _SD_15, "depth maps", "lllyasviel/control_v11f1p_sd15_depth", _FP16, 0.7227,
         "openrail", _OPENRAIL),
    _Row("sd-1.5-pose", _SD_15, "OpenPose skeletons", "lllyasviel/control_v11p_sd15_openpose", _FP16, 0.7227,
         "openrail", _OPENRAIL),
    _Row("sdxl-canny", _SDXL, "edges", "xinsir/controlnet-canny-sdxl-1.0", _PLAIN, 2.5021,
         "apache-2.0", _APACHE),
    _Row("sdxl-scribble", _SDXL, "rough lines", "xinsir/controlnet-scribble-sdxl-1.0", _PLAIN, 2.5021,
         "apache-2.0", _APACHE),
    _Row("sdxl-tile", _SDXL, "a picture's colors without its details", "xinsir/controlnet-tile-sdxl-1.0",
         _PLAIN, 2.5021, "apache-2.0", _APACHE),
    _Row("sdxl-depth", _SDXL, "depth maps", "diffusers/controlnet-depth-sdxl-1.0", _FP16, 2.5021,
         "openrail++", _OPENRAIL),
    _Row("sdxl-pose", _SDXL, "OpenPose skeletons", "xinsir/controlnet-openpose-sdxl-1.0", _PLAIN, 2.5021,
         "apache-2.0", _APACHE),
)
# The repositories of those for Stable Diffusion 1.5 hold pickles alone.
_T2I_ADAPTERS = (
    _Row("sdxl-canny-t2i", _SDXL, "edges", "TencentARC/t2i-adapter-canny-sdxl-1.0", _FP16, 0.158,
         "apache-2.0", _APACHE),
    _Row("sdxl-scribble-t2i", _SDXL, "rough lines", "TencentARC/t2i-adapter-sketch-sdxl-1.0", _FP16, 0.158,
         "apache-2.0", _APACHE),
    _Row("sdxl-lineart-t2i", _SDXL, "lines", "TencentARC/t2i-adapter-lineart-sdxl-1.0", _PLAIN, 0.316,
         "apache-2.0", _APACHE),
    _Row("sdxl-depth-t2i", _SDXL, "depth maps", "TencentARC/t2i-adapter-depth-midas-sdxl-1.0", _PLAIN, 0.316,
         "apache-2.0", _APACHE),
    _Row("sdxl-pose-t2i", _SDXL, "OpenPose skeletons", "TencentARC/t2i-adapter-openpose-sdxl-1.0", _PLAIN,
         0.316, "apache-2.0", _APACHE),
)
# fmt: on


def _entry(row: _Row, *, network: str = "ControlNet") -> DiffusionModelInfo:
    size_bytes = round(row.gigabytes * GB)
    family = "Stable Diffusion 1.5" if row.variant is _SD_15 else "SDXL"
    return DiffusionModelInfo(
        id=row.id,
        name=f"{network} {row.id.removesuffix('-t2i').rpartition('-')[2]} for {family}",
        **family_settings(row.variant),
        description=f"Makes {family} follow {row.what}: --control",
        repository=row.repository,
        files=(ModelFile("config.json"), ModelFile(row.weights, size_bytes)),
        size_bytes=size_bytes,
        license=row.license,
        license_summary=row.license_summary,
        min_memory_bytes=8 * GB if row.variant is _SD_15 else 16 * GB,
        kind="controlnet",
        unconfirmed=_NOT_LIVE,
    )


def _union(suffix: str, gigabytes: float) -> DiffusionModelInfo:
    """Z-Image's, which follows edges, lines, depth maps and poses; one file without a configuration."""
    name, size_bytes = f"Z-Image-Turbo-Fun-Controlnet-Union{suffix}", round(gigabytes * GB)
    return DiffusionModelInfo(
        id=f"z-image-control{suffix.lower()}",
        name=f"ControlNet Union{suffix.replace('-', ' ')} for Z-Image-Turbo",
        **family_settings(DiffusionVariant.Z_IMAGE),
        description="Makes Z-Image follow edges, lines, depth maps and poses: --control",
        repository=f"alibaba-pai/{name}",
        files=(ModelFile(f"{name}.safetensors", size_bytes),),
        size_bytes=size_bytes,
        license="apache-2.0",
        license_summary=_APACHE,
        min_memory_bytes=24 * GB,
        kind="controlnet",
        unconfirmed=_NOT_LIVE,
    )


CONTROLNETS: tuple[DiffusionModelInfo, ...] = (
    *(_entry(row) for row in _ROWS),
    *(_entry(row, network="T2I-Adapter") for row in _T2I_ADAPTERS),
    _union("", 3.10),
    _union("-2.1", 6.71),
)
