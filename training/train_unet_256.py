"""Diffusion model and text encoder of the 256 px model, from the shipped ones, on latents encoded while it goes on.

What the shipped model knows is kept: captions mean the same and latents are the same, new are the attributes. A head
that guesses the latent from the text encoder learns first, with the encoder at a fraction of its rate. Until 20
subjects follow their attributes (`following.py`), half of the pictures are of these.
"""

import argparse
import math
import time

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from transformers import CLIPTextModel

import art
import following
import networks
from layouts import Layouts
from optimizer import Muon
from pipeline import load_pipeline, save_pipeline
from render import Renderer
from runtime import (
    SEED,
    Pace,
    Trainee,
    agreed,
    autocast,
    device,
    own_file,
    pictures_seen,
    progress,
    rank,
    ranks,
    record_progress,
    say,
    start_ranks,
    work_dir,
)
from subjects import read_list
from tokenizer import encode, load
from train_decoder_256 import Teacher, pipeline_folder, shipped
from train_text_encoder import LatentGuess
from train_unet import GUESS_WEIGHT, NO_CAPTION, Noising, conditional_gap

FEW_SUBJECTS = 20
TEXT_RATE = 0.15
HELD_OUT = 64
GATE_EVERY = 40000
# pictures: in a step, encoded anew for each step, before the first step, kept at most
SIZES = {"cpu": (128, 8, 1500, 40000), "cuda": (2048, 256, 16384, 400000)}


class Pool:
    """Encoded pictures with the tokens of their captions; when it is full, new ones replace the oldest."""

    def __init__(self, teacher, layouts, render, *, capacity, rng):
        self.teacher, self.layouts, self.render, self.rng = teacher, layouts, render, rng
        self.tokenizer, place = load(), render.device
        side, channels = networks.LATENT_SIZE, networks.LATENT_CHANNELS
        self.latents = torch.zeros(capacity, channels, side, side, dtype=torch.float16, device=place)
        self.ids = torch.zeros(capacity, networks.MAX_TOKENS, dtype=torch.int16, device=place)
        self.count = self.next = 0

    def grow(self, n):
        described = [self.layouts(self.rng) for _ in range(n)]
        self.put(
            self.teacher(self.render(described)).half(),
            encode(self.tokenizer, [d.caption for d in described]).short(),
        )

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
    """What both trainings share: device, pool, and the text encoder with its guessing head."""

    def __init__(self, *, seed, practice=False):
        """`practice`: half of the pictures are of the first subjects."""
        self.place, self.work = device(), work_dir()
        self.batch, self.fresh, self.first, capacity = SIZES[self.place.type]
        every, self.render = Layouts(read_list()), Renderer(art.load(), device=self.place)
        self.few = Layouts(read_list(), only=range(FEW_SUBJECTS), kinds={"single": 1.0})
        encoder = CLIPTextModel.from_pretrained(shipped() / "text_encoder")
        size = networks.LATENT_CHANNELS * networks.LATENT_SIZE**2
        self.guess = LatentGuess(encoder, size=size).to(self.place)
        self.guess.encoder.get_input_embeddings().requires_grad_(False)

        def layouts(rng):
            return self.few(rng) if practice and rng.random() < 0.5 else every(rng)

        self.pool_path = own_file("pool_256_practice" if practice else "pool_256")
        rng = np.random.default_rng([*seed, rank()])
        self.pool = Pool(Teacher(self.place), layouts, self.render, capacity=capacity, rng=rng)
        self.pool.resume(self.pool_path)
        self.pool.fill(self.first)

    def autocast(self):
        return autocast(self.place)

    def text_params(self):
        return [p for p in self.guess.parameters() if p.requires_grad]


def train_text_encoder(*, captions, minutes=math.inf, lr=3e-3):
    """Go on from the last checkpoint; True when all `captions` were seen.

    A shipped text encoder that knows attributes stays as it is: only the head is learned, which is not shipped.
    """
    path = work_dir() / "text_encoder_256.pt"
    torch.manual_seed(SEED)
    if pictures_seen(path) >= captions:
        return True
    lesson = Lesson(seed=[SEED, 1])
    params = lesson.text_params()
    known = [p for p in lesson.guess.encoder.parameters() if p.requires_grad]
    rate = 0.0 if pictures_seen(work_dir() / "unet_256.pt") else TEXT_RATE
    optimizer = Muon(params, lr=lr, slow=known, slow_rate=rate, weight_decay=0)
    trainee = Trainee(params, optimizer, path=path)
    trainee.resume()
    pace = Pace(trainee, pictures=captions, minutes=minutes, peak_lr=lr, decay_from=0.3)
    losses = []
    while pace.running():
        lesson.pool.grow(lesson.fresh)
        z, ids = lesson.pool.sample(lesson.batch)
        with lesson.autocast():
            guessed = lesson.guess(ids)
        loss = (guessed - z.flatten(1)).square().mean()
        trainee.pictures += lesson.batch * ranks()
        trainee.update(loss, lr=pace.lr())
        losses.append(loss.detach())
        if (speed := pace.report_due()) is not None:
            loss = torch.stack(losses).mean().item()
            say(f"text encoder step {trainee.step} {pace.share():.1%} loss {loss:.3f} captions/s {speed:.0f}")
            losses = []
        if pace.save_due():
            trainee.save()
            lesson.pool.save(lesson.pool_path)
    trainee.save()
    lesson.pool.save(lesson.pool_path)
    return bool(agreed(pace.finished()))


