"""The networks of both models: plain Stable Diffusion 1.5 building blocks, small."""

from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from transformers import CLIPTextConfig, CLIPTextModel

SIZE = 128
CODED_SIZE = 64  # what the first autoencoder, whose latents everything is trained on, sees
LATENT_SIZE = 8
LATENT_CHANNELS = 16
TEXT_WIDTH = 192
MAX_TOKENS = 24
SCALING_FACTOR = 0.18215


SIZE_256 = 256


def autoencoder(channels=(16, 32, 64, 128), size=CODED_SIZE, latent_channels=LATENT_CHANNELS):
    """One block per factor of two, by default 16 latent channels: the 1024 numbers of an 8x8 grid."""
    return AutoencoderKL(
        in_channels=3, out_channels=3, down_block_types=["DownEncoderBlock2D"] * len(channels),
        up_block_types=["UpDecoderBlock2D"] * len(channels), block_out_channels=channels, layers_per_block=1,
        latent_channels=latent_channels, norm_num_groups=8, sample_size=size, mid_block_add_attention=False,
        scaling_factor=SCALING_FACTOR,
    )  # fmt: skip


def shipped_autoencoder():
    """Factor 16, of the same latents: pictures of twice the side for a decoder that costs little more."""
    return autoencoder((16, 32, 32, 64, 128), SIZE)


def autoencoder_256():
    """Factor 32, of the same latents: wide where that costs no time, so that it can know what it draws."""
    return autoencoder((16, 16, 32, 64, 128, 192), SIZE_256)


def text_encoder(vocab_size):
    """CLIP's text transformer; the last two tokens are start and end."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=vocab_size, hidden_size=TEXT_WIDTH, intermediate_size=512, num_hidden_layers=3,
            num_attention_heads=4, max_position_embeddings=MAX_TOKENS, hidden_act="gelu", projection_dim=TEXT_WIDTH,
            bos_token_id=vocab_size - 2, eos_token_id=vocab_size - 1, pad_token_id=vocab_size - 1,
        )
    )  # fmt: skip


def unet(channels=(128, 192), side=LATENT_SIZE, latent_channels=LATENT_CHANNELS):
    attended = len(channels) - 1
    net = UNet2DConditionModel(
        sample_size=side, in_channels=latent_channels, out_channels=latent_channels,
        down_block_types=("CrossAttnDownBlock2D",) * attended + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * attended,
        block_out_channels=channels, layers_per_block=1, cross_attention_dim=TEXT_WIDTH, attention_head_dim=4,
        norm_num_groups=16,
    )  # fmt: skip
    net.set_attn_processor(AttnProcessor())  # faster than the fused kernel at this size on a CPU
    return net


def scheduler():
    """v-prediction; beta_end 0.02 leaves next to nothing of the picture in the last step's noise."""
    return DDIMScheduler(
        num_train_timesteps=1000, beta_start=0.00085, beta_end=0.02, beta_schedule="scaled_linear",
        prediction_type="v_prediction", clip_sample=False, set_alpha_to_one=True, steps_offset=1,
        timestep_spacing="trailing",
    )  # fmt: skip
