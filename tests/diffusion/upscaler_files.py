"""Small upscalers of the Real-ESRGAN family: their files, in every layout of names, and a reference in NumPy."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import mlx.core as mx
import numpy as np

FEATURES, GROWTH, BLOCKS = 8, 4, 2


def random_tensors(shapes, *, seed=0):
    random = np.random.default_rng(seed)
    return {
        name: (random.standard_normal(shape) / np.sqrt(np.prod(shape[1:]) or 1) * gain).astype(np.float32)
        + offset
        for name, (shape, gain, offset) in shapes.items()
    }


def _conv(outputs, inputs, gain=1.0, offset=0.0):
    return {"weight": ((outputs, inputs, 3, 3), gain, 0.0), "bias": ((outputs,), 0.1, offset)}


def _named(convs):
    return {f"{name}.{part}": value for name, conv in convs.items() for part, value in conv.items()}


def rrdb_tensors(*, scale=4, unshuffle=1, seed=0, blocks=BLOCKS):
    """BasicSR's names; ESRGAN's own networks of scale 2 have one upsampling, Real-ESRGAN's take patches."""
    ups = int(np.log2(scale * unshuffle))
    convs = {"conv_first": _conv(FEATURES, 3 * unshuffle**2)}
    for block in range(blocks):
        for dense in (1, 2, 3):
            for index in range(5):
                outputs = FEATURES if index == 4 else GROWTH
                convs[f"body.{block}.rdb{dense}.conv{index + 1}"] = _conv(outputs, FEATURES + index * GROWTH)
    convs["conv_body"] = _conv(FEATURES, FEATURES)
    convs |= {f"conv_up{index + 1}": _conv(FEATURES, FEATURES) for index in range(ups)}
    convs |= {"conv_hr": _conv(FEATURES, FEATURES), "conv_last": _conv(3, FEATURES, 0.5, 0.5)}
    return random_tensors(_named(convs), seed=seed)


def far_sighted_tensors(*, blocks):
    """Scale 1: each block adds a fifth of what is 15 pixels to the left, as far as it can see."""
    tensors = {name: np.zeros_like(value) for name, value in rrdb_tensors(blocks=blocks, scale=1).items()}
    color = np.arange(3)
    for block, dense in itertools.product(range(blocks), (1, 2, 3)):
        name = f"body.{block}.rdb{dense}.conv"
        for index in range(5):
            source = color if index == 0 else FEATURES + (index - 1) * GROWTH + color
            tensors[f"{name}{index + 1}.weight"][color, source, 1, 0] = 5 if index == 4 else 1
        tensors[f"{name}5.weight"][color, color, 1, 1] = -5
    for name, gain in (("conv_first", 1), ("conv_body", 1.2**-blocks), ("conv_hr", 1), ("conv_last", 0.5)):
        tensors[f"{name}.weight"][color, color, 1, 1] = gain
    return tensors


def compact_tensors(*, scale=4, blocks=3, seed=0):
    """SRVGGNetCompact: `body.N`, PReLU at odd places."""
    sizes = [3, *[FEATURES] * (blocks + 1)]
    shapes = {}
    for index in range(blocks + 1):
        shapes |= _named({f"body.{2 * index}": _conv(FEATURES, sizes[index])})
        shapes[f"body.{2 * index + 1}.weight"] = ((FEATURES,), 0.3, 0.1)
    return random_tensors(
        shapes | _named({f"body.{2 * blocks + 2}": _conv(3 * scale**2, FEATURES, 0.2)}), seed=seed
    )


def first_esrgan_names(tensors):
    """As in ESRGAN's first repository: `RRDB_trunk.0.RDB1.conv1`."""
    rules = (
        ("^body", "RRDB_trunk"),
        ("rdb", "RDB"),
        ("conv_body", "trunk_conv"),
        ("conv_up", "upconv"),
        ("conv_hr", "HRconv"),
    )
    return {_renamed(name, rules): value for name, value in tensors.items()}


