"""What every training stage shares: the work folder, ranks, averaged gradients, EMA, checkpoints."""

import atexit
import json
import math
import os
import time
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from compose import Composer
from subjects import read_list

SEED = 20260
CPU = torch.device("cpu")
PROGRESS = Path(__file__).with_name("progress.json")  # of the shipped weights


def work_dir():
    """Where data and checkpoints go: `$SWIFTAI_TRAINING`, or `work/` beside this file."""
    path = Path(os.environ.get("SWIFTAI_TRAINING", Path(__file__).with_name("work")))
    path.mkdir(parents=True, exist_ok=True)
    return path


def composer(**options):
    """Of the 128 px art, or in the work folder of the 256 px model of that."""
    path = work_dir() / "pictures.npy"
    pictures = np.load(path) if path.exists() else np.load(work_dir() / "art_256.npy", mmap_mode="r")[0]
    return Composer(pictures, read_list(), **options)


def start_ranks():
    """Join the process group that `launch.py` describes, or stand alone; one thread a rank."""
    torch.set_num_threads(1)
    if "RANK" in os.environ:
        # the others wait while the first rank examines or prepares
        dist.init_process_group("gloo", timeout=timedelta(days=1))
        atexit.register(dist.destroy_process_group)
    return rank(), ranks()


def rank():
    return dist.get_rank() if dist.is_initialized() else 0


def ranks():
    return dist.get_world_size() if dist.is_initialized() else 1


def own_file(name):
    """`name.pt` in the work folder, with the number of the rank but for the first."""
    return work_dir() / (f"{name}_{rank()}.pt" if rank() else f"{name}.pt")


def shipped_progress():
    """How far the shipped weights came: pictures seen, by the name of the checkpoint, and the figures of the gate."""
    return json.loads(PROGRESS.read_text())


def progress():
    """The same of the work folder's model, which starts from the shipped one."""
    path = work_dir() / PROGRESS.name
    return json.loads(path.read_text()) if path.exists() else shipped_progress()


def record_progress(**entries):
    """Note how far the work folder's model has come; the file is shipped with the weights."""
    text = json.dumps(progress() | entries, indent=2) + "\n"
    (work_dir() / PROGRESS.name).write_text(text)


def pictures_seen(path):
    """By the checkpoint, or without one by the shipped weights, from which the stage then goes on."""
    if path.exists():
        return torch.load(path, weights_only=True, map_location="cpu").get("pictures", 0)
    return shipped_progress().get(path.stem, 0)


def agreed(value):
    """The first rank's number, on every rank; they wait here for each other."""
    shared = torch.tensor([float(value)])
    if dist.is_initialized():
        dist.broadcast(shared, 0)
    return shared.item()


def say(text):
    """Print with the time, on the first rank."""
    if rank() == 0:
        print(time.strftime("%H:%M:%S"), text, flush=True)


def device():
    """The first CUDA device where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def fast_bfloat16(place):
    """Whether products in bfloat16 are faster than in float32: without AMX a CPU took 1.4 times as long for a step."""
    return place.type != "cpu" or bool(torch.cpu.get_capabilities().get("amx_bf16"))


def autocast(place=CPU):
    return torch.autocast(place.type, dtype=torch.bfloat16, enabled=fast_bfloat16(place))


def to_model(pictures):
    """`[B, H, W, 3] uint8` to `[B, 3, H, W] float32` in -1..1."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1


