"""Upscalers of the Real-ESRGAN family in safetensors files: which network a file holds, from its header.

Two networks: RRDBNet (Wang et al. 2018 and 2021: ESRGAN, BSRGAN, Real-ESRGAN x2plus and x4plus) and
SRVGGNetCompact (realesr-animevideov3, realesr-general-x4v3). Their files have the names of BasicSR
(`body.0.rdb1`), of ESRGAN's first repository (`RRDB_trunk`), or those that its training script wrote
(`model.1.sub`); chaiNNer, spandrel and ComfyUI keep whichever a file has.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from swiftai_nb.core.enlargement import network_inputs
from swiftai_nb.core.errors import InvalidInputError, InvalidModelFilesError, UnsupportedModelError
from swiftai_nb.core.machine import MemoryPolicy
from swiftai_nb.core.paths import user_path
from swiftai_nb.model_files.refusals import PICKLE_SUFFIXES
from swiftai_nb.model_files.safetensors_headers import StoredTensor, read_header

CONVERT = (
    "convert it where torch is installed: "
    'python -c "import sys, torch; from safetensors.torch import save_file; '
    "d = torch.load(sys.argv[1], map_location='cpu', weights_only=True); "
    "d = d.get('params_ema', d.get('params', d)); "
    "save_file({k: v.contiguous() for k, v in d.items()}, sys.argv[1] + '.safetensors')\" FILE"
)
_CHOOSE = "use a file of RRDBNet (ESRGAN, Real-ESRGAN) or SRVGGNetCompact"
_WRAPPERS = ("params_ema.", "params.", "state_dict.", "model_state_dict.", "module.", "generator.", "netG.")
_MAX_FEATURES = 1024
_MAX_BLOCKS = 256
_DENSE_CONVS = 5
_STAGE_CONVS = 3 * _DENSE_CONVS  # of one block of RRDBNet
# Copies of feature maps that are alive, with what NumPy needs for them; measured with published weights.
_DENSE_COPIES, _COMPACT_COPIES, _END_COPIES = 8, 4, 6
END_SIDE = 64  # in features, of the parts of RRDBNet at the size of the result
_MAPS = 2  # whole feature maps of RRDBNet: of one block and of the next
_PICTURE_COPIES = 4  # of the result: pixels, the filter's own, the message, PNG
_RULES = (
    (r"^RRDB_trunk\.(\d+)\.RDB", r"body.\1.rdb"),
    (r"^trunk_conv\.", "conv_body."),
    (r"^upconv(\d)\.", r"conv_up\1."),
    (r"^HRconv\.", "conv_hr."),
    (r"^model\.0\.", "conv_first."),
    (r"^model\.1\.sub\.(\d+)\.RDB(\d)\.conv(\d)\.0\.", r"body.\1.rdb\2.conv\3."),
    (r"^model\.1\.sub\.\d+\.(?=weight$|bias$)", "conv_body."),
)
# A piece of a tensor's name that no supported network has, and whose it is.
_OTHERS = (
    ("relative_position_index_SA", "HAT"),
    ("relative_position_index_OCA", "HAT"),
    (".attn.attns.", "DAT"),
    ("patch_embed.norm", "SwinIR"),
    ("patch_embed.proj", "SwinIR or Swin2SR"),
    ("block_1.c1_r.", "SPAN"),
    ("rdb1.conv1x1", "ESRGAN+"),
    ("RDB1.conv1x1", "ESRGAN+"),
    ("feats.1.channe_mixer", "RealPLKSR"),
    ("residual_layer.", "OmniSR"),
)


@dataclass(frozen=True)
class UpscalerFile:
    """What an upscaler's file holds.

    Attributes:
        path: the file.
        architecture: "rrdb" or "compact".
        scale: how many times larger the picture gets, in each direction.
        features: channels of the feature maps.
        blocks: residual blocks (rrdb), or convolutions between the first and the last (compact).
        growth: channels that each convolution of a dense block adds (rrdb).
        unshuffle: side of the patches of pixels that the network takes as one (rrdb: 2 for most x2 files).
        upsamplings: doublings after the blocks (rrdb).
        names: parameter path of the network, as BasicSR writes it -> the tensor's name in the file.
        size_bytes: of the weights.
    """

    path: Path
    architecture: Literal["rrdb", "compact"]
    scale: int
    features: int
    blocks: int
    growth: int = 0
    unshuffle: int = 1
    upsamplings: int = 0
    names: Mapping[str, str] = field(default_factory=dict, repr=False, hash=False)
    size_bytes: int = 0

    @property
    def stage_reach(self) -> int:
        """How many patches away a patch still counts, through the convolutions of one block (rrdb)."""
        return _STAGE_CONVS

    @property
    def end_reach(self) -> int:
        """The same, for what follows the blocks; for compact networks through the whole network."""
        return self.blocks + 2 if self.architecture == "compact" else 3

    def floats(self, width: int, height: int, *, tile_side: int) -> int:
        """Numbers alive at the largest moment of enlarging a picture; an upper estimate.

        Args:
            width: of the picture, in pixels.
            height: of the picture, in pixels.
            tile_side: of a tile with its margin, in pixels.
        """
        tile = min(width, tile_side) * min(height, tile_side)
        if self.architecture == "compact":
            return tile * _COMPACT_COPIES * (2 * self.features + 3 * self.scale**2)
        maps = _MAPS * width * height * self.features
        dense = tile * _DENSE_COPIES * (self.features + _DENSE_CONVS * self.growth)
        end = min(tile, (END_SIDE * self.unshuffle) ** 2) * _END_COPIES * self.features * self.scale**2
        return (maps + dense) // self.unshuffle**2 + end


def read_upscaler(path: str | Path) -> UpscalerFile:
    """Reads which upscaler a file holds; no tensor is loaded.

    Args:
        path: a safetensors file, or a folder that holds one.

    Raises:
        InvalidInputError: there is no such file.
        InvalidModelFilesError: a pickle (.pth), which is never opened, or a damaged file.
        UnsupportedModelError: another network; names it where it is known.
    """
    file = _find(user_path(path))
    if file.suffix.lower() in PICKLE_SUFFIXES:
        raise InvalidModelFilesError(
            f"{file.name} is a pickle file, which can run code and is never opened", hint=CONVERT
        )
    tensors = read_header(file)[0]
    names = _own_names(tensors)
    for piece, kind in _OTHERS:
        if any(piece in name for name in names):
            raise UnsupportedModelError(f"{file.name} is an upscaler of the kind {kind}", hint=_CHOOSE)
    names = _basicsr_names(names)
    shapes = {path: tensors[name].shape for path, name in names.items()}
    size_bytes = sum(tensors[name].size_bytes for name in names.values())
    if "conv_first.weight" in names and "body.0.rdb1.conv1.weight" in names:
        return _rrdb(file, names, shapes, size_bytes)
    if "body.0.weight" in names and "body.1.weight" in names:
        return _compact(file, names, shapes, size_bytes)
    raise UnsupportedModelError(f"{file.name} holds no upscaler that is known", hint=_CHOOSE)


def default_tile_side() -> int:
    """Side of a tile with its margin, in pixels of the input, by the machine's memory: 256 to 512."""
    return MemoryPolicy.for_machine().decode_side // 2


