"""Stage 6: the diffusion model, on encoded latents, with a curriculum of subjects."""

import argparse
import math
import time

import numpy as np
import torch
from transformers import CLIPTextModel

import networks
from latents import LatentPool, pool_path
from optimizer import Muon
from pipeline import save_pipeline
from runtime import SEED, Clock, Trainee, start_ranks, work_dir
from tokenizer import encode, load

CURRICULUM = (
    (0.04, 1),
    (0.25, 2),
    (math.inf, 3),
)  # until this share of the budget, subjects up to this stage
HELD_OUT = 32
NO_CAPTION = 0.1


class Noising:
    """v-prediction targets; the prediction and the network's input at timestep t."""

    def __init__(self):
        self.alphas = networks.scheduler().alphas_cumprod
        self.angles = torch.acos(self.alphas.clamp(0, 1).sqrt())

    def timesteps(self, n):
        """Half uniform over the noisier steps, half uniform in the angle between picture and noise."""
        by_angle = torch.searchsorted(self.angles, torch.rand(n) * math.pi / 2).clamp(0, 999)
        return torch.where(torch.rand(n) < 0.5, torch.randint(450, 1000, (n,)), by_angle)

    def __call__(self, z, t):
        a = self.alphas[t].view(-1, 1, 1, 1)
        noise = torch.randn_like(z)
        return a.sqrt() * z + (1 - a).sqrt() * noise, a.sqrt() * noise - (1 - a).sqrt() * z


def conditional_gap(net, noising, z, hidden, empty):
    """Loss at two timesteps with the true caption, another's, and none: what the text is worth."""
    parts = []
    for step in (999, 600):
        torch.manual_seed(step)
        t = torch.full((len(z),), step)
        x, v = noising(z, t)
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            losses = [
                (net(x, t, h).sample.float() - v).square().mean().item()
                for h in (hidden, hidden.roll(1, 0), empty)
            ]
        parts.append(f"t={step} " + "/".join(f"{loss:.3f}" for loss in losses))
    return ", ".join(parts)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=80)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--decay-from", type=float, default=0.5)
    args = parser.parse_args()
    rank, world = start_ranks()
    torch.manual_seed(SEED)
    pool, tokenizer = LatentPool(pool_path(rank)).load(), load()
    members = {stage: torch.nonzero(pool.stage <= stage).flatten() for _, stage in CURRICULUM}
    text = (
        CLIPTextModel.from_pretrained(work_dir() / "pipeline" / "text_encoder").eval().requires_grad_(False)
    )
    net, noising = networks.unet(), Noising()
    torch.nn.init.zeros_(net.conv_out.weight)
    trainee = Trainee(
        net.parameters(), Muon(net.parameters(), lr=args.lr, weight_decay=0.01), path=work_dir() / "unet.pt"
    )
    trainee.resume()
    torch.manual_seed(SEED + 1000 * rank + trainee.step)
    clock = Clock(trainee, minutes=args.minutes, peak_lr=args.lr, decay_from=args.decay_from)
    null = encode(tokenizer, [""])

    def states(ids):
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            return text(input_ids=ids.long()).last_hidden_state

    losses, saved, since = [], time.monotonic(), time.monotonic()
    while clock.running():
        stage = next(s for until, s in CURRICULUM if clock.share() <= until)
        usable = members[stage]
        index = usable[torch.randint(min(HELD_OUT, len(usable) // 2), len(usable), (args.batch,))]
        ids = pool.ids[index].long()
        ids[torch.rand(args.batch) < NO_CAPTION] = null
        t = noising.timesteps(args.batch)
        x, v = noising(pool.latents[index].float(), t)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = net(x, t, states(ids)).sample
        loss = (out.float() - v).square().mean()
        trainee.update(loss, lr=clock.lr())
        losses.append(loss.item())
        if rank == 0 and trainee.step % 25 == 0:
            speed = 25 * args.batch * world / (time.monotonic() - since)
            print(f"{time.strftime('%H:%M:%S')} step {trainee.step} {clock.share():.1%} stage {stage} loss {np.mean(losses):.4f} "
                  f"lr {clock.lr():.1e} img/s {speed:.0f}", flush=True)  # fmt: skip
            losses, since = [], time.monotonic()
        if rank == 0 and time.monotonic() - saved > 240:
            trainee.save()
            z, ids = pool.latents[members[stage][:HELD_OUT]].float(), pool.ids[members[stage][:HELD_OUT]]
            with trainee.averaged():
                save_pipeline(work_dir() / "pipeline", unet=net)
                state = torch.random.get_rng_state()
                print(
                    "  gap",
                    conditional_gap(net, noising, z, states(ids), states(null.expand_as(ids))),
                    flush=True,
                )
                torch.random.set_rng_state(state)
            saved = time.monotonic()
    if rank == 0:
        trainee.save()
        with trainee.averaged():
            save_pipeline(work_dir() / "pipeline", unet=net)


if __name__ == "__main__":
    main()
