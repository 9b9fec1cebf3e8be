"""Z-Image in every layout gives the images of the diffusers folder it was made from."""

import mlx.core as mx
import numpy as np
import pytest

from swiftai_nb.core.errors import InvalidModelFilesError, UnsupportedModelError
from swiftai_nb.diffusion.models.layers import QuantizedLinear
from swiftai_nb.diffusion.pipelines.families import load_pipeline
from swiftai_nb.model_files.families import Z_IMAGE
from swiftai_nb.model_files.folder import open_model
from tests.diffusion.flux_folders import dequantized
from tests.diffusion.test_stored import relabelled
from tests.diffusion.z_image_folders import (
    comfy_transformer,
    write_comfy,
    write_configs,
    write_diffusers,
    write_mflux,
    z_image_weights,
)

PROMPT = "a red cat"


@pytest.fixture(scope="module")
def weights():
    return z_image_weights()


def draw(folder, **options):
    """The latents of two steps, and pixels."""
    pipeline = load_pipeline(folder, dtype="float32", **options)
    steps = pipeline.denoise(pipeline.encode_prompt(PROMPT), width=64, height=48, steps=2, seed=4)
    latents = list(steps)[-1].latents
    return latents, pipeline.decode(latents)


def assert_same(result, expected, atol=1e-5):
    np.testing.assert_allclose(result[0], expected[0], atol=atol)
    assert np.abs(result[1].astype(int) - expected[1]).max() <= 1


@pytest.fixture(scope="module")
def expected(tmp_path_factory, weights):
    return draw(write_diffusers(tmp_path_factory.mktemp("diffusers"), weights=weights))


LAYOUTS = {
    "sharded": lambda folder, weights: write_diffusers(folder, weights=weights, shards=3),
    "fp16 names": lambda folder, weights: write_diffusers(folder, weights=weights, variant=".fp16"),
    "language-model head": lambda folder, weights: write_diffusers(folder, weights=weights, head=True),
    "mflux": lambda folder, weights: write_mflux(folder, bits=None, weights=weights),
    "ComfyUI files": lambda folder, weights: write_comfy(folder, weights=weights),
    "ComfyUI checkpoint": lambda folder, weights: write_comfy(folder, weights=weights, in_one=True),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_give_the_same_image(layout, tmp_path, weights, expected):
    folder = LAYOUTS[layout](tmp_path, weights)
    assert open_model(folder).family is Z_IMAGE
    assert_same(draw(folder), expected)


@pytest.mark.parametrize("in_one", [False, True], ids=["transformer alone", "all parts"])
def test_a_single_file_takes_what_it_lacks_from_a_base(in_one, tmp_path, weights, expected):
    comfy = write_comfy(tmp_path / "comfy", weights=weights, in_one=in_one)
    base = write_diffusers(tmp_path / "base", weights=weights)
    file = next(comfy.glob("z_image_turbo*.safetensors"))
    alone = file.rename(tmp_path / "tune.safetensors")
    assert_same(draw(alone, base=base), expected)


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16], ids=str)
def test_16_bit_files_are_read_exactly(dtype, tmp_path, weights):
    rounded = {
        name: {n: np.array(mx.array(v).astype(dtype).astype(mx.float32)) for n, v in arrays.items()}
        for name, arrays in weights.items()
    }
    half = draw(write_diffusers(tmp_path / "half", weights=weights, dtype=dtype))
    assert_same(half, draw(write_diffusers(tmp_path / "full", weights=rounded)), atol=1e-4)


@pytest.mark.parametrize("bits", [4, 8])
def test_quantized_files_of_mflux_compute_with_what_they_hold(bits, tmp_path, weights):
    held = {
        name: dequantized(arrays, bits=bits) if name != "vae" else arrays for name, arrays in weights.items()
    }
    vae = dequantized(weights["vae"], bits=bits)
    packed = draw(write_mflux(tmp_path / "packed", bits=bits, weights=weights))
    assert_same(packed, draw(write_diffusers(tmp_path / "held", weights=held | {"vae": vae})), atol=1e-4)


@pytest.mark.parametrize("bits", [4, 5, 6, 8])
def test_quantizing_on_load_leaves_sensitive_layers(bits, tmp_path, weights):
    pipeline = load_pipeline(
        write_diffusers(tmp_path, weights=weights), dtype="float32", quantization_bits=bits
    )
    network = pipeline.networks["transformer"].network
    packed = {path for path, layer in network.named_modules() if isinstance(layer, QuantizedLinear)}
    assert "layers.0.attention.to_q" in packed
    assert "layers.1.feed_forward.w1" in packed
    assert not [path for path in packed if any(piece in path for piece in Z_IMAGE.sensitive_layers)]
    conditioning = pipeline.encode_prompt(PROMPT)
    (step,) = pipeline.denoise(conditioning, width=32, height=32, steps=1)
    assert np.isfinite(step.latents).all()


def test_more_bits_come_closer(tmp_path, weights, expected):
    folder = write_diffusers(tmp_path, weights=weights)
    errors = [np.abs(draw(folder, quantization_bits=bits)[0] - expected[0]).mean() for bits in (4, 5, 6, 8)]
    assert errors == sorted(errors, reverse=True)


def test_float8_files_of_comfyui_are_widened(tmp_path, weights):
    folder = write_comfy(tmp_path / "comfy", weights=weights)
    arrays = {name: mx.array(value) for name, value in comfy_transformer(weights["transformer"]).items()}
    codes = {name: mx.to_fp8(value) for name, value in arrays.items() if value.ndim == 2}
    stored = {name: np.array(codes.get(name, value)) for name, value in arrays.items()}
    relabelled(folder / "z_image_turbo_bf16.safetensors", stored, "F8_E4M3")
    held = write_comfy(tmp_path / "held", weights=weights)
    widened = {name: mx.from_fp8(value, mx.float32) for name, value in codes.items()}
    mx.save_safetensors(str(held / "z_image_turbo_bf16.safetensors"), arrays | widened)
    assert_same(draw(folder), draw(held), atol=1e-4)


@pytest.mark.parametrize("part", ["transformer", "text_encoder", "vae", "tokenizer"])
def test_a_missing_part_is_named(part, tmp_path, weights):
    folder = write_diffusers(tmp_path, weights=weights)
    for path in sorted((folder / part).glob("*")):
        path.unlink()
    (folder / part).rmdir()
    with pytest.raises(InvalidModelFilesError, match=f"lacks parts of a Z-Image model: {part}"):
        load_pipeline(folder)


def test_all_missing_parts_are_named_at_once(tmp_path, weights):
    folder = write_comfy(tmp_path, weights=weights)
    (folder / "ae.safetensors").unlink()
    (folder / "qwen_3_4b.safetensors").unlink()
    with pytest.raises(InvalidModelFilesError, match=r"text_encoder .*; vae "):
        load_pipeline(folder)


def test_the_transformer_of_another_family_is_named(tmp_path, weights):
    write_configs(tmp_path)
    mx.save_safetensors(
        str(tmp_path / "transformer" / "x.safetensors"), {"double_blocks.0.img_attn.qkv.weight": mx.zeros(1)}
    )
    with pytest.raises(InvalidModelFilesError, match="does not hold a Z-Image transformer"):
        load_pipeline(tmp_path)


def test_another_chat_template_is_refused(tmp_path, weights):
    folder = write_diffusers(tmp_path, weights=weights)
    (folder / "tokenizer" / "chat_template.jinja").write_text("[INST] {{ x }} [/INST]", encoding="utf-8")
    with pytest.raises(UnsupportedModelError, match="chat template"):
        load_pipeline(folder)