def training_names(tensors):
    """As the training script wrote them: `model.1.sub.0.RDB1.conv1.0`."""
    ups = len({name for name in tensors if re.match(r"conv_up\d\.weight", name)})
    rules = (
        (r"^conv_first", "model.0"),
        (r"^body\.(\d+)\.rdb(\d)\.conv(\d)", r"model.1.sub.\1.RDB\2.conv\3.0"),
        ("^conv_body", f"model.1.sub.{BLOCKS}"),
        *((f"^conv_up{i}", f"model.{3 * i}") for i in range(1, ups + 1)),
        ("^conv_hr", f"model.{3 * ups + 2}"),
        ("^conv_last", f"model.{3 * ups + 4}"),
    )
    return {_renamed(name, rules): value for name, value in tensors.items()}


def _renamed(name, rules):
    for pattern, text in rules:
        name = re.sub(pattern, text, name)
    return name


def write_upscaler(path: Path, tensors, *, prefix="", dtype=np.float32) -> Path:
    mx.save_safetensors(str(path), {prefix + name: mx.array(v.astype(dtype)) for name, v in tensors.items()})
    return path


# --- the reference ---


def conv(x, tensors, name):
    """[H, W, C] -> [H, W, O]."""
    weight = tensors[f"{name}.weight"].astype(np.float64)
    padded = np.pad(x, [(1, 1), (1, 1), (0, 0)])
    height, width = x.shape[:2]
    taps = (padded[i : i + height, j : j + width] @ weight[:, :, i, j].T for i in range(3) for j in range(3))
    return sum(taps) + tensors[f"{name}.bias"]


def leaky(x):
    return np.where(x > 0, x, 0.2 * x)


def nearest(x, times):
    return x.repeat(times, axis=0).repeat(times, axis=1)


def unshuffled(x, side):
    height, width, channels = x.shape
    patches = x.reshape(height // side, side, width // side, side, channels).transpose(0, 2, 4, 1, 3)
    return patches.reshape(height // side, width // side, -1)


def shuffled(x, side):
    height, width, _ = x.shape
    return (
        x.reshape(height, width, -1, side, side)
        .transpose(0, 3, 1, 4, 2)
        .reshape(height * side, width * side, -1)
    )


def rrdb_reference(tensors, pixels, *, unshuffle=1):
    """Wang et al. 2021, as BasicSR computes it; pixels uint8 -> uint8."""
    x = feature = conv(unshuffled(pixels / 255.0, unshuffle), tensors, "conv_first")
    for block in range(BLOCKS):
        start = x
        for dense in (1, 2, 3):
            name, maps = f"body.{block}.rdb{dense}", [x]
            for index in range(1, 5):
                maps.append(leaky(conv(np.concatenate(maps, -1), tensors, f"{name}.conv{index}")))
            x = conv(np.concatenate(maps, -1), tensors, f"{name}.conv5") * 0.2 + x
        x = x * 0.2 + start
    x = feature + conv(x, tensors, "conv_body")
    ups = len([name for name in tensors if re.match(r"conv_up\d\.weight", name)])
    for index in range(1, ups + 1):
        x = leaky(conv(nearest(x, 2), tensors, f"conv_up{index}"))
    return eight_bits(conv(leaky(conv(x, tensors, "conv_hr")), tensors, "conv_last"))


def compact_reference(tensors, pixels, *, scale):
    values = pixels / 255.0
    x, last = values, max(int(name.split(".")[1]) for name in tensors)
    for index in range(0, last, 2):
        x = conv(x, tensors, f"body.{index}")
        x = np.where(x > 0, x, tensors[f"body.{index + 1}.weight"] * x)
    return eight_bits(shuffled(conv(x, tensors, f"body.{last}"), scale) + nearest(values, scale))


def eight_bits(values):
    return np.round(values.clip(0, 1) * 255).astype(np.uint8)


def picture(width, height, seed=0):
    """[H, W, 3], uint8: smooth with some noise, as photographs are."""
    y, x = np.mgrid[0:height, 0:width] / 16
    waves = np.stack([np.sin(x + y), np.cos(x - y), np.sin(2 * x)], -1) * 80 + 128
    noise = np.random.default_rng(seed).normal(0, 12, waves.shape)
    return (waves + noise).clip(0, 255).astype(np.uint8)
