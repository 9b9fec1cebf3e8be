"""Text encoder and diffusion model of the 256 px model, on latents that are encoded while training goes on.

The text encoder first learns alone to guess a picture's latent from its caption. The diffusion model then begins
with 20 subjects in all their attributes, and gets all of them when it follows the attributes (`following.py`).
"""

import argparse
import json
import math
import time

import numpy as np
import torch
from diffusers import AutoencoderKL

import art
import following
import networks
from latents import moments
from layouts import Layouts
from optimizer import Muon
from pipeline import load_pipeline, save_pipeline
from render import Renderer
from runtime import SEED, Pace, Trainee, device, start_ranks, work_dir
from subjects import read_list
from tokenizer import encode, load
from train_autoencoder_256 import FEW_SUBJECTS, few
from train_text_encoder import LatentGuess, fresh_encoder
from train_unet import GUESS_WEIGHT, NO_CAPTION, Noising, conditional_gap

TEXT_RATE = 0.15
HELD_OUT = 64
GATE_EVERY = 40000
# pictures: in a step, encoded anew for each step, before the first step, kept at most
SIZES = {"cpu": (96, 8, 1500, 40000), "cuda": (2048, 256, 16384, 400000)}


class Pool:
    """Encoded pictures with the tokens of their captions; when it is full, new ones replace the oldest."""

    def __init__(self, vae, layouts, render, *, capacity, rng):
        self.vae, self.layouts, self.render, self.rng = vae, layouts, render, rng
        self.tokenizer, place = load(), render.device
        side, channels = (
            render.size // 2 ** (len(vae.config.block_out_channels) - 1),
            vae.config.latent_channels,
        )
        self.latents = torch.zeros(capacity, channels, side, side, dtype=torch.float16, device=place)
        self.ids = torch.zeros(capacity, networks.MAX_TOKENS, dtype=torch.int16, device=place)
        self.count = self.next = 0

    def grow(self, n):
        described = [self.layouts(self.rng) for _ in range(n)]
        z = moments(self.vae, self.render(described)) * networks.SCALING_FACTOR
        self.put(z.half(), encode(self.tokenizer, [d.caption for d in described]).short())

    def put(self, latents, ids):
        at = (self.next + torch.arange(len(ids))) % len(self.ids)
        self.latents[at], self.ids[at] = latents.to(self.latents.device), ids.to(self.ids.device)
        self.next = (self.next + len(ids)) % len(self.ids)
        self.count = min(self.count + len(ids), len(self.ids))

    def fill(self, n, *, batch=50):
        while self.count < min(n, len(self.ids)):
            self.grow(batch)

    def sample(self, n):
        """Scaled latents `[n, C, S, S] float32` and tokens `[n, MAX_TOKENS] int64`."""
        return self.at(torch.randint(HELD_OUT, self.count, (n,), device=self.ids.device))

    def at(self, index):
        return self.latents[index].float(), self.ids[index].long()

    def save(self, path):
        partial = path.with_suffix(".partial")
        torch.save({"latents": self.latents[: self.count], "ids": self.ids[: self.count]}, partial)
        partial.replace(path)

    def resume(self, path):
        if path.exists():
            saved = torch.load(path, weights_only=True, map_location="cpu")
            self.put(saved["latents"][: len(self.ids)], saved["ids"][: len(self.ids)])


class Lesson:
    """What both trainings share: device, autoencoder, pool and the text encoder with its guessing head."""

    def __init__(self, latents, *, subset, seed):
        self.place, self.work = device(), work_dir()
        self.batch, self.fresh, self.first, capacity = SIZES[self.place.type]
        subjects = read_list()
        self.layouts = few(subjects) if subset else Layouts(subjects)
        self.render = Renderer(art.load(), device=self.place)
        vae = AutoencoderKL.from_pretrained(self.work / f"autoencoder_{latents}").to(self.place)
        kind = networks.LATENTS_256[latents]
        self.guess = LatentGuess(fresh_encoder(), size=kind.channels * kind.side**2).to(self.place)
        self.pool_path = self.work / f"pool_{latents}{'_few' if subset else ''}.pt"
        rng = np.random.default_rng(seed)
        self.pool = Pool(
            vae.eval().requires_grad_(False), self.layouts, self.render, capacity=capacity, rng=rng
        )
        self.pool.resume(self.pool_path)
        self.pool.fill(self.first)

    def autocast(self):
        return torch.autocast(self.place.type, dtype=torch.bfloat16)

    def text_params(self):
        return [p for p in self.guess.parameters() if p.requires_grad]

    def save_text(self):
        self.guess.encoder.save_pretrained(self.work / "pipeline/text_encoder")


def train_text_encoder(latents, *, captions, minutes=math.inf, lr=3e-3):
    """Go on from the last checkpoint; True when all `captions` were seen."""
    path = work_dir() / f"text_encoder_{latents}.pt"
    torch.manual_seed(SEED)
    if path.exists() and torch.load(path, weights_only=True, map_location="cpu")["pictures"] >= captions:
        return True
    lesson = Lesson(latents, subset=False, seed=[SEED, 1])
    params = lesson.text_params()
    trainee = Trainee(params, Muon(params, lr=lr, weight_decay=0.02), path=path)
    trainee.resume()
    pace = Pace(trainee, pictures=captions, minutes=minutes, peak_lr=lr, decay_from=0.3)
    losses = []
    while pace.running():
        lesson.pool.grow(lesson.fresh)
        z, ids = lesson.pool.sample(lesson.batch)
        with lesson.autocast():
            guessed = lesson.guess(ids)
        loss = (guessed - z.flatten(1)).square().mean()
        trainee.pictures += lesson.batch
        trainee.update(loss, lr=pace.lr())
        losses.append(loss.detach())
        if (speed := pace.report_due()) is not None:
            print(f"{time.strftime('%H:%M:%S')} text encoder step {trainee.step} {pace.share():.1%} "
                  f"loss {torch.stack(losses).mean().item():.3f} captions/s {speed:.0f}", flush=True)  # fmt: skip
            losses = []
        if pace.save_due():
            trainee.save()
            lesson.pool.save(lesson.pool_path)
    trainee.save()
    lesson.pool.save(lesson.pool_path)
    return pace.finished()


