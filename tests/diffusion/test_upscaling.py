"""Upscalers: the numbers of a NumPy reference, every layout of names, tiles without seams, damage refused."""

from __future__ import annotations

import math

import mlx.core as mx
import numpy as np
import pytest

from swiftai_nb.core.cancellation import CancellationToken
from swiftai_nb.core.errors import GenerationFailedError, InvalidInputError, InvalidModelFilesError
from swiftai_nb.diffusion import ops
from swiftai_nb.diffusion.upscaling import load_upscaler
from tests.diffusion import upscaler_files as files


def difference(a, b):
    assert a.shape == b.shape
    return np.abs(a.astype(int) - b).max()


@pytest.mark.parametrize(("scale", "unshuffle"), [(4, 1), (2, 1), (2, 2), (1, 4), (8, 1)])
def test_rrdb_gives_the_references_pixels(tmp_path, scale, unshuffle):
    tensors = files.rrdb_tensors(scale=scale, unshuffle=unshuffle)
    upscaler = load_upscaler(files.write_upscaler(tmp_path / "x.safetensors", tensors))
    pixels = files.picture(24, 16)
    made = upscaler.upscale(pixels)
    assert (upscaler.scale, made.shape) == (scale, (16 * scale, 24 * scale, 3))
    assert difference(made, files.rrdb_reference(tensors, pixels, unshuffle=unshuffle)) <= 1
    assert made.std() > 5


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_compact_gives_the_references_pixels(tmp_path, scale):
    tensors = files.compact_tensors(scale=scale)
    upscaler = load_upscaler(files.write_upscaler(tmp_path / "x.safetensors", tensors))
    pixels = files.picture(21, 17)
    assert difference(upscaler.upscale(pixels), files.compact_reference(tensors, pixels, scale=scale)) <= 1


@pytest.mark.parametrize("layout", [files.first_esrgan_names, files.training_names, dict])
@pytest.mark.parametrize("prefix", ["", "params_ema.", "params.", "module.", "params_ema.module."])
@pytest.mark.parametrize(("scale", "unshuffle"), [(4, 1), (2, 1), (2, 2)])
def test_every_layout_of_names_is_the_same_network(tmp_path, layout, prefix, scale, unshuffle):
    tensors = files.rrdb_tensors(scale=scale, unshuffle=unshuffle)
    path = files.write_upscaler(tmp_path / "x.safetensors", layout(tensors), prefix=prefix)
    file = load_upscaler(path).file
    assert (file.scale, file.features, file.growth, file.blocks) == (scale, 8, 4, files.BLOCKS)
    assert set(file.names) == set(tensors)
    pixels = files.picture(8, 8)
    made = load_upscaler(path).upscale(pixels)
    assert difference(made, files.rrdb_reference(tensors, pixels, unshuffle=unshuffle)) <= 1


def test_of_two_sets_of_weights_the_averaged_one_is_used(tmp_path):
    averaged, other = files.compact_tensors(scale=2, seed=1), files.compact_tensors(scale=2, seed=2)
    both = {f"params.{k}": v for k, v in other.items()} | {f"params_ema.{k}": v for k, v in averaged.items()}
    upscaler = load_upscaler(files.write_upscaler(tmp_path / "x.safetensors", both))
    pixels = files.picture(12, 12)
    assert difference(upscaler.upscale(pixels), files.compact_reference(averaged, pixels, scale=2)) <= 1


def test_half_precision_weights_and_arithmetic(tmp_path):
    tensors = files.rrdb_tensors()
    path = files.write_upscaler(tmp_path / "x.safetensors", tensors, dtype=np.float16)
    pixels = files.picture(12, 8)
    expected = files.rrdb_reference(tensors, pixels)
    assert difference(load_upscaler(path).upscale(pixels), expected) <= 1
    assert difference(load_upscaler(path, dtype="float16").upscale(pixels), expected) <= 3
    assert load_upscaler(path, dtype=mx.bfloat16).upscale(pixels).shape == expected.shape


