"""LoRA and LoKr on Z-Image under every convention of names: the result is that of changed weights."""

import mlx.core as mx
import numpy as np
import pytest

from swiftai_nb.core.errors import InvalidModelFilesError
from swiftai_nb.diffusion.pipelines.families import load_pipeline
from swiftai_nb.diffusion.weights.lora import apply_lora, guess_family, load_lora
from tests.diffusion.flux_folders import save
from tests.diffusion.z_image_folders import write_diffusers, z_image_weights

RANK, ALPHA, SCALE = 4, 2.0, 0.8
MODULES = (
    "layers.0.attention.to_q",
    "layers.0.attention.to_k",
    "layers.0.attention.to_v",
    "layers.1.attention.to_out.0",
    "layers.1.feed_forward.w1",
    "noise_refiner.0.adaLN_modulation.0",
    "context_refiner.0.feed_forward.w2",
    "all_final_layer.2-1.linear",
)


@pytest.fixture(scope="module")
def weights():
    return z_image_weights()


@pytest.fixture(scope="module")
def folder(tmp_path_factory, weights):
    return write_diffusers(tmp_path_factory.mktemp("z_image"), weights=weights)


@pytest.fixture(scope="module")
def pairs(weights):
    """Module -> (down, up); queries, keys and values share the first, as in a fused map."""
    rng, result = np.random.default_rng(3), {}
    for module in MODULES:
        outputs, inputs = weights["transformer"][f"{module}.weight"].shape
        down = rng.standard_normal((RANK, inputs), dtype=np.float32) / 8
        up = rng.standard_normal((outputs, RANK), dtype=np.float32) / 8
        result[module] = (result[MODULES[0]][0] if module in MODULES[1:3] else down, up)
    return result


def dotted(prefix, *, down="lora_A", up="lora_B", alpha=True):
    def write(pairs):
        result = {}
        for module, (first, second) in pairs.items():
            result |= {f"{prefix}{module}.{down}.weight": first, f"{prefix}{module}.{up}.weight": second}
            if alpha:
                result[f"{prefix}{module}.alpha"] = np.float32(ALPHA)
        return result

    return write


def kohya(pairs):
    underscored = {f"lora_unet_{module.replace('.', '_')}": pair for module, pair in pairs.items()}
    return dotted("", down="lora_down", up="lora_up")(underscored)


def fused(pairs):
    """The model's own names: one map for queries, keys and values, `out`, `final_layer`."""
    q, k, v = (pairs[module] for module in MODULES[:3])
    result = {"layers.0.attention.qkv": (q[0], np.concatenate([q[1], k[1], v[1]]))}
    for module in MODULES[3:]:
        name = module.replace("to_out.0", "out").replace("all_final_layer.2-1", "final_layer")
        result[name] = pairs[module]
    return result


CONVENTIONS = {
    "diffusers": dotted("transformer."),
    "PEFT": dotted("base_model.model.", down="lora_A.default", up="lora_B.default"),
    "ComfyUI": dotted("diffusion_model."),
    "kohya": kohya,
    "ComfyUI, fused": lambda pairs: dotted("diffusion_model.", down="lora_down", up="lora_up")(fused(pairs)),
    "kohya, fused": lambda pairs: kohya(fused(pairs)),
}


def draw(pipeline):
    conditioning = pipeline.encode_prompt("a red cat")
    return list(pipeline.denoise(conditioning, width=32, height=48, steps=2, seed=4))[-1].latents


def changed(weights, deltas):
    transformer = dict(weights["transformer"])
    for module, delta in deltas.items():
        transformer[f"{module}.weight"] = transformer[f"{module}.weight"] + delta
    return weights | {"transformer": transformer}


