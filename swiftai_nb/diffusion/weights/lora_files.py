"""Reads LoRA files of every common convention into pairs of matrices by module name.

Conventions differ in how a tensor's role is written behind the module's name, and in where the factor
alpha is kept: as a tensor (kohya), in the file's metadata (diffusers), or in `adapter_config.json` (PEFT).
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mlx.core as mx

from swiftai_nb.core.errors import InvalidModelFilesError
from swiftai_nb.core.paths import user_path
from swiftai_nb.diffusion.weights.lora_modules import (
    AdapterModule,
    DifferenceModule,
    FactoredMatrix,
    HadamardModule,
    KroneckerModule,
    LoraModule,
    OrthogonalModule,
    tucker_product,
)
from swiftai_nb.diffusion.weights.stored import check_numbers, load_tensors
from swiftai_nb.diffusion.weights.tensors import read_config
from swiftai_nb.diffusion.weights.textual_inversion import TextualInversion, bundled_embeddings
from swiftai_nb.model_files.adapter_files import BUNDLE_PREFIX, find_lora_file, lora_parts
from swiftai_nb.model_files.json_file import parse_json
from swiftai_nb.model_files.safetensors_headers import read_header

Parts = Mapping[str, mx.array]

_METADATA_KEY = "lora_adapter_metadata"
_LARGEST_RANK = 4096
_MOST_VALUES = 2**28  # of one weight
_LARGEST_ALPHA = 1e6
# Names, anchors, digits, ".*" and unrepeated groups: no nested repetition, which could take for ever.
_SIMPLE_PATTERN = re.compile(r"(?:[\w\-^$|()]|\.\*?|\\\.|\\d\+?|\[0-9\]\+?)*")


@dataclass(frozen=True)
class LoraWeights:
    """A LoRA file in memory, not yet matched with a model.

    Attributes:
        path: the file.
        modules: by their name in the file.
        embeddings: words that it brings along (`bundle_emb`).
    """

    path: Path
    modules: Mapping[str, AdapterModule]
    embeddings: tuple[TextualInversion, ...] = ()

    @property
    def size_bytes(self) -> int:
        """Bytes of its matrices."""
        return sum(module.size_bytes for module in self.modules.values())


def load_lora(path: str | Path) -> LoraWeights:
    """Reads a LoRA.

    Args:
        path: a safetensors file, or a folder that holds one.

    Raises:
        ModelNotFoundError: nothing there.
        InvalidModelFilesError: see `lora_parts`, and pairs that are incomplete or misshapen.
    """
    file = find_lora_file(user_path(path))
    _, metadata = read_header(file)
    tensors = load_tensors(file)
    parts = lora_parts(tensors, file)
    bundled = {key: tensors.pop(key) for key in list(tensors) if key.startswith(BUNDLE_PREFIX)}
    roles: dict[str, dict[str, mx.array]] = {}
    for key, (module, role) in parts.items():
        roles.setdefault(module, {})[role] = tensors[key]
    check_numbers(tensors, file)
    options = _AlphaOptions.read(file, metadata)
    modules = {name: _module(name, parts, options, file) for name, parts in roles.items()}
    mx.eval(list(tensors.values()))
    mx.eval([a for module in modules.values() for a in vars(module).values() if isinstance(a, mx.array)])
    return LoraWeights(file, modules, bundled_embeddings(bundled, file))


@dataclass(frozen=True)
class _AlphaOptions:
    """Where a file's own tensors give no alpha: (prefix, PEFT config) pairs."""

    configs: tuple[tuple[str, Mapping[str, Any]], ...] = ()

    @classmethod
    def read(cls, file: Path, metadata: Mapping[str, str]) -> _AlphaOptions:
        beside = file.parent / "adapter_config.json"
        if file.name == "adapter_model.safetensors" and beside.is_file():
            return cls((("", read_config(beside)),))
        try:
            flat = parse_json(metadata.get(_METADATA_KEY, "{}"))
        except ValueError:
            flat = None
        configs: dict[str, dict[str, Any]] = {}
        for key, value in flat.items() if isinstance(flat, dict) else ():
            prefix, _, name = key.partition(".")
            configs.setdefault(prefix, {})[name] = value
        return cls(tuple(configs.items()))

    def factor(self, module: str, rank: int) -> float:
        """Without any alpha, alpha equals the rank.

        Raises:
            ValueError: an alpha is no number.
        """
        for prefix, config in self.configs:
            if module.startswith(prefix):
                alpha = config.get("lora_alpha", rank)
                patterns = config.get("alpha_pattern") or {}
                if not isinstance(patterns, dict):
                    raise ValueError("alpha_pattern is not an object")
                for pattern, value in patterns.items():
                    if re.search(rf"(^|\.)(?:{_checked_pattern(pattern)})$", module):
                        alpha = value
                if rank == 0:
                    raise ValueError("alpha needs a rank above 0")
                return _alpha(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)
        return 1.0


