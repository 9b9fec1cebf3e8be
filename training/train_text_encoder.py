"""Stage 5: teach the text encoder to predict the picture's latent from its caption.

Trained together from scratch, the UNet ignores the text for an hour; with this head start of a few
minutes it follows the caption from the first steps. The word table stays MiniLM's.
"""

import argparse
import time

import numpy as np
import torch
from torch import nn

import networks
from latents import LatentPool, pool_path
from optimizer import Muon
from runtime import SEED, Clock, Trainee, autocast, start_ranks, work_dir

HELD_OUT = 500


def token_table(encoder):
    return encoder.get_input_embeddings()


def fresh_encoder():
    vectors = torch.from_numpy(np.load(work_dir() / "word_vectors.npy"))
    encoder = networks.text_encoder(len(vectors) + 2)
    table = token_table(encoder).weight
    table.data[:-2] = vectors
    table.data[-2:] = torch.randn(2, networks.TEXT_WIDTH) * vectors.std()
    table.requires_grad_(False)
    return encoder


class LatentGuess(nn.Module):
    """The expected latent, read from the state at the end token."""

    def __init__(self, encoder, *, size=networks.LATENT_CHANNELS * networks.LATENT_SIZE**2):
        super().__init__()
        self.encoder = encoder
        self.head = nn.Sequential(nn.Linear(networks.TEXT_WIDTH, 512), nn.GELU(), nn.Linear(512, size))
        self.end = encoder.config.eos_token_id

    def forward(self, ids):
        return self.read(self.encoder(input_ids=ids).last_hidden_state, ids)

    def read(self, hidden, ids):
        at = (ids == self.end).int().argmax(1)
        return self.head(hidden[torch.arange(len(ids)), at]).float()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=6)
    parser.add_argument("--batch", type=int, default=96)
    parser.add_argument("--lr", type=float, default=3e-3)
    args = parser.parse_args()
    rank, world = start_ranks()
    torch.manual_seed(SEED)
    pool = LatentPool(pool_path(rank)).load()
    net = LatentGuess(fresh_encoder())
    params = [p for p in net.parameters() if p.requires_grad]
    trainee = Trainee(
        params, Muon(params, lr=args.lr, weight_decay=0.02), path=work_dir() / "text_encoder.pt"
    )
    trainee.resume()
    torch.manual_seed(SEED + 1000 * rank + trainee.step)
    clock, since = Clock(trainee, minutes=args.minutes, peak_lr=args.lr, decay_from=0.3), time.monotonic()

    def error(index):
        with autocast():
            guess = net(pool.ids[index].long())
        return (guess - pool.latents[index].float().flatten(1)).square().mean()

    while clock.running():
        loss = error(torch.randint(HELD_OUT, len(pool.ids), (args.batch,)))
        trainee.update(loss, lr=clock.lr())
        if rank == 0 and trainee.step % 100 == 0:
            with torch.no_grad():
                held_out = error(torch.arange(HELD_OUT)).item()
            speed = 100 * args.batch * world / (time.monotonic() - since)
            print(f"{time.strftime('%H:%M:%S')} step {trainee.step} {clock.share():.0%} loss {loss.item():.3f} "
                  f"held out {held_out:.3f} captions/s {speed:.0f}", flush=True)  # fmt: skip
            since = time.monotonic()
    if rank == 0:
        trainee.save()
        with trainee.averaged():
            net.encoder.save_pretrained(work_dir() / "pipeline" / "text_encoder")
            torch.save(net.head.state_dict(), work_dir() / "text_head.pt")


if __name__ == "__main__":
    main()
