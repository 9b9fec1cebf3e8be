"""The catalog's upscalers: one safetensors file each, of the Real-ESRGAN family.

Repositories, file names, licenses and the size and hash of x4plus come from public pages; nothing was
compared with the live Hub. The networks in the two other repositories follow from their names.
"""

from __future__ import annotations

from typing import Any

from swiftai_nb.model_files.variants import DiffusionVariant
from swiftai_nb.registry.model_info import GB, DiffusionModelInfo, ModelFile, family_settings

_X4PLUS_SHA256 = "37f9a931c215f040aa6d50f711f2cb115f713c46df1d0d6469a8bd7bfe9a60bb"
_BY_AUTHOR = "free to use, also commercially, naming its author (Philip Hofmann)"


def _upscaler(id: str, weights: ModelFile, **fields: Any) -> DiffusionModelInfo:  # noqa: A002
    return DiffusionModelInfo(
        id=id,
        **family_settings(DiffusionVariant.SD_15, steps=1, guidance_scale=0.0),  # of no family
        files=(weights,),
        size_bytes=0 if weights.size_bytes is None else weights.size_bytes,
        min_memory_bytes=4 * GB,
        kind="upscaler",
        unconfirmed="size, names and license come from public pages, not checked against the live Hub",
        **fields,
    )


UPSCALERS: tuple[DiffusionModelInfo, ...] = (
    _upscaler(
        "realesrgan-x4plus",
        ModelFile("RealESRGAN_x4plus.safetensors", 66_857_836, is_exact=True, oid=_X4PLUS_SHA256),
        name="Real-ESRGAN x4plus",
        description="Enlarges photos and drawings 4 times (RRDBNet, 23 blocks); slow without a GPU",
        repository="Comfy-Org/Real-ESRGAN_repackaged",
        license="bsd-3-clause",
        license_summary="free to use, also commercially",
        aliases=(
            "RealESRGAN_x4plus",
            "R-ESRGAN 4x+",
            "RealESRGAN_x4plus.pth",
            "RealESRGAN_x4plus.safetensors",
        ),
    ),
    _upscaler(
        "nomosuni-compact-x2",
        ModelFile("2xNomosUni_compact_multijpg.safetensors", 2_400_000),
        name="2xNomosUni compact",
        description="Enlarges pictures twice (SRVGGNetCompact): small, and quick also on a CPU",
        repository="Phips/2xNomosUni_compact_multijpg",
        license="cc-by-4.0",
        license_summary=_BY_AUTHOR,
        aliases=("2xNomosUni_compact_multijpg", "2xNomosUni_compact_multijpg.pth"),
    ),
    _upscaler(
        "nomosuni-esrgan-x2",
        ModelFile("2xNomosUni_esrgan_multijpg.safetensors", 67_000_000),
        name="2xNomosUni ESRGAN",
        description="Enlarges pictures twice (RRDBNet), trained on compressed photos; slow without a GPU",
        repository="Phips/2xNomosUni_esrgan_multijpg",
        license="cc-by-4.0",
        license_summary=_BY_AUTHOR,
        aliases=("2xNomosUni_esrgan_multijpg", "2xNomosUni_esrgan_multijpg.pth"),
    ),
)