def upscaling_bytes(
    file: UpscalerFile | None, before: tuple[int, int], after: tuple[int, int], *, bytes_per_weight: int
) -> int:
    """What enlarging a picture needs; an estimate.

    Args:
        file: the network; None is Lanczos' filter.
        before: (width, height) of the picture.
        after: of the result.
        bytes_per_weight: of the compute dtype.
    """
    pictures = _PICTURE_COPIES * 3 * after[0] * after[1]
    inputs = [] if file is None else network_inputs(before, after, file.scale)
    if file is None or not inputs:
        return pictures
    width, height = inputs[-1]
    pictures += 3 * width * height * file.scale**2
    weights = file.size_bytes * bytes_per_weight // 2  # most files hold 16 or 32 bits; the larger of both
    return pictures + weights + file.floats(width, height, tile_side=default_tile_side()) * bytes_per_weight


def _find(path: Path) -> Path:
    if path.is_dir():
        found = sorted(path.glob("*.safetensors"))
        if len(found) == 1:
            return found[0]
        raise InvalidInputError(
            f"{path} holds {len(found)} safetensors files, not one upscaler", hint="give the file itself"
        )
    if not path.is_file():
        raise InvalidInputError(f"there is no upscaler {str(path)!r}", hint="give a .safetensors file")
    return path