class DiffusionLesson(Lesson):
    """The diffusion model and the text encoder, at a fraction of its rate; `train` goes on from the checkpoint."""

    def __init__(self, *, lr, practice):
        super().__init__(seed=[SEED, 2, int(practice)], practice=practice)
        self.folder, self.noising = pipeline_folder(), Noising(self.place)
        self.net = UNet2DConditionModel.from_pretrained(shipped() / "unet").to(
            self.place, memory_format=torch.channels_last
        )
        self.net.set_attn_processor(AttnProcessor())
        params = self.text_params()
        learned = torch.load(self.work / "text_encoder_256.pt", weights_only=True, map_location=self.place)
        with torch.no_grad():
            torch._foreach_copy_(params, learned["ema"])
        every = [*self.net.parameters(), *params]
        optimizer = Muon(every, lr=lr, slow=params, slow_rate=TEXT_RATE)
        self.trainee = Trainee(every, optimizer, path=self.work / "unet_256.pt")
        self.trainee.resume()
        self.null = encode(self.pool.tokenizer, [""]).to(self.place)
        torch.manual_seed(SEED + 1000 * rank() + self.trainee.step)

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
        if rank() != 0:
            return
        z, ids = self.pool.at(torch.arange(HELD_OUT, device=self.place))
        with self.trainee.averaged(), torch.random.fork_rng():
            self.guess.encoder.save_pretrained(self.folder / "text_encoder")
            save_pipeline(self.folder, unet=self.net)
            self.trainee.record_progress()
            with torch.no_grad(), self.autocast():
                true, none = (
                    self.guess.encoder(input_ids=i).last_hidden_state for i in (ids, self.null.expand_as(ids))
                )
            say("  gap " + conditional_gap(self.net, self.noising, z, true, none))

    def gate(self):
        """Whether attributes are followed, by the first rank's examination."""
        if rank() != 0:
            return bool(agreed(False))
        pipe = load_pipeline(self.folder).to(self.place)
        figures = following.score(pipe, layouts=self.few, render=self.render, few=FEW_SUBJECTS)
        report = figures | {"pictures": self.trainee.pictures}
        record_progress(gate=report)
        say(f"  gate {report}")
        return bool(agreed(figures["passed"]))

    def train(self, pace, *, until_gate):
        """True when the gate is passed, or without one when all pictures were seen."""
        losses, gated = [], self.trainee.pictures // GATE_EVERY
        while pace.running():
            if until_gate and pace.met and self.trainee.pictures // GATE_EVERY > gated:
                gated = self.trainee.pictures // GATE_EVERY
                self.save()
                if self.gate():
                    return True
            self.pool.grow(self.fresh)
            loss, drawn = self.loss()
            self.trainee.pictures += self.batch * ranks()
            self.trainee.update(loss, lr=pace.lr())
            losses.append(drawn)
            if (speed := pace.report_due()) is not None:
                loss = torch.stack(losses).mean().item()
                say(f"unet step {self.trainee.step} {pace.share():.1%} loss {loss:.4f} img/s {speed:.0f}")
                losses = []
            if pace.save_due(300):
                self.save()
        self.save()
        return bool(agreed(pace.finished()))


def gate_passed():
    return progress().get("gate", {}).get("passed", False)


def train(*, pictures, minutes=math.inf, lr=1.5e-3, decay_from=0.7):
    """Go on from the last checkpoint; True when all `pictures` were seen.

    The rate `lr` falls after the share `decay_from` of them.
    """
    started = time.monotonic()
    for practice in (True, False):
        if practice and gate_passed():
            continue
        lesson = DiffusionLesson(lr=lr, practice=practice)
        left = minutes - (time.monotonic() - started) / 60
        pace = Pace(lesson.trainee, pictures=pictures, minutes=left, peak_lr=lr, decay_from=decay_from)
        if not lesson.train(pace, until_gate=practice):
            return False
    return True


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--captions", type=int, default=20000)
    parser.add_argument("--pictures", type=int, default=2600000)
    parser.add_argument(
        "--decay-from", type=float, default=0.7, help="share of the pictures before the rate falls"
    )
    parser.add_argument("--minutes", type=float, default=math.inf)
    args = parser.parse_args()
    start_ranks()
    started = time.monotonic()
    if train_text_encoder(captions=args.captions, minutes=args.minutes):
        left = args.minutes - (time.monotonic() - started) / 60
        train(pictures=args.pictures, minutes=left, decay_from=args.decay_from)


if __name__ == "__main__":
    main()
