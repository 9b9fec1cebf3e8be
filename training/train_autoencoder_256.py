"""The autoencoder of the 256 px model on all styles; it starts from the shipped one of 128 px (`inherit.py`).

Sharpness is learned as a quantity: how strong gradients are in each 4x4 cell, from the first step on. In the last
third a light discriminator joins, on pictures decoded from exact latents only; on noisy ones it drew rings along
contours. `--overfit` trains on 20 subjects only, to compare kinds of latents before anything large is started.
"""

import argparse
import json
import math
import time
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import art
import measures
import networks
from inherit import inherit
from latents import fold_statistics
from layouts import Layouts
from optimizer import Muon
from render import Renderer
from runtime import SEED, Pace, Trainee, device, start_ranks, work_dir
from subjects import read_list
from train_autoencoder import kl_loss
from train_decoder import decoder_loss

FEW_SUBJECTS = 20
FEW_KINDS = {"single": 1.0}
ADVERSARIAL_FROM, ADVERSARIAL_WEIGHT, FEATURE_WEIGHT = 2 / 3, 0.03, 0.5
CROP = 160
KL_WEIGHT = 2e-5
BATCH = {"cpu": 8, "cuda": 128}


class Discriminator(nn.Module):
    """Scores patches of about 30 px; also returns its features."""

    def __init__(self, width=24):
        super().__init__()
        widths = (3, width, 2 * width, 4 * width, 4 * width)
        self.convs = nn.ModuleList(
            nn.Conv2d(a, b, 4 if k < 3 else 3, 2 if k < 3 else 1, 1)
            for k, (a, b) in enumerate(pairwise(widths))
        )
        self.norms = nn.ModuleList(
            nn.GroupNorm(4, w) if k else nn.Identity() for k, w in enumerate(widths[1:])
        )
        self.score = nn.Conv2d(widths[-1], 1, 3, padding=1)

    def forward(self, x):
        features = []
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = F.leaky_relu(norm(conv(x)), 0.2)
            features.append(x)
        return self.score(x), features


def gradient_strength(x):
    """`[B, 1, H - 1, W - 1]`, the size of the gradient of brightness."""
    gray = x.mean(1, keepdim=True)
    dy, dx = gray[..., 1:, :] - gray[..., :-1, :], gray[..., 1:] - gray[..., :-1]
    return (dy[..., :-1].square() + dx[..., :-1, :].square() + 1e-5).sqrt()


def sharpness_loss(y, x):
    """How much the gradients' mean strength differs in 4x4 cells, wherever in the cell they are."""
    return (F.avg_pool2d(gradient_strength(y), 4) - F.avg_pool2d(gradient_strength(x), 4)).abs().mean()


class Adversary:
    """The discriminator with its own trainee, and what it adds to the autoencoder's loss."""

    def __init__(self, path, place, *, lr=4e-4):
        self.net = Discriminator().to(place)
        optimizer = Muon(self.net.parameters(), lr=lr, weight_decay=0)
        self.lr, self.trainee = lr, Trainee(self.net.parameters(), optimizer, path=path)
        self.trainee.resume()

    def loss(self, y, x, rng):
        """One step of the discriminator on a random crop, then the loss that it gives to `y`."""
        top, left = rng.integers(0, x.shape[-1] - CROP + 1, 2)
        x, y = (t[..., top : top + CROP, left : left + CROP] for t in (x, y))
        with torch.autocast(x.device.type, dtype=torch.bfloat16):
            real, drawn = self.net(torch.cat([x, y.detach()]))[0].float().chunk(2)
        self.trainee.update(F.relu(1 - real).mean() + F.relu(1 + drawn).mean(), lr=self.lr)
        self.net.requires_grad_(False)
        with torch.autocast(x.device.type, dtype=torch.bfloat16):
            score, features = self.net(y)
            with torch.no_grad():
                wanted = self.net(x)[1]
        self.net.requires_grad_(True)
        apart = sum((a.float() - b.float()).abs().mean() for a, b in zip(features, wanted, strict=True))
        return -ADVERSARIAL_WEIGHT * score.float().mean() + FEATURE_WEIGHT * apart / len(features)


@torch.no_grad()
def autoencoded(net, x, batch=10):
    return torch.cat(
        [net.decode(net.encode(part).latent_dist.mean).sample.clamp(-1, 1) for part in x.split(batch)]
    )


