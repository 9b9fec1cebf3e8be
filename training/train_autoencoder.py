"""Stage 2: the autoencoder, with chroma and pooled-color losses from the first step."""

import argparse
import math
import time

import numpy as np
import torch
import torch.nn.functional as F

import networks
from optimizer import Muon
from runtime import SEED, Clock, Trainee, autocast, composer, start_ranks, to_model, work_dir


def reconstruction_loss(y, x):
    """L1 and L2, edges, color apart from brightness, and the mean color of 4x4 cells."""
    d = y - x
    edges = (d[..., 1:, :] - d[..., :-1, :]).abs().mean() + (d[..., 1:] - d[..., :-1]).abs().mean()
    chroma = (d - d.mean(1, keepdim=True)).abs().mean()
    pooled = F.avg_pool2d(d, 4).abs().mean()
    return d.abs().mean() + 2.0 * d.square().mean() + 0.5 * edges + 1.0 * chroma + 1.0 * pooled


def kl_loss(posterior):
    return (
        0.5 * (posterior.mean.float().square() + posterior.var.float() - 1 - posterior.logvar.float()).mean()
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--batch", type=int, default=24, help="pictures per rank and step")
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--kl", type=float, default=5e-5)
    parser.add_argument("--name", default="autoencoder")
    args = parser.parse_args()
    rank, world = start_ranks()
    torch.manual_seed(SEED)
    net = networks.autoencoder()
    trainee = Trainee(
        net.parameters(),
        Muon(net.parameters(), lr=args.lr, weight_decay=0.01),
        path=work_dir() / f"{args.name}.pt",
    )
    resumed = trainee.resume()
    rng = np.random.default_rng([SEED, rank, trainee.step])
    torch.manual_seed(SEED + 1000 * rank + trainee.step)
    compose, clock = composer(), Clock(trainee, minutes=args.minutes, peak_lr=args.lr)
    if rank == 0:
        print(f"{'resumed at' if resumed else 'starts at'} step {trainee.step}", flush=True)
    errors, saved, since = [], time.monotonic(), time.monotonic()
    while clock.running():
        x = to_model([compose(rng, several=0.15, pair=0.3).picture for _ in range(args.batch)])
        with autocast():
            posterior = net.encode(x).latent_dist
            y = net.decode(posterior.sample()).sample
        loss = reconstruction_loss(y.float(), x) + args.kl * kl_loss(posterior)
        trainee.update(loss, lr=clock.lr())
        errors.append((y.detach().float() - x).square().mean().item() / 4)
        if rank == 0 and trainee.step % 50 == 0:
            speed = 50 * args.batch * world / (time.monotonic() - since)
            print(f"{time.strftime('%H:%M:%S')} step {trainee.step} {clock.share():.0%} psnr {-10 * math.log10(np.mean(errors)):.2f} "
                  f"kl {kl_loss(posterior).item():.1f} img/s {speed:.0f}", flush=True)  # fmt: skip
            errors, since = [], time.monotonic()
        if rank == 0 and time.monotonic() - saved > 60:
            trainee.save()
            saved = time.monotonic()
    if rank == 0:
        trainee.save()
        with trainee.averaged():
            net.save_pretrained(work_dir() / f"{args.name}")


if __name__ == "__main__":
    main()
