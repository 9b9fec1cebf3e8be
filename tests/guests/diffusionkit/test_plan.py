"""What DiffusionKit's provider refuses before any work, and the layout it reads. Needs no DiffusionKit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from swiftai_nb.core.config import ImageGenerationConfig, LoraReference
from swiftai_nb.core.errors import (
    InsufficientMemoryError,
    InvalidInputError,
    InvalidModelFilesError,
    ModelNotDownloadedError,
    UnsupportedModelError,
)
from swiftai_nb.guests.diffusionkit import DiffusionKitImageProvider
from swiftai_nb.guests.diffusionkit.checkpoint import CHECKPOINTS, locate
from swiftai_nb.guests.diffusionkit.child.compatibility import byte_alphabet
from swiftai_nb.guests.diffusionkit.environment import PYTHON_VARIABLE
from swiftai_nb.guests.diffusionkit.models import MODELS
from swiftai_nb.model_files.variants import DiffusionVariant
from swiftai_nb.notebook.session import Session
from swiftai_nb.providers.mlx import MLXImageProvider
from swiftai_nb.registry.entries import folder_info
from swiftai_nb.registry.model_sources import select_plugin_files
from swiftai_nb.registry.registry import DiffusionModelRegistry
from tests.guests.diffusionkit.test_environment import GOOD, says


def write_layout(folder: Path, *, weights: str = "sd3_medium.safetensors") -> Path:
    checkpoint = next(c for c in CHECKPOINTS if c.weights == weights)
    for path in checkpoint.paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(b"x" * 100)
    (folder / "t5" / "config.json").write_text(json.dumps({"model_type": "t5"}), encoding="utf-8")
    (folder / "t5" / "spiece.model").write_bytes(b"x")
    return folder


@pytest.fixture
def provider(tmp_path, monkeypatch):
    monkeypatch.setenv(PYTHON_VARIABLE, str(says(tmp_path / "python", GOOD)))
    registry = DiffusionModelRegistry(home=tmp_path / "home", cache_dir=tmp_path / "cache")
    made = DiffusionKitImageProvider(registry)
    yield made
    made.close()


@pytest.fixture
def folder(tmp_path):
    return write_layout(tmp_path / "my-sd3")


def test_plan_fills_in_the_familys_defaults(provider, folder):
    plan = provider.plan("a cat", ImageGenerationConfig(model=str(folder)))
    assert (plan.width, plan.height, plan.steps, plan.guidance_scale) == (1024, 1024, 28, 5.0)
    assert plan.scheduler == "flow-match-euler"
    assert plan.model == str(folder)
    assert provider.engine_pid is None


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"width": 500}, "width 500 is not a multiple of 16"),
        ({"height": 2048}, "height 2048 exceeds 1536"),
        ({"seed": 2**32}, "seed 4294967296 is too large"),
        ({"scheduler": "ddim"}, "one scheduler, flow-match-euler"),
        ({"clip_skip": 1}, "clip_skip"),
        ({"guidance_rescale": 0.5}, "guidance_rescale"),
        ({"eta": 0.5}, "eta"),
        ({"quantization_bits": 4}, "quantization_bits"),
        ({"loras": (LoraReference("a.safetensors"),)}, "loras"),
        ({"image": b"\x89PNG", "strength": 0.5}, "image"),
        ({"preview": "taesd"}, "taesd"),
    ],
)
def test_what_it_cannot_do_is_refused_by_name_before_any_work(provider, folder, settings, words):
    with pytest.raises(InvalidInputError, match=words) as caught:
        provider.plan("a cat", ImageGenerationConfig(model=str(folder), **settings))
    assert caught.value.hint
    assert provider.engine_pid is None


def test_guidance_below_one_means_one_and_flux_has_none(provider, folder, tmp_path):
    config = ImageGenerationConfig(model=str(folder), guidance_scale=0.0)
    assert provider.plan("a cat", config).guidance_scale == 1.0
    flux = write_layout(tmp_path / "flux", weights="flux-schnell-4bit-quantized.safetensors")
    plan = provider.plan("a cat", ImageGenerationConfig(model=str(flux), guidance_scale=3.0))
    assert (plan.guidance_scale, plan.steps, plan.quantization_bits) == (0.0, 4, 4)
    assert "without guidance" in plan.notes[0]


def test_too_little_memory_is_refused_with_the_figures(folder, provider):
    small = DiffusionKitImageProvider(provider.registry, memory_limit_bytes=10**8)
    with pytest.raises(InsufficientMemoryError, match="GB"):
        small.plan("a cat", ImageGenerationConfig(model=str(folder)))


@pytest.mark.parametrize("gone", ["clip_g/config.json", "t5/t5xxl.safetensors", "t5/spiece.model"])
def test_missing_files_are_named(provider, folder, gone):
    (folder / gone).unlink()
    with pytest.raises(InvalidModelFilesError, match=gone):
        provider.plan("a cat", ImageGenerationConfig(model=str(folder)))


def test_parts_may_lie_in_shared_folders(tmp_path):
    whole = write_layout(tmp_path / "whole")
    model, text, t5 = (tmp_path / name for name in ("model", "text", "t5-v1_1-xxl"))
    model.mkdir()
    (whole / "sd3_medium.safetensors").rename(model / "sd3_medium.safetensors")
    (whole / "t5" / "spiece.model").rename(tmp_path / "spiece.model")
    t5.mkdir()
    (tmp_path / "spiece.model").rename(t5 / "spiece.model")
    (whole / "t5" / "config.json").rename(t5 / "config.json")
    whole.rename(text)
    located = locate(model, (text, t5))
    assert located.t5_folder == t5
    assert located.files["clip_l/config.json"] == text / "clip_l" / "config.json"


def test_flux_dev_is_left_to_our_own_engine(tmp_path):
    (tmp_path / "flux1-dev.safetensors").write_bytes(b"")
    with pytest.raises(UnsupportedModelError, match="guidance") as caught:
        locate(tmp_path)
    assert "--engine local" in caught.value.hint


def test_models_of_our_own_engine_are_left_to_it(provider):
    for name in ("emoji-mini", "flux-schnell-4bit"):
        with pytest.raises(UnsupportedModelError, match="local engine"):
            provider.plan("a cat", ImageGenerationConfig(model=name))


def test_our_own_engine_leaves_its_models_to_it(provider, folder):
    own = MLXImageProvider("process", provider.registry)
    with pytest.raises(UnsupportedModelError, match="engine diffusionkit") as caught:
        own.plan("a cat", ImageGenerationConfig(model=str(folder)))
    assert caught.value.hint == "--engine diffusionkit"


def test_model_that_only_it_runs_chooses_it(provider, monkeypatch):
    session = Session()
    monkeypatch.setitem(session.__dict__, "registry", provider.registry)
    assert session.choose_engine("auto", model="sd3-medium") == "diffusionkit"
    assert session.choose_engine("auto", model="flux-schnell-4bit") == "mlx"
    assert session.choose_engine("auto") == "mlx"
    assert session.choose_engine("cloud", model="sd3-medium") == "huggingface"
    provider.registry.default_model = "sd3.5-large"
    assert session.choose_engine("auto") == "diffusionkit"
    with pytest.raises(ModelNotDownloadedError, match=r"sd3\.5-large"):
        provider.plan("a cat")
    session.close()


def test_model_that_is_not_here_says_all_that_would_be_fetched(provider):
    with pytest.raises(ModelNotDownloadedError) as caught:
        provider.plan("a cat")
    assert "sd3-medium is not downloaded (4.3 GB + 11.4 GB of sd3-text-encoders" in caught.value.message
    assert "accept its license" in caught.value.message


def test_registry_knows_a_folder_of_stable_diffusion_3(folder):
    info = folder_info(folder)
    assert (info.variant, info.engine) == (DiffusionVariant.SD_3, "diffusionkit")
    assert set(MODELS.weight_files) < {c.weights for c in CHECKPOINTS}
    assert select_plugin_files(["README.md", "config.json", "sd3.5_large.safetensors"]) == (
        "config.json",
        "sd3.5_large.safetensors",
    )


def test_clips_alphabet_gives_every_byte_a_character():
    alphabet = byte_alphabet()
    assert len(set(alphabet.values())) == 256
    assert alphabet[ord("a")] == "a"
    assert alphabet[0] == "Ā"
    assert all(not c.isspace() for c in alphabet.values())
