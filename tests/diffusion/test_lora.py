"""Reading, matching, applying and removing LoRAs; what does not fit is one error that names it."""

import json

import mlx.core as mx
import numpy as np
import pytest

from swiftai_nb.core.errors import InvalidInputError, InvalidModelFilesError, ModelNotFoundError
from swiftai_nb.diffusion.models.layers import AdaptedQuantizedLinear
from swiftai_nb.diffusion.weights.lora import apply_lora, guess_family, load_lora, match_lora
from swiftai_nb.diffusion.weights.lora_targets import lora_targets
from swiftai_nb.diffusion.weights.precision import find_module
from tests.diffusion.flux_folders import save, write_diffusers, write_mflux
from tests.diffusion.loading import load_pipeline
from tests.diffusion.parity import tiny_lora
from tests.diffusion.sd_folders import write_folder

Q = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    made = {model: write_folder(root / model, model) for model in ("sd15", "sdxl")}
    return made | {"flux": write_diffusers(root / "flux")}


@pytest.fixture
def write(tmp_path):
    def to_file(arrays, metadata=None, name="lora.safetensors"):
        save(tmp_path / name, {k: np.asarray(v) for k, v in arrays.items()}, metadata)
        return load_lora(tmp_path / name)

    return to_file


def pair(style, prefix=f"unet.{Q}", rank=4, size=32):
    rng = np.random.default_rng(1)
    return {
        f"{prefix}.{style['down']}": rng.standard_normal((rank, size), dtype=np.float32),
        f"{prefix}.{style['up']}": rng.standard_normal((size, rank), dtype=np.float32),
    }


def weight(pipeline, component="unet", path=Q):
    return np.array(find_module(pipeline.networks[component].network, path).weight)


@pytest.mark.parametrize(
    ("style", "prefix"),
    [
        (tiny_lora.PEFT, f"unet.{Q}"),
        (tiny_lora.PEFT, Q),
        (tiny_lora.PEFT, f"base_model.model.{Q}"),
        (tiny_lora.OLD_DIFFUSERS, f"unet.{Q}"),
        (tiny_lora.KOHYA, "lora_unet_" + Q.replace(".", "_")),
        (tiny_lora.KOHYA, "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q"),
        (tiny_lora.XLABS, f"unet.{Q.removesuffix('to_q')}processor.to_q_lora"),
        ({"down": "lora_A.default.weight", "up": "lora_B.default.weight"}, f"base_model.model.{Q}"),
        ({"down": "lora_linear_layer.down.weight", "up": "lora_linear_layer.up.weight"}, f"unet.{Q}"),
    ],
)
def test_every_convention_reaches_the_same_weight(style, prefix, folders, write):
    pipeline = load_pipeline(folders["sd15"])
    before = weight(pipeline)
    arrays = pair(style, prefix)
    apply_lora(pipeline, write(arrays), 0.5)
    down, up = arrays.values()
    np.testing.assert_allclose(weight(pipeline), before + 0.5 * up @ down, atol=1e-5)