class DiffusionLesson(Lesson):
    """The diffusion model and the text encoder, at a fraction of its rate; `train` goes on from the checkpoint."""

    def __init__(self, latents, *, lr, subset):
        super().__init__(latents, subset=subset, seed=[SEED, 2, int(subset)])
        self.vae, self.folder, self.noising = self.pool.vae, self.work / "pipeline", Noising(self.place)
        self.net = networks.unet_256(latents).to(self.place)
        torch.nn.init.zeros_(self.net.conv_out.weight)
        text = Trainee(
            params := self.text_params(), Muon(params, lr=lr), path=self.work / f"text_encoder_{latents}.pt"
        )
        text.resume()
        with torch.no_grad():
            torch._foreach_copy_(params, text.ema)
        every = [*self.net.parameters(), *params]
        optimizer = Muon(every, lr=lr, slow=params, slow_rate=TEXT_RATE)
        self.trainee = Trainee(every, optimizer, path=self.work / f"unet_{latents}.pt")
        self.trainee.resume()
        self.null = encode(self.pool.tokenizer, [""]).to(self.place)
        torch.manual_seed(SEED + self.trainee.step)

    def loss(self):
        z, ids = self.pool.sample(self.batch)
        ids[torch.rand(self.batch, device=self.place) < NO_CAPTION] = self.null
        t = self.noising.timesteps(self.batch)
        x, v = self.noising(z, t)
        with self.autocast():
            hidden = self.guess.encoder(input_ids=ids).last_hidden_state
            guessed = self.guess.read(hidden, ids)
            out = self.net(x, t, hidden).sample
        drawn = (out.float() - v).square().mean()
        return drawn + GUESS_WEIGHT * (guessed - z.flatten(1)).square().mean(), drawn.detach()

    def save(self):
        """Checkpoint, pool, and the whole model as a diffusers folder; prints what the caption is worth."""
        self.trainee.save()
        self.pool.save(self.pool_path)
        z, ids = self.pool.at(torch.arange(HELD_OUT, device=self.place))
        with self.trainee.averaged(), torch.random.fork_rng():
            self.save_text()
            save_pipeline(self.folder, unet=self.net)
            self.vae.save_pretrained(self.folder / "vae")
            with torch.no_grad(), self.autocast():
                true, none = (
                    self.guess.encoder(input_ids=i).last_hidden_state for i in (ids, self.null.expand_as(ids))
                )
            print("  gap", conditional_gap(self.net, self.noising, z, true, none), flush=True)

    def gate(self):
        """Whether attributes are followed; figures to `gate.json`."""
        pipe = load_pipeline(self.folder).to(self.place)
        figures = following.score(pipe, layouts=self.layouts, render=self.render, few=FEW_SUBJECTS)
        report = figures | {"pictures": self.trainee.pictures}
        (self.work / "gate.json").write_text(json.dumps(report, indent=2) + "\n")
        print("  gate", report, flush=True)
        return figures["passed"]

    def train(self, pace, *, until_gate):
        """True when the gate is passed, or without one when all pictures were seen."""
        losses, gated = [], self.trainee.pictures // GATE_EVERY
        while pace.running():
            self.pool.grow(self.fresh)
            loss, drawn = self.loss()
            self.trainee.pictures += self.batch
            self.trainee.update(loss, lr=pace.lr())
            losses.append(drawn)
            if (speed := pace.report_due()) is not None:
                print(f"{time.strftime('%H:%M:%S')} unet step {self.trainee.step} {pace.share():.1%} loss "
                      f"{torch.stack(losses).mean().item():.4f} img/s {speed:.0f}", flush=True)  # fmt: skip
                losses = []
            if pace.save_due(300):
                self.save()
            if until_gate and self.trainee.pictures // GATE_EVERY > gated:
                gated = self.trainee.pictures // GATE_EVERY
                self.save()
                if self.gate():
                    return True
        self.save()
        return pace.finished()


def gate_passed():
    path = work_dir() / "gate.json"
    return path.exists() and json.loads(path.read_text())["passed"]


def train(latents, *, pictures, minutes=math.inf, lr=3e-3):
    """Go on from the last checkpoint; True when all `pictures` were seen."""
    started = time.monotonic()
    for subset in (True, False):
        if subset and gate_passed():
            continue
        lesson = DiffusionLesson(latents, lr=lr, subset=subset)
        left = minutes - (time.monotonic() - started) / 60
        pace = Pace(lesson.trainee, pictures=pictures, minutes=left, peak_lr=lr)
        if not lesson.train(pace, until_gate=subset):
            return False
    return True


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--latents", choices=networks.LATENTS_256, default="8x8x32")
    parser.add_argument("--captions", type=int, default=120000)
    parser.add_argument("--pictures", type=int, default=1700000)
    parser.add_argument("--minutes", type=float, default=math.inf)
    args = parser.parse_args()
    start_ranks()
    started = time.monotonic()
    if train_text_encoder(args.latents, captions=args.captions, minutes=args.minutes):
        left = args.minutes - (time.monotonic() - started) / 60
        train(args.latents, pictures=args.pictures, minutes=left)


if __name__ == "__main__":
    main()
