"""Reads LoRA files of every common convention into pairs of matrices by module name.

Conventions differ in how a tensor's role is written behind the module's name, and in where the factor
alpha is kept: as a tensor (kohya), in the file's metadata (diffusers), or in `adapter_config.json` (PEFT).
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx

from swiftai_nb.core.errors import InvalidModelFilesError, ModelNotFoundError
from swiftai_nb.core.paths import user_path
from swiftai_nb.diffusion.weights.stored import load_tensors
from swiftai_nb.diffusion.weights.tensors import read_config
from swiftai_nb.model_files.json_file import parse_json
from swiftai_nb.model_files.safetensors_headers import read_header

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
    *((rf"\.lokr_{role}$", role) for role in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b")),
)
_FILE_NAMES = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors")
_METADATA_KEY = "lora_adapter_metadata"
_SHOWN = 6
_LARGEST_ALPHA = 1e6
# Names, anchors, digits, ".*" and unrepeated groups: no nested repetition, which could take for ever.
_SIMPLE_PATTERN = re.compile(r"(?:[\w\-^$|()]|\.\*?|\\\.|\\d\+?|\[0-9\]\+?)*")
_OTHER_KINDS = {
    "dora": "DoRA",
    "lora_magnitude": "DoRA",
    "hada_": "LoHa",
    "lokr_": "Tucker LoKr",
    "lora_mid": "Tucker LoCon",
    "oft_": "OFT",
    ".diff": "weight-difference",
    "bias": "bias-training",
}


@dataclass(frozen=True)
class LoraModule:
    """One module's change: factor * up @ down.

    Attributes:
        name: as in the file, without the tensor's role.
        down: [rank, in] or [rank, in, kh, kw].
        up: [out, rank] or [out, rank, 1, 1].
        factor: alpha / rank (alpha / sqrt(rank) for rank-stabilised LoRAs).
    """

    name: str
    down: mx.array
    up: mx.array
    factor: float

    @property
    def size(self) -> tuple[int, ...]:
        """Outputs, inputs, and height and width of the kernel."""
        return self.up.shape[0], *self.down.shape[1:], *((1, 1) if self.down.ndim == 2 else ())

    @property
    def size_bytes(self) -> int:
        """Bytes of its matrices."""
        return int(self.down.nbytes + self.up.nbytes)


@dataclass(frozen=True)
class KroneckerModule:
    """One module's change by LoKr (Yeh et al. 2023): factor * first ⊗ second.

    Attributes:
        name: as in the file, without the tensor's role.
        first: [m, n].
        second: [p, q]; the change is [m p, n q].
        factor: alpha / rank; 1 where neither matrix is divided into two.
    """

    name: str
    first: mx.array
    second: mx.array
    factor: float

    @property
    def size(self) -> tuple[int, ...]:
        """Outputs, inputs, and height and width of the kernel."""
        (m, n), (p, q) = self.first.shape, self.second.shape
        return m * p, n * q, 1, 1

    @property
    def size_bytes(self) -> int:
        """Bytes of its matrices."""
        return int(self.first.nbytes + self.second.nbytes)


@dataclass(frozen=True)
class LoraWeights:
    """A LoRA file in memory, not yet matched with a model.

    Attributes:
        path: the file.
        modules: by their name in the file.
    """

    path: Path
    modules: Mapping[str, LoraModule | KroneckerModule]

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
        InvalidModelFilesError: not a LoRA, pairs incomplete or misshapen, or keys of no known kind; counts
            and names them.
    """
    file = _find_file(user_path(path))
    _, metadata = read_header(file)
    tensors = load_tensors(file)
    roles = _by_module(tensors, file)
    options = _AlphaOptions.read(file, metadata)
    modules = {name: _module(name, parts, options, file) for name, parts in roles.items()}
    mx.eval([a for module in modules.values() for a in vars(module).values() if isinstance(a, mx.array)])
    return LoraWeights(file, modules)


def _find_file(path: Path) -> Path:
    if path.is_file():
        return path
    named = [path / name for name in _FILE_NAMES if (path / name).is_file()]
    found = named or sorted(path.glob("*.safetensors"))
    if not path.is_dir() or not found:
        raise ModelNotFoundError(f"there is no LoRA at {path}", hint="give a safetensors file or its folder")
    if len(named) != 1 and len(found) > 1:
        names = ", ".join(f.name for f in found[:_SHOWN])
        raise InvalidModelFilesError(f"{path} holds several LoRAs: {names}", hint="give one file's path")
    return found[0]


