"""The same tiny FLUX.1 in every layout gives the same pictures; broken folders give one clear error."""

import json
import shutil

import mlx.core as mx
import numpy as np
import pytest

from swiftai_nb.core.errors import InvalidInputError, InvalidModelFilesError, UnsupportedModelError
from swiftai_nb.diffusion.models.layers import QuantizedEmbedding, QuantizedLinear
from swiftai_nb.diffusion.weights.precision import find_module
from tests.diffusion import flux_folders as folders
from tests.diffusion.loading import load_pipeline
from tests.diffusion.parity import tiny_flux

PROMPT = "Café 日本, a cat"


@pytest.fixture(scope="module")
def weights():
    return {dev: folders.flux_weights(dev=dev) for dev in (False, True)}


def run(pipeline):
    """Embeddings, final latents and pixels of a short run."""
    conditioning = pipeline.encode_prompt(PROMPT, guidance_scale=3.5, max_sequence_length=32)
    rng = np.random.default_rng(3)
    noise = rng.standard_normal((1, 6, 4, 16), dtype=np.float32)
    steps = list(pipeline.denoise(conditioning, width=32, height=48, steps=2, latents=noise))
    latents = steps[-1].latents
    return {
        "embeds": np.array(conditioning.prompt_embeds.astype(mx.float32)),
        "pooled": np.array(conditioning.pooled_prompt_embeds.astype(mx.float32)),
        "latents": latents,
        "pixels": pipeline.decode(latents).astype(np.int32),
    }


def assert_same(result, expected, *, atol):
    for name in ("embeds", "pooled", "latents"):
        np.testing.assert_allclose(result[name], expected[name], atol=atol, err_msg=name)
    assert np.abs(result["pixels"] - expected["pixels"]).max() <= 1


@pytest.fixture(scope="module")
def plain(weights, tmp_path_factory):
    """What the plain diffusers folder gives."""
    return {
        dev: run(load_pipeline(folders.write_diffusers(tmp_path_factory.mktemp("plain"), dev=dev, weights=w)))
        for dev, w in weights.items()
    }


def test_sharded_and_variant_folders(weights, plain, tmp_path):
    sharded = folders.write_diffusers(tmp_path / "sharded", weights=weights[False], shards=3)
    assert_same(run(load_pipeline(sharded)), plain[False], atol=0)
    options = {"weights": weights[False], "variant": ".fp16", "duplicate_table": False}
    variant = folders.write_diffusers(tmp_path / "v", **options)
    assert_same(run(load_pipeline(variant)), plain[False], atol=0)


def test_t5_table_under_its_other_name(weights, plain, tmp_path):
    folder = folders.write_diffusers(tmp_path, weights=weights[False])
    arrays = dict(weights[False]["text_encoder_2"])
    arrays["encoder.embed_tokens.weight"] = arrays.pop("shared.weight")
    folders.save(folder / "text_encoder_2" / "model.safetensors", arrays)
    assert_same(run(load_pipeline(folder)), plain[False], atol=0)


@pytest.mark.parametrize("dev", [False, True])
def test_bfl_single_files(weights, plain, dev, tmp_path):
    transformer = folders.bfl_transformer(weights[dev]["transformer"])
    folder = folders.write_single_files(tmp_path, transformer, weights[dev])
    pipeline = load_pipeline(folder)
    assert pipeline.config.guidance_embeds is dev
    assert_same(run(pipeline), plain[dev], atol=1e-5)


def test_bfl_checkpoint_with_the_prefix_of_combined_files(weights, plain, tmp_path):
    transformer = folders.bfl_transformer(weights[False]["transformer"])
    prefixed = {f"model.diffusion_model.{n}": v for n, v in transformer.items()}
    folder = folders.write_single_files(tmp_path, prefixed, weights[False], name="anything.safetensors")
    assert_same(run(load_pipeline(folder)), plain[False], atol=1e-5)


