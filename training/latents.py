"""Stage 4: fix the latent scale, then encode a pool of pictures once for everything that follows."""

import argparse
import time

import numpy as np
import torch
from diffusers import AutoencoderKL

from networks import SCALING_FACTOR
from runtime import SEED, autocast, composer, start_ranks, to_model, work_dir
from tokenizer import encode, load


def moments(vae, x):
    with torch.no_grad(), autocast(x.device):
        return vae.encode(x).latent_dist.mean.float()


@torch.no_grad()
def fold_statistics(vae, x):
    """Move each latent channel's mean and deviation into the 1x1 convolutions around the latents.

    Afterwards `latent * scaling_factor` has zero mean and unit deviation with SD's own 0.18215.
    """
    z = vae.encode(x).latent_dist.mean
    mean, std = z.mean((0, 2, 3)), z.std((0, 2, 3)) * SCALING_FACTOR
    before = vae.decode(z[:8]).sample
    channels, enter, leave = len(mean), vae.quant_conv, vae.post_quant_conv
    enter.weight[:channels] /= std[:, None, None, None]
    enter.bias[:channels] = (enter.bias[:channels] - mean) / std
    enter.bias[channels:] -= 2 * std.log()
    leave.bias += leave.weight[:, :, 0, 0] @ mean
    leave.weight *= std[None, :, None, None]
    z = vae.encode(x).latent_dist.mean
    moved = (vae.decode(z[:8]).sample - before).abs().max()
    print(f"latent deviation {(z * SCALING_FACTOR).std():.3f}, decoder moved {moved:.1e}")


class LatentPool:
    """Encoded pictures with their captions' tokens.

    `latents: [N, 16, 8, 8] float16`, `ids: [N, 24] int16`, `stage` and `kind` (compose.Example): `[N] int64`.
    """

    def __init__(self, path):
        self.path = path
        self.parts = []

    def load(self):
        saved = torch.load(self.path, weights_only=True)
        self.latents, self.ids = saved["latents"], saved["ids"]
        self.stage, self.kind = saved.get("stage"), saved.get("kind")  # pools of 256 px pictures have neither
        return self

    def grow(self, vae, compose, tokenizer, rng, n):
        examples = [compose(rng) for _ in range(n)]
        z = moments(vae, to_model([e.picture for e in examples])) * SCALING_FACTOR
        ids = encode(tokenizer, [e.caption for e in examples])
        sort = torch.tensor([(e.stage, e.kind) for e in examples])
        self.parts.append((z.half(), ids.short(), sort))

    def save(self):
        latents, ids, sort = (torch.cat(parts) for parts in zip(*self.parts, strict=True))
        torch.save({"latents": latents, "ids": ids, "stage": sort[:, 0], "kind": sort[:, 1]}, self.path)


def pool_path(rank):
    return work_dir() / f"latents_{rank}.pt"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=25000, help="pictures per rank")
    parser.add_argument(
        "--keep-encoder", action="store_true", help="reuse autoencoder_scaled: only the pictures are new"
    )
    args = parser.parse_args()
    rank, _ = start_ranks()
    compose, rng = composer(), np.random.default_rng([SEED + 1, rank])
    scaled = work_dir() / "autoencoder_scaled"
    source = scaled if args.keep_encoder else work_dir() / "autoencoder"
    vae = AutoencoderKL.from_pretrained(source).eval().requires_grad_(False)
    if not args.keep_encoder:
        fixed = np.random.default_rng(SEED)
        fold_statistics(vae, to_model([compose(fixed).picture for _ in range(320)]))
        if rank == 0:
            vae.save_pretrained(scaled)
            vae.save_pretrained(work_dir() / "pipeline" / "vae")
    pool, tokenizer, started = LatentPool(pool_path(rank)), load(), time.monotonic()
    while len(pool.parts) * 100 < args.count:
        pool.grow(vae, compose, tokenizer, rng, 100)
    pool.save()
    print(f"rank {rank}: {args.count} latents in {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