class TestAlpha:
    def factor(self, lora):
        (module,) = lora.modules.values()
        return module.factor

    def test_without_alpha_the_factor_is_one(self, write):
        assert self.factor(write(pair(tiny_lora.PEFT))) == 1.0

    @pytest.mark.parametrize("name", ["alpha", "lora_alpha"])
    def test_as_a_tensor(self, write, name):
        alpha = {f"unet.{Q}.{name}": np.array(2.0, np.float32)}
        assert self.factor(write(pair(tiny_lora.PEFT) | alpha)) == 0.5

    @pytest.mark.parametrize(
        ("config", "expected"),
        [
            ({"unet.lora_alpha": 8, "unet.r": 4}, 2.0),
            ({"unet.lora_alpha": 8, "unet.use_rslora": True}, 4.0),
            ({"unet.lora_alpha": 8, "unet.alpha_pattern": {"attn1.to_q": 1}}, 0.25),
            ({"text_encoder.lora_alpha": 8}, 1.0),
        ],
    )
    def test_in_diffusers_metadata(self, write, config, expected):
        metadata = {"lora_adapter_metadata": json.dumps(config)}
        assert self.factor(write(pair(tiny_lora.PEFT), metadata)) == expected

    @pytest.mark.parametrize(
        "config",
        [
            {"unet.lora_alpha": "8"},
            {"unet.lora_alpha": [8]},
            {"unet.lora_alpha": 10**400},
            {"unet.alpha_pattern": ["to_q"]},
            {"unet.alpha_pattern": {"(": 1}},
            {"unet.alpha_pattern": {"(a+)+b": 1}},
            {"unet.alpha_pattern": {"attn1.to_q": None}},
        ],
    )
    def test_an_alpha_that_makes_no_sense_is_one_error(self, write, config):
        with pytest.raises(InvalidModelFilesError, match="alpha"):
            write(pair(tiny_lora.PEFT), {"lora_adapter_metadata": json.dumps(config)})

    @pytest.mark.parametrize(
        "pattern", [r".*\.attn1\.(to_q|to_k)", r"down_blocks\.\d+\..*to_q", "^to_q|to_k"]
    )
    def test_the_usual_regular_expressions_of_peft_match(self, write, pattern):
        config = {"unet.lora_alpha": 8, "unet.alpha_pattern": {pattern: 1}}
        lora = write(pair(tiny_lora.PEFT), {"lora_adapter_metadata": json.dumps(config)})
        assert self.factor(lora) == (2.0 if pattern.startswith("^") else 0.25)

    @pytest.mark.parametrize("alpha", [np.float32("nan"), np.float32("inf")])
    def test_an_alpha_tensor_that_is_no_number_is_one_error(self, write, alpha):
        with pytest.raises(InvalidModelFilesError, match="alpha cannot be"):
            write(pair(tiny_lora.PEFT) | {f"unet.{Q}.alpha": np.array(alpha)})

    def test_in_peft_config(self, tmp_path):
        save(tmp_path / "adapter_model.safetensors", pair(tiny_lora.PEFT, f"base_model.model.{Q}"))
        (tmp_path / "adapter_config.json").write_text(json.dumps({"lora_alpha": 2, "r": 4}), encoding="utf-8")
        assert self.factor(load_lora(tmp_path)) == 0.5


def test_half_precision_files(folders, write):
    pipeline = load_pipeline(folders["sd15"])
    before = weight(pipeline)
    arrays = {k: mx.array(v).astype(mx.bfloat16) for k, v in pair(tiny_lora.PEFT).items()}
    from tests.diffusion.flux_folders import save as save_arrays

    folder = folders["sd15"].parent / "half"
    save_arrays(folder / "x.safetensors", arrays)
    apply_lora(pipeline, load_lora(folder))
    down, up = (np.array(v.astype(mx.float32)) for v in arrays.values())
    np.testing.assert_allclose(weight(pipeline), before + up @ down, atol=1e-5)


def test_two_loras_add_up_and_either_can_go(folders, write):
    pipeline = load_pipeline(folders["sd15"])
    before = weight(pipeline)
    first = apply_lora(pipeline, write(pair(tiny_lora.PEFT)), 0.5)
    second = apply_lora(pipeline, write(pair(tiny_lora.PEFT)), -0.25)
    down, up = pair(tiny_lora.PEFT).values()
    np.testing.assert_allclose(weight(pipeline), before + 0.25 * up @ down, atol=1e-5)
    first.remove()
    np.testing.assert_allclose(weight(pipeline), before - 0.25 * up @ down, atol=1e-5)
    second.remove()
    np.testing.assert_array_equal(weight(pipeline), before)


def test_blocks_have_scales_of_their_own(folders, write):
    arrays = pair(tiny_lora.PEFT) | pair(
        tiny_lora.PEFT, "text_encoder.text_model.encoder.layers.0.self_attn.q_proj"
    )
    out = Q.replace("down_blocks.0", "up_blocks.2")
    arrays |= pair(tiny_lora.PEFT, f"unet.{out}")
    down, up, *_ = arrays.values()
    text = "text_model.encoder.layers.0.self_attn.q_proj"
    places = (("unet", Q), ("unet", out), ("text_encoder", text))
    pipeline = load_pipeline(folders["sd15"])
    before = [weight(pipeline, *place) for place in places]
    apply_lora(pipeline, write(arrays), 0.5, blocks="IN01=0.5,BASE=0")
    for place, plain, scale in zip(places, before, (0.5, 1.0, 0.0), strict=True):
        np.testing.assert_allclose(weight(pipeline, *place), plain + 0.5 * scale * up @ down, atol=1e-5)
    with pytest.raises(InvalidInputError, match="lora blocks are those of"):
        apply_lora(load_pipeline(folders["flux"]), write(tiny_lora.CASES["flux_peft"][1]), blocks="M00=0")


