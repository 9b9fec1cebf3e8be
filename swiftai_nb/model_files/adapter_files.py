"""LoRA and textual inversion files by their headers: which file it is, and whether it is one.

No tensor is loaded, so that a plan can say what is wrong before anything is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from swiftai_nb.core.errors import InvalidModelFilesError, ModelNotFoundError
from swiftai_nb.model_files.refusals import PICKLE_SUFFIXES, describe_content, single_file_error
from swiftai_nb.model_files.safetensors_headers import is_float8_extra, read_header

BUNDLE_PREFIX = "bundle_emb."
MAX_VECTORS = 75
# What stands behind a module's name -> the tensor's role.
_ROLES: tuple[tuple[str, str], ...] = (
    (r"\.lora_down\.weight$", "down"),
    (r"\.lora_up\.weight$", "up"),
    (r"\.lora_A(\.[^.]+)?\.weight$", "down"),
    (r"\.lora_B(\.[^.]+)?\.weight$", "up"),
    (r"\.lora_A$", "down"),
    (r"\.lora_B$", "up"),
    (r"(\.lora|\.lora_linear_layer)?\.down\.weight$", "down"),
    (r"(\.lora|\.lora_linear_layer)?\.up\.weight$", "up"),
    (r"\.(lora_)?alpha$", "alpha"),
    (r"\.lora_mid\.weight$", "mid"),
    (r"\.(lora_B(\.[^.]+)?|lora_up)\.bias$", "up_bias"),
    (r"\.(dora_scale|lora_magnitude_vector(\.[^.]+)?(\.weight)?)$", "magnitude"),
    *((rf"\.lokr_{role}$", f"lokr_{role}") for role in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")),
    *((rf"\.hada_{role}$", f"hada_{role}") for role in ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2")),
    (r"\.oft_blocks$", "oft_blocks"),
    (r"\.rescale$", "rescale"),
    (r"\.(diff|w_norm)$", "diff"),
    (r"\.(diff_b|b_norm)$", "diff_b"),
)
_LORA_NAMES = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors")
_OTHER_KINDS = {
    "oft_": "OFT of another kind",
    ".on_input": "IA3",
    "ia3": "IA3",
    ".a1.weight": "GLoRA",
    "set_weight": "control",
    "reshape_weight": "control",
    "lora_embedding": "vocabulary",
    ".bias": "bias-training",
}
# Names of the tensors for the first and for the second encoder; "" is a file's only tensor.
_EMBEDDING_KEYS = {
    "clip_l": 0, "clip_g": 1, "text_encoders_0": 0, "text_encoders_1": 1,
    "emb_params": None, "string_to_param.*": None, "*": None,
}  # fmt: skip
_WORD = re.compile(r"[^\s<>()\[\]:,]")
_SHOWN = 6


def find_lora_file(path: Path) -> Path:
    """The weights of a LoRA.

    Args:
        path: a safetensors file, or a folder that holds one.

    Raises:
        ModelNotFoundError: nothing there.
        InvalidModelFilesError: several.
    """
    if path.is_file():
        return path
    named = [path / name for name in _LORA_NAMES if (path / name).is_file()]
    found = named or sorted(path.glob("*.safetensors"))
    if not path.is_dir() or not found:
        raise ModelNotFoundError(f"there is no LoRA at {path}", hint="give a safetensors file or its folder")
    if len(named) != 1 and len(found) > 1:
        names = ", ".join(f.name for f in found[:_SHOWN])
        raise InvalidModelFilesError(f"{path} holds several LoRAs: {names}", hint="give one file's path")
    return found[0]


def check_lora(path: Path) -> None:
    """Refuses what is no LoRA that can be read, by its header.

    Raises:
        ModelNotFoundError, InvalidModelFilesError: see `find_lora_file` and `lora_parts`.
    """
    file = find_lora_file(path)
    lora_parts(_keys(file), file)


def lora_parts(keys: Iterable[str], file: Path) -> dict[str, tuple[str, str]]:
    """The keys of a LoRA's matrices, and for each the module it is for and its role there.

    Args:
        keys: of the file's tensors; those of words that it brings along (`bundle_emb`) are left out.
        file: the LoRA, for the error.

    Raises:
        InvalidModelFilesError: none, or some of no known kind; says what the file is, or names them.
    """
    own = [key for key in keys if not key.startswith(BUNDLE_PREFIX)]
    if not own:
        raise InvalidModelFilesError(f"{file.name} holds no tensors", hint="download the LoRA again")
    parts: dict[str, tuple[str, str]] = {}
    for key in own:
        found = next(((match, role) for p, role in _ROLES if (match := re.search(p, key))), None)
        if found is not None:
            parts[key] = key[: found[0].start()], found[1]
    unknown = [key for key in own if key not in parts]
    if unknown and not parts:
        _refuse_other_content(file, "LoRA")
    if unknown:
        raise InvalidModelFilesError(
            f"{file.name}: {len(unknown)} of {len(own)} keys are no LoRA's: {shown_names(unknown)}",
            hint=_kind_hint(unknown),
        )
    return parts


def _kind_hint(keys: list[str]) -> str:
    kind = next((k for mark, k in _OTHER_KINDS.items() if any(mark in key for key in keys)), None)
    if kind is None:
        return "give a LoRA file; whole models are chosen as model"
    return f"this is a {kind} adapter; LoRA, LoCon, LoHa, LoKr, DoRA, OFT and differences can be used"


def shown_names(names: list[str]) -> str:
    """The first few names, and how many more."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(sorted(names)[:_SHOWN]) + more


