"""An autoencoder given beside a model: folders, files and the tiny one; what does not fit is refused."""

import json
import shutil

import mlx.core as mx
import numpy as np
import pytest

from swiftai_nb.core.errors import InvalidModelFilesError, ModelNotFoundError, UnsupportedModelError
from swiftai_nb.diffusion.pipelines.families import load_pipeline
from tests.diffusion.flux_folders import write_diffusers
from tests.diffusion.parity import tiny_sd
from tests.diffusion.parity.seeded_weights import seeded_weights
from tests.diffusion.parity.tiny_flux import REFERENCES
from tests.diffusion.sd_folders import component_file, sd_weights, write_json, write_safetensors
from tests.diffusion.single_files import ldm_vae


def other_weights():
    """The tiny autoencoder with other numbers."""
    shapes = {name: value.shape for name, value in sd_weights("sd15")["vae"].items()}
    return seeded_weights(shapes, seed=5)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("taesd")
    with np.load(REFERENCES / "tiny_vae.npz") as file:
        recorded = dict(file)
    shapes = {name: tuple(shape) for name, shape in json.loads(bytes(recorded["shapes"])).items()}
    write_safetensors(folder / "diffusion_pytorch_model.safetensors", seeded_weights(shapes))
    return folder, recorded


def latents(*shape):
    return tiny_sd.unit_noise("latents", shape)


@pytest.mark.parametrize("has_config", [True, False])
def test_the_tiny_autoencoder_is_diffusers(has_config, tiny, sd15_folder, tmp_path):
    folder, recorded = tiny
    if has_config:
        folder = shutil.copytree(folder, tmp_path / "taesd")
        write_json(folder / "config.json", {"_class_name": "AutoencoderTiny", "latent_channels": 4})
    pipeline = load_pipeline(sd15_folder, dtype="float32", vae=folder)
    network = pipeline.networks["vae"].network
    decoded = np.array(network.decode(mx.array(latents(1, 4, 6, 4))))
    np.testing.assert_allclose(decoded, recorded["decoded"], atol=1e-4 * np.abs(recorded["decoded"]).max())
    encoded = pipeline.encode_image(tiny_sd.picture((32, 24)))
    np.testing.assert_allclose(encoded, recorded["encoded"], atol=1e-4 * np.abs(recorded["encoded"]).max())
    assert pipeline.decode(latents(1, 4, 6, 4)).shape == (1, 32, 48, 3)
    assert pipeline.preview(latents(1, 4, 6, 4)).shape == (1, 4, 6, 3)


def test_every_layout_of_another_autoencoder_is_the_same(sd15_folder, sd15_copy, tmp_path):
    weights = other_weights()
    write_safetensors(component_file(sd15_copy, "vae"), weights)
    folder = shutil.copytree(sd15_copy / "vae", tmp_path / "vae")
    write_safetensors(tmp_path / "own.safetensors", weights)
    write_safetensors(
        tmp_path / "ldm.safetensors",
        {**ldm_vae(weights), "model_ema.decay": np.zeros((), np.float32), "loss.x": np.zeros(3, np.float32)},
    )
    inside = {f"first_stage_model.{name}": value for name, value in ldm_vae(weights).items()}
    write_safetensors(tmp_path / "all.safetensors", {**inside, "model.x": np.zeros(2, np.float32)})
    expected = load_pipeline(sd15_copy).decode(latents(1, 4, 4, 4))
    plain = load_pipeline(sd15_folder).decode(latents(1, 4, 4, 4))
    assert np.abs(expected.astype(int) - plain).max() > 20
    for vae in (folder, sd15_copy, *(tmp_path / f"{name}.safetensors" for name in ("own", "ldm", "all"))):
        pipeline = load_pipeline(sd15_folder, vae=vae)
        np.testing.assert_array_equal(pipeline.decode(latents(1, 4, 4, 4)), expected)


def test_a_model_whose_own_autoencoder_is_tiny(tiny, sd15_copy):
    shutil.rmtree(sd15_copy / "vae")
    shutil.copytree(tiny[0], sd15_copy / "vae")
    write_json(sd15_copy / "vae" / "config.json", {"_class_name": "AutoencoderTiny"})
    decoded = np.array(load_pipeline(sd15_copy).networks["vae"].network.decode(mx.array(latents(1, 4, 6, 4))))
    np.testing.assert_allclose(decoded, tiny[1]["decoded"], atol=1e-3)


def test_large_pictures_are_decoded_in_one_piece(tiny, sd15_folder):
    pipeline = load_pipeline(sd15_folder, vae=tiny[0])
    pipeline._image.decode_side = 32
    assert pipeline.decode(latents(1, 12, 12, 4)).shape == (1, 96, 96, 3)


def test_what_does_not_fit_is_refused(tiny, sd15_folder, tmp_path):
    flux = write_diffusers(tmp_path / "flux")
    with pytest.raises(UnsupportedModelError, match="latents of 16 channels, the model's have 4"):
        load_pipeline(sd15_folder, vae=flux)
    with pytest.raises(UnsupportedModelError, match="latents of 4 channels, the model's have 16"):
        load_pipeline(flux, vae=tiny[0])
    with pytest.raises(ModelNotFoundError, match="there is no autoencoder"):
        load_pipeline(sd15_folder, vae=tmp_path / "none")
    (tmp_path / "x.pt").write_bytes(b"x")
    with pytest.raises(InvalidModelFilesError, match="pickle"):
        load_pipeline(sd15_folder, vae=tmp_path / "x.pt")
    for arrays, why in (
        ({"1.weight": (64, 4, 3, 3)}, "half of a tiny one"),
        ({"decoder.layers.0.weight": (64, 4, 3, 3)}, "has no encoder"),
        ({"x": (3,)}, "tensors have other names"),
        ({"decoder.mid_block.resnets.0.norm1.weight": (3,), "decoder.conv_in.weight": (3, 4, 3, 3),
          "encoder.x": (1,)}, "parts of its encoder or decoder are missing"),
    ):  # fmt: skip
        write_safetensors(tmp_path / "x.safetensors", {k: np.zeros(s, np.float32) for k, s in arrays.items()})
        with pytest.raises(InvalidModelFilesError, match=why):
            load_pipeline(sd15_folder, vae=tmp_path / "x.safetensors")


def test_flux_takes_another_autoencoder(tmp_path):
    flux = write_diffusers(tmp_path / "flux")
    own = load_pipeline(flux).decode(latents(1, 4, 4, 16))
    copied = shutil.copytree(flux / "vae", tmp_path / "vae")
    np.testing.assert_array_equal(load_pipeline(flux, vae=copied).decode(latents(1, 4, 4, 16)), own)
