"""T2I-Adapters in every layout of their files: the same picture, and what is refused before any work."""

import json

import numpy as np
import pytest

from swiftai_nb.core.errors import AIError, InvalidInputError, InvalidModelFilesError, UnsupportedModelError
from swiftai_nb.diffusion import load_pipeline
from swiftai_nb.diffusion.models.t2i_adapter import T2IAdapterConfig
from swiftai_nb.model_files.control_files import T2I_ADAPTER, check_control, open_control
from swiftai_nb.model_files.folder import open_model
from tests.diffusion.control_folders import t2i_adapter_weights, tencent_names, write_t2i_adapter
from tests.diffusion.parity import tiny_sd
from tests.diffusion.parity.tiny_t2i_adapter import ADAPTERS
from tests.diffusion.sd_folders import write_json, write_safetensors

PIXELS = tiny_sd.picture((72, 56))
PUBLISHED = {  # the shapes of TencentARC's own: input channels, and the field that tells the family
    "sd15 canny": (64, "full_adapter", 1, 8),
    "sd15 depth": (192, "full_adapter", 3, 8),
    "sdxl": (768, "full_adapter_xl", 3, 16),
}


def final(pipeline, controls):
    conditioning = pipeline.encode_prompt("a cat", guidance_scale=3.0)
    steps = pipeline.denoise(conditioning, controls=controls, width=72, height=56, steps=2, seed=3)
    return list(steps)[-1].latents


@pytest.mark.parametrize("name", ADAPTERS)
def test_every_layout_gives_the_same_picture_and_scale_0_the_plain_one(
    sd15_folder, sdxl_folder, tmp_path, name
):
    pipeline = load_pipeline(sdxl_folder if name.startswith("sdxl") else sd15_folder)
    weights = t2i_adapter_weights(*ADAPTERS[name])
    write_safetensors(tmp_path / "diffusers.safetensors", weights)
    write_safetensors(tmp_path / "authors.safetensors", tencent_names(weights))
    plain = final(pipeline, [])
    followed = final(pipeline, [(write_t2i_adapter(tmp_path / "folder", name), PIXELS, 1.0)])
    assert np.abs(followed - plain).max() > 1e-3
    for file in ("diffusers.safetensors", "authors.safetensors"):
        assert open_control(tmp_path / file).config({}).items() <= {
            "adapter_type": "full_adapter", "in_channels": 3, "num_res_blocks": 2, "downscale_factor": 8,
            **ADAPTERS[name][0],
        }.items()  # fmt: skip
        np.testing.assert_array_equal(final(pipeline, [(tmp_path / file, PIXELS, 1.0)]), followed)
    np.testing.assert_array_equal(final(pipeline, [(tmp_path / "folder", PIXELS, 0.0)]), plain)


@pytest.mark.parametrize("case", PUBLISHED)
def test_published_files_are_told_apart_by_their_shapes(tmp_path, case):
    inputs, kind, channels, patch = PUBLISHED[case]
    config = {
        "channels": [32, 64, 64, 64],
        "adapter_type": kind,
        "in_channels": channels,
        "downscale_factor": patch,
    }
    weights = tencent_names(t2i_adapter_weights(config))
    assert weights["conv_in.weight"].shape[1] == inputs
    write_safetensors(tmp_path / "x.safetensors", weights)
    control = open_control(tmp_path / "x.safetensors")
    assert control.kind == T2I_ADAPTER
    assert control.config({}) == {**config, "num_res_blocks": 2}


def test_an_adapter_of_another_family_is_refused_before_any_work(sd15_folder, sdxl_folder, tmp_path):
    xl = write_t2i_adapter(tmp_path / "xl", "sdxl_lines")
    pipeline = load_pipeline(sd15_folder)
    with pytest.raises(InvalidInputError, match="xl has features"):
        final(pipeline, [(xl, PIXELS, 1.0)])
    assert not pipeline.components["unet"]
    with pytest.raises(InvalidInputError, match="has features"):
        final(
            load_pipeline(sdxl_folder),
            [(write_t2i_adapter(tmp_path / "color", "sd15_color"), PIXELS, 1.0)],
        )
    with pytest.raises(InvalidInputError, match="no guess mode"):
        check_control(open_control(xl), open_model(sdxl_folder), is_guess=True)


@pytest.mark.parametrize(
    "wrong",
    [
        {"adapter_type": "huge"},
        {"in_channels": 4},
        {"channels": []},
        {"channels": [32, -1]},
        {"channels": "many"},
        {"num_res_blocks": 10**6},
        {"num_res_blocks": True},
        {"downscale_factor": 0},
        {"downscale_factor": 8.0},
    ],
)
def test_configurations_that_make_no_sense_are_refused(sd15_folder, tmp_path, wrong):
    folder = write_t2i_adapter(tmp_path / "net", "sd15_color")
    config = json.loads((folder / "config.json").read_text())
    write_json(folder / "config.json", {**config, **wrong})
    with pytest.raises(AIError):
        final(load_pipeline(sd15_folder), [(folder, PIXELS, 1.0)])


def test_damaged_files_name_the_tensor(sd15_folder, tmp_path):
    weights = t2i_adapter_weights(*ADAPTERS["sd15_color"])
    del weights["adapter.body.1.resnets.1.block2.bias"]
    write_safetensors(tmp_path / "x.safetensors", weights)
    with pytest.raises(InvalidModelFilesError, match=r"body\.1\.resnets\.1\.block2\.bias"):
        final(load_pipeline(sd15_folder), [(tmp_path / "x.safetensors", PIXELS, 1.0)])
    with pytest.raises(UnsupportedModelError):
        T2IAdapterConfig.from_dict({"adapter_type": None})
