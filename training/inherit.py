"""Start a larger autoencoder from a smaller one: deeper, so that it draws twice the side, and wider.

A wider layer begins with copies of its channels, whose outgoing weights are divided by the number of copies
(Chen et al., "Net2Net", 2015), within the groups of the normalization: where each channel has as many copies the
function stays the same, and elsewhere nearly. Some noise lets the copies part.
"""

import torch

GROUPS = 8
PARTING = 0.05  # deviation of the noise on a widened matrix, as a share of its own
BLUR = (1 / 4, 1 / 2, 1 / 4)


def copied(new, old):
    """`[new]`: for each channel of the wider layer the one that it copies, in the same group of a GroupNorm."""
    if new == old:
        return torch.arange(new)
    within = torch.arange(new // GROUPS) % (old // GROUPS)
    return (torch.arange(GROUPS)[:, None] * (old // GROUPS) + within).flatten()


def widened(old, shape):
    """`old`, a weight or bias, in the shape of a layer with more channels."""
    out = old[copied(shape[0], old.shape[0])]
    if len(shape) == 1 or tuple(shape) == tuple(old.shape):
        return out
    source = copied(shape[1], old.shape[1])
    out = out[:, source] / torch.bincount(source)[source].view(1, -1, *[1] * (len(shape) - 2))
    return out + PARTING * out.std() * torch.randn_like(out)


def passed_on(shape, old):
    """The 1x1 convolution of a residual shortcut that a smaller network, with `old` channels, does not need."""
    into, out = copied(shape[1], old), copied(shape[0], old)
    same = (out[:, None] == into).float()
    return (same / same.sum(1, keepdim=True)).view(shape)


def shifted(name, deeper):
    """The name of an encoder's weight after `deeper` blocks were put before its first."""
    prefix = "encoder.down_blocks."
    if not name.startswith(prefix):
        return name
    index, rest = name.removeprefix(prefix).split(".", 1)
    return f"{prefix}{int(index) + deeper}.{rest}"


@torch.no_grad()
def neutral(block, sampler):
    """Make a new outer block pass on its input: residual branches of zero, resampling by a small blur."""
    for resnet in block.resnets:
        resnet.conv2.weight.zero_()
        resnet.conv2.bias.zero_()
    weight, kernel = sampler.conv.weight, torch.tensor(BLUR)
    weight.zero_()
    sampler.conv.bias.zero_()
    weight[range(len(weight)), range(len(weight))] = kernel[:, None] * kernel


def inherit(net, tensors):
    """Load into a larger autoencoder the `tensors` of a smaller one.

    Returns the names of the new weights that stay as they were.
    """
    state, blocks = net.state_dict(), len(net.config.block_out_channels)
    deeper = blocks - 1 - max(int(n.split(".")[2]) for n in tensors if n.startswith("decoder.up_blocks."))
    renamed = {shifted(name, deeper): tensor for name, tensor in tensors.items()}
    for name, old in renamed.items():
        if name in state:
            state[name] = widened(old, state[name].shape)
    for name in set(state) - set(renamed):
        convolution = renamed.get(name.replace("conv_shortcut", "conv1"))
        if name.endswith("conv_shortcut.weight") and convolution is not None:
            state[name] = passed_on(state[name].shape, convolution.shape[1])
            state[name.replace("weight", "bias")].zero_()
    net.load_state_dict(state)
    for k in range(deeper):
        neutral(net.encoder.down_blocks[k], net.encoder.down_blocks[k].downsamplers[0])
        neutral(net.decoder.up_blocks[blocks - 1 - k], net.decoder.up_blocks[blocks - 2 - k].upsamplers[0])
    return sorted(set(state) - set(renamed))