class Trainee:
    """The parameters being trained: updates, EMA, the mean over ranks, and resumable checkpoints."""

    def __init__(self, params, optimizer, *, path, ema=0.998):
        self.params = list(params)
        self.optimizer, self.path, self.decay = optimizer, path, ema
        self.step, self.elapsed_s, self.pictures = 0, 0.0, 0
        if dist.is_initialized():
            for p in self.params:
                dist.broadcast(p.data, 0)
        self.ema = [p.detach().clone() for p in self.params]

    def update(self, loss, *, lr, clip=1.0):
        loss.backward()
        grads = [p.grad for p in self.params]
        norm = torch._foreach_norm(grads)
        torch._foreach_mul_(grads, min(1.0, clip / (torch.stack(norm).norm().item() + 1e-6)))
        self.optimizer.lr = lr
        self.optimizer.step()
        for p in self.params:
            p.grad = None
        self.step += 1
        decay = min(self.decay, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(self.ema, [p.detach() for p in self.params], 1 - decay)

    def average_ranks(self):
        """Local SGD: ranks step on their own and now and then take the mean of their weights.

        On a busy machine this matters: exchanging every gradient makes each rank wait for the
        other's turn on the processor three times a step.
        """
        flat = torch.cat([p.detach().flatten() for p in self.params])
        dist.all_reduce(flat)
        flat /= ranks()
        for p, mean in zip(self.params, flat.split([p.numel() for p in self.params]), strict=True):
            p.data.copy_(mean.view_as(p))

    def averaged(self):
        return AveragedWeights(self)

    def save(self):
        """The first rank's checkpoint; the others write none."""
        if rank() != 0:
            return
        state = {
            "params": [p.detach() for p in self.params], "ema": self.ema, "optimizer": self.optimizer.state_dict(),
            "step": self.step, "elapsed_s": self.elapsed_s, "pictures": self.pictures,
        }  # fmt: skip
        partial = self.path.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(self.path)

    def record_progress(self):
        """After the trained weights were written to the model's folder."""
        record_progress(**{self.path.stem: self.pictures})

    def resume(self):
        """Go on from the checkpoint; False without one, and then from the shipped weights' count of pictures."""
        if not self.path.exists():
            self.pictures = pictures_seen(self.path)
            return False
        state = torch.load(self.path, weights_only=True, map_location="cpu")
        for target, saved in ((self.params, state["params"]), (self.ema, state["ema"])):
            for p, q in zip(target, saved, strict=True):
                p.data.copy_(q)
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.elapsed_s = state["step"], state["elapsed_s"]
        self.pictures = state.get("pictures", 0)
        return True


class AveragedWeights:
    """Within the block the parameters hold their moving average."""

    def __init__(self, trainee):
        self.trainee = trainee

    def __enter__(self):
        self.kept = [p.detach().clone() for p in self.trainee.params]
        for p, e in zip(self.trainee.params, self.trainee.ema, strict=True):
            p.data.copy_(e)

    def __exit__(self, *_):
        for p, k in zip(self.trainee.params, self.kept, strict=True):
            p.data.copy_(k)


class Clock:
    """Learning rate and stop by wall time, and the ranks' meetings: training ends when its minutes are used."""

    def __init__(self, trainee, *, minutes, peak_lr, decay_from=0.5, warmup_steps=50, meeting_every_s=60):
        self.trainee, self.budget_s, self.peak = trainee, minutes * 60, peak_lr
        self.decay_from, self.warmup, self.meeting_every_s = decay_from, warmup_steps, meeting_every_s
        self.before_s, self.started = trainee.elapsed_s, time.monotonic()
        self.first_step = trainee.step
        self.meeting = self._next_meeting()

    def share(self):
        """How much of the budget is used."""
        self.trainee.elapsed_s = self.before_s + time.monotonic() - self.started
        return self.trainee.elapsed_s / self.budget_s

    def _next_meeting(self):
        left_s = self.budget_s * (1 - self.share())
        return time.monotonic() + max(0.0, min(self.meeting_every_s, left_s))

    def running(self):
        """Whether to take another step; ranks average their weights, and agree to stop, when a meeting is due."""
        if time.monotonic() < self.meeting:
            return True
        finished = torch.tensor([float(self.share() >= 1)])
        if dist.is_initialized():
            self.trainee.average_ranks()
            dist.broadcast(finished, 0)
        self.meeting = self._next_meeting()
        return not finished.item()

    def lr(self):
        warm = min(1.0, (self.trainee.step - self.first_step + 1) / self.warmup)
        late = max(0.0, self.share() - self.decay_from) / (1 - self.decay_from)
        return self.peak * warm * max(0.01, 0.5 * (1 + math.cos(math.pi * min(1.0, late))))


class Pace:
    """Learning rate by pictures seen, so that a checkpoint goes on the same on any machine; stop by wall time.

    While a file `PAUSE` lies in the work folder the training waits, between two steps; waiting is not counted.
    Ranks meet once a minute: they average their weights and count what all have seen, and only then stop. In
    between each counts its own pictures `ranks()` times.
    """

    def __init__(
        self, trainee, *, pictures, minutes=math.inf, peak_lr=2e-3, decay_from=0.7, warmup_steps=50, meeting_every_s=60
    ):  # fmt: skip
        self.trainee, self.pictures, self.peak, self.decay_from = trainee, pictures, peak_lr, decay_from
        self.warmup = warmup_steps  # once: a checkpoint holds the optimizer's state as well
        self.meeting_every_s, self.meeting = meeting_every_s, time.monotonic()
        self.met = True  # whether all ranks are at the same step, with the same weights
        self.stop, self.saved, self.reported = (time.monotonic() + s for s in (minutes * 60, 0, 0))
        self.reported_pictures = trainee.pictures

    def share(self):
        return self.trainee.pictures / self.pictures

    def finished(self):
        return self.share() >= 1

    def running(self):
        pause = work_dir() / "PAUSE"
        while pause.exists():
            time.sleep(1)
            self.stop, self.saved, self.reported = (t + 1 for t in (self.stop, self.saved, self.reported))
        self.met = ranks() == 1 or time.monotonic() >= self.meeting
        if not self.met:
            return True
        self._meet()
        return bool(agreed(not self.finished() and time.monotonic() < self.stop))

    def _meet(self):
        if ranks() == 1:
            return
        self.trainee.average_ranks()
        seen = torch.tensor([float(self.trainee.pictures)], dtype=torch.float64)
        dist.all_reduce(seen)
        self.trainee.pictures = round(seen.item() / ranks())
        self.meeting = time.monotonic() + agreed(self.meeting_every_s)

    def lr(self):
        warm = min(1.0, (self.trainee.step + 1) / self.warmup)
        late = (self.share() - self.decay_from) / (1 - self.decay_from)
        return self.peak * warm * max(0.01, 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, late)))))

    def save_due(self, every_s=180):
        due = time.monotonic() - self.saved > every_s
        self.saved = time.monotonic() if due else self.saved
        return due

    def report_due(self, every_s=30):
        """Whether to print, and pictures a second since the last time."""
        spent_s, done = time.monotonic() - self.reported, self.trainee.pictures - self.reported_pictures
        if spent_s < every_s:
            return None
        self.reported, self.reported_pictures = time.monotonic(), self.trainee.pictures
        return done / spent_s
