"""Tensors of safetensors files under the names and shapes of our networks.

Files differ in names (diffusers' of several ages, Black Forest Labs', mflux's), in the order of a
kernel's axes and in packing. All of that is done on unevaluated arrays: nothing but headers is read until
a tensor is used.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx

from swiftai_nb.core.errors import InvalidModelFilesError
from swiftai_nb.diffusion.weights.stored import load_tensors
from swiftai_nb.model_files.configs import read_checked_config
from swiftai_nb.model_files.safetensors_headers import (
    StoredTensor,
    WeightFiles,
    find_weight_files,
    read_header,
)

Tensors = dict[str, mx.array]
# A file's tensors -> the network's: parameter paths as names, kernels as [O, kh, kw, I], unevaluated.
Convert = Callable[[Mapping[str, mx.array]], Tensors]
# A regular expression, and what replaces each match in a key name; None drops the tensor. In order.
Rule = tuple[str, str | None]

_INT8_PACKING = "int8-per-output-channel"
# Buffers that old files carry along.
_DROP_BUFFERS: Rule = (r"(^|\.)position_ids$", None)

CLIP_RULES: tuple[Rule, ...] = (
    _DROP_BUFFERS,
    (r"^logit_scale$", None),
    # transformers 5 saves text models without the prefix that all older files have.
    (r"^(?!text_model\.|text_projection\.)", "text_model."),
)
# Converted checkpoints carry a projection along that the plain text model does not use.
CLIP_WITHOUT_PROJECTION_RULES: tuple[Rule, ...] = (*CLIP_RULES, (r"^text_projection\.weight$", None))
UNET_RULES: tuple[Rule, ...] = (_DROP_BUFFERS,)
VAE_RULES: tuple[Rule, ...] = (
    _DROP_BUFFERS,
    (r"(^|\.)num_batches_tracked$", None),
    # Names of 2022.
    (r"\.query\.", ".to_q."),
    (r"\.key\.", ".to_k."),
    (r"\.value\.", ".to_v."),
    (r"\.proj_attn\.", ".to_out.0."),
)


@dataclass(frozen=True)
class TensorSource:
    """The files of one network and how their tensors become its parameters.

    Attributes:
        name: of the component, for errors.
        paths: safetensors files.
        convert: see `Convert`.
        prefix: of the names of this network's tensors, left out before `convert`; others are left alone.
    """

    name: str
    paths: tuple[Path, ...]
    convert: Convert
    prefix: str = ""

    @classmethod
    def in_folder(cls, folder: Path, rules: Sequence[Rule], *, prefer_half: bool = False) -> TensorSource:
        """A component in diffusers layout, e.g. `<model>/unet`; its name is the folder's.

        Raises:
            InvalidModelFilesError: no weight files, or shards missing.
        """
        paths = find_weight_files(folder, prefer_half=prefer_half)
        return cls(folder.name, paths, renamed_by(rules))

    def headers(self) -> WeightFiles:
        """The headers of all files, checked against their lengths.

        Raises:
            InvalidModelFilesError: a file is no safetensors, truncated, or repeats a tensor.
            UnsupportedModelError: a quantization that cannot be read.
        """
        tensors: dict[str, StoredTensor] = {}
        metadata: dict[str, str] = {}
        for path in self.paths:
            found, meta = read_header(path)
            repeated = sorted(tensors.keys() & found.keys())
            if repeated:
                raise InvalidModelFilesError(
                    f"{path}: {repeated[0]} is also in another file of this model",
                    hint="check that the folder's files belong together, or download the model again",
                )
            tensors.update(found)
            metadata.update(meta)
        return WeightFiles(tensors, metadata)

    def open(self, *, is_packed: bool = True) -> Tensors:
        """The converted tensors by parameter path, unevaluated.

        Args:
            is_packed: False widens what GGUF files hold quantized, so that shapes are those of the numbers.

        Raises:
            InvalidModelFilesError: as `headers`, or tensors that cannot be converted.
        """
        headers = self.headers()
        tensors: Tensors = {}
        for path in self.paths:
            tensors.update(load_tensors(path, is_packed=is_packed))
        try:
            unpacked = _unpack_int8(tensors, headers)
            own = {n[len(self.prefix) :]: v for n, v in unpacked.items() if n.startswith(self.prefix)}
            return self.convert(own)
        except (KeyError, IndexError, ValueError, ZeroDivisionError) as error:
            raise InvalidModelFilesError(
                f"the tensors of {self.name} are not of the layout their names promise ({error})",
                hint="check that the folder's files belong together, or download the model again",
            ) from error


def renamed_by(rules: Sequence[Rule]) -> Convert:
    """The conversion of files in diffusers layout: names by rules, kernels from [O, I, kh, kw]."""
    return lambda tensors: kernels_last(rename(tensors, rules))


def rename(tensors: Mapping[str, mx.array], rules: Sequence[Rule]) -> Tensors:
    """The tensors under other names.

    Raises:
        InvalidModelFilesError: two of them get the same name.
    """
    result: Tensors = {}
    for name, value in tensors.items():
        path = _renamed(name, rules)
        if path is None:
            continue
        if path in result:
            raise InvalidModelFilesError(
                f"{name} and another tensor are both {path}", hint="download the model again"
            )
        result[path] = value
    return result


def _renamed(name: str, rules: Iterable[Rule]) -> str | None:
    for pattern, replacement in rules:
        if replacement is None:
            if re.search(pattern, name):
                return None
        else:
            name = re.sub(pattern, replacement, name)
    return name


def kernels_last(tensors: Mapping[str, mx.array]) -> Tensors:
    """Kernels [O, I, kh, kw] as [O, kh, kw, I]; all others as they are."""
    return {n: v.transpose(0, 2, 3, 1) if v.ndim == 4 else v for n, v in tensors.items()}


def _unpack_int8(tensors: Tensors, headers: WeightFiles) -> Tensors:
    """The bundled model's packing: int8 with one factor for each output channel, in `NAME_scale`."""
    packed = headers.metadata.get("swiftai_packing") == _INT8_PACKING
    for name, stored in headers.tensors.items():
        if stored.dtype != "I8":
            continue
        scale = tensors.pop(f"{name}_scale", None) if packed else None
        if scale is None:
            raise InvalidModelFilesError(
                f"{stored.path}: {name} is int8 without {name}_scale", hint="download the model again"
            )
        value = tensors[name]
        factors = scale.astype(mx.float32).reshape((-1,) + (1,) * (value.ndim - 1))
        tensors[name] = value.astype(mx.float32) * factors
    return tensors


def read_config(path: Path) -> dict[str, Any]:
    """A configuration file of a model folder.

    Raises:
        InvalidModelFilesError: missing, not a JSON object, or with a field that makes no sense.
    """
    if not path.is_file():
        raise InvalidModelFilesError(
            f"{path} is missing", hint="check the folder, or download the model again"
        )
    return read_checked_config(path)