def test_a_lora_survives_release_and_reload(folders, write):
    pipeline = load_pipeline(folders["sd15"])
    apply_lora(pipeline, write(pair(tiny_lora.PEFT)))
    changed = weight(pipeline)
    pipeline.release_denoiser()
    np.testing.assert_array_equal(weight(pipeline), changed)


def test_untouched_networks_stay_unread(folders, write):
    pipeline = load_pipeline(folders["sd15"])
    apply_lora(pipeline, write(pair(tiny_lora.PEFT)))
    assert set(pipeline.components.values()) == {0}


def test_every_latent_diffusion_name_of_sdxl(folders):
    """Names diffusers cannot read itself, against its own names for the same modules."""
    table = lora_targets({k: v.blank() for k, v in load_pipeline(folders["sdxl"]).networks.items()})
    for name, path, *_ in tiny_lora.SDXL_UNET_LDM_MORE:
        (target,) = table[f"lora_unet_{name}"]
        assert (target.component, target.path) == ("unet", path)


def test_conv_loras_with_latent_diffusion_names(folders, write):
    modules = [(name, *size) for name, _, *size in tiny_lora.SDXL_UNET_LDM_MORE]
    own = [(path, *size) for _, path, *size in tiny_lora.SDXL_UNET_LDM_MORE]
    foreign = tiny_lora.pairs(modules, prefix="lora_unet_", style=tiny_lora.KOHYA)
    values = list(foreign.values())
    renamed = dict(zip(tiny_lora.pairs(own, prefix="unet.", style=tiny_lora.KOHYA), values, strict=True))
    results = []
    for arrays in (foreign, renamed):
        pipeline = load_pipeline(folders["sdxl"])
        apply_lora(pipeline, write(arrays), 0.5)
        results.append(weight(pipeline, path="up_blocks.0.upsamplers.0.conv"))
    plain = weight(load_pipeline(folders["sdxl"]), path="up_blocks.0.upsamplers.0.conv")
    np.testing.assert_array_equal(*results)
    assert np.abs(results[0] - plain).max() > 0.1


@pytest.mark.parametrize("prefix", ["lora_te3_", "text_encoder_2."])
def test_t5_of_flux(prefix, folders, write):
    path = "encoder.block.1.layer.1.DenseReluDense.wo"
    pipeline = load_pipeline(folders["flux"])
    before = weight(pipeline, "text_encoder_2", path)
    name = path.replace(".", "_") if prefix.endswith("_") else path
    rng = np.random.default_rng(0)
    arrays = {
        f"{prefix}{name}.lora_down.weight": rng.standard_normal((2, 128), dtype=np.float32),
        f"{prefix}{name}.lora_up.weight": rng.standard_normal((64, 2), dtype=np.float32),
    }
    apply_lora(pipeline, write(arrays))
    down, up = arrays.values()
    np.testing.assert_allclose(weight(pipeline, "text_encoder_2", path), before + up @ down, atol=1e-5)


@pytest.mark.parametrize("prefix", ["diffusion_model.", "transformer.", ""])
def test_black_forest_labs_names_with_peft_suffixes(prefix, folders, write):
    modules = [("double_blocks.0.img_attn.qkv", 128, 384, 0), ("final_layer.adaLN_modulation.1", 128, 256, 0)]
    arrays = tiny_lora.pairs(modules, prefix=prefix, style=tiny_lora.PEFT)
    pipeline = load_pipeline(folders["flux"])
    key, out = "transformer_blocks.0.attn.to_k", "norm_out.linear"
    before = [weight(pipeline, "transformer", path) for path in (key, out)]
    apply_lora(pipeline, write(arrays))
    qkv_down, qkv_up, end_down, end_up = arrays.values()
    np.testing.assert_allclose(
        weight(pipeline, "transformer", key), before[0] + (qkv_up @ qkv_down)[128:256], atol=1e-5
    )
    swapped = np.roll(end_up @ end_down, 128, axis=0)
    np.testing.assert_allclose(weight(pipeline, "transformer", out), before[1] + swapped, atol=1e-5)