def _checked_pattern(pattern: str) -> str:
    """One of PEFT's regular expressions, if it is simple enough to be matched in a bounded time.

    Raises:
        ValueError: it is not.
    """
    is_simple = _SIMPLE_PATTERN.fullmatch(pattern) is not None
    if (
        not is_simple
        or pattern.count("*") + pattern.count("+") > 3
        or pattern.count("(") > 8
        or len(pattern) > 500
    ):
        raise ValueError(f"alpha_pattern cannot hold {pattern!r:.80}")
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"alpha_pattern cannot hold {pattern!r:.80} ({error})") from None
    return pattern


@contextlib.contextmanager
def _invalid_alpha(name: str, file: Path) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise InvalidModelFilesError(
            f"{file.name}: {name}: {error}", hint="download the LoRA again"
        ) from None


def _factor(name: str, parts: Parts, rank: int, file: Path, options: _AlphaOptions | None = None) -> float:
    """Alpha / rank of a module; 1 without an alpha."""
    with _invalid_alpha(name, file):
        if "alpha" not in parts:
            return 1.0 if options is None else options.factor(name, rank)
        if rank == 0:
            raise ValueError("alpha needs a rank above 0")
        return _alpha(parts["alpha"].astype(mx.float32).item()) / rank


def _alpha(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= _LARGEST_ALPHA:
        raise ValueError(f"alpha cannot be {value!r:.80}")
    return float(value)


def _module(name: str, parts: Parts, options: _AlphaOptions, file: Path) -> AdapterModule:
    if "magnitude" in parts and parts["magnitude"].size == 0:
        raise _unreadable(name, "magnitude", file)
    build = next((build for role, build in _BUILDERS.items() if role in parts), None)
    module: AdapterModule
    if build is not None:
        module = build(name, parts, file)
    elif "diff_b" in parts and "down" not in parts:
        module = DifferenceModule(name, None)
    else:
        module = _lora_module(name, parts, options, file)
    return replace(module, magnitude=parts.get("magnitude"), bias=parts.get("diff_b", module.bias))


def _lora_module(name: str, parts: Parts, options: _AlphaOptions, file: Path) -> LoraModule:
    missing = [role for role in ("down", "up") if role not in parts]
    if missing:
        raise InvalidModelFilesError(
            f"{file.name}: {name} has no {missing[0]} matrix", hint="download the LoRA again"
        )
    down, up, core = parts["down"], parts["up"], parts.get("mid")
    if core is not None:
        down = _with_core(name, down, core, file)
    matches = down.ndim in (2, 4) and up.ndim in (2, 4) and up.shape[1] == down.shape[0]
    if not matches or any(n != 1 for n in up.shape[2:]):
        raise InvalidModelFilesError(
            f"{file.name}: {name} has down {list(down.shape)} and up {list(up.shape)}, which do not multiply"
        )
    factor = _factor(name, parts, int(down.shape[0]), file, options)
    bias = parts.get("up_bias")
    return LoraModule(name, down, up, factor, bias=None if bias is None else bias.astype(mx.float32) * factor)


def _with_core(name: str, down: mx.array, core: mx.array, file: Path) -> mx.array:
    """The downward kernel [rank, in, kh, kw] of a LoCon in Tucker's form."""
    if down.ndim not in (2, 4) or any(side != 1 for side in down.shape[2:]):
        raise _unreadable(name, "lora_down", file)
    down = down.reshape(*down.shape[:2])
    if core.ndim != 4 or core.shape[1] != down.shape[0] or core.shape[0] > _LARGEST_RANK:
        raise _unreadable(name, "lora_mid", file)
    return tucker_product(core, mx.eye(core.shape[0]), down)


def _kronecker_module(name: str, parts: Parts, file: Path) -> AdapterModule:
    first, second = (_whole(name, parts, role, file) for role in ("w1", "w2"))
    if first.ndim != 2 or second.ndim not in (2, 4):
        raise _unreadable(name, "matrix lokr_w1 or lokr_w2", file)
    ranks = [int(parts[f"lokr_{role}_b"].shape[0]) for role in ("w1", "w2") if f"lokr_{role}" not in parts]
    # With both matrices whole there is no rank, and alpha has no meaning.
    factor = _factor(name, parts, ranks[-1], file) if ranks else 1.0
    return KroneckerModule(name, first, second, factor)


def _whole(name: str, parts: Parts, role: str, file: Path) -> mx.array:
    """One of the two matrices, which may be stored as a product."""
    if f"lokr_{role}" in parts:
        return parts[f"lokr_{role}"]
    return _factored(name, parts, f"lokr_{role}", "lokr_t2" if role == "w2" else "", file).product()


def _factored(name: str, parts: Parts, role: str, core: str, file: Path) -> FactoredMatrix:
    a, b = parts.get(f"{role}_a"), parts.get(f"{role}_b")
    if a is None or b is None:
        raise _unreadable(name, f"matrix {role}", file)
    matrix = FactoredMatrix(a, b, parts.get(core))
    if not matrix.is_consistent or math.prod(matrix.size) > _MOST_VALUES:
        raise _unreadable(name, f"matrix {role}", file)
    return matrix


def _hadamard_module(name: str, parts: Parts, file: Path) -> AdapterModule:
    first, second = (_factored(name, parts, f"hada_w{n}", f"hada_t{n}", file) for n in (1, 2))
    if first.size != second.size:
        raise _unreadable(name, "matrix hada_w2", file)
    factor = _factor(name, parts, int(first.b.shape[0]), file)
    return HadamardModule(name, first, second, factor)


def _orthogonal_module(name: str, parts: Parts, file: Path) -> AdapterModule:
    blocks = parts["oft_blocks"]
    if blocks.ndim != 3 or blocks.shape[1] != blocks.shape[2]:
        raise _unreadable(name, "oft_blocks (OFT, not BOFT)", file)
    with _invalid_alpha(name, file):
        alpha = _alpha(parts["alpha"].astype(mx.float32).item()) if "alpha" in parts else 0.0
    outputs = blocks.shape[0] * blocks.shape[1]
    constraint = alpha * outputs if alpha > 0 else None
    return OrthogonalModule(name, blocks, constraint, parts.get("rescale"))


def _difference_module(name: str, parts: Parts, _file: Path) -> AdapterModule:
    return DifferenceModule(name, parts["diff"])


_BUILDERS: Mapping[str, Callable[[str, Parts, Path], AdapterModule]] = {
    "diff": _difference_module,
    "oft_blocks": _orthogonal_module,
    **{f"hada_w{n}_{side}": _hadamard_module for n in (1, 2) for side in "ab"},
    **{f"lokr_w{n}{side}": _kronecker_module for n in (1, 2) for side in ("", "_a", "_b")},
}


def _unreadable(name: str, what: str, file: Path) -> InvalidModelFilesError:
    return InvalidModelFilesError(
        f"{file.name}: {name} has no {what} that can be read", hint="download the LoRA again"
    )
