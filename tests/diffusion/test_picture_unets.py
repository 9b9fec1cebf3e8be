"""UNets that take a picture beside the latents: inpainting models and InstructPix2Pix."""

import numpy as np
import pytest

from swiftai_nb.core.errors import InvalidInputError
from swiftai_nb.diffusion import load_pipeline
from swiftai_nb.model_files.families import INPAINTING, INSTRUCT_PIX2PIX
from swiftai_nb.model_files.folder import open_model
from tests.diffusion.control_folders import task_weights, write_task_folder
from tests.diffusion.parity import tiny_sd
from tests.diffusion.sd_folders import write_safetensors
from tests.diffusion.single_files import checkpoint_tensors, ldm_unet

SIZE = {"width": 64, "height": 48, "steps": 2, "seed": 3}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("tasks")
    return {name: write_task_folder(root / name, name) for name in ("sd15_inpaint", "sd15_edit")}


def final(pipeline, **inputs):
    conditioning = pipeline.encode_prompt("a cat", guidance_scale=3.0)
    return list(pipeline.denoise(conditioning, **SIZE, **inputs))[-1].latents


def masked(pipeline):
    pixels = tiny_sd.picture((64, 48))
    mask = np.zeros((48, 64), np.float32)
    mask[:, 32:] = 1.0
    return {
        "image_latents": pipeline.encode_image(pixels),
        "mask": mask.reshape(6, 8, 8, 8).max(axis=(1, 3))[..., None],
        "masked_image_latents": pipeline.encode_masked_image(pixels, mask),
    }


def test_the_purpose_of_a_model_is_read_from_its_input_channels(folders):
    assert open_model(folders["sd15_inpaint"]).task == INPAINTING
    assert open_model(folders["sd15_edit"]).task == INSTRUCT_PIX2PIX
    assert open_model(folders["sd15_edit"]).references.is_canvas
    assert open_model(folders["sd15_inpaint"]).references is None


@pytest.mark.parametrize("name", ["sd15_inpaint", "sd15_edit"])
def test_a_single_file_draws_what_its_folder_draws(folders, tmp_path, name):
    tensors = checkpoint_tensors("sd15")
    unet = ldm_unet(task_weights(name)["unet"], "sd15")
    tensors |= {f"model.diffusion_model.{key}": value for key, value in unet.items()}
    write_safetensors(tmp_path / "x.safetensors", tensors)
    results = []
    for pipeline in (
        load_pipeline(folders[name]),
        load_pipeline(tmp_path / "x.safetensors", base=folders[name]),
    ):
        picture = pipeline.encode_image(tiny_sd.picture((64, 48)))
        inputs = masked(pipeline) if name == "sd15_inpaint" else {"reference_latents": [picture]}
        results.append(final(pipeline, **inputs))
    np.testing.assert_array_equal(*results)


def test_an_inpainting_model_sees_the_masked_picture_and_what_is_behind_the_mask_does_not_matter(folders):
    pipeline = load_pipeline(folders["sd15_inpaint"])
    pixels, mask = tiny_sd.picture((64, 48)), np.zeros((48, 64), np.float32)
    mask[:, 32:] = 0.5
    other = pixels.copy()
    other[:, 32:] = 0
    hidden = [pipeline.encode_masked_image(p, mask) for p in (pixels, other)]
    np.testing.assert_array_equal(*hidden)
    kept = masked(pipeline)
    changed = {**kept, "masked_image_latents": pipeline.encode_image(pixels)}
    assert np.abs(final(pipeline, **kept) - final(pipeline, **changed)).max() > 1e-3


def test_without_a_mask_an_inpainting_model_paints_the_whole_picture(folders):
    pipeline = load_pipeline(folders["sd15_inpaint"])
    everything = np.ones((48, 64), np.float32)
    gray = pipeline.encode_masked_image(tiny_sd.picture((64, 48)), everything)
    given = final(pipeline, mask=np.ones((6, 8, 1), np.float32), masked_image_latents=gray)
    np.testing.assert_array_equal(final(pipeline), given)


def test_inputs_that_do_not_belong_together_are_refused_before_any_work(folders, sd15_folder):
    inpainting, editing, plain = (
        load_pipeline(f) for f in (folders["sd15_inpaint"], folders["sd15_edit"], sd15_folder)
    )
    inputs = masked(inpainting)
    with pytest.raises(InvalidInputError, match="together"):
        final(inpainting, mask=inputs["mask"], image_latents=inputs["image_latents"])
    with pytest.raises(InvalidInputError, match="are for inpainting models"):
        final(plain, **inputs)
    wrong = editing.encode_image(tiny_sd.picture((64, 64)))
    for references in ((), (wrong,), (inputs["image_latents"],) * 2):
        with pytest.raises(InvalidInputError, match="one picture of the size"):
            final(editing, reference_latents=references)
    with pytest.raises(InvalidInputError, match="mask has shape"):
        inpainting.encode_masked_image(tiny_sd.picture((64, 48)), np.ones((64, 48), np.float32))
    assert not any(p.components["unet"] for p in (inpainting, editing, plain))
