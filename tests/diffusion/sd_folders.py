"""Writes the tiny Stable Diffusions of the parity suite to disk, in every layout files are found in."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from tests.diffusion.parity import tiny_sd
from tests.diffusion.parity.seeded_weights import seeded_weights
from tests.diffusion.parity.tiny_flux import REFERENCES, write_clip_tokenizer

Arrays = dict[str, np.ndarray]

_STEMS = {"text_encoder": "model", "text_encoder_2": "model"}
_DTYPES = {
    "float64": "F64", "float32": "F32", "float16": "F16",
    "int64": "I64", "uint32": "U32", "int8": "I8", "uint8": "U8",
}  # fmt: skip


@cache
def _shapes() -> dict[str, dict[str, dict[str, list[int]]]]:
    """Shapes of diffusers' own state dicts: model -> component -> key name -> shape."""
    with np.load(REFERENCES / "sd_shapes.npz") as file:
        return json.loads(bytes(file["json"]))


def sd_weights(model: str) -> dict[str, Arrays]:
    """Weights by component under published names."""
    return {
        component: seeded_weights({name: tuple(shape) for name, shape in shapes.items()})
        for component, shapes in _shapes()[model].items()
    }


def write_safetensors(path: Path, arrays: Arrays, metadata: dict[str, str] | None = None) -> None:
    """The format by hand, so that files of any kind (also wrong ones) can be written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": metadata}
    offset = 0
    for name, array in arrays.items():
        header[name] = {
            "dtype": _DTYPES[str(array.dtype)],
            "shape": list(array.shape),
            "data_offsets": [offset, offset + array.nbytes],
        }
        offset += array.nbytes
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for array in arrays.values():
            file.write(np.ascontiguousarray(array).tobytes())


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def write_folder(
    folder: Path, model: str, *, weights: dict[str, Arrays] | None = None, scheduler: dict | None = None
) -> Path:
    """A model in plain diffusers layout."""
    weights = sd_weights(model) if weights is None else weights
    write_configs(folder, model, scheduler=scheduler)
    for component, arrays in weights.items():
        write_safetensors(component_file(folder, component), arrays)
    return folder


def component_file(folder: Path, component: str, middle: str = "") -> Path:
    stem = _STEMS.get(component, "diffusion_pytorch_model")
    return folder / component / f"{stem}{middle}.safetensors"


def write_configs(folder: Path, model: str, *, scheduler: dict | None = None) -> None:
    spec = tiny_sd.MODELS[model]
    index: dict[str, Any] = {
        "_class_name": spec["class"],
        "_diffusers_version": "0.42.1",
        "safety_checker": [None, None],
        "feature_extractor": ["transformers", "CLIPImageProcessor"],
        "scheduler": ["diffusers", spec["scheduler"]["_class_name"]],
    }
    for name in ("text_encoder", "text_encoder_2", "unet"):
        if name in spec:
            kind = spec[name].get("architectures", ["CLIPTextModel"])[0]
            write_json(folder / name / "config.json", {"architectures": [kind], **spec[name]})
            index[name] = ["transformers", kind]
    write_json(
        folder / "vae" / "config.json", {"_class_name": "AutoencoderKL", **tiny_sd.VAE, **spec.get("vae", {})}
    )
    write_json(folder / "scheduler" / "scheduler_config.json", scheduler or spec["scheduler"])
    write_json(folder / "model_index.json", {**index, **spec.get("index", {})})
    for suffix, pad in zip(("", "_2"), spec["pad"], strict=False):
        if pad is None:
            continue
        path = folder / f"tokenizer{suffix}"
        write_clip_tokenizer(path)
        config = json.loads((path / "tokenizer_config.json").read_text(encoding="utf-8"))
        write_json(path / "tokenizer_config.json", {**config, "pad_token": pad})
