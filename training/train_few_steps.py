"""Stage 8: few-step distillation, where one guided step learns to land where two of the teacher's do.

Progressive distillation (Salimans and Ho, 2022) of the guided model. The loss is on the guided
combination `u + w (c - u)` for a scale `w` drawn for each picture, with gradients into both
predictions: so guidance, its scale and negative prompts stay the user's, and the UNet stays a
plain one. Pictures are drawn from noise in a few steps, their number drawn too, and go on from the
student's landing as often as from the teacher's: so it also learns to mend its own errors. A share
of plain denoising keeps each of the two predictions what it was for other step counts; so does
shipping weights half-way between the teacher's and the student's.
"""

import argparse
import copy
import math
import time
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from transformers import CLIPTextModel

import networks
from latents import LatentPool, pool_path
from optimizer import Muon
from pipeline import save_pipeline
from runtime import (
    SEED,
    Clock,
    Pace,
    Trainee,
    agreed,
    autocast,
    pictures_seen,
    rank,
    ranks,
    start_ranks,
    work_dir,
)
from tokenizer import encode, load
from train_unet import HELD_OUT, NO_CAPTION, Noising

STEP_COUNTS = {2: 0.25, 3: 0.25, 4: 0.25, 6: 0.15, 10: 0.1}
TEACHER_STEPS = 2  # of the teacher for one of the student
GUIDANCE = (1.0, 2.4)  # the shipped default, 1.7, in the middle
OTHER_NEGATIVE = 0.15  # share of pictures with another caption as their negative prompt
FROM_STUDENT = 0.5  # share of steps that go on from where the student landed
PLAIN_WEIGHT = 0.3


class Prompted(NamedTuple):
    """What one guided prediction is told: `[B, 24, 192]` twice, and the scale `[B]`."""

    hidden: torch.Tensor
    negative: torch.Tensor
    scale: torch.Tensor


def angles():
    """Angle between picture and noise at timestep t, as entry t + 1; entry 0 is the clean picture."""
    alphas = networks.scheduler().alphas_cumprod
    return torch.cat([torch.zeros(1), torch.acos(alphas.sqrt())])


def guided(net, x, t, prompted):
    with autocast():
        both = net(torch.cat([x, x]), torch.cat([t, t]), torch.cat([prompted.negative, prompted.hidden]))
    u, c = both.sample.float().chunk(2)
    return u + prompted.scale.view(-1, 1, 1, 1) * (c - u)


