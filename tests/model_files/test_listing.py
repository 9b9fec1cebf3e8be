"""Which files of a repository are downloaded when no entry lists them."""

from __future__ import annotations

import pytest

from swiftai_nb.core.errors import UnsupportedModelError
from swiftai_nb.model_files.listing import select_files


def test_files_of_a_sharded_full_precision_repository_are_taken_whole():
    listing = [
        "model_index.json",
        "transformer/config.json",
        "transformer/diffusion_pytorch_model-00001-of-00002.safetensors",
        "transformer/diffusion_pytorch_model-00002-of-00002.safetensors",
        "transformer/diffusion_pytorch_model.safetensors.index.json",
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
        "ae.safetensors",
    ]
    assert set(select_files(listing)) == set(listing) - {"ae.safetensors"}


def test_half_precision_is_preferred_and_one_whole_file_to_shards():
    listing = [
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "unet/diffusion_pytorch_model.safetensors",
        "unet/diffusion_pytorch_model.non_ema.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors",
        "text_encoder/model-00001-of-00002.safetensors",
        "text_encoder/pytorch_model.bin",
    ]
    assert set(select_files(listing)) == {listing[0], listing[3], listing[4]}


@pytest.mark.parametrize("listing", [[], ["README.md"], ["sdxl.safetensors"], ["unet/model.onnx"]])
def test_a_repository_without_component_folders_is_refused(listing):
    with pytest.raises(UnsupportedModelError, match="no component folders"):
        select_files(listing)
