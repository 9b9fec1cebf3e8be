"""A quantized model: made in a process of its own, listed, drawn with, deleted."""

from __future__ import annotations

import asyncio
import io
import json
from pathlib import Path

import numpy as np
import pytest

from swiftai_nb.core.config import ImageGenerationConfig
from swiftai_nb.core.errors import (
    InsufficientDiskSpaceError,
    InvalidInputError,
    InvalidModelFilesError,
    ModelNotDownloadedError,
    ModelNotFoundError,
)
from swiftai_nb.downloads import commands
from swiftai_nb.downloads.commands import ModelCommands
from swiftai_nb.providers import quantized_model
from swiftai_nb.providers.mlx import MLXImageProvider
from swiftai_nb.providers.quantized_model import quantize_model
from swiftai_nb.registry.registry import DiffusionModelRegistry
from tests.diffusion.sd_folders import write_folder

PICTURE = ImageGenerationConfig(steps=1, seed=3, width=64, height=64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("models") / "small", "sdxl")


@pytest.fixture
def registry(tmp_path, folder):
    registry = DiffusionModelRegistry(home=tmp_path / "home", cache_dir=tmp_path / "hub")
    registry.add_folder(folder, id="small")
    return registry


def test_a_quantized_model_draws_what_quantizing_on_load_draws_and_is_listed_and_deleted(registry, folder):
    said = []
    verbs = ModelCommands(registry=registry, log=said.append, quantize=quantize_model)

    def show(line):
        return repr(verbs.run(line.split())[0])

    words = show("quantize small --bits 4")
    copy = registry.find("small-q4")
    size = copy.formatted_size
    assert words.startswith(f"small-q4 is ready: {size} (was ")
    assert copy.size_bytes < sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
    assert said[0] == "quantizing small to 4 bits"
    assert "  unet" in said
    line = next(line for line in show("list").splitlines() if line.startswith("small-q4"))
    assert f"quantized, {size}" in line
    assert "quantized to 4 bits" in line
    provider = MLXImageProvider(registry=registry)
    try:
        images = [
            asyncio.run(provider.generate_image("a cat", config=config))
            for config in (
                PICTURE.replace(model="small", quantization_bits=4),
                PICTURE.replace(model="small-q4"),
                PICTURE.replace(model="small"),
            )
        ]
    finally:
        provider.close()
    packed, copied, plain = (np.asarray(image.pil) for image in images)
    assert np.array_equal(packed, copied)
    assert not np.array_equal(packed, plain)
    assert images[1].recipe.model == "small-q4"
    with pytest.raises(InvalidInputError, match="small-q4 exists already"):
        show("quantize small --bits 4")
    with pytest.raises(InvalidInputError, match="quantized already"):
        show("quantize small-q4 --bits 4 --id again")
    assert show("delete small-q4") == f"small-q4: {size} freed"
    assert not Path(copy.local_folder).exists()
    with pytest.raises(ModelNotFoundError):
        registry.find("small-q4")
    assert folder.is_dir()


@pytest.mark.parametrize(
    ("line", "error", "words"),
    [
        ("quantize small --bits 3", InvalidInputError, "bits 3 is not 4, 5, 6 or 8"),
        ("quantize small", InvalidInputError, "--bits"),
        ("quantize nobody --bits 4", ModelNotFoundError, "nobody"),
        ("quantize sd-1.5 --bits 8", ModelNotDownloadedError, "not downloaded"),
        ("quantize small --bits 4 --id ../out", InvalidInputError, "folder's name"),
        ("quantize small --bits 4 --id sdxl-turbo", InvalidInputError, "exists already"),
    ],
)
def test_what_cannot_be_quantized_is_refused_before_any_work(registry, line, error, words):
    verbs = ModelCommands(registry=registry, quantize=quantize_model)
    with pytest.raises(error, match=words):
        verbs.run(line.split())
    assert not (registry.home / "models").exists()


def test_too_little_room_is_told_before_any_work(registry, monkeypatch):
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(quantized_model.shutil, "disk_usage", lambda _folder: usage)
    with pytest.raises(InsufficientDiskSpaceError, match="the quantized model takes"):
        quantize_model(registry, "small", bits=8)


def test_broken_weights_leave_nothing_behind(registry, tmp_path):
    broken = write_folder(tmp_path / "broken", "sd15")
    path = broken / "unet" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "layers_per_block": config["layers_per_block"] + 1}))
    registry.add_folder(broken, id="broken")
    with pytest.raises(InvalidModelFilesError, match="unet"):
        quantize_model(registry, "broken", bits=8)
    assert list(registry.home.rglob("*.safetensors")) == []
    assert "broken-q8" not in [info.id for info in registry.available_models]


def test_an_interrupt_ends_the_process_and_leaves_nothing(registry):
    def interrupt(line):
        if line.strip() == "unet":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantize_model(registry, "small", bits=8, say=interrupt)
    assert list((registry.home / "models").iterdir()) == []


def test_the_terminal_tells_the_size(tmp_path, folder, monkeypatch):
    monkeypatch.setenv("SWIFTAI_HOME", str(tmp_path / "home"))
    out = io.StringIO()
    words = ["quantize", str(folder), "--bits", "8", "--id", "mine"]
    assert commands.run(words, out, quantize=quantize_model) == 0
    assert "mine is ready" in out.getvalue()
    assert "quantizing small to 8 bits" in out.getvalue()