class TestPackedWeights:
    def outputs(self, pipeline, scale=None, lora=None):
        if lora is not None:
            apply_lora(pipeline, lora, scale)
        conditioning = pipeline.encode_prompt("a cat", max_sequence_length=8)
        noise = np.random.default_rng(1).standard_normal((1, 4, 4, 16), dtype=np.float32)
        return next(iter(pipeline.denoise(conditioning, width=32, height=32, steps=1, latents=noise))).latents

    def test_a_branch_beside_packed_weights_is_the_same_sum(self, write, tmp_path):
        arrays = tiny_lora.pairs(tiny_lora.FLUX_KOHYA, prefix="lora_unet_", style=tiny_lora.KOHYA)
        lora = write(arrays)
        folder = write_mflux(tmp_path / "m", bits=8)
        pipeline = load_pipeline(folder)
        plain = self.outputs(pipeline)
        branched = self.outputs(pipeline, 0.3, lora)
        layer = find_module(pipeline.networks["transformer"].network, "transformer_blocks.0.attn.to_q")
        assert isinstance(layer, AdaptedQuantizedLinear)
        assert layer.weight.dtype == mx.uint32

        def unpacked(network, path):
            module = find_module(network, path)
            base = mx.dequantize(
                module.weight, module.scales, module.biases, group_size=module.group_size, bits=module.bits
            )
            return np.array(base + module.lora_up @ module.lora_down)

        network = pipeline.networks["transformer"].network
        x = mx.array(np.random.default_rng(5).standard_normal((3, 128), dtype=np.float32))
        path = "transformer_blocks.1.attn.add_v_proj"
        expected = np.array(x) @ unpacked(network, path).T + np.array(find_module(network, path).bias)
        np.testing.assert_allclose(np.array(find_module(network, path)(x)), expected, atol=1e-3)
        assert np.abs(branched - plain).max() > 0.01

    def test_branches_stack_and_come_off(self, write, tmp_path):
        arrays = tiny_lora.pairs(tiny_lora.FLUX_DIFFUSERS, prefix="transformer.", style=tiny_lora.PEFT)
        pipeline = load_pipeline(write_mflux(tmp_path / "m", bits=4))
        plain = self.outputs(pipeline)
        lora = write(arrays)
        once = self.outputs(pipeline, 0.4, lora)
        apply_lora(pipeline, lora, -0.2)
        twice = apply_lora(pipeline, lora, 0.2)
        np.testing.assert_allclose(self.outputs(pipeline), once, atol=1e-4)
        twice.remove()
        assert np.abs(self.outputs(pipeline) - once).max() > 1e-3
        zero = apply_lora(pipeline, lora, -0.2)
        np.testing.assert_allclose(self.outputs(pipeline), plain, atol=1e-4)
        zero.remove()

    def test_packing_on_load_then_lora(self, folders, write):
        pipeline = load_pipeline(folders["flux"], quantization_bits=4)
        plain = self.outputs(pipeline)
        arrays = tiny_lora.pairs(tiny_lora.FLUX_DIFFUSERS, prefix="transformer.", style=tiny_lora.PEFT)
        assert np.abs(self.outputs(pipeline, 1.0, write(arrays)) - plain).max() > 0.01


