"""FLUX.2 klein beyond parity: layouts, LoRAs, quantized weights, previews and what is refused."""

import json
import shutil

import mlx.core as mx
import numpy as np
import pytest

from swiftai_nb.core.errors import InvalidInputError, InvalidModelFilesError, UnsupportedModelError
from swiftai_nb.diffusion.pipelines.families import load_pipeline
from swiftai_nb.diffusion.pipelines.flux2 import empirical_mu, text_layers
from swiftai_nb.diffusion.weights.lora import apply_lora, load_lora
from swiftai_nb.diffusion.weights.save import save_model
from swiftai_nb.model_files.families import FLUX_2_KLEIN
from tests.diffusion.flux2_folders import VAE, write_comfy, write_klein, write_mflux
from tests.diffusion.flux_folders import save
from tests.diffusion.parity import tiny_flux2


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_klein(tmp_path_factory.mktemp("klein"))


@pytest.fixture(scope="module")
def pipeline(folder):
    return load_pipeline(folder, dtype="float32")


def draw(pipeline, prompt=tiny_flux2.FOX, size=(64, 80), **given):
    width, height = size
    noise = tiny_flux2.noise({"prompt": [prompt], "size": size})
    conditioning = pipeline.encode_prompt(prompt, guidance_scale=given.pop("guidance_scale", 0.0))
    steps = pipeline.denoise(conditioning, width=width, height=height, steps=2, latents=noise, **given)
    return list(steps)[-1].latents


