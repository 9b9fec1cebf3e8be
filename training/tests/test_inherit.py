import pytest
import torch

import networks
from inherit import GROUPS, copied, inherit

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


def test_a_network_twice_as_wide_draws_nearly_the_same_picture():
    old, new = network(OLD, 4, 0), network((16, 16, 32, 32), 4, 1)
    assert inherit(new, old.state_dict()) == []
    x, z = torch.rand(1, 3, 32, 32), torch.randn(1, 4, 4, 4)
    for a, b in (
        (new.decode(z).sample, old.decode(z).sample),
        (new.encode(x).latent_dist.mean, old.encode(x).latent_dist.mean),
    ):
        assert (a - b).square().mean() < 0.1 * b.var()


def test_a_block_that_gets_wider_passes_on_what_it_passed_on_before(monkeypatch):
    monkeypatch.setattr("inherit.PARTING", 0)
    old, new = network((8, 8, 8), 4, 0), network((8, 8, 16), 4, 1)
    fresh = inherit(new, old.state_dict())
    assert all("conv_shortcut" in name for name in fresh)
    z = torch.randn(1, 4, 4, 4)
    assert torch.allclose(new.decode(z).sample, old.decode(z).sample, atol=1e-4)


@pytest.mark.parametrize(("new", "old"), [(16, 8), (24, 16), (192, 128), (16, 16)])
def test_channels_are_copied_within_their_group(new, old):
    source = copied(new, old)
    assert set(source.tolist()) == set(range(old))
    assert torch.equal(source // (old // GROUPS), torch.arange(new) // (new // GROUPS))
