"""Which 16 bits flow models compute in: bfloat16, and float16 where a GPU has no bfloat16 and it suffices."""

import mlx.core as mx
import numpy as np
import pytest

from swiftai_nb.diffusion import gpu, load_pipeline
from swiftai_nb.diffusion.models import z_image
from swiftai_nb.diffusion.weights.precision import flow_dtypes
from tests.diffusion.flux2_folders import write_klein
from tests.diffusion.flux_folders import write_diffusers as write_flux
from tests.diffusion.parity import tiny_z_image
from tests.diffusion.z_image_folders import write_diffusers, z_image_weights
from tests.model_files.files import write_json


@pytest.fixture
def without_bfloat16(monkeypatch):
    monkeypatch.setattr(gpu, "has_bfloat16", lambda: False)


@pytest.mark.parametrize(
    ("on_metal", "info", "expected"),
    [
        (True, {"architecture": "applegpu_g13s"}, False),
        (True, {"architecture": "applegpu_g14g"}, False),
        (True, {"architecture": "applegpu_g15d"}, True),
        (True, {}, True),
        (False, {"architecture": "sm_75", "compute_capability_major": 7}, False),
        (False, {"architecture": "sm_80", "compute_capability_major": 8}, True),
        (False, {}, True),
    ],
)
def test_the_gpus_own_word_decides(monkeypatch, on_metal, info, expected):
    monkeypatch.setattr(mx, "default_device", lambda: mx.Device(mx.gpu))
    monkeypatch.setattr(mx.metal, "is_available", lambda: on_metal)
    monkeypatch.setattr(mx, "device_info", lambda: info)
    assert gpu.has_bfloat16() is expected


def test_a_cpu_computes_what_is_asked():
    assert gpu.has_bfloat16()


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
def test_other_precisions_stay(without_bfloat16, dtype):
    assert flow_dtypes(dtype, fits_float16=True) == (dtype, dtype)


def dtypes(pipeline):
    return {name: part.dtype for name, part in pipeline.networks.items() if name != "vae"}


def latents(pipeline, **options):
    conditioning = pipeline.encode_prompt("a red fox", **options)
    return list(pipeline.denoise(conditioning, width=32, height=48, steps=2, seed=1))[-1].latents


def test_turbo_computes_in_float16(without_bfloat16, tmp_path):
    folder = write_diffusers(tmp_path)
    pipeline = load_pipeline(folder, dtype="float16")
    assert dtypes(pipeline) == {"text_encoder": mx.bfloat16, "transformer": mx.float16}
    exact = latents(load_pipeline(folder, dtype="float32"))
    half = np.abs(latents(pipeline) - exact).max()
    bfloat16 = np.abs(latents(load_pipeline(folder, dtype="bfloat16")) - exact).max()
    assert half < 0.05 * np.abs(exact).max()
    assert half < 1.5 * bfloat16


def test_branches_beyond_the_range_of_float16_stay_exact(without_bfloat16, tmp_path, monkeypatch):
    weights = z_image_weights()
    for name, value in weights["transformer"].items():
        if "feed_forward.w1" in name or "feed_forward.w3" in name:
            value *= 300  # products of some 1e5, which float16 cannot hold
    folder = write_diffusers(tmp_path, weights=weights)
    exact = latents(load_pipeline(folder, dtype="float32"))
    half = latents(load_pipeline(folder, dtype="float16"))
    assert np.abs(half - exact).max() < 0.05 * np.abs(exact).max()
    monkeypatch.setattr(z_image, "_scaled", lambda x: x)
    assert not np.isfinite(latents(load_pipeline(folder, dtype="float16"))).all()


def test_the_base_model_and_flux_1_stay_in_bfloat16(without_bfloat16, tmp_path):
    base = write_diffusers(tmp_path / "base")
    scheduler = {"_class_name": "FlowMatchEulerDiscreteScheduler", **tiny_z_image.SCHEDULER, "shift": 6.0}
    write_json(base / "scheduler" / "scheduler_config.json", scheduler)
    for folder in (base, write_flux(tmp_path / "flux")):
        assert set(dtypes(load_pipeline(folder, dtype="float16")).values()) == {mx.bfloat16}


def test_klein_computes_in_float16(without_bfloat16, tmp_path):
    folder = write_klein(tmp_path)
    pipeline = load_pipeline(folder, dtype="float16")
    assert dtypes(pipeline) == {"text_encoder": mx.bfloat16, "transformer": mx.float16}
    exact = latents(load_pipeline(folder, dtype="float32"))
    assert np.abs(latents(pipeline) - exact).max() < 0.05 * np.abs(exact).max()
