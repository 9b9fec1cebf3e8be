"""A packed model saved is the packed model loaded again."""

import numpy as np
import pytest

from swiftai_nb.core.errors import InvalidInputError
from swiftai_nb.diffusion import load_pipeline
from swiftai_nb.diffusion.weights.save import save_model


def draw(pipeline):
    conditioning = pipeline.encode_prompt("a cat", guidance_scale=5)
    *_, last = pipeline.denoise(conditioning, width=64, height=48, steps=1, seed=1)
    return pipeline.decode(last.latents)


@pytest.mark.parametrize("bits", [None, 4])
def test_saved_folder_draws_the_same_and_is_smaller_when_packed(sdxl_folder, tmp_path, bits):
    pipeline = load_pipeline(sdxl_folder, dtype="float32", quantization_bits=bits)
    target = tmp_path / "cache" / "packed"
    save_model(pipeline.networks, sdxl_folder, target)
    again = load_pipeline(target, dtype="float32")
    assert np.array_equal(draw(again), draw(pipeline))
    assert again.components == pipeline.components
    assert [p.name for p in target.parent.iterdir()] == ["packed"]

    def unet_bytes(folder):
        return (folder / "unet" / "diffusion_pytorch_model.safetensors").stat().st_size

    if bits is not None:
        assert unet_bytes(target) < unet_bytes(sdxl_folder)


def test_an_existing_folder_is_left_alone(sd15_folder, tmp_path):
    (tmp_path / "mine").write_text("kept", encoding="utf-8")
    with pytest.raises(InvalidInputError, match="exists"):
        save_model(load_pipeline(sd15_folder).networks, sd15_folder, tmp_path / "mine")
    assert (tmp_path / "mine").read_text(encoding="utf-8") == "kept"