@pytest.fixture(scope="module")
def expected(tmp_path_factory, weights, pairs):
    deltas = {module: SCALE * ALPHA / RANK * up @ down for module, (down, up) in pairs.items()}
    folder = write_diffusers(tmp_path_factory.mktemp("changed"), weights=changed(weights, deltas))
    return draw(load_pipeline(folder, dtype="float32"))


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_conventions(convention, tmp_path, folder, pairs, expected):
    save(tmp_path / "lora.safetensors", CONVENTIONS[convention](pairs))
    pipeline = load_pipeline(folder, dtype="float32")
    plain = draw(pipeline)
    applied = apply_lora(pipeline, load_lora(tmp_path / "lora.safetensors"), SCALE)
    result = draw(pipeline)
    assert np.abs(result - plain).max() > 1e-2
    np.testing.assert_allclose(result, expected, atol=1e-4)
    applied.remove()
    np.testing.assert_array_equal(draw(pipeline), plain)


def lokr(prefix, *, divided):
    """LoKr of the first four modules, and what it adds to each."""
    rng, tensors, deltas = np.random.default_rng(5), {}, {}

    def random(*shape):
        return rng.standard_normal(shape, dtype=np.float32) / 6

    for module in MODULES[:4]:
        name = prefix + (module if prefix.endswith(".") else module.replace(".", "_"))
        first, second, factor = random(4, 4), random(48, 48), 1.0
        tensors |= {f"{name}.lokr_w1": first, f"{name}.alpha": np.float32(ALPHA)}
        if divided:
            a, b = random(48, RANK), random(RANK, 48)
            second, factor = a @ b, ALPHA / RANK
            tensors |= {f"{name}.lokr_w2_a": a, f"{name}.lokr_w2_b": b}
        else:
            tensors[f"{name}.lokr_w2"] = second
        deltas[module] = SCALE * factor * np.kron(first, second)
    return tensors, deltas


@pytest.mark.parametrize("prefix", ["lycoris_", "diffusion_model."])
@pytest.mark.parametrize("divided", [False, True], ids=["whole", "divided"])
def test_lokr(prefix, divided, tmp_path, folder, weights):
    tensors, deltas = lokr(prefix, divided=divided)
    save(tmp_path / "lokr.safetensors", tensors)
    pipeline = load_pipeline(folder, dtype="float32")
    apply_lora(pipeline, load_lora(tmp_path / "lokr.safetensors"), SCALE)
    held = write_diffusers(tmp_path / "changed", weights=changed(weights, deltas))
    np.testing.assert_allclose(draw(pipeline), draw(load_pipeline(held, dtype="float32")), atol=1e-4)


@pytest.mark.parametrize("kind", ["LoRA", "LoKr"])
def test_beside_quantized_weights(kind, tmp_path, folder, pairs):
    tensors, deltas = lokr("diffusion_model.", divided=False)
    if kind == "LoRA":
        tensors = CONVENTIONS["ComfyUI, fused"](pairs)
        deltas = {module: SCALE * ALPHA / RANK * up @ down for module, (down, up) in pairs.items()}
    save(tmp_path / "lora.safetensors", tensors)
    pipeline = load_pipeline(folder, dtype="float32", quantization_bits=4)
    x = mx.array(np.random.default_rng(1).standard_normal((1, 5, 192), dtype=np.float32))
    before = np.array(pipeline.networks["transformer"].network.layers[0].attention.to_k(x))
    for _ in range(2):  # two add up
        apply_lora(pipeline, load_lora(tmp_path / "lora.safetensors"), SCALE)
    after = np.array(pipeline.networks["transformer"].network.layers[0].attention.to_k(x))
    np.testing.assert_allclose(after - before, 2 * np.array(x) @ deltas[MODULES[1]].T, atol=1e-4)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_its_family_is_named_where_it_does_not_fit(convention, tmp_path, pairs):
    save(tmp_path / "lora.safetensors", CONVENTIONS[convention](pairs))
    assert guess_family(load_lora(tmp_path / "lora.safetensors")) == "Z-Image"


def test_a_lora_of_another_model_is_refused(tmp_path, folder):
    arrays = {"double_blocks.0.img_attn.qkv.lora_A.weight": np.ones((2, 8), np.float32),
              "double_blocks.0.img_attn.qkv.lora_B.weight": np.ones((8, 2), np.float32)}  # fmt: skip
    save(tmp_path / "flux.safetensors", arrays)
    with pytest.raises(InvalidModelFilesError, match="not in this model"):
        apply_lora(load_pipeline(folder), load_lora(tmp_path / "flux.safetensors"))
