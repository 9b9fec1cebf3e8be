import pytest
import torch

import networks
from inherit import inherit

OLD = (8, 8, 16, 16)


def network(channels, latent_channels, seed):
    torch.manual_seed(seed)
    return networks.autoencoder(channels, 32, latent_channels).eval()


def test_of_the_same_shape_everything_is_inherited():
    old, new = network(OLD, 4, 0), network(OLD, 4, 1)
    assert inherit(new, old.state_dict()) == []
    x = torch.rand(1, 3, 32, 32)
    assert torch.equal(new(x).sample, old(x).sample)


def test_a_deeper_decoder_draws_the_same_picture_twice_as_large():
    old, new = network(OLD, 4, 0), network((8, *OLD), 4, 1)
    fresh = inherit(new, old.state_dict())
    assert all(".up_blocks.3.ups" in n or ".up_blocks.4." in n or ".down_blocks.0." in n for n in fresh)
    z = torch.randn(1, 4, 4, 4)
    small, large = old.decode(z).sample, new.decode(z).sample
    assert large.shape[-1] == 2 * small.shape[-1]
    inner = torch.nn.functional.avg_pool2d(large, 2)[..., 2:-2, 2:-2].flatten()
    assert torch.corrcoef(torch.stack([inner, small[..., 2:-2, 2:-2].flatten()]))[0, 1] > 0.8


@pytest.mark.parametrize("channels", [2, 6])
def test_latents_of_another_depth_keep_means_and_variances_apart(channels):
    old, new = network(OLD, 4, 0), network(OLD, channels, 1)
    inherit(new, old.state_dict())
    kept = min(channels, 4)
    for name in ("encoder.conv_out.bias", "quant_conv.bias"):
        a, b = (dict(net.named_parameters())[name].chunk(2) for net in (new, old))
        for half, wanted in zip(a, b, strict=True):
            assert torch.equal(half[:kept], wanted[:kept])
