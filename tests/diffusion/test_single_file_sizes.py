"""Published sizes: what shapes tell of them is what their publishers' configurations say."""

import re

import pytest
from mlx.utils import tree_flatten

from swiftai_nb.diffusion.models.clip import CLIPTextConfig, CLIPTextModel
from swiftai_nb.diffusion.models.unet import UNet
from swiftai_nb.diffusion.models.unet_config import UNetConfig
from swiftai_nb.diffusion.models.vae import Autoencoder, VAEConfig
from swiftai_nb.model_files.folder import open_model
from swiftai_nb.model_files.variants import DiffusionVariant
from tests.diffusion.parity import tiny_sd
from tests.diffusion.single_files import ldm_unet, ldm_vae
from tests.model_files.files import write_weights

CROSS, PLAIN = "CrossAttnDownBlock2D", "DownBlock2D"
UNETS = {
    "sd15": {"block_out_channels": (320, 640, 1280, 1280), "layers_per_block": 2, "cross_attention_dim": 768,
             "attention_head_dim": 8},
    "sd21": {"block_out_channels": (320, 640, 1280, 1280), "layers_per_block": 2, "cross_attention_dim": 1024,
             "attention_head_dim": (5, 10, 20, 20), "use_linear_projection": True},
    "sdxl": {"block_out_channels": (320, 640, 1280), "layers_per_block": 2, "cross_attention_dim": 2048,
             "attention_head_dim": (5, 10, 20), "use_linear_projection": True,
             "down_block_types": (PLAIN, CROSS, CROSS),
             "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
             "transformer_layers_per_block": (1, 2, 10), "addition_embed_type": "text_time",
             "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816},
}  # fmt: skip
_DEFAULT_UP = ("UpBlock2D", *("CrossAttnUpBlock2D",) * 3)
VAE = {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "latent_channels": 4}
CLIP_L = {"vocab_size": 49408, "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
          "num_attention_heads": 12}  # fmt: skip
OPEN_CLIPS = {"sd21": (1024, 24), "sdxl": (1280, 32)}


class Shape:
    """Stands for an array in the key maps, which look at dimensions only."""

    def __init__(self, shape):
        self.shape, self.ndim = tuple(shape), len(shape)

    def __getitem__(self, _index):
        return Shape((*self.shape, 1, 1))


def shapes_of(network):
    shapes = {name: tuple(value.shape) for name, value in tree_flatten(network.parameters())}
    return {n: Shape((s[0], s[3], s[1], s[2]) if len(s) == 4 else s) for n, s in shapes.items()}


def open_clip_shapes(width, layers):
    block = {"attn.in_proj_weight": (3 * width, width), "attn.in_proj_bias": (3 * width,),
             "attn.out_proj.weight": (width, width), "attn.out_proj.bias": (width,),
             "ln_1.weight": (width,), "ln_1.bias": (width,), "ln_2.weight": (width,), "ln_2.bias": (width,),
             "mlp.c_fc.weight": (4 * width, width), "mlp.c_fc.bias": (4 * width,),
             "mlp.c_proj.weight": (width, 4 * width), "mlp.c_proj.bias": (width,)}  # fmt: skip
    result = {f"transformer.resblocks.{i}.{n}": s for i in range(layers) for n, s in block.items()}
    return result | {"token_embedding.weight": (49408, width), "positional_embedding": (77, width),
                     "ln_final.weight": (width,), "ln_final.bias": (width,), "logit_scale": (),
                     "text_projection": (width, width)}  # fmt: skip


@pytest.fixture
def published(tmp_path, monkeypatch):
    def write(model, *, has_kernels=False):
        """A file of zeros with the names and shapes of a published checkpoint; it takes no room on disk."""
        config = UNETS[model]
        spec = {"unet": {"up_block_types": _DEFAULT_UP, **config}}
        monkeypatch.setitem(tiny_sd.MODELS, model, spec)
        unet = ldm_unet(shapes_of(UNet(UNetConfig.from_dict(config))), model)
        shapes = {f"model.diffusion_model.{n}": s.shape for n, s in unet.items()}
        if has_kernels:
            for name, shape in shapes.items():
                if re.search(r"\.1\.proj_(in|out)\.weight$", name):
                    shapes[name] = (*shape, 1, 1)
        vae = ldm_vae(shapes_of(Autoencoder(VAEConfig.from_dict(VAE))))
        shapes |= {f"first_stage_model.{n}": s.shape for n, s in vae.items()}
        clip = {n: s.shape for n, s in shapes_of(CLIPTextModel(CLIPTextConfig.from_dict(CLIP_L))).items()}
        prefix = {"sd15": "cond_stage_model.transformer.", "sdxl": "conditioner.embedders.0.transformer."}
        if model in prefix:
            shapes |= {prefix[model] + n: s for n, s in clip.items()}
        if model in OPEN_CLIPS:
            other = "cond_stage_model.model." if model == "sd21" else "conditioner.embedders.1.model."
            shapes |= {other + n: s for n, s in open_clip_shapes(*OPEN_CLIPS[model]).items()}
        return write_weights(tmp_path / f"{model}.safetensors", "F16", **shapes)

    return write


@pytest.mark.parametrize(
    ("model", "has_kernels", "variant", "side"),
    [("sd15", True, DiffusionVariant.SD_15, 512), ("sd15", False, DiffusionVariant.SD_15, 512),
     ("sd21", False, DiffusionVariant.SD_21, 512), ("sdxl", False, DiffusionVariant.SDXL, 1024)],
)  # fmt: skip
def test_a_published_checkpoint_is_told_by_its_shapes(published, model, has_kernels, variant, side):
    opened = open_model(published(model, has_kernels=has_kernels))
    assert (opened.variant, opened.defaults.width) == (variant, side)
    assert [name for name in opened.missing if "tokenizer" not in name] == []
    inferred = UNetConfig.from_dict(opened.components["unet"].values)
    expected = UNetConfig.from_dict({**UNETS[model], "sample_size": side // 8})
    fields = [
        name for name in UNetConfig.__dataclass_fields__ if name not in ("source", "use_linear_projection")
    ]
    for name in fields:
        assert getattr(inferred, name) == getattr(expected, name), name
    vae = VAEConfig.from_dict(opened.components["vae"].values)
    assert (tuple(vae.block_out_channels), vae.layers_per_block) == (VAE["block_out_channels"], 2)
    assert vae.scaling_factor == (0.13025 if model == "sdxl" else 0.18215)


def test_text_encoders_have_the_published_depth(published):
    sd15 = open_model(published("sd15")).components["text_encoder"].values
    assert {name: sd15[name] for name in CLIP_L} == CLIP_L
    sd21 = open_model(published("sd21")).components["text_encoder"].values
    assert (sd21["num_hidden_layers"], sd21["num_attention_heads"], sd21["hidden_act"]) == (23, 16, "gelu")
    sdxl = open_model(published("sdxl")).components
    assert sdxl["text_encoder"].values["num_hidden_layers"] == 12
    second = sdxl["text_encoder_2"].values
    assert (second["num_hidden_layers"], second["num_attention_heads"]) == (32, 20)
    assert second["projection_dim"] == 1280
    assert re.match("CLIPTextModelWithProjection", second["architectures"][0])
