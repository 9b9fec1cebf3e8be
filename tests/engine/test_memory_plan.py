"""What a picture will need, counted before anything is loaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from swiftai_nb.core.errors import InsufficientMemoryError, InvalidModelFilesError
from swiftai_nb.diffusion.memory import MemoryPolicy
from swiftai_nb.engine import memory_plan
from swiftai_nb.engine.memory_plan import MemoryPlan, check_memory, fits_comfortably, plan_memory
from swiftai_nb.engine.model_facts import content_hash, read_model_facts

MODEL = Path(__file__).parents[2] / "swiftai_nb" / "assets" / "emoji-mini"
GB = 10**9


WIDTHS = {"F16": 2, "F32": 4}


def write_weights(path, dtype="F32", **shapes):
    """A file of float32 zeros that takes no room on disk."""
    header, at = {}, 0
    for name, shape in shapes.items():
        size = WIDTHS[dtype]
        for side in shape:
            size *= side
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + at)


@pytest.fixture
def large_model(tmp_path):
    """As large as Stable Diffusion 1.5."""
    write_weights(
        tmp_path / "unet" / "diffusion_pytorch_model.safetensors",
        linear=(430, 10**6),
        conv=(430, 10**3, 10**3),
    )
    write_weights(tmp_path / "text_encoder" / "model.safetensors", linear=(123, 10**6))
    write_weights(tmp_path / "vae" / "diffusion_pytorch_model.safetensors", conv=(84, 10**3, 10**3))
    (tmp_path / "unet" / "config.json").write_text('{"block_out_channels": [320], "sample_size": 64}')
    (tmp_path / "vae" / "config.json").write_text('{"block_out_channels": [128, 256, 512, 512]}')
    return read_model_facts(tmp_path)


def plan(facts, side=512, **options):
    settings = {"guided": True, "bytes_per_weight": 4, **options}
    return plan_memory(facts, width=side, height=side, **settings)


def test_a_model_like_sd_15_needs_about_what_was_measured(large_model):
    # Measured on the CPU: 4.1 GB while denoising without text encoder, 1.9 GB while decoding.
    whole, staged = plan(large_model), plan(large_model, is_staged=True)
    assert 3.9 * GB < staged.peak_bytes < 4.6 * GB
    assert whole.peak_bytes > staged.peak_bytes + 0.8 * GB
    assert large_model.native_side == 512


def test_halves_quantisation_and_size_change_the_need_the_right_way(large_model):
    whole = plan(large_model).peak_bytes
    assert plan(large_model, bytes_per_weight=2).peak_bytes < 0.7 * whole
    eight, four = (plan(large_model, quantization_bits=bits).peak_bytes for bits in (8, 4))
    assert four < eight < whole
    assert plan(large_model, side=256).peak_bytes < whole < plan(large_model, side=1024).peak_bytes
    assert plan(large_model, guided=False).denoising_bytes * 2 == plan(large_model).denoising_bytes


def test_large_halves_stay_halves_on_the_cpu(large_model, tmp_path):
    whole = plan(large_model)
    write_weights(large_model.weight_files["unet"][0], "F16", linear=(430, 10**6), conv=(430, 10**3, 10**3))
    assert plan(large_model).weights_bytes["unet"] * 2 == whole.weights_bytes["unet"]


def test_tiles_bound_the_decoding_of_large_pictures(large_model):
    side = MemoryPolicy.for_machine().decode_side
    assert plan(large_model, side=4096).decoding_bytes == plan(large_model, side=side).decoding_bytes


@pytest.mark.parametrize(
    ("free_gb", "advice"), [(3.9, "a smaller size"), (3.0, "quantization_bits"), (0.5, "a smaller model")]
)
def test_a_refusal_names_need_and_memory_and_says_what_to_change(free_gb, advice):
    need = MemoryPlan({"unet": int(3.5 * GB)}, denoising_bytes=GB, decoding_bytes=GB)
    with pytest.raises(InsufficientMemoryError, match=f"about 4.7 GB, and {free_gb} GB") as caught:
        check_memory(need, available_bytes=int(free_gb * GB))
    assert caught.value.hint.startswith(advice)


def test_what_fits_is_not_refused():
    need = MemoryPlan({"unet": GB}, denoising_bytes=GB, decoding_bytes=GB)
    check_memory(need, available_bytes=3 * GB)
    assert fits_comfortably(need, None)


def test_a_small_machine_keeps_a_model_only_when_half_of_it_stays_free(monkeypatch):
    need = MemoryPlan({"unet": 5 * GB}, denoising_bytes=GB, decoding_bytes=GB)
    monkeypatch.setattr(memory_plan, "machine_memory_bytes", lambda: 8 * 2**30)
    assert not fits_comfortably(need, 7 * GB)
    monkeypatch.setattr(memory_plan, "machine_memory_bytes", lambda: 32 * 2**30)
    assert fits_comfortably(need, 7 * GB)


def test_this_machine_says_what_it_has():
    free = memory_plan.available_memory_bytes()
    assert free is None or 10**7 < free < 10**14


def test_a_container_with_little_left_is_believed(monkeypatch, tmp_path):
    monkeypatch.setattr(memory_plan, "_left_in_container", lambda: 123)
    assert memory_plan.available_memory_bytes() == 123


def test_broken_weights_are_named(large_model):
    path = large_model.weight_files["vae"][0]
    path.write_bytes(b"\xff" * 100)
    with pytest.raises(InvalidModelFilesError, match="vae"):
        plan(large_model)


def test_a_content_hash_changes_with_any_byte_of_a_small_model(tmp_path):
    import shutil

    copy = Path(shutil.copytree(MODEL, tmp_path / "copy"))
    assert content_hash(copy) == content_hash(MODEL)
    weights = copy / "vae" / "diffusion_pytorch_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(data)
    assert content_hash(copy) != content_hash(MODEL)


def test_a_content_hash_of_a_large_model_is_quick_and_sees_size_and_ends(large_model):
    first = content_hash(large_model.folder)
    path = large_model.weight_files["unet"][0]
    with path.open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"x")
    assert content_hash(large_model.folder) != first


def test_a_folder_without_weights_is_refused(tmp_path):
    with pytest.raises(InvalidModelFilesError, match="no safetensors weights"):
        read_model_facts(tmp_path)