def check_embedding(file: Path) -> None:
    """Refuses what is no textual inversion that can be read, by its header.

    Raises:
        ModelNotFoundError: there is no such file.
        InvalidModelFilesError: unreadable, a pickle, or not a textual inversion; says what it is.
    """
    if not file.is_file():
        raise ModelNotFoundError(f"there is no embedding {file}", hint="give a safetensors file")
    keys = _keys(file)
    tensors, _ = read_header(file)
    vector_keys({key: tensors[key].shape for key in keys}, file, name=file.stem)


def vector_keys(shapes: Mapping[str, Sequence[int]], file: Path, *, name: str) -> tuple[str, ...]:
    """The keys of a textual inversion's vectors: for one encoder or, in their order, for two.

    Args:
        shapes: of its tensors, by key.
        file: where they are from, for the error.
        name: the word.

    Raises:
        InvalidModelFilesError: not those of a textual inversion; says what the file is, or shows them.
    """
    ordered = tuple(sorted(shapes.keys() & _EMBEDDING_KEYS.keys(), key=lambda key: _EMBEDDING_KEYS[key] or 0))
    if len(shapes) == 1 and not ordered:
        ordered = tuple(shapes)  # diffusers: the key is the token
    sizes = [(1, *shapes[key]) if len(shapes[key]) == 1 else tuple(shapes[key]) for key in ordered]
    is_right = (
        len(ordered) == len(shapes) in (1, 2)
        and all(len(size) == 2 and 1 <= size[0] <= MAX_VECTORS and size[1] for size in sizes)
        and len({size[0] for size in sizes}) == 1
        and _WORD.search(name) is not None
    )
    if is_right:
        return ordered
    _refuse_other_content(file, "textual inversion")
    shown = ", ".join(f"{key:.60} {list(shape)}" for key, shape in list(shapes.items())[:3])
    more = f" and {len(shapes) - 3} more" if len(shapes) > 3 else ""
    raise InvalidModelFilesError(
        f"{file.name} is not a textual inversion: {shown}{more}",
        hint=f"give a file with one tensor of at most {MAX_VECTORS} vectors, or clip_l and clip_g",
    )


def is_token(key: str) -> bool:
    """Whether a key is a word of the user's, as in diffusers' files, and not the name of a layout."""
    return key not in _EMBEDDING_KEYS


def _keys(file: Path) -> list[str]:
    if file.suffix.lower() in PICKLE_SUFFIXES:
        raise single_file_error(file)
    tensors, _ = read_header(file)
    is_float8 = any(tensor.dtype.startswith("F8") for tensor in tensors.values())
    return [key for key in tensors if not (is_float8 and is_float8_extra(key))]


def _refuse_other_content(file: Path, wanted: str) -> None:
    """Raises InvalidModelFilesError where the file is another kind that is known."""
    what, option = describe_content(file)
    if what and wanted not in what:
        raise InvalidModelFilesError(
            f"{file.name} is {what}, not a {wanted}",
            hint=f"give a {wanted}" if option is None else f"--{option} {file}",
        )
