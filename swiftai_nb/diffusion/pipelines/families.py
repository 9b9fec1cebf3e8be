"""Opens a model folder with the pipeline of its family."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import cast

import mlx.core as mx

from swiftai_nb.core.errors import InvalidModelFilesError, ModelNotFoundError, UnsupportedModelError
from swiftai_nb.core.paths import user_path
from swiftai_nb.diffusion.cpu.workers import run_checkpoint
from swiftai_nb.diffusion.pipelines.pipeline import DiffusionPipeline
from swiftai_nb.diffusion.weights.precision import check_bits, resolve_dtype
from swiftai_nb.diffusion.weights.tensors import read_config
from swiftai_nb.diffusion.weights.textual_inversion import load_embedding
from swiftai_nb.model_files.configs import sensible_config
from swiftai_nb.model_files.families import (
    FLUX_1,
    FLUX_2_KLEIN,
    STABLE_DIFFUSION,
    STABLE_DIFFUSION_XL,
    STABLE_DIFFUSION_XL_REFINER,
    UNET_FAMILIES,
    Z_IMAGE,
)
from swiftai_nb.model_files.folder import open_model
from swiftai_nb.model_files.model_folder import ModelFolder
from swiftai_nb.model_files.refusals import CHOOSE_SUPPORTED

# Family -> (module, class); a module is imported when one of its models is opened.
_SHARED = ("tokenizers", "schedulers.samplers", "models.vae", "pipelines.text_stage", "pipelines.image_stage")
_PIPELINES = {
    STABLE_DIFFUSION: ("stable_diffusion", "StableDiffusionPipeline"),
    STABLE_DIFFUSION_XL: ("stable_diffusion", "StableDiffusionXLPipeline"),
    STABLE_DIFFUSION_XL_REFINER: ("stable_diffusion", "StableDiffusionXLPipeline"),
    FLUX_1: ("flux", "FluxPipeline"),
    FLUX_2_KLEIN: ("flux2", "Flux2Pipeline"),
    Z_IMAGE: ("z_image", "ZImagePipeline"),
}


def load_pipeline(
    folder: str | Path,
    dtype: str | mx.Dtype | None = None,
    quantization_bits: int | None = None,
    *,
    base: str | Path | None = None,
    embeddings: Sequence[str | Path] = (),
    vae: str | Path | None = None,
) -> DiffusionPipeline:
    """Opens a model folder; its files decide everything, its name nothing.

    Files are checked now, from their headers; weights are read when first needed. All further calls
    belong to the calling thread (MLX arrays do).

    Args:
        folder: diffusers layout with `model_index.json`, or FLUX.1 or Z-Image in a layout of
            `model_files.components` (mflux, Argmax, Black Forest Labs' and ComfyUI's single files); or one
            file, in the names of CompVis, Stability AI, Black Forest Labs or ComfyUI.
        dtype: "float32", "float16" or "bfloat16"; None is float32 on the CPU, float16 on a GPU.
        quantization_bits: 4, 5, 6 or 8 quantizes the linear maps of text encoders and denoiser on load.
        base: for one file, the folder of a model of its family: tokenizers and what else the file lacks
            are taken from it.
        embeddings: textual inversions in safetensors files; each is a word of the prompt, called as its file,
            alone or as `embedding:NAME`. For Stable Diffusion and SDXL.
        vae: an autoencoder instead of the model's own: a folder in diffusers' layout (AutoencoderKL or
            AutoencoderTiny), or a safetensors file.

    Raises:
        ModelNotFoundError: no such folder.
        UnsupportedModelError: a family this engine does not run.
        InvalidModelFilesError: files missing, corrupt, or with tensors that do not fit; names them.
        InvalidInputError: an unknown dtype or number of bits.
    """
    path = user_path(folder)
    if not path.exists():
        raise ModelNotFoundError(f"there is no model folder {path}", hint="check the path")
    check_bits(quantization_bits)
    compute = resolve_dtype(dtype)
    base = None if base is None else user_path(base)
    other_vae = None if vae is None else user_path(vae)
    model = open_model(path, base=base, prefer_half=compute != mx.float32, vae=other_vae)
    if model.checkpoint is not None:
        refuse_missing_parts(model)
    elif model.family in UNET_FAMILIES:
        read_config(path / "model_index.json")  # required: SDXL's prompt encoding depends on it
    module, name = _PIPELINES[model.family]
    for part in (*_SHARED, f"pipelines.{module}"):  # one by one: a cancel is heard between them
        imported = import_module(f"swiftai_nb.diffusion.{part}")
        run_checkpoint()
    pipeline = getattr(imported, name)
    words = [load_embedding(file) for file in embeddings]
    try:
        with sensible_config(path):
            made = cast(
                DiffusionPipeline, pipeline(model, dtype=compute, quantization_bits=quantization_bits)
            )
        made.set_embeddings(words)
        return made
    except UnsupportedModelError as error:
        error.hint = CHOOSE_SUPPORTED if error.hint is None else error.hint
        raise


def refuse_missing_parts(model: ModelFolder) -> None:
    """Raises InvalidModelFilesError when a single file and its base lack parts; names them."""
    if model.missing:
        raise InvalidModelFilesError(
            f"{model.folder} lacks {', '.join(model.missing)}",
            hint=f"load_pipeline(FILE, base=FOLDER) takes them from a {model.family.name} folder",
        )
