"""Which files of a repository a model needs: chosen from the names in its listing alone."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import PurePosixPath

from swiftai_nb.core.errors import UnsupportedModelError

COMPONENT_FOLDERS = (
    "scheduler",
    "text_encoder",
    "text_encoder_2",
    "tokenizer",
    "tokenizer_2",
    "transformer",
    "unet",
    "vae",
)
_TOP_LEVEL_FILES = ("model_index.json", "generation_defaults.json", "config.json")
_ALONE = "diffusion_pytorch_model"  # one network at the top: a preview decoder, a ControlNet
_SMALL_NAMES = re.compile(r".*\.(json|txt|model)$")
_WEIGHT = re.compile(
    r"^(?P<stem>(diffusion_pytorch_model|model|\d+))(?P<precision>\.(fp16|bf16))?"
    r"(?P<shard>-\d{5}-of-\d{5})?\.safetensors$"
)


def select_files(listing: Iterable[str]) -> tuple[str, ...]:
    """The files one precision of a model needs, out of all that a repository has.

    Takes the diffusers and the mflux layout. Where a component has fp16 weights they are preferred
    (half the bytes); whole-pipeline files at the root, ONNX, Flax and `.bin` weights are left out.

    Args:
        listing: paths inside the repository, with forward slashes.

    Raises:
        UnsupportedModelError: the listing has no component folder with safetensors weights.
    """
    paths = sorted(set(listing))
    chosen = [p for p in paths if p in _TOP_LEVEL_FILES]
    has_weights = False
    for folder in COMPONENT_FOLDERS:
        inside = [p for p in paths if str(PurePosixPath(p).parent) == folder]
        weights = _preferred_weights(inside)
        has_weights = has_weights or bool(weights)
        index_names = [p for p in inside if p.endswith(".index.json")]
        small = [p for p in inside if _SMALL_NAMES.match(p) and p not in index_names]
        chosen += small + weights + [p for p in index_names if _index_fits(p, weights)]
    alone = _preferred_weights([p for p in paths if p.startswith(_ALONE)])
    if not has_weights and alone:
        return tuple(p for p in ("config.json", *alone) if p in paths)
    if not has_weights:
        raise UnsupportedModelError(
            "the repository has no component folders with safetensors weights",
            hint="use one in diffusers layout (unet/ or transformer/, text_encoder/, vae/)",
        )
    return tuple(chosen)


def _preferred_weights(paths: list[str]) -> list[str]:
    by_precision: dict[str, list[str]] = {}
    for path in paths:
        match = _WEIGHT.match(PurePosixPath(path).name)
        if match:
            by_precision.setdefault(match["precision"] or "", []).append(path)
    for precision in (".fp16", ".bf16", ""):
        if precision in by_precision:
            found = by_precision[precision]
            whole = [p for p in found if "-of-" not in p]
            return whole if whole else found
    return []


def _index_fits(index: str, weights: list[str]) -> bool:
    is_fp16 = any(".fp16" in w for w in weights)
    is_sharded = any("-of-" in w or PurePosixPath(w).name[0].isdigit() for w in weights)
    return is_sharded and (".fp16" in index) == is_fp16
