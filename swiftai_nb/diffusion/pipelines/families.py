"""Which pipeline runs which model family: `_class_name` of `model_index.json` -> our class."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import cast

import mlx.core as mx

from swiftai_nb.core.errors import ModelNotFoundError, UnsupportedModelError
from swiftai_nb.diffusion.pipelines.stages import DiffusionPipeline
from swiftai_nb.diffusion.precision import resolve_dtype
from swiftai_nb.diffusion.weights.component import read_config
from swiftai_nb.diffusion.weights.flux_layouts import is_flux_folder
from swiftai_nb.diffusion.weights.quantization import check_bits

_SD = "swiftai_nb.diffusion.pipelines.stable_diffusion:StableDiffusionPipeline"
_SDXL = "swiftai_nb.diffusion.pipelines.stable_diffusion_xl:StableDiffusionXLPipeline"
_FLUX = "swiftai_nb.diffusion.pipelines.flux:FluxPipeline"

FAMILIES: dict[str, str] = {
    "StableDiffusionPipeline": _SD,
    "StableDiffusionImg2ImgPipeline": _SD,
    "StableDiffusionInpaintPipeline": _SD,
    "LatentConsistencyModelPipeline": _SD,
    "LatentConsistencyModelImg2ImgPipeline": _SD,
    "StableDiffusionXLPipeline": _SDXL,
    "StableDiffusionXLImg2ImgPipeline": _SDXL,
    "FluxPipeline": _FLUX,
    "FluxImg2ImgPipeline": _FLUX,
}


def load_pipeline(
    folder: str | Path, dtype: str | mx.Dtype | None = None, quantization_bits: int | None = None
) -> DiffusionPipeline:
    """Opens a model folder; its files decide everything, its name nothing.

    Files are checked now, from their headers; weights are read when first needed. All further calls
    belong to the calling thread (MLX arrays do).

    Args:
        folder: diffusers layout with `model_index.json`, or FLUX.1 in a layout of
            `weights.flux_layouts` (mflux, Argmax, Black Forest Labs' single files).
        dtype: "float32", "float16" or "bfloat16"; None is float32 on the CPU, float16 on a GPU.
        quantization_bits: 4 or 8 packs the linear maps of text encoders and denoiser on load.

    Raises:
        ModelNotFoundError: no such folder.
        UnsupportedModelError: a family this engine does not run.
        InvalidModelFilesError: files missing, corrupt, or with tensors that do not fit; names them.
        InvalidInputError: an unknown dtype or number of bits.
    """
    path = Path(folder).expanduser()
    if not path.is_dir():
        raise ModelNotFoundError(f"there is no model folder {path}", hint="Check the path.")
    check_bits(quantization_bits)
    family = _family(path)
    if family not in FAMILIES:
        known = ", ".join(sorted({name for name in FAMILIES if "Img2Img" not in name}))
        raise UnsupportedModelError(
            f"{path} is a {family or 'model of no known family'}, which this engine does not run",
            hint=f"Choose a model of one of these families: {known}.",
        )
    module, _, name = FAMILIES[family].partition(":")
    pipeline = getattr(import_module(module), name)
    return cast(
        DiffusionPipeline,
        pipeline(path, dtype=resolve_dtype(dtype), quantization_bits=quantization_bits),
    )


def _family(folder: Path) -> str | None:
    """The class name in `model_index.json`; FLUX.1 in other layouts has no such file."""
    if not (folder / "model_index.json").is_file() and is_flux_folder(folder):
        return "FluxPipeline"
    name = read_config(folder / "model_index.json").get("_class_name")
    return name if isinstance(name, str) else None
