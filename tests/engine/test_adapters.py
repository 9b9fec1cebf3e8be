"""LoRAs change between commands without a second model."""

from pathlib import Path

import numpy as np
import pytest

from swiftai_nb.core.config import LoraReference
from swiftai_nb.core.errors import InvalidModelFilesError
from swiftai_nb.diffusion.pipelines.families import load_pipeline
from swiftai_nb.engine.adapters import Adapters
from tests.diffusion.flux_folders import save
from tests.diffusion.parity import tiny_lora
from tests.diffusion.sd_folders import write_folder

PATH = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"


@pytest.fixture
def pipeline(tmp_path):
    return load_pipeline(write_folder(tmp_path / "model", "sd15"))


@pytest.fixture
def lora(tmp_path):
    arrays = tiny_lora.pairs([(PATH, 32, 32, 0)], prefix="unet.", style=tiny_lora.PEFT)
    save(tmp_path / "lora.safetensors", arrays)
    return str(tmp_path / "lora.safetensors")


def weight(pipeline):
    block = pipeline.networks["unet"].network.down_blocks[0].attentions[0].transformer_blocks[0]
    return np.array(block.attn1.to_q.weight)


def test_switching_on_over_and_off(pipeline, lora):
    adapters, plain = Adapters(pipeline), weight(pipeline)
    assert adapters.switch((LoraReference(lora, 1.0),))
    full = weight(pipeline)
    assert not adapters.switch((LoraReference(lora, 1.0),))
    assert adapters.switch((LoraReference(lora, 0.5),))
    np.testing.assert_allclose(weight(pipeline), (plain + full) / 2, atol=1e-6)
    assert adapters.switch(())
    np.testing.assert_array_equal(weight(pipeline), plain)
    assert not adapters.switch(())


def test_a_lora_that_does_not_fit_leaves_the_model_plain(pipeline, lora, tmp_path):
    adapters, plain = Adapters(pipeline), weight(pipeline)
    arrays = tiny_lora.pairs(tiny_lora.FLUX_KOHYA, prefix="lora_unet_", style=tiny_lora.KOHYA)
    save(tmp_path / "flux.safetensors", arrays)
    wrong = LoraReference(str(tmp_path / "flux.safetensors"))
    with pytest.raises(InvalidModelFilesError, match="does not fit"):
        adapters.switch((LoraReference(lora), wrong))
    np.testing.assert_array_equal(weight(pipeline), plain)
    assert adapters.switch((LoraReference(lora),))


def test_a_replaced_file_is_read_anew(pipeline, lora):
    adapters, plain = Adapters(pipeline), weight(pipeline)
    adapters.switch((LoraReference(lora),))
    first = weight(pipeline) - plain
    arrays = tiny_lora.pairs([(PATH, 32, 32, 0)], prefix="unet.", style=tiny_lora.KOHYA, alpha=8.0)
    save(Path(lora), arrays)
    assert adapters.switch((LoraReference(lora),))
    np.testing.assert_allclose(weight(pipeline) - plain, 2 * first, atol=1e-5)