def test_single_files_for_the_text_encoders_too(weights, plain, tmp_path):
    transformer = folders.bfl_transformer(weights[False]["transformer"])
    folder = folders.write_single_files(tmp_path, transformer, weights[False])
    shutil.move(folder / "text_encoder" / "model.safetensors", folder / "clip_l.safetensors")
    shutil.move(folder / "text_encoder_2" / "model.safetensors", folder / "t5xxl_fp16.safetensors")
    assert_same(run(load_pipeline(folder)), plain[False], atol=1e-5)


def test_clip_files_with_a_projection(weights, plain, tmp_path):
    """As Stable Diffusion 3 and ComfyUI store CLIP-L; FLUX pools without the projection."""
    folder = folders.write_diffusers(tmp_path, weights=weights[False])
    config = tiny_flux.CLIP | {"architectures": ["CLIPTextModelWithProjection"]}
    (folder / "text_encoder" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    projection = {
        "text_projection.weight": np.ones((128, 128), np.float32),
        "logit_scale": np.ones((), np.float32),
    }
    folders.save(folder / "text_encoder" / "model.safetensors", weights[False]["text_encoder"] | projection)
    assert_same(run(load_pipeline(folder)), plain[False], atol=0)


@pytest.mark.parametrize("dev", [False, True])
def test_mflux_folder_without_packing(weights, plain, dev, tmp_path):
    folder = folders.write_mflux(tmp_path, bits=None, dev=dev, weights=weights[dev], index=dev)
    assert_same(run(load_pipeline(folder)), plain[dev], atol=1e-5)


@pytest.fixture(scope="module")
def packed(weights, tmp_path_factory):
    """What models packed to 4 and 8 bits should give: plain ones with the rounded weights."""
    result = {}
    for bits in (4, 8):
        rounded = {name: folders.dequantized(w, bits=bits) for name, w in weights[False].items()}
        folder = folders.write_diffusers(tmp_path_factory.mktemp("rounded"), weights=rounded)
        result[bits] = run(load_pipeline(folder))
    return result


@pytest.mark.parametrize("index", [False, True])
@pytest.mark.parametrize("bits", [4, 8])
def test_mflux_packed_folder(weights, packed, bits, index, tmp_path):
    folder = folders.write_mflux(tmp_path, bits=bits, weights=weights[False], index=index)
    pipeline = load_pipeline(folder)
    assert_same(run(pipeline), packed[bits], atol=1e-4)
    transformer = pipeline.networks["transformer"].network
    layer = find_module(transformer, "single_transformer_blocks.0.proj_out")
    assert isinstance(layer, QuantizedLinear)
    assert (layer.bits, layer.group_size) == (bits, 64)
    assert isinstance(pipeline.networks["text_encoder_2"].network.shared, QuantizedEmbedding)


def test_packed_layers_stay_packed_in_memory(weights, tmp_path):
    sizes = {}
    for bits in (None, 8, 4):
        pipeline = load_pipeline(folders.write_mflux(tmp_path / str(bits), bits=bits, weights=weights[False]))
        pipeline.preload()
        sizes[bits] = pipeline.components["transformer"]
    assert sizes[4] < sizes[8] < sizes[None] / 2.5


@pytest.mark.parametrize("group_size", [32, 128])
def test_bits_and_group_size_follow_from_shapes(weights, group_size, tmp_path):
    folder = folders.write_diffusers(tmp_path, weights=weights[False])
    skip = r"context_embedder|x_embedder"
    stored = folders.quantized(weights[False]["transformer"], bits=8, group_size=group_size, skip=skip)
    folders.save(folder / "transformer" / "diffusion_pytorch_model.safetensors", stored)
    network = load_pipeline(folder).networks["transformer"].network
    assert (network.proj_out.bits, network.proj_out.group_size) == (8, group_size)


def test_newer_mflux_folder_lacks_one_bias(weights, tmp_path):
    without = {**weights[False], "transformer": dict(weights[False]["transformer"])}
    without["transformer"]["norm_out.linear.bias"] = np.zeros(256, np.float32)
    expected = run(load_pipeline(folders.write_diffusers(tmp_path / "a", weights=without)))
    folder = folders.write_mflux(tmp_path / "b", bits=None, weights=without, norm_out_bias=False)
    assert_same(run(load_pipeline(folder)), expected, atol=1e-5)


def test_argmax_four_bit_file(weights, tmp_path):
    rounded = dict(weights[False])
    skip = r"^x_embedder\.weight"
    rounded["transformer"] = folders.dequantized(
        folders.without_key_bias(weights[False]["transformer"]), bits=4, skip=skip
    )
    expected = run(load_pipeline(folders.write_diffusers(tmp_path / "a", weights=rounded)))
    stored = folders.quantized(folders.argmax_transformer(weights[False]["transformer"]), bits=4)
    folder = folders.write_single_files(
        tmp_path / "b", stored, weights[False], name="flux-schnell-4bit-quantized.safetensors"
    )
    pipeline = load_pipeline(folder)
    assert_same(run(pipeline), expected, atol=1e-4)
    layer = find_module(pipeline.networks["transformer"].network, "single_transformer_blocks.1.proj_out")
    assert isinstance(layer, QuantizedLinear)


def test_argmax_folder_names(weights, plain, tmp_path):
    folder = folders.write_single_files(
        tmp_path, folders.bfl_transformer(weights[False]["transformer"]), weights[False]
    )
    (folder / "text_encoder").rename(folder / "clip_l")
    (folder / "text_encoder_2").rename(folder / "t5")
    (folder / "tokenizer").rename(folder / "tokenizer_l")
    (folder / "t5" / "model.safetensors").rename(folder / "t5" / "t5xxl.safetensors")
    shutil.move(folder / "tokenizer_2" / "spiece.model", folder / "t5" / "spiece.model")
    assert_same(run(load_pipeline(folder)), plain[False], atol=1e-5)


@pytest.mark.parametrize("layout", ["diffusers", "bfl"])
def test_packing_on_load(weights, packed, layout, tmp_path):
    if layout == "bfl":
        transformer = folders.bfl_transformer(weights[False]["transformer"])
        folder = folders.write_single_files(tmp_path, transformer, weights[False])
    else:
        folder = folders.write_diffusers(tmp_path, weights=weights[False])
    pipeline = load_pipeline(folder, quantization_bits=8)
    pipeline.preload()
    assert isinstance(pipeline.networks["transformer"].network.x_embedder, QuantizedLinear)
    assert isinstance(find_module(pipeline.networks["text_encoder_2"].network, "encoder.block.0.layer.1")
                      .DenseReluDense.wo, QuantizedLinear)  # fmt: skip
    np.testing.assert_allclose(run(pipeline)["latents"], packed[8]["latents"], atol=0.05)


def test_half_precision_is_bfloat16(weights, tmp_path):
    pipeline = load_pipeline(folders.write_diffusers(tmp_path, weights=weights[False]), dtype="float16")
    assert pipeline.networks["transformer"].network.x_embedder.weight.dtype == mx.bfloat16
    assert np.isfinite(run(pipeline)["latents"]).all()


def test_guidance_changes_dev_and_not_schnell(weights, tmp_path):
    for dev in (False, True):
        pipeline = load_pipeline(folders.write_diffusers(tmp_path / str(dev), dev=dev, weights=weights[dev]))
        results = []
        for scale in (1.0, 7.0):
            conditioning = pipeline.encode_prompt(PROMPT, guidance_scale=scale, max_sequence_length=16)
            assert conditioning.negative_prompt_embeds is None
            steps = pipeline.denoise(conditioning, width=32, height=32, steps=1, seed=5)
            results.append(next(iter(steps)).latents)
        assert bool(np.abs(results[0] - results[1]).max() > 1e-3) is dev


@pytest.fixture(scope="module")
def pipeline(weights, tmp_path_factory):
    return load_pipeline(folders.write_diffusers(tmp_path_factory.mktemp("m"), weights=weights[False]))


class TestPipelineBehavior:
    def test_facts(self, pipeline):
        assert (pipeline.size_multiple, pipeline.vae_scale, pipeline.latent_channels) == (16, 8, 16)
        assert pipeline.defaults.steps == 4
        assert pipeline.max_sequence_length == 256

    @pytest.mark.parametrize(("width", "height"), [(40, 32), (32, 8), (0, 32)])
    def test_sizes_that_cannot_be_made_are_refused(self, pipeline, width, height):
        conditioning = pipeline.encode_prompt(PROMPT, max_sequence_length=8)
        with pytest.raises(InvalidInputError, match="multiple of 16"):
            pipeline.denoise(conditioning, width=width, height=height, steps=1)

    @pytest.mark.parametrize("length", [0, 513])
    def test_sequence_length_limits(self, pipeline, length):
        with pytest.raises(InvalidInputError, match="max_sequence_length"):
            pipeline.encode_prompt(PROMPT, max_sequence_length=length)

    def test_a_sampler_for_other_models_is_refused(self, pipeline):
        conditioning = pipeline.encode_prompt(PROMPT, max_sequence_length=8)
        with pytest.raises(InvalidInputError, match="flow"):
            pipeline.denoise(conditioning, width=32, height=32, steps=1, scheduler="ddim")

    def test_cut_prompts_and_negative_prompts_are_noted(self, pipeline):
        conditioning = pipeline.encode_prompt("cat " * 100, "ugly", max_sequence_length=16)
        assert "truncated at 15 of 100 tokens; left out: cat cat" in conditioning.notes[0]
        assert "negative" in conditioning.notes[1]

    def test_one_picture_of_a_batch_can_be_made_alone(self, pipeline):
        both = pipeline.encode_prompt([PROMPT, "x"], max_sequence_length=8)
        alone = pipeline.encode_prompt("x", max_sequence_length=8)
        batch = next(iter(pipeline.denoise(both, width=32, height=32, steps=1, seed=5)))
        single = next(iter(pipeline.denoise(alone, width=32, height=32, steps=1, seed=6)))
        np.testing.assert_allclose(batch.latents[1:], single.latents, atol=1e-5)

    def test_from_a_picture(self, pipeline):
        rng = np.random.default_rng(0)
        picture = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        start = pipeline.encode_image(picture)
        assert start.shape == (1, 4, 4, 16)
        conditioning = pipeline.encode_prompt(PROMPT, max_sequence_length=8)
        options = {"width": 32, "height": 32, "steps": 4, "image_latents": start}
        kept = list(pipeline.denoise(conditioning, strength=0.0, **options))
        np.testing.assert_allclose(kept[-1].latents, start)
        for strength, steps in ((0.5, 2), (0.6, 3), (0.1, 1), (0.99, 4)):
            assert len(list(pipeline.denoise(conditioning, strength=strength, **options))) == steps
        mask = np.zeros((4, 4, 1), np.float32)
        mask[:2] = 1
        painted = list(pipeline.denoise(conditioning, strength=1.0, mask=mask, **options))[-1].latents
        np.testing.assert_allclose(painted[:, 2:], start[:, 2:], atol=1e-6)
        assert np.abs(painted[:, :2] - start[:, :2]).max() > 0.1

    def test_released_parts_come_back_the_same(self, pipeline):
        before = run(pipeline)
        pipeline.release_text_encoders()
        pipeline.release_denoiser()
        pipeline.release_decoder()
        assert set(pipeline.components.values()) == {0}
        assert_same(run(pipeline), before, atol=0)


class TestBrokenFolders:
    @pytest.fixture
    def folder(self, weights, tmp_path):
        return folders.write_diffusers(tmp_path, weights=weights[False])

    def rewrite(self, folder, change):
        path = folder / "transformer" / "diffusion_pytorch_model.safetensors"
        arrays = folders.flux_weights()["transformer"]
        change(arrays)
        folders.save(path, arrays)

    def test_all_that_is_wrong_is_one_error(self, folder):
        def change(arrays):
            del arrays["proj_out.bias"]
            arrays["stray.weight"] = np.zeros((2, 2), np.float32)
            arrays["x_embedder.bias"] = np.zeros(3, np.float32)

        self.rewrite(folder, change)
        with pytest.raises(InvalidModelFilesError) as caught:
            load_pipeline(folder)
        for part in ("1 missing: proj_out.bias", "1 not part of it: stray.weight", "x_embedder.bias is [3]"):
            assert part in str(caught.value)

    def test_missing_part_is_named_with_its_places(self, folder):
        shutil.rmtree(folder / "text_encoder_2")
        with pytest.raises(InvalidModelFilesError, match=r"text_encoder_2 \(in text_encoder_2, t5\)"):
            load_pipeline(folder)

    def test_missing_mflux_shard(self, weights, tmp_path):
        folder = folders.write_mflux(tmp_path, bits=4, weights=weights[False])
        (folder / "transformer" / "0.safetensors").unlink()
        with pytest.raises(InvalidModelFilesError, match=r"lacks 0\.safetensors"):
            load_pipeline(folder)

    def test_last_mflux_shard_missing_is_found_by_its_tensors(self, weights, tmp_path):
        folder = folders.write_mflux(tmp_path, bits=4, weights=weights[False])
        (folder / "text_encoder_2" / "1.safetensors").unlink()
        with pytest.raises(InvalidModelFilesError, match="missing"):
            load_pipeline(folder)

    def test_truncated_file(self, folder):
        path = folder / "transformer" / "diffusion_pytorch_model.safetensors"
        path.write_bytes(path.read_bytes()[:-1000])
        with pytest.raises(InvalidModelFilesError, match="truncated"):
            load_pipeline(folder)

    def test_nf4_file_is_refused_by_name(self, weights, tmp_path):
        transformer = folders.bfl_transformer(weights[False]["transformer"])
        folder = folders.write_single_files(tmp_path, transformer, weights[False])
        entry = {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]}
        name = "double_blocks.0.img_attn.qkv.weight.quant_state.bitsandbytes__nf4"
        text = json.dumps({name: entry}).encode()
        data = len(text).to_bytes(8, "little") + text + b"\0\0"
        (folder / "flux1-schnell.safetensors").write_bytes(data)
        with pytest.raises(UnsupportedModelError, match="bitsandbytes nf4"):
            load_pipeline(folder)

    def test_two_transformers(self, weights, tmp_path):
        transformer = folders.bfl_transformer(weights[False]["transformer"])
        folder = folders.write_single_files(tmp_path, transformer, weights[False])
        shutil.copy(folder / "flux1-schnell.safetensors", folder / "flux1-dev.safetensors")
        with pytest.raises(InvalidModelFilesError, match=r"more than one transformer: flux1-dev"):
            load_pipeline(folder)

    def test_an_empty_folder_is_no_flux_folder(self, tmp_path):
        with pytest.raises(InvalidModelFilesError, match=r"no model_index\.json"):
            load_pipeline(tmp_path)

    def test_heads_of_unknown_proportions_need_a_config(self, weights, tmp_path):
        arrays = dict(weights[False]["transformer"])
        for name in [n for n in arrays if ".norm_" in n]:
            arrays[name] = arrays[name][:24]
        folder = folders.write_single_files(tmp_path, folders.bfl_transformer(arrays), weights[False])
        with pytest.raises(InvalidModelFilesError, match=r"24 features need a config\.json"):
            load_pipeline(folder)


def test_prompts_beyond_the_limit_keep_their_end_mark(tmp_path):
    tiny_flux.write_t5_tokenizer(tmp_path)
    from swiftai_nb.diffusion.tokenizers.t5_tokenizer import T5Tokenizer

    tokenizer = T5Tokenizer.from_folder(tmp_path)
    ids = tokenizer([tiny_flux.LONG, ""], max_length=8)
    assert ids[0, -1] == tokenizer.eos_id
    assert ids[1].tolist() == [tokenizer.eos_id] + [tokenizer.pad_id] * 7
