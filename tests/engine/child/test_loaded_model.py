"""LoRAs change between commands without a second model."""

from pathlib import Path

import numpy as np
import pytest

from swiftai_nb.core.config import LoraReference
from swiftai_nb.core.errors import InvalidModelFilesError
from swiftai_nb.diffusion.pipelines.families import load_pipeline
from swiftai_nb.engine.child.loaded_model import LoadedModel
from swiftai_nb.engine.messages import ModelFiles
from tests.diffusion.flux_folders import save
from tests.diffusion.parity import tiny_lora
from tests.diffusion.sd_folders import write_folder

PATH = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"


@pytest.fixture
def model(tmp_path):
    return LoadedModel(
        ModelFiles(str(write_folder(tmp_path / "model", "sd15")), dtype="float32"), load_pipeline
    )


@pytest.fixture
def lora(tmp_path):
    arrays = tiny_lora.pairs([(PATH, 32, 32, 0)], prefix="unet.", style=tiny_lora.PEFT)
    save(tmp_path / "lora.safetensors", arrays)
    return str(tmp_path / "lora.safetensors")


def weight(pipeline):
    block = pipeline.networks["unet"].network.down_blocks[0].attentions[0].transformer_blocks[0]
    return np.array(block.attn1.to_q.weight)


def test_switching_on_over_and_off(model, lora):
    plain = weight(model.pipeline)
    assert model.set_loras((LoraReference(lora, 1.0),))
    full = weight(model.pipeline)
    assert not model.set_loras((LoraReference(lora, 1.0),))
    assert model.set_loras((LoraReference(lora, 0.5),))
    np.testing.assert_allclose(weight(model.pipeline), (plain + full) / 2, atol=1e-6)
    assert model.set_loras(())
    np.testing.assert_array_equal(weight(model.pipeline), plain)
    assert not model.set_loras(())


def test_a_lora_that_does_not_fit_leaves_the_model_plain(model, lora, tmp_path):
    plain = weight(model.pipeline)
    arrays = tiny_lora.pairs(tiny_lora.FLUX_KOHYA, prefix="lora_unet_", style=tiny_lora.KOHYA)
    save(tmp_path / "flux.safetensors", arrays)
    wrong = LoraReference(str(tmp_path / "flux.safetensors"))
    with pytest.raises(InvalidModelFilesError, match="does not fit"):
        model.set_loras((LoraReference(lora), wrong))
    np.testing.assert_array_equal(weight(model.pipeline), plain)
    assert model.set_loras((LoraReference(lora),))


def test_a_replaced_file_is_read_anew(model, lora):
    plain = weight(model.pipeline)
    model.set_loras((LoraReference(lora),))
    first = weight(model.pipeline) - plain
    arrays = tiny_lora.pairs([(PATH, 32, 32, 0)], prefix="unet.", style=tiny_lora.KOHYA, alpha=8.0)
    save(Path(lora), arrays)
    assert model.set_loras((LoraReference(lora),))
    np.testing.assert_allclose(weight(model.pipeline) - plain, 2 * first, atol=1e-5)


def test_a_lora_given_twice_counts_twice(model, lora, tmp_path, monkeypatch):
    plain = weight(model.pipeline)
    model.set_loras((LoraReference(lora, 1.0),))
    once = weight(model.pipeline) - plain
    monkeypatch.chdir(tmp_path)
    assert model.set_loras((LoraReference(lora, 1.0), LoraReference("lora.safetensors", 0.5)))
    np.testing.assert_allclose(weight(model.pipeline) - plain, 1.5 * once, atol=1e-6)
    assert not model.set_loras((LoraReference(lora, 0.75), LoraReference(lora, 0.75)))
    assert model.set_loras((LoraReference(lora, 1.0), LoraReference(lora, -1.0)))
    np.testing.assert_array_equal(weight(model.pipeline), plain)