@pytest.mark.parametrize("write", [write_comfy, write_mflux])
def test_other_layouts_give_the_same_picture(pipeline, tmp_path, write):
    other = load_pipeline(write(tmp_path), dtype="float32")
    assert (other.defaults, other.is_distilled) == (pipeline.defaults, True)
    reference = pipeline.encode_image(tiny_flux2.picture((80, 64)))
    np.testing.assert_allclose(
        other.encode_image(tiny_flux2.picture((80, 64))), reference, rtol=1e-4, atol=1e-4
    )
    latents = draw(pipeline, reference_latents=[reference])
    np.testing.assert_allclose(draw(other, reference_latents=[reference]), latents, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(other.decode(latents), pipeline.decode(latents))


@pytest.mark.parametrize("bits", [4, 8])
def test_quantized_mflux_folders_are_read(pipeline, tmp_path, bits):
    quantized = load_pipeline(write_mflux(tmp_path, bits=bits), dtype="float32")
    exact = draw(pipeline)
    error = np.abs(draw(quantized) - exact).mean() / np.abs(exact).mean()
    assert 0 < error < {4: 0.3, 8: 0.03}[bits]


@pytest.mark.parametrize(
    ("module", "path"),
    [
        ("transformer.single_transformer_blocks.0.attn.to_qkv_mlp_proj", None),
        ("diffusion_model.single_blocks.0.linear1", None),
        ("lora_unet_single_blocks_0_linear1", None),
        ("base_model.model.double_blocks.1.img_attn.qkv", "qkv"),
        ("diffusion_model.double_blocks.1.img_attn.qkv", "qkv"),
        ("transformer.double_stream_modulation_img.linear", "modulation"),
    ],
)
def test_a_lora_changes_the_maps_it_names(folder, tmp_path, module, path):
    pipeline = load_pipeline(folder, dtype="float32")
    targets = {
        None: ["single_transformer_blocks.0.attn.to_qkv_mlp_proj"],
        "qkv": [f"transformer_blocks.1.attn.to_{x}" for x in "qkv"],
        "modulation": ["double_stream_modulation_img.linear"],
    }[path]
    before = [np.array(weight_of(pipeline, target)) for target in targets]
    rng = np.random.default_rng(1)
    down = rng.standard_normal((4, before[0].shape[1]), dtype=np.float32)
    up = rng.standard_normal((sum(len(b) for b in before), 4), dtype=np.float32)
    kohya = module.startswith("lora_")
    names = ("lora_down", "lora_up") if kohya else ("lora_A", "lora_B")
    file = tmp_path / "lora.safetensors"
    save(file, {f"{module}.{names[0]}.weight": down, f"{module}.{names[1]}.weight": up})
    apply_lora(pipeline, load_lora(file), 0.5)
    after = [np.array(weight_of(pipeline, target)) for target in targets]
    np.testing.assert_allclose(
        np.concatenate(after), np.concatenate(before) + 0.5 * up @ down, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize(
    ("module", "targets"),
    [
        (
            "lycoris_single_transformer_blocks_0_attn_to_qkv_mlp_proj",
            ["single_transformer_blocks.0.attn.to_qkv_mlp_proj"],
        ),
        (
            "diffusion_model.double_blocks.1.img_attn.qkv",
            [f"transformer_blocks.1.attn.to_{x}" for x in "qkv"],
        ),
    ],
)
def test_a_lokr_adds_the_kronecker_product(folder, tmp_path, module, targets):
    pipeline = load_pipeline(folder, dtype="float32")
    before = [np.array(weight_of(pipeline, target)) for target in targets]
    rng, rows = np.random.default_rng(2), sum(len(b) for b in before)
    w1 = rng.standard_normal((4, 8), dtype=np.float32)
    w2 = rng.standard_normal((rows // 4, before[0].shape[1] // 8), dtype=np.float32)
    file = tmp_path / "lokr.safetensors"
    save(file, {f"{module}.lokr_w1": w1, f"{module}.lokr_w2": w2, f"{module}.alpha": np.float32(1)})
    apply_lora(pipeline, load_lora(file), 0.5)
    after = np.concatenate([np.array(weight_of(pipeline, target)) for target in targets])
    np.testing.assert_allclose(after, np.concatenate(before) + 0.5 * np.kron(w1, w2), rtol=1e-4, atol=1e-4)


def weight_of(pipeline, path):
    from swiftai_nb.diffusion.weights.precision import find_module

    return find_module(pipeline.networks["transformer"].network, path).weight


def test_a_small_text_encoder_is_read_at_the_same_fractions_of_its_depth():
    assert text_layers(FLUX_2_KLEIN, count=36) == (9, 18, 27)
    assert text_layers(FLUX_2_KLEIN, count=27) == (9, 18, 27)
    assert text_layers(FLUX_2_KLEIN, count=4) == (1, 2, 3)


def test_layers_above_the_last_one_read_are_not_loaded(pipeline):
    assert len(pipeline.networks["text_encoder"].network.layers) == tiny_flux2.LAYERS[-1]


@pytest.mark.parametrize(
    ("tokens", "steps", "mu"),
    [(4096, 4, 2.29118), (4096, 50, 2.023351), (256, 4, 1.965567), (8192, 4, 1.843327)],
)
def test_mu_grows_with_the_picture_and_falls_with_the_steps(tokens, steps, mu):
    assert empirical_mu(tokens, steps) == pytest.approx(mu, abs=1e-6)


def test_latents_are_patches_of_16_pixels(pipeline):
    assert (pipeline.vae_scale, pipeline.size_multiple, pipeline.latent_channels) == (16, 16, 128)
    latents = pipeline.encode_image(tiny_flux2.picture((96, 64)))
    assert latents.shape == (1, 4, 6, 128)
    assert pipeline.preview(latents).shape == (1, 8, 12, 3)
    assert pipeline.decode(latents).shape == (1, 64, 96, 3)


@pytest.mark.cpu
def test_large_pictures_are_decoded_in_tiles(folder):
    pipeline = load_pipeline(folder, dtype="float32")
    latents = pipeline.encode_image(tiny_flux2.picture((512, 256)))
    whole = pipeline.decode(latents).astype(int)
    pipeline._image.decode_side = 256
    tiled = pipeline.decode(latents).astype(int)
    assert tiled.shape == whole.shape
    assert np.abs(tiled - whole).mean() < 4


def test_a_distilled_model_runs_without_guidance_and_says_so(pipeline):
    conditioning = pipeline.encode_prompt("a fox", "blurry", guidance_scale=4.0)
    assert conditioning.negative_prompt_embeds is None
    assert any("guidance_scale was left out" in note for note in conditioning.notes)
    assert any("no negative prompt" in note for note in conditioning.notes)


def test_padding_reaches_the_transformer(pipeline):
    short = np.array(pipeline.encode_prompt("a fox", max_sequence_length=64).prompt_embeds)
    long = np.array(pipeline.encode_prompt("a fox").prompt_embeds)
    assert (short.shape, long.shape) == ((1, 64, 192), (1, 512, 192))
    np.testing.assert_allclose(long[:, :20], short[:, :20], atol=1e-5)
    assert np.abs(long[:, 100:]).max() > 0


def test_the_order_of_references_matters_and_their_sizes_differ(pipeline):
    one, two = (
        pipeline.encode_image(tiny_flux2.picture(size, seed=i)) for i, size in enumerate([(64, 64), (96, 80)])
    )
    assert not np.allclose(
        draw(pipeline, reference_latents=[one, two]), draw(pipeline, reference_latents=[two, one])
    )


def test_a_mask_takes_the_picture_as_its_first_reference_once(pipeline):
    picture = pipeline.encode_image(tiny_flux2.picture((64, 80)))
    given = {"image_latents": picture, "mask": tiny_flux2.mask((64, 80)), "strength": 1.0}
    implicit = draw(pipeline, **given)
    np.testing.assert_array_equal(draw(pipeline, reference_latents=[picture], **given), implicit)


def test_references_of_another_shape_are_refused_before_any_work(pipeline):
    with pytest.raises(InvalidInputError, match=r"reference_latents have shape .*need \[1, h, w, 128\]"):
        pipeline.denoise(
            pipeline.encode_prompt("a fox"),
            width=64,
            height=64,
            steps=1,
            reference_latents=[np.zeros((1, 8, 8, 32))],
        )


def test_other_models_refuse_references(sd15_folder):
    pipeline = load_pipeline(sd15_folder, dtype="float32")
    with pytest.raises(InvalidInputError, match="takes no reference pictures"):
        pipeline.denoise(
            pipeline.encode_prompt("a fox"), steps=1, reference_latents=[np.zeros((1, 8, 8, 4), np.float32)]
        )


def test_flux_2_dev_is_refused_by_name(folder, tmp_path):
    dev = shutil.copytree(folder, tmp_path / "dev")
    config = json.loads((dev / "transformer" / "config.json").read_text())
    (dev / "transformer" / "config.json").write_text(json.dumps(config | {"guidance_embeds": True}))
    with pytest.raises(UnsupportedModelError, match=r"FLUX\.2 dev"):
        load_pipeline(dev)


@pytest.mark.parametrize(
    ("name", "is_distilled"),
    [("flux-2-klein-base-4b", False), ("models--mflux-community--flux-2-klein-base-4b-mflux-q8/snapshots/0", False),
     ("klein-baseline", True), ("models--x--flux2-klein-4b/snapshots/0", True)],
)  # fmt: skip
def test_a_folder_without_an_index_is_a_base_model_if_its_name_says_so(tmp_path, name, is_distilled):
    pipeline = load_pipeline(write_mflux(tmp_path / name), dtype="float32")
    assert pipeline.is_distilled is is_distilled
    assert pipeline.defaults.steps == (4 if is_distilled else 50)


def test_parts_of_different_models_are_refused(folder, tmp_path):
    mixed = shutil.copytree(folder, tmp_path / "mixed")
    config = json.loads((mixed / "transformer" / "config.json").read_text())
    (mixed / "transformer" / "config.json").write_text(json.dumps(config | {"joint_attention_dim": 384}))
    with pytest.raises(
        InvalidModelFilesError, match="takes text of 384 features, the text encoder gives 192"
    ):
        load_pipeline(mixed)


def test_sixteen_bits_compute_in_bfloat16(folder):
    pipeline = load_pipeline(folder, dtype="float16")
    dtypes = {part.name: part.dtype for part in pipeline.networks.values()}
    assert dtypes.pop("vae") == mx.float32
    assert set(dtypes.values()) == {mx.bfloat16}
    assert VAE["patch_size"] == (2, 2)


def test_a_model_saved_in_four_bits_loads_and_draws_as_the_one_quantized_on_load(folder, tmp_path):
    quantized = load_pipeline(folder, dtype="float32", quantization_bits=4)
    network = quantized.networks["transformer"].network
    assert "scales" in network.transformer_blocks[0].attn.to_q
    assert "scales" not in network.proj_out  # its errors are in every token and every step
    save_model(quantized.networks, folder, tmp_path / "saved")
    saved = load_pipeline(tmp_path / "saved", dtype="float32")
    np.testing.assert_array_equal(draw(saved), draw(quantized))