@pytest.mark.parametrize(
    ("tensors", "sides"),
    [
        (files.rrdb_tensors(scale=4), (48, 110)),
        (files.rrdb_tensors(scale=2, unshuffle=2), (84, 97)),
        (files.compact_tensors(scale=3), (16, 33, 64)),
    ],
    ids=["rrdb x4", "rrdb x2 of patches", "compact x3"],
)
def test_tiles_give_what_the_whole_gives(tmp_path, tensors, sides):
    upscaler = load_upscaler(files.write_upscaler(tmp_path / "x.safetensors", tensors))
    pixels = files.picture(131, 117)
    whole = upscaler.upscale(pixels, tile_side=1000)
    for side in sides:
        seen = []
        tiled = upscaler.upscale(pixels, tile_side=side, on_tile=lambda i, n, seen=seen: seen.append((i, n)))
        assert difference(tiled, whole) <= 1
        assert [index for index, _ in seen] == list(range(seen[0][1]))
        assert len(seen) > 1 or side > 117


def test_tiles_give_the_whole_of_a_network_that_sees_345_pixels_far(tmp_path):
    blocks, pixels = 23, files.picture(360, 6)
    tensors = files.far_sighted_tensors(blocks=blocks)
    upscaler = load_upscaler(files.write_upscaler(tmp_path / "x.safetensors", tensors))
    expected, values = np.zeros(pixels.shape), pixels.astype(float)
    for far in range(blocks + 1):  # each block adds a fifth of the picture 15 pixels to its left
        part = np.roll(values, 15 * far, axis=1) * math.comb(blocks, far) * 0.2**far / 1.2**blocks
        part[:, : 15 * far] = 0
        expected += part / 2 + (values / 2 if far == 0 else 0)
    for side in (1000, 96):
        assert difference(upscaler.upscale(pixels, tile_side=side), files.eight_bits(expected / 255)) <= 1


@pytest.mark.parametrize("size", [(1, 1), (1, 37), (3, 2), (5, 64)])
def test_sizes_that_are_no_multiple_of_a_patch(tmp_path, size):
    upscaler = load_upscaler(
        files.write_upscaler(tmp_path / "x.safetensors", files.rrdb_tensors(scale=2, unshuffle=2))
    )
    width, height = size
    assert upscaler.upscale(files.picture(width, height)).shape == (2 * height, 2 * width, 3)


def test_a_cancel_is_heard_within_a_tile(tmp_path):
    upscaler = load_upscaler(files.write_upscaler(tmp_path / "x.safetensors", files.rrdb_tensors()))
    upscaler.upscale(files.picture(8, 8))  # the weights are read
    token, calls = CancellationToken(), []

    def check():
        calls.append(1)
        if len(calls) == 2:
            token.cancel()
        token.raise_if_cancelled()

    ops.set_block_callback(check)
    try:
        with pytest.raises(Exception, match="ancelled"):
            upscaler.upscale(files.picture(32, 32), tile_side=1000)
    finally:
        ops.set_block_callback(None)
    assert len(calls) == 2


def test_weights_that_overflow_are_an_error_not_a_picture(tmp_path):
    tensors = files.compact_tensors(scale=2)
    tensors["body.0.bias"] = np.full_like(tensors["body.0.bias"], np.nan)
    upscaler = load_upscaler(files.write_upscaler(tmp_path / "x.safetensors", tensors))
    with pytest.raises(GenerationFailedError, match="not numbers"):
        upscaler.upscale(files.picture(8, 8))


@pytest.mark.parametrize("damage", ["missing", "extra", "shape"])
def test_tensors_that_do_not_fit_are_named(tmp_path, damage):
    tensors = files.rrdb_tensors()
    if damage == "missing":
        del tensors["body.1.rdb2.conv3.bias"]
    elif damage == "extra":
        tensors["body.1.rdb2.conv9.bias"] = np.zeros(3, np.float32)
    else:
        tensors["conv_hr.weight"] = np.zeros((8, 9, 3, 3), np.float32)
    with pytest.raises(InvalidModelFilesError, match=r"conv"):
        load_upscaler(files.write_upscaler(tmp_path / "x.safetensors", tensors))


@pytest.mark.parametrize(
    "pixels", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)]
)
def test_other_arrays_are_refused(tmp_path, pixels):
    upscaler = load_upscaler(files.write_upscaler(tmp_path / "x.safetensors", files.compact_tensors()))
    with pytest.raises(InvalidInputError, match="shape"):
        upscaler.upscale(pixels)