class TestErrors:
    def test_unknown_modules_are_counted_and_named(self, folders, write):
        arrays = pair(tiny_lora.PEFT) | pair(tiny_lora.PEFT, "unet.no_such.module")
        with pytest.raises(
            InvalidModelFilesError, match=r"1 of 2 modules are not in this model: unet\.no_such"
        ):
            apply_lora(load_pipeline(folders["sd15"]), write(arrays))

    def test_nothing_is_changed_when_something_does_not_fit(self, folders, write):
        pipeline = load_pipeline(folders["sd15"])
        before = weight(pipeline)
        with pytest.raises(InvalidModelFilesError):
            apply_lora(pipeline, write(pair(tiny_lora.PEFT) | pair(tiny_lora.PEFT, "unet.no_such.module")))
        np.testing.assert_array_equal(weight(pipeline), before)

    @pytest.mark.parametrize(("case", "model"), [("flux_kohya", "sd15"), ("sd15_kohya", "flux"), ("sdxl_kohya", "sd15"),
                                                 ("flux_peft", "sdxl"), ("sd15_peft", "sdxl")])  # fmt: skip
    def test_a_lora_for_another_model(self, case, model, folders, write):
        _, arrays = tiny_lora.CASES[case]
        with pytest.raises(InvalidModelFilesError, match="does not fit"):
            apply_lora(load_pipeline(folders[model]), write(arrays))

    def test_sizes_that_do_not_fit_are_told(self, folders, write):
        with pytest.raises(InvalidModelFilesError, match="changes 48 -> 48, the model's is 32 -> 32"):
            apply_lora(load_pipeline(folders["sd15"]), write(pair(tiny_lora.PEFT, size=48)))

    @pytest.mark.parametrize(
        ("name", "width", "family"),
        [
            (
                "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k",
                768,
                "Stable Diffusion 1.x",
            ),
            ("unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k", 2048, "Stable Diffusion XL"),
            ("lora_unet_single_blocks_0_linear1", 3072, "FLUX.1"),
        ],
    )
    def test_the_family_a_lora_was_made_for_is_named(self, name, width, family, folders, write):
        arrays = {f"{name}.lora_down.weight": np.zeros((1, width), np.float32),
                  f"{name}.lora_up.weight": np.zeros((8, 1), np.float32)}  # fmt: skip
        lora = write(arrays)
        assert guess_family(lora) == family
        other = "sd15" if family == "FLUX.1" else "flux"
        with pytest.raises(InvalidModelFilesError, match=f"made for {family}"):
            match_lora(lora, {k: v.blank() for k, v in load_pipeline(folders[other]).networks.items()})

    @pytest.mark.parametrize(
        ("key", "kind"),
        [
            ("x.oft_diag", "OFT of another kind"),
            ("x.on_input", "IA3"),
            ("x.a1.weight", "GLoRA"),
            ("x.reshape_weight", "control"),
        ],
    )
    def test_other_kinds_of_adapter_are_named(self, write, key, kind):
        with pytest.raises(InvalidModelFilesError, match=r"1 of 3 keys are no LoRA's: x\.") as caught:
            write(pair(tiny_lora.PEFT) | {key: np.zeros(3, np.float32)})
        assert kind in str(caught.value)

    def test_a_whole_model_is_no_lora(self, folders):
        with pytest.raises(InvalidModelFilesError, match="is a model of Stable Diffusion, not a LoRA"):
            load_lora(folders["sd15"] / "unet")

    def test_half_a_pair(self, write):
        arrays = pair(tiny_lora.PEFT)
        arrays.popitem()
        with pytest.raises(InvalidModelFilesError, match="has no up matrix"):
            write(arrays)

    def test_matrices_that_do_not_multiply(self, write):
        arrays = pair(tiny_lora.PEFT)
        key = next(k for k in arrays if "lora_A" in k)
        arrays[key] = arrays[key][:3]
        with pytest.raises(InvalidModelFilesError, match="do not multiply"):
            write(arrays)

    def test_places_without_a_lora(self, tmp_path):
        for path in (tmp_path, tmp_path / "none.safetensors"):
            with pytest.raises(ModelNotFoundError):
                load_lora(path)

    def test_a_folder_with_several(self, tmp_path):
        for name in ("a", "b"):
            save(tmp_path / f"{name}.safetensors", pair(tiny_lora.PEFT))
        with pytest.raises(InvalidModelFilesError, match="several"):
            load_lora(tmp_path)

    def test_a_broken_file(self, tmp_path):
        (tmp_path / "x.safetensors").write_bytes(b"no")
        with pytest.raises(InvalidModelFilesError, match="corrupt"):
            load_lora(tmp_path / "x.safetensors")

    @pytest.mark.parametrize("scale", [float("nan"), float("inf")])
    def test_scales_that_are_no_numbers(self, scale, folders, write):
        with pytest.raises(InvalidInputError, match="finite"):
            apply_lora(load_pipeline(folders["sd15"]), write(pair(tiny_lora.PEFT)), scale)


@pytest.mark.parametrize(
    ("down", "what"),
    [
        (np.zeros((0, 8), np.float32), "is empty"),
        (np.full((4, 8), np.nan, np.float16), "not numbers"),
        (np.ones((4, 8), np.int8), "type int8"),
    ],
)
def test_matrices_that_no_picture_survives_are_refused(down, what, tmp_path):
    up = np.ones((8, len(down)), np.float32)
    save(tmp_path / "bad.safetensors", {"unet.x.lora_A.weight": down, "unet.x.lora_B.weight": up})
    with pytest.raises(InvalidModelFilesError, match=f"bad.safetensors is damaged: .*{what}"):
        load_lora(tmp_path / "bad.safetensors")