def _by_module(tensors: Mapping[str, mx.array], file: Path) -> dict[str, dict[str, mx.array]]:
    modules: dict[str, dict[str, mx.array]] = {}
    unknown = []
    for key, value in tensors.items():
        match = next(((re.search(p, key), role) for p, role in _ROLES if re.search(p, key)), None)
        if match is None or match[0] is None:
            unknown.append(key)
            continue
        modules.setdefault(key[: match[0].start()], {})[match[1]] = value
    if unknown:
        raise InvalidModelFilesError(
            f"{file.name}: {len(unknown)} of {len(tensors)} keys are no LoRA's: {shown_names(unknown)}",
            hint=_kind_hint(unknown),
        )
    if not modules:
        raise InvalidModelFilesError(f"{file.name} holds no tensors", hint="download the LoRA again")
    return modules


def _kind_hint(keys: list[str]) -> str:
    kind = next((k for mark, k in _OTHER_KINDS.items() if any(mark in key for key in keys)), None)
    if kind is None:
        return "give a LoRA file; whole models are chosen as model"
    return f"this is a {kind} adapter: only plain LoRA and LoCon files can be used"


def shown_names(names: list[str]) -> str:
    """The first few names, and how many more."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(sorted(names)[:_SHOWN]) + more


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


def _own_factor(parts: Mapping[str, mx.array], rank: int) -> float:
    if rank == 0:
        raise ValueError("alpha needs a rank above 0")
    return _alpha(parts["alpha"].astype(mx.float32).item()) / rank


def _alpha(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= _LARGEST_ALPHA:
        raise ValueError(f"alpha cannot be {value!r:.80}")
    return float(value)


def _module(
    name: str, parts: Mapping[str, mx.array], options: _AlphaOptions, file: Path
) -> LoraModule | KroneckerModule:
    if any(role.startswith("w") for role in parts):
        return _kronecker_module(name, parts, file)
    missing = [role for role in ("down", "up") if role not in parts]
    if missing:
        raise InvalidModelFilesError(
            f"{file.name}: {name} has no {missing[0]} matrix", hint="download the LoRA again"
        )
    down, up = parts["down"], parts["up"]
    matches = down.ndim in (2, 4) and up.ndim in (2, 4) and up.shape[1] == down.shape[0]
    if not matches or any(n != 1 for n in up.shape[2:]):
        raise InvalidModelFilesError(
            f"{file.name}: {name} has down {list(down.shape)} and up {list(up.shape)}, which do not multiply"
        )
    rank = int(down.shape[0])
    with _invalid_alpha(name, file):
        factor = _own_factor(parts, rank) if "alpha" in parts else options.factor(name, rank)
    return LoraModule(name, down, up, factor)


def _kronecker_module(name: str, parts: Mapping[str, mx.array], file: Path) -> KroneckerModule:
    first, second = (_whole(name, parts, role, file) for role in ("w1", "w2"))
    ranks = [int(parts[f"{role}_b"].shape[0]) for role in ("w1", "w2") if role not in parts]
    # With both matrices whole there is no rank, and alpha has no meaning.
    has_alpha = "alpha" in parts and bool(ranks)
    with _invalid_alpha(name, file):
        factor = _own_factor(parts, ranks[-1]) if has_alpha else 1.0
    return KroneckerModule(name, first, second, factor)


def _whole(name: str, parts: Mapping[str, mx.array], role: str, file: Path) -> mx.array:
    """One of the two matrices, which may be stored as a product."""
    whole, a, b = (parts.get(key) for key in (role, f"{role}_a", f"{role}_b"))
    if (
        whole is None
        and a is not None
        and b is not None
        and a.ndim == b.ndim == 2
        and a.shape[1] == b.shape[0]
    ):
        whole = a.astype(mx.float32) @ b.astype(mx.float32)
    if whole is None or whole.ndim != 2:
        raise InvalidModelFilesError(
            f"{file.name}: {name} has no matrix lokr_{role} that can be read", hint="download the LoRA again"
        )
    return whole