class Jumps:
    """DDIM with v-prediction is a turn by the angle between two timesteps: `x cos - v sin`."""

    def __init__(self):
        self.angles = angles()

    def turn(self, t, s):
        angle = (self.angles[t + 1] - self.angles[s + 1]).view(-1, 1, 1, 1)
        return angle.cos(), angle.sin()

    def land(self, x, v, t, s):
        cos, sin = self.turn(t, s)
        return cos * x - sin * v

    def prediction(self, x, landed, t, s):
        """The v that goes from x at t to `landed` at s in one step."""
        cos, sin = self.turn(t, s)
        return (cos * x - landed) / sin

    @torch.no_grad()
    def several(self, net, x, t, s, prompted, *, steps):
        """Where `steps` guided steps of equal length go from x at t."""
        for k in range(steps):
            here, there = (t + (s - t) * i // steps for i in (k, k + 1))
            x = self.land(x, guided(net, x, here, prompted), here, there)
        return x

    def drawn(self, net, noise, prompted, *, steps):
        first = torch.full((len(noise),), 999)
        return self.several(net, noise, first, torch.full_like(first, -1), prompted, steps=steps)


class Walkers:
    """Pictures on their way from noise, each with its prompt, scale and number of steps; all at different places."""

    def __init__(self, prompts, n):
        self.prompts = prompts
        self.x = torch.empty(n, networks.LATENT_CHANNELS, networks.LATENT_SIZE, networks.LATENT_SIZE)
        self.told = prompts(n)
        self.steps, self.done = torch.empty(n, dtype=torch.long), torch.zeros(n, dtype=torch.long)
        self.restart(torch.ones(n, dtype=torch.bool))

    def restart(self, which):
        n = int(which.sum())
        if n == 0:
            return
        self.x[which] = torch.randn_like(self.x[which])
        self.told = Prompted(
            *(part.clone() for part in self.told)
        )  # the last step's gradient still needs them
        for old, new in zip(self.told, self.prompts(n), strict=True):
            old[which] = new
        counts, shares = list(STEP_COUNTS), torch.tensor(list(STEP_COUNTS.values()))
        self.steps[which] = torch.tensor(counts)[torch.multinomial(shares, n, replacement=True)]
        self.done[which] = 0

    def now_and_next(self):
        """Timesteps with trailing spacing, -1 after the last."""
        return tuple(1000 * (self.steps - done) // self.steps - 1 for done in (self.done, self.done + 1))

    def move(self, x):
        self.x = x
        self.done += 1
        self.restart(self.done == self.steps)


class Prompts:
    """Captions of the pool, through the frozen text encoder."""

    def __init__(self, pool, *, first=HELD_OUT):
        self.pool, self.first = pool, first
        self.text = CLIPTextModel.from_pretrained(work_dir() / "pipeline/text_encoder").eval()
        self.text.requires_grad_(False)
        self.null = self.states(encode(load(), [""]).long())

    def states(self, ids):
        with torch.no_grad(), autocast():
            return self.text(input_ids=ids.long()).last_hidden_state.float()

    def pick(self, n):
        return torch.randint(self.first, len(self.pool.ids), (n,))

    def of(self, index):
        """Hidden states of captions, of which a share is left out."""
        hidden = self.states(self.pool.ids[index])
        hidden[torch.rand(len(index)) < NO_CAPTION] = self.null
        return hidden

    def __call__(self, n):
        negative = self.null.repeat(n, 1, 1)
        other = torch.rand(n) < OTHER_NEGATIVE
        if other.any():
            negative[other] = self.states(self.pool.ids[self.pick(int(other.sum()))])
        low, high = GUIDANCE
        hidden, scale = self.states(self.pool.ids[self.pick(n)]), low + (high - low) * torch.rand(n)
        return Prompted(hidden, negative, scale)


class Examination:
    """How far the student's pictures of held-out captions are from the teacher's in 20 steps, from the same noise."""

    def __init__(self, prompts, jumps, teacher):
        ids = prompts.pool.ids[:HELD_OUT]
        self.told = Prompted(
            prompts.states(ids), prompts.null.repeat(len(ids), 1, 1), torch.full((len(ids),), 1.7)
        )
        shape = (len(ids), networks.LATENT_CHANNELS, networks.LATENT_SIZE, networks.LATENT_SIZE)
        self.noise = torch.randn(shape, generator=torch.Generator().manual_seed(SEED))
        self.jumps, self.wanted = jumps, jumps.drawn(teacher, self.noise, self.told, steps=20)

    def __call__(self, net):
        parts = []
        for steps in (*STEP_COUNTS, 20):
            error = self.jumps.drawn(net, self.noise, self.told, steps=steps) - self.wanted
            parts.append(f"{steps} steps {error.square().mean():.4f}")
        return ", ".join(parts)


def student_and_teacher(checkpoint):
    """Both start as the pipeline's UNet, which is kept for resuming, as the pipeline gets the student."""
    kept = work_dir() / "teacher"
    source = kept if checkpoint.exists() else work_dir() / "pipeline/unet"
    student, teacher = (UNet2DConditionModel.from_pretrained(source) for _ in range(2))
    for net in (student, teacher):
        net.set_attn_processor(AttnProcessor())
    teacher.eval().requires_grad_(False)
    if rank() == 0 and not checkpoint.exists():
        teacher.save_pretrained(kept)
    return student, teacher


def between(teacher, student, share):
    """A UNet whose weights lie `share` of the way from the teacher's to the student's."""
    net, reached = copy.deepcopy(teacher), student.state_dict()
    net.load_state_dict({k: torch.lerp(w, reached[k], share) for k, w in teacher.state_dict().items()})
    return net


def distill(pool, timing, *, batch=48, plain_batch=32, lr=4e-4, share=0.5):
    """Teach the pipeline's UNet on the captions of `pool` while `timing`, a Clock or a Pace of the trainee, runs.

    What is saved lies `share` of the way to the student. Returns the timing.
    """
    checkpoint = work_dir() / "few_steps.pt"
    net, teacher = student_and_teacher(checkpoint)
    optimizer = Muon(net.parameters(), lr=lr, weight_decay=0)
    trainee = Trainee(net.parameters(), optimizer, path=checkpoint, ema=0.99)
    trainee.resume()
    torch.manual_seed(SEED + 1000 * rank() + trainee.step)
    prompts, jumps, noising = Prompts(pool), Jumps(), Noising()
    walkers = Walkers(prompts, batch)
    examine = Examination(prompts, jumps, teacher) if rank() == 0 else None
    clock = timing(trainee, peak_lr=lr, decay_from=0.3, warmup_steps=20)

    def distilled():
        """Loss of one guided step against the teacher's, after which every picture has moved on."""
        t, s = walkers.now_and_next()
        x, told = walkers.x, walkers.told
        landed = jumps.several(teacher, x, t, s, told, steps=TEACHER_STEPS)
        v = guided(net, x, t, told)
        loss = (v - jumps.prediction(x, landed, t, s)).square().mean()
        own = jumps.land(x, v.detach(), t, s)
        walkers.move(torch.where(torch.rand(len(x), 1, 1, 1) < FROM_STUDENT, own, landed))
        return loss

    def plain():
        index = prompts.pick(plain_batch)
        t = noising.timesteps(plain_batch)
        x, v = noising(pool.latents[index].float(), t)
        with autocast():
            out = net(x, t, prompts.of(index)).sample
        return (out.float() - v).square().mean()

    def report():
        with trainee.averaged():
            print("  from the teacher's:", examine(between(teacher, net, share)), flush=True)

    def save():
        trainee.save()
        with trainee.averaged():
            save_pipeline(work_dir() / "pipeline", unet=between(teacher, net, share))
        trainee.record_progress()

    if rank() == 0:
        report()
    losses, saved, since = [], time.monotonic(), time.monotonic()
    while clock.running():
        parts = distilled(), plain()
        trainee.pictures += batch * ranks()
        trainee.update(parts[0] + PLAIN_WEIGHT * parts[1], lr=clock.lr())
        losses.append([part.item() for part in parts])
        if rank() == 0 and trainee.step % 25 == 0:
            (jump, denoising), spent_s = np.mean(losses, 0), time.monotonic() - since
            print(f"{time.strftime('%H:%M:%S')} step {trainee.step} {clock.share():.1%} jumps {jump:.4f} "
                  f"plain {denoising:.4f} lr {clock.lr():.1e} img/s {25 * batch * ranks() / spent_s:.0f}", flush=True)  # fmt: skip
            losses, since = [], time.monotonic()
        if rank() == 0 and time.monotonic() - saved > 180:
            save()
            report()
            saved = time.monotonic()
    if rank() == 0:
        save()
        report()
    return clock


def train(*, pictures, minutes=math.inf):
    """For the 256 px model: go on from the last checkpoint; True when all `pictures` were seen."""
    path = work_dir() / "few_steps.pt"
    if pictures_seen(path) >= pictures:
        return True
    pool = LatentPool(work_dir() / "pool_256.pt").load()
    pace = distill(pool, partial(Pace, pictures=pictures, minutes=minutes))
    return bool(agreed(pace.finished()))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--batch", type=int, default=24, help="pictures on their way, per rank")
    parser.add_argument("--plain", type=int, default=16, help="pictures of plain denoising, per rank")
    parser.add_argument("--lr", type=float, default=4e-4)
    parser.add_argument("--share", type=float, default=0.5, help="of the way to the student that is shipped")
    args = parser.parse_args()
    start_ranks()
    options = {"batch": args.batch, "plain_batch": args.plain, "lr": args.lr, "share": args.share}
    pool = LatentPool(pool_path(rank())).load()
    distill(pool, partial(Clock, minutes=args.minutes), **options)


if __name__ == "__main__":
    main()