def edges_of(net, layouts, render, *, n=48, seed=4242):
    """PSNR and edges (measures.edges) of autoencoded pictures of `layouts`."""
    rng = np.random.default_rng(seed)
    described = [layouts(rng) for _ in range(n)]
    x = torch.cat([render(described[k : k + 8]) for k in range(0, n, 8)])
    return measures.edges(autoencoded(net, x), x)


def few(subjects):
    return Layouts(subjects, only=range(FEW_SUBJECTS), kinds=FEW_KINDS)


def train(latents, *, pictures, minutes=math.inf, batch=None, lr=1e-3, overfit=False):
    """Go on from the last checkpoint; True when all `pictures` were seen and the diffusers folder is written."""
    place, work, subjects = device(), work_dir(), read_list()
    name = f"autoencoder_{latents}" + ("_overfit" if overfit else "")
    if (work / name / "figures.json").exists():
        return True
    torch.manual_seed(SEED)
    net = networks.autoencoder_256(latents)
    inherit(net)
    net.to(place)
    trainee = Trainee(net.parameters(), Muon(net.parameters(), lr=lr), path=work / f"{name}.pt", ema=0.995)
    trainee.resume()
    rng = np.random.default_rng([SEED, trainee.step])
    torch.manual_seed(SEED + trainee.step)
    layouts, render = few(subjects) if overfit else Layouts(subjects), Renderer(art.load(), device=place)
    pace = Pace(trainee, pictures=pictures, minutes=minutes, peak_lr=lr)
    batch = BATCH[place.type] // (2 if overfit else 1) if batch is None else batch
    adversary, errors = None, []
    print(f"{name}: starts at step {trainee.step}, {pace.share():.1%}", flush=True)

    def save():
        trainee.save()
        if adversary is not None:
            adversary.trainee.save()
        with trainee.averaged():
            net.save_pretrained(work / name)

    while pace.running():
        x = render([layouts(rng) for _ in range(batch)])
        with torch.autocast(place.type, dtype=torch.bfloat16):
            posterior = net.encode(x).latent_dist
            z, exact = posterior.sample(), batch // 2
            if pace.share() >= ADVERSARIAL_FROM and not overfit:
                z = torch.cat([posterior.mean[:exact], z[exact:]])
            y = net.decode(z).sample.float()
        loss = decoder_loss(y, x) + sharpness_loss(y, x) + KL_WEIGHT * kl_loss(posterior)
        if pace.share() >= ADVERSARIAL_FROM and not overfit:
            if adversary is None:
                adversary = Adversary(work / f"{name}_adversary.pt", place)
            loss = loss + adversary.loss(y[:exact], x[:exact], rng)
        trainee.pictures += batch
        trainee.update(loss, lr=pace.lr())
        errors.append((y.detach() - x).square().mean() / 4)
        if (speed := pace.report_due()) is not None:
            print(f"{time.strftime('%H:%M:%S')} {name} step {trainee.step} {pace.share():.1%} "
                  f"psnr {-10 * math.log10(torch.stack(errors).mean().item()):.2f} img/s {speed:.1f}", flush=True)  # fmt: skip
            errors = []
        if pace.save_due():
            save()
    save()
    if pace.finished():
        finish(net, trainee, layouts, render, folder=work / name)
    return pace.finished()


def finish(net, trainee, layouts, render, *, folder):
    """Write the averaged weights with latents of unit deviation, and the figures beside them."""
    with trainee.averaged():
        net.eval()
        rng = np.random.default_rng(SEED)
        x = torch.cat([render([layouts(rng) for _ in range(8)]) for _ in range(16)])
        fold_statistics(net, x)
        net.save_pretrained(folder)
        figures = edges_of(net, layouts, render)
    (folder / "figures.json").write_text(
        json.dumps(figures | {"pictures": trainee.pictures}, indent=2) + "\n"
    )
    print(folder.name, figures, flush=True)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--latents", choices=networks.LATENTS_256, default="8x8x32")
    parser.add_argument(
        "--pictures", type=int, default=60000, help="all in all; the learning rate falls over the last"
    )
    parser.add_argument(
        "--minutes", type=float, default=math.inf, help="stop after these; the next call goes on"
    )
    parser.add_argument("--batch", type=int, help=f"pictures per step, by default {BATCH}")
    parser.add_argument("--overfit", action="store_true", help=f"only {FEW_SUBJECTS} subjects")
    args = parser.parse_args()
    start_ranks()
    train(args.latents, pictures=args.pictures, minutes=args.minutes, batch=args.batch, overfit=args.overfit)


if __name__ == "__main__":
    main()
