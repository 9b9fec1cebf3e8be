"""ControlNets in all layouts: what they draw, what stays loaded, and what is refused before any work."""

import numpy as np
import pytest

from swiftai_nb.core.errors import InvalidInputError, InvalidModelFilesError, UnsupportedModelError
from swiftai_nb.diffusion import load_pipeline
from swiftai_nb.model_files.control_files import open_control
from tests.diffusion.control_folders import controlnet_weights, ldm_controlnet, write_controlnet
from tests.diffusion.parity import tiny_sd
from tests.diffusion.parity.tiny_control import CONTROLNETS
from tests.diffusion.sd_folders import write_json, write_safetensors

PIXELS = tiny_sd.picture((64, 48))


def final(pipeline, controls, **options):
    conditioning = pipeline.encode_prompt("a cat", guidance_scale=3.0)
    size = {"width": 64, "height": 48, "steps": 2, "seed": 3, **options}
    return list(pipeline.denoise(conditioning, controls=controls, **size))[-1].latents


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    return write_controlnet(tmp_path_factory.mktemp("nets") / "canny", "sd15_canny")


@pytest.mark.parametrize("model", ["sd15", "sdxl"])
def test_single_files_draw_what_the_folder_draws(model, sd15_folder, sdxl_folder, tmp_path):
    pipeline = load_pipeline(sd15_folder if model == "sd15" else sdxl_folder)
    name = f"{model}_canny"
    folder = write_controlnet(tmp_path / "net", name)
    write_safetensors(tmp_path / "diffusers.safetensors", controlnet_weights(name))
    own = ldm_controlnet(name)
    write_safetensors(tmp_path / "authors.safetensors", own)
    bare = {n.removeprefix("control_model."): v for n, v in own.items()}
    write_safetensors(tmp_path / "alone" / "control_v11p.safetensors", bare)
    expected = final(pipeline, [(folder, PIXELS, 0.8)])
    for source in ("diffusers.safetensors", "authors.safetensors", "alone"):
        np.testing.assert_array_equal(final(pipeline, [(tmp_path / source, PIXELS, 0.8)]), expected)


def test_a_scale_of_zero_changes_nothing_and_a_closed_range_neither(sd15_folder, net):
    pipeline = load_pipeline(sd15_folder)
    plain = final(pipeline, [])
    np.testing.assert_allclose(final(pipeline, [(net, PIXELS, 0.0)]), plain, atol=1e-5)
    np.testing.assert_array_equal(final(pipeline, [(net, PIXELS, 1.0, 0.1, 0.4)]), plain)
    assert np.abs(final(pipeline, [(str(net), PIXELS, 1.0, 0.0, 0.5)]) - plain).max() > 1e-3


def test_networks_stay_loaded_between_runs_and_go_with_the_denoiser(sd15_folder, net, tmp_path):
    pipeline, other = load_pipeline(sd15_folder), write_controlnet(tmp_path / "depth", "sd15_depth")
    assert "controlnet" not in pipeline.components
    final(pipeline, [(net, PIXELS, 1.0), (net, PIXELS[::-1], 0.5)])
    one = pipeline.components["controlnet"]
    final(pipeline, [(net, PIXELS, 1.0), (other, PIXELS, 1.0)])
    assert pipeline.components["controlnet"] == 2 * one
    final(pipeline, [(other, PIXELS, 1.0)])
    assert pipeline.components["controlnet"] == one
    pipeline.release_denoiser()
    assert "controlnet" not in pipeline.components
    assert set(pipeline.networks) == {"unet", "vae", "text_encoder"}


def test_a_replaced_file_is_read_again(sd15_folder, tmp_path):
    pipeline, folder = load_pipeline(sd15_folder), write_controlnet(tmp_path / "net", "sd15_canny")
    first = final(pipeline, [(folder, PIXELS, 1.0)])
    weights = {name: value * np.float32(0.5) for name, value in controlnet_weights("sd15_canny").items()}
    write_safetensors(folder / "diffusion_pytorch_model.safetensors", weights)
    (folder / "diffusion_pytorch_model.safetensors").touch()
    assert np.abs(final(pipeline, [(folder, PIXELS, 1.0)]) - first).max() > 1e-3


def test_inputs_that_make_no_sense_are_refused_before_any_work(sd15_folder, sdxl_folder, net, tmp_path):
    pipeline = load_pipeline(sd15_folder)
    for control, message in (
        ((net, PIXELS[:, :32], 1.0), "picture has shape"),
        ((net, PIXELS.astype(np.float32), 1.0), "float32"),
        ((net, PIXELS, 1.0, 0.5, 0.5), "acts from 0.5 to 0.5"),
        ((net, PIXELS, float("nan")), "scale is nan"),
        ((sd15_folder, PIXELS, 1.0), "is a whole model"),
        ((write_controlnet(tmp_path / "xl", "sdxl_canny"), PIXELS, 1.0), "this model"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            final(pipeline, [control])
    assert not pipeline.components["unet"]


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("lora_controlnet", "a Control-LoRA"),
        ("task_embedding", "a ControlNet-Union of SDXL"),
        ("controlnet_x_embedder.weight", r"a ControlNet of a transformer \(FLUX.1"),
        ("ip_adapter.1.to_k_ip.weight", "an IP-Adapter"),
        ("difference", "the difference to a model"),
        ("unet.down.lora_down.weight", "a LoRA"),
    ],
)
def test_other_controls_are_refused_by_name(tmp_path, name, what):
    write_safetensors(tmp_path / "x.safetensors", {name: np.zeros((1, 1), np.float32)})
    with pytest.raises(UnsupportedModelError, match=what):
        open_control(tmp_path / "x.safetensors")


def test_damaged_controlnets_are_refused_with_the_tensor(sd15_folder, tmp_path):
    pipeline = load_pipeline(sd15_folder)
    weights = controlnet_weights("sd15_canny")
    del weights["controlnet_mid_block.bias"]
    write_controlnet(tmp_path / "net", "sd15_canny")
    write_safetensors(tmp_path / "net" / "diffusion_pytorch_model.safetensors", weights)
    with pytest.raises(InvalidModelFilesError, match=r"controlnet_mid_block\.bias"):
        final(pipeline, [(tmp_path / "net", PIXELS, 1.0)])
    for field, value in (
        ("conditioning_embedding_out_channels", [8] * 4),
        ("block_out_channels", "many"),
        ("conditioning_channels", -3),
        ("layers_per_block", 10**6),
    ):
        write_controlnet(tmp_path / "net", "sd15_canny")
        config, _ = CONTROLNETS["sd15_canny"]
        write_json(tmp_path / "net" / "config.json", {**config, field: value})
        with pytest.raises((InvalidModelFilesError, UnsupportedModelError, InvalidInputError)):
            final(pipeline, [(tmp_path / "net", PIXELS, 1.0)])
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\x00")
    with pytest.raises(InvalidModelFilesError):
        open_control(tmp_path / "cut.safetensors")
