"""Upscalers' files: what is read from the header, and what is refused in one line."""

from __future__ import annotations

import pickle
import time
from pathlib import Path

import pytest

from swiftai_nb.core.enlargement import network_inputs
from swiftai_nb.core.errors import AIError, InvalidInputError, InvalidModelFilesError, UnsupportedModelError
from swiftai_nb.diffusion.upscaling import load_upscaler
from swiftai_nb.model_files.upscalers import UpscalerFile, read_upscaler, upscaling_bytes
from tests.diffusion import upscaler_files as files
from tests.model_files.files import write_weights
from tests.waiting import LINEAR_TIME_S


def test_the_scale_and_sizes_are_read_from_the_tensors(tmp_path):
    file = read_upscaler(
        files.write_upscaler(tmp_path / "a.safetensors", files.rrdb_tensors(scale=2, unshuffle=2))
    )
    assert (file.architecture, file.scale, file.unshuffle, file.blocks, file.growth) == ("rrdb", 2, 2, 2, 4)
    file = read_upscaler(files.write_upscaler(tmp_path / "b.safetensors", files.compact_tensors(scale=3)))
    assert (file.architecture, file.scale, file.features, file.blocks) == ("compact", 3, 8, 3)
    assert file.size_bytes > 0
    assert file.floats(8, 8, tile_side=256) > 0


def test_the_memory_of_the_last_and_largest_pass_is_estimated(tmp_path):
    file = read_upscaler(files.write_upscaler(tmp_path / "a.safetensors", files.rrdb_tensors(scale=2)))
    assert network_inputs((100, 50), (400, 200), file.scale) == [(100, 50), (200, 100)]
    assert network_inputs((100, 50), (100, 50), file.scale) == []
    assert network_inputs((100, 50), (300, 50), 1) == [(100, 50)]
    assert network_inputs((8000, 8000), (9000, 9000), 4) == []  # larger than any picture: the filter alone
    once, twice = (upscaling_bytes(file, (100, 50), (n * 100, n * 50), bytes_per_weight=4) for n in (2, 4))
    maps = 4 * 2 * file.features * 100 * 50
    assert twice - once >= 3 * maps


def test_the_estimate_of_published_networks_is_above_what_numpy_needed():
    # Peaks above the loaded network that were measured without the compiled kernels.
    sizes = {"path": Path("x"), "features": 64}
    anime = UpscalerFile(architecture="rrdb", scale=4, blocks=6, growth=32, upsamplings=2, **sizes)
    assert 192e6 < 4 * anime.floats(128, 96, tile_side=256) + 2 * 3 * 16 * 128 * 96 < 300e6
    video = UpscalerFile(architecture="compact", scale=4, blocks=16, **sizes)
    assert 92e6 < 4 * video.floats(256, 256, tile_side=256) < 300e6


def test_a_folder_with_one_file_is_that_file(tmp_path):
    files.write_upscaler(tmp_path / "a.safetensors", files.compact_tensors(scale=2))
    assert read_upscaler(tmp_path).scale == 2
    files.write_upscaler(tmp_path / "b.safetensors", files.compact_tensors(scale=2))
    with pytest.raises(InvalidInputError, match="2 safetensors files"):
        read_upscaler(tmp_path)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".ckpt", ".bin"])
def test_a_pickle_is_never_opened_and_the_way_out_is_one_line(tmp_path, suffix):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("the pickle was opened",))

    path = tmp_path / f"RealESRGAN_x4plus{suffix}"
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(InvalidModelFilesError, match="never opened") as caught:
        read_upscaler(path)
    assert "weights_only=True" in caught.value.hint
    assert "\n" not in str(caught.value.message) + caught.value.hint


def test_a_pickle_under_another_name_is_refused_too(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(InvalidModelFilesError, match="pickle"):
        read_upscaler(path)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("layers.0.residual_group.blocks.0.relative_position_index_SA", "HAT"),
        ("relative_position_index_SA", "HAT"),
        ("patch_embed.norm.weight", "SwinIR"),
        ("params.layers.0.blocks.0.attn.attns.0.rpe_biases", "DAT"),
        ("block_1.c1_r.sk.weight", "SPAN"),
        ("params_ema.body.0.rdb1.conv1x1.weight", "ESRGAN[+]"),
        ("model.1.sub.0.RDB1.conv1x1.weight", "ESRGAN[+]"),
        ("unet.conv_in.weight", "no upscaler that is known"),
    ],
)
def test_other_networks_are_refused_by_name(tmp_path, name, kind):
    write_weights(tmp_path / "x.safetensors", **{name: (2, 2)})
    with pytest.raises(UnsupportedModelError, match=kind):
        read_upscaler(tmp_path / "x.safetensors")


def test_a_path_that_is_not_there(tmp_path):
    with pytest.raises(InvalidInputError, match="there is no upscaler"):
        read_upscaler(tmp_path / "x.safetensors")


HOSTILE = {
    "grey pictures": {"conv_first.weight": (8, 1, 3, 3), "body.0.rdb1.conv1.weight": (4, 8, 3, 3)},
    "flat convolutions": {
        "conv_first.weight": (8,),
        "body.0.rdb1.conv1.weight": (4,),
        "conv_last.weight": (3,),
    },
    "a scalar": {"conv_first.weight": (), "body.0.rdb1.conv1.weight": (), "conv_last.weight": ()},
    "a million blocks": {
        "conv_first.weight": (8, 3, 3, 3),
        "body.0.rdb1.conv1.weight": (4, 8, 3, 3),
        "body.999999.rdb1.conv1.weight": (4, 8, 3, 3),
        "conv_last.weight": (3, 8, 3, 3),
    },
    "a million layers": {
        "body.0.weight": (8, 3, 3, 3),
        "body.1.weight": (8,),
        "body.999998.weight": (12, 8, 3, 3),
    },
    "wide": {"body.0.weight": (4096, 3, 3, 3), "body.1.weight": (4096,), "body.2.weight": (12, 4096, 1, 1)},
    "layers without an end": {"body.0.weight": (8, 3, 3, 3), "body.1.weight": (8,)},
    "wrappers of wrappers": {"params." * 30 + "body.0.weight": (8, 3, 3, 3)},
    "numbers alone": {f"model.{n}.weight": (1,) for n in range(500)},
}


@pytest.mark.parametrize("shapes", HOSTILE.values(), ids=HOSTILE)
def test_hostile_headers_are_one_error_at_once(tmp_path, shapes):
    write_weights(tmp_path / "x.safetensors", **shapes)
    began = time.process_time()
    with pytest.raises(AIError):
        load_upscaler(tmp_path / "x.safetensors")
    assert time.process_time() - began < LINEAR_TIME_S


def test_a_convolution_without_axes_is_one_error(tmp_path):
    tensors = files.rrdb_tensors(scale=2)
    tensors["body.0.rdb1.conv1.weight"] = tensors["body.0.rdb1.conv1.weight"].reshape(-1)[0]
    with pytest.raises(UnsupportedModelError, match="not from RGB"):
        read_upscaler(files.write_upscaler(tmp_path / "a.safetensors", tensors))
