"""Stage 7: an autoencoder of 128 px pictures around the latents of the 64 px one.

The decoder starts from the trained one, with a new block at its end, and sees latents with a
little noise added, so that what the diffusion model leaves imperfect still becomes clean edges
on clean grounds. The encoder learns to give the latents of the old one, so that the diffusion
model stays what it is.
"""

import argparse
import math
import time

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel

import networks
from optimizer import Muon
from runtime import SEED, Clock, Trainee, autocast, composer, start_ranks, to_model, work_dir
from tokenizer import encode, load
from train_autoencoder import reconstruction_loss

ENCODED = 6  # pictures of a batch that train the encoder
REDRAWN = 0.4  # share of a batch that the diffusion model draws again
NOISY, NOISE = 0.7, 0.35  # share of latents with noise, its largest deviation


def inherit(new, old):
    """Copy what the two autoencoders share: the decoder from its start, the encoder up to its end."""
    state, kept = new.state_dict(), 0
    blocks = len(new.config.block_out_channels)
    for name, tensor in old.state_dict().items():
        for k in reversed(range(blocks - 1)):
            name = name.replace(f"encoder.down_blocks.{k}.", f"encoder.down_blocks.{k + 1}.")
        if name in state and state[name].shape == tensor.shape:
            state[name] = tensor
            kept += 1
    new.load_state_dict(state)
    for block in (*new.decoder.up_blocks[-2:], *new.encoder.down_blocks[:3]):
        for resnet in block.resnets:
            torch.nn.init.zeros_(resnet.conv2.weight)
            torch.nn.init.zeros_(resnet.conv2.bias)
    return kept


class Teacher:
    """The 64 px encoder: `latents: [B, 16, 8, 8]` (scaled) of 128 px pictures `[B, 3, 128, 128]`."""

    def __init__(self):
        self.vae = (
            AutoencoderKL.from_pretrained(work_dir() / "autoencoder_scaled").eval().requires_grad_(False)
        )

    @torch.no_grad()
    def __call__(self, x):
        with autocast():
            posterior = self.vae.encode(F.avg_pool2d(x, 2)).latent_dist
        return posterior.mean.float() * networks.SCALING_FACTOR


def disturbed(z):
    """Latents with normal noise of a deviation drawn for each picture."""
    amount = torch.rand(len(z), 1, 1, 1) * NOISE * (torch.rand(len(z), 1, 1, 1) < NOISY)
    return z + amount * torch.randn_like(z)


class Redrawing:
    """Latents as the diffusion model makes them: erased by noise to a random degree, then drawn by a few steps."""

    def __init__(self, *, steps=3):
        folder = work_dir() / "pipeline"
        self.net = UNet2DConditionModel.from_pretrained(folder / "unet").eval().requires_grad_(False)
        self.text = CLIPTextModel.from_pretrained(folder / "text_encoder").eval().requires_grad_(False)
        self.tokenizer, self.steps = load(), steps
        self.alphas = networks.scheduler().alphas_cumprod

    @torch.no_grad()
    def __call__(self, z, captions):
        with autocast():
            hidden = self.text(input_ids=encode(self.tokenizer, captions)).last_hidden_state
        start = torch.randint(300, 950, (len(z),)).float()
        noise, known = torch.randn_like(z), z
        for k in range(self.steps):
            t = (start * (1 - k / self.steps)).long()
            a = self.alphas[t].view(-1, 1, 1, 1)
            x = a.sqrt() * known + (1 - a).sqrt() * noise
            with autocast():
                v = self.net(x, t, hidden).sample.float()
            known, noise = a.sqrt() * x - (1 - a).sqrt() * v, a.sqrt() * v + (1 - a).sqrt() * x
        return known


def decoded(net, z):
    with autocast():
        return net.decode(z / networks.SCALING_FACTOR).sample.float()


def decoder_loss(y, x):
    """As for the autoencoder, with edges counted twice and the mean color of 16x16 cells."""
    d = y - x
    edges = (d[..., 1:, :] - d[..., :-1, :]).abs().mean() + (d[..., 1:] - d[..., :-1]).abs().mean()
    return reconstruction_loss(y, x) + 0.5 * edges + F.avg_pool2d(d, 16).abs().mean()


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=45)
    parser.add_argument("--batch", type=int, default=20, help="pictures per rank and step")
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--redrawn-from", type=float, default=0.6, help="share of the budget; 1 is never")
    args = parser.parse_args()
    rank, world = start_ranks()
    torch.manual_seed(SEED)
    net, teacher = networks.shipped_autoencoder(), Teacher()
    inherit(net, teacher.vae)
    optimizer = Muon(net.parameters(), lr=args.lr, weight_decay=0.01)
    trainee = Trainee(net.parameters(), optimizer, path=work_dir() / "decoder.pt", ema=0.995)
    trainee.resume()
    rng = np.random.default_rng([SEED + 2, rank, trainee.step])
    torch.manual_seed(SEED + 1000 * rank + trainee.step)
    compose = composer(size=networks.SIZE)
    clock = Clock(trainee, minutes=args.minutes, peak_lr=args.lr)

    def save():
        trainee.save()
        with trainee.averaged():
            net.save_pretrained(work_dir() / "pipeline" / "vae")

    errors, saved, since, redraw = [], time.monotonic(), time.monotonic(), None
    while clock.running():
        examples = [compose(rng) for _ in range(args.batch)]
        x = to_model([e.picture for e in examples])
        z = teacher(x)
        seen = disturbed(z)
        if clock.share() > args.redrawn_from:
            redraw = Redrawing() if redraw is None else redraw
            n = round(REDRAWN * args.batch)
            seen[-n:] = redraw(z[-n:], [e.caption for e in examples[-n:]])
        y = decoded(net, seen)
        with autocast():
            guess = net.encode(x[:ENCODED]).latent_dist.mean
        off = (guess.float() * networks.SCALING_FACTOR - z[:ENCODED]).square().mean()
        trainee.update(decoder_loss(y, x) + off, lr=clock.lr())
        errors.append(((y.detach() - x).square().mean().item() / 4, off.item()))
        if rank == 0 and trainee.step % 25 == 0:
            mse, off = np.mean(errors, 0)
            speed = 25 * args.batch * world / (time.monotonic() - since)
            print(f"{time.strftime('%H:%M:%S')} step {trainee.step} {clock.share():.0%} psnr {-10 * math.log10(mse):.2f} "
                  f"encoder off {off:.3f} img/s {speed:.1f}", flush=True)  # fmt: skip
            errors, since = [], time.monotonic()
        if rank == 0 and time.monotonic() - saved > 120:
            save()
            saved = time.monotonic()
    if rank == 0:
        save()


if __name__ == "__main__":
    main()
