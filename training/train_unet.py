"""Stage 6: the diffusion model, on encoded latents, with a curriculum of subjects.

The text encoder goes on learning at a fraction of the rate, from the UNet's loss and, as in its
own stage, from its guess of the latent; `--text-rate 0` leaves it frozen.
"""

import argparse
import math
import time

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from transformers import CLIPTextModel

import networks
from latents import LatentPool, pool_path
from optimizer import Muon
from pipeline import save_pipeline
from runtime import SEED, Clock, Trainee, autocast, start_ranks, work_dir
from tokenizer import encode, load
from train_text_encoder import LatentGuess

CURRICULUM = (
    (0.04, 1),
    (0.2, 2),
    (0.45, 3),
    (math.inf, 4),
)  # until this share of the budget, subjects up to this stage
HELD_OUT = 32
NO_CAPTION = 0.1
GUESS_WEIGHT = 0.2


class Noising:
    """v-prediction targets; the prediction and the network's input at timestep t."""

    def __init__(self, device="cpu"):
        self.alphas = networks.scheduler().alphas_cumprod.to(device)
        self.angles = torch.acos(self.alphas.clamp(0, 1).sqrt())

    def timesteps(self, n):
        """Half uniform over the noisier steps, half uniform in the angle between picture and noise."""
        place = self.angles.device
        by_angle = torch.searchsorted(self.angles, torch.rand(n, device=place) * math.pi / 2).clamp(0, 999)
        noisier = torch.randint(450, 1000, (n,), device=place)
        return torch.where(torch.rand(n, device=place) < 0.5, noisier, by_angle)

    def __call__(self, z, t):
        a = self.alphas[t].view(-1, 1, 1, 1)
        noise = torch.randn_like(z)
        return a.sqrt() * z + (1 - a).sqrt() * noise, a.sqrt() * noise - (1 - a).sqrt() * z


def conditional_gap(net, noising, z, hidden, empty):
    """Loss at two timesteps with the true caption, another's, and none: what the text is worth."""
    parts = []
    for step in (999, 600):
        torch.manual_seed(step)
        t = torch.full((len(z),), step, device=z.device)
        x, v = noising(z, t)
        with torch.no_grad(), autocast(z.device):
            losses = [
                (net(x, t, h).sample.float() - v).square().mean().item()
                for h in (hidden, hidden.roll(1, 0), empty)
            ]
        parts.append(f"t={step} " + "/".join(f"{loss:.3f}" for loss in losses))
    return ", ".join(parts)


def networks_from(folder, *, warm):
    """The UNet, new or from the last pipeline, and the text encoder with its guessing head."""
    net = networks.unet()
    torch.nn.init.zeros_(net.conv_out.weight)
    if warm:
        net.load_state_dict(UNet2DConditionModel.from_pretrained(folder / "unet").state_dict())
    guess = LatentGuess(CLIPTextModel.from_pretrained(folder / "text_encoder"))
    guess.head.load_state_dict(torch.load(work_dir() / "text_head.pt", weights_only=True))
    guess.encoder.get_input_embeddings().requires_grad_(False)
    return net, guess


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=80)
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--text-rate", type=float, default=0.15)
    parser.add_argument("--decay-from", type=float, default=0.5)
    parser.add_argument(
        "--warm", action="store_true", help="start from the weights in pipeline/, with all subjects"
    )
    args = parser.parse_args()
    rank, world = start_ranks()
    torch.manual_seed(SEED)
    pool, tokenizer, folder = LatentPool(pool_path(rank)).load(), load(), work_dir() / "pipeline"
    members = {stage: torch.nonzero(pool.stage <= stage).flatten() for _, stage in CURRICULUM}
    (net, guess), noising = networks_from(folder, warm=args.warm), Noising()
    text_params = [p for p in guess.parameters() if p.requires_grad] if args.text_rate else []
    params = [*net.parameters(), *text_params]
    optimizer = Muon(params, lr=args.lr, slow=text_params, slow_rate=args.text_rate, weight_decay=0.01)
    trainee = Trainee(params, optimizer, path=work_dir() / "unet.pt")
    trainee.resume()
    torch.manual_seed(SEED + 1000 * rank + trainee.step)
    clock = Clock(trainee, minutes=args.minutes, peak_lr=args.lr, decay_from=args.decay_from)
    null = encode(tokenizer, [""])

    def states(ids):
        with torch.no_grad(), autocast():
            return guess.encoder(input_ids=ids.long()).last_hidden_state

    def save():
        trainee.save()
        with trainee.averaged():
            guess.encoder.save_pretrained(folder / "text_encoder")
            torch.save(guess.head.state_dict(), work_dir() / "text_head.pt")
            save_pipeline(folder, unet=net)

    losses, saved, since = [], time.monotonic(), time.monotonic()
    while clock.running():
        stage = (
            CURRICULUM[-1][1] if args.warm else next(s for until, s in CURRICULUM if clock.share() <= until)
        )
        usable = members[stage]
        index = usable[torch.randint(min(HELD_OUT, len(usable) // 2), len(usable), (args.batch,))]
        ids = pool.ids[index].long()
        ids[torch.rand(args.batch) < NO_CAPTION] = null
        z, t = pool.latents[index].float(), noising.timesteps(args.batch)
        x, v = noising(z, t)
        with autocast():
            if args.text_rate:
                hidden = guess.encoder(input_ids=ids).last_hidden_state
                guessed = guess.read(hidden, ids)
            else:
                hidden = states(ids)
            out = net(x, t, hidden).sample
        loss = (out.float() - v).square().mean()
        losses.append(loss.item())
        if args.text_rate:
            loss = loss + GUESS_WEIGHT * (guessed - z.flatten(1)).square().mean()
        trainee.update(loss, lr=clock.lr())
        if rank == 0 and trainee.step % 25 == 0:
            speed = 25 * args.batch * world / (time.monotonic() - since)
            print(f"{time.strftime('%H:%M:%S')} step {trainee.step} {clock.share():.1%} stage {stage} loss {np.mean(losses):.4f} "
                  f"lr {clock.lr():.1e} img/s {speed:.0f}", flush=True)  # fmt: skip
            losses, since = [], time.monotonic()
        if rank == 0 and time.monotonic() - saved > 240:
            save()
            z, ids = pool.latents[members[stage][:HELD_OUT]].float(), pool.ids[members[stage][:HELD_OUT]]
            with trainee.averaged():
                state = torch.random.get_rng_state()
                gap = conditional_gap(net, noising, z, states(ids), states(null.expand_as(ids)))
                print("  gap", gap, flush=True)
                torch.random.set_rng_state(state)
            saved = time.monotonic()
    if rank == 0:
        save()


if __name__ == "__main__":
    main()