def _own_names(tensors: Mapping[str, StoredTensor]) -> dict[str, str]:
    """Names without what wraps all of them -> names; of a file with two sets, the averaged one (EMA)."""
    names = {name: name for name in tensors}
    for _ in _WRAPPERS:
        prefix = next((p for p in _WRAPPERS if any(name.startswith(p) for name in names)), None)
        if prefix is None:
            return names
        names = {name[len(prefix) :]: full for name, full in names.items() if name.startswith(prefix)}
    return names


def _basicsr_names(names: Mapping[str, str]) -> dict[str, str]:
    """BasicSR's names -> names in the file."""
    renamed: dict[str, str] = {}
    rules = [(re.compile(pattern), text) for pattern, text in (*_RULES, *_tail_rules(names))]
    for name, full in names.items():
        path = name
        for pattern, replacement in rules:
            path = pattern.sub(replacement, path)
        if path in renamed:
            raise InvalidModelFilesError(f"{full} and {renamed[path]} are both {path}", hint=_CHOOSE)
        renamed[path] = full
    return renamed


def _tail_rules(names: Iterable[str]) -> list[tuple[str, str]]:
    """`model.N` after the blocks: an enlarging convolution every three places, then two more."""
    numbers = {int(m[1]) for name in names if (m := re.fullmatch(r"model\.(\d{1,3})\.weight", name))}
    ups = [n for n in sorted(numbers) if n > 0 and n % 3 == 0 and n + 2 <= max(numbers) - 2]
    last = 3 * len(ups)
    targets = {3 * i: f"conv_up{i}" for i in range(1, len(ups) + 1)}
    targets |= {last + 2: "conv_hr", last + 4: "conv_last"}
    return [(rf"^model\.{number}\.", f"{target}.") for number, target in targets.items()]


def _rrdb(
    file: Path, names: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]], size_bytes: int
) -> UpscalerFile:
    first, last = shapes["conv_first.weight"], shapes.get("conv_last.weight", ())
    inner = shapes["body.0.rdb1.conv1.weight"]
    unshuffle = _patch(first[1] if len(first) == 4 else 0)
    upsamplings = len([name for name in names if re.fullmatch(r"conv_up\d\.weight", name)])
    has_shapes = len(inner) == len(last) == 4
    if unshuffle is None or not has_shapes or last[0] != 3 or 2**upsamplings % unshuffle:
        raise UnsupportedModelError(
            f"{file.name} is an upscaler, but not from RGB pictures to RGB pictures", hint=_CHOOSE
        )
    indexes = {int(m[1]) for name in names if (m := re.match(r"body\.(\d{1,6})\.rdb1\.", name))}
    _check_sizes(file, features=first[0], blocks=len(indexes))
    return UpscalerFile(
        path=file,
        architecture="rrdb",
        scale=2**upsamplings // unshuffle,
        features=first[0],
        blocks=len(indexes),
        growth=inner[0],
        unshuffle=unshuffle,
        upsamplings=upsamplings,
        names=names,
        size_bytes=size_bytes,
    )


def _compact(
    file: Path, names: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]], size_bytes: int
) -> UpscalerFile:
    first = shapes["body.0.weight"]
    last = max(int(m[1]) for name in names if (m := re.fullmatch(r"body\.(\d{1,6})\.weight", name)))
    made = shapes[f"body.{last}.weight"]
    scale = _patch(made[0] if len(made) == 4 else 0)
    if len(first) != 4 or first[1] != 3 or scale is None or len(shapes["body.1.weight"]) != 1:
        raise UnsupportedModelError(
            f"{file.name} is no SRVGGNetCompact from RGB pictures to RGB pictures", hint=_CHOOSE
        )
    blocks = last // 2 - 1
    _check_sizes(file, features=first[0], blocks=blocks)
    return UpscalerFile(
        path=file,
        architecture="compact",
        scale=scale,
        features=first[0],
        blocks=blocks,
        names=names,
        size_bytes=size_bytes,
    )


def _patch(channels: int) -> int | None:
    """The side of a patch of RGB pixels in so many channels."""
    return next((side for side in range(1, 9) if channels == 3 * side**2), None)


def _check_sizes(file: Path, *, features: int, blocks: int) -> None:
    if not (0 < features <= _MAX_FEATURES and 0 <= blocks <= _MAX_BLOCKS):
        raise UnsupportedModelError(
            f"{file.name}: an upscaler with {blocks} blocks of {features} channels is not supported",
            hint=_CHOOSE,
        )
