"""The 256 px model, one command: goes on from the last checkpoint, stage after stage, on a GPU or a CPU.

    python train_256.py --idle                  # on shared CPUs: lowest priority, until it is done or stopped
    python train_256.py --minutes 10            # ten minutes on a data-center GPU

It may be stopped at any time and started again on another machine with the same work folder. While a file `PAUSE`
lies in that folder it waits, for instance while something else is measured. Stages and their figures:

1. art_256.zip and the tokenizer, if they are missing;
2. the kinds of latents, each overfitted to 20 subjects: `autoencoder_KIND_overfit/figures.json`, then `latents.json`;
3. the autoencoder: `autoencoder_KIND/figures.json`;
4. the text encoder, then the diffusion model on 20 subjects until `gate.json` is passed, then on all.
"""

import argparse
import fcntl
import json
import math
import os
import time

import torch

import art
import networks
import tokenizer
import train_autoencoder_256 as autoencoder
import train_unet_256 as unet
from runtime import start_ranks, work_dir

PICTURES = {"overfit": 1200, "autoencoder": 60000, "captions": 120000, "unet": 1700000}
CRISP = 0.7  # edges at the same pixel that the overfit should reach


def prepare():
    work = work_dir()
    if not (work / "art_256.zip").exists():
        art.main()
    if not (work / "word_vectors.npy").exists():
        tokenizer.main()


def choose_latents(minutes_left):
    """The kind of latents with the sharper overfit, compared at the same number of pictures; None if not all are done."""
    path = work_dir() / "latents.json"
    if path.exists():
        return json.loads(path.read_text())["chosen"]
    figures = {}
    for kind in networks.LATENTS_256:
        if not autoencoder.train(kind, pictures=PICTURES["overfit"], minutes=minutes_left(), overfit=True):
            return None
        figures[kind] = json.loads((work_dir() / f"autoencoder_{kind}_overfit/figures.json").read_text())
    chosen = max(figures, key=lambda kind: figures[kind]["edges"])
    report = {"chosen": chosen, "crisp": figures[chosen]["edges"] >= CRISP, "figures": figures}
    path.write_text(json.dumps(report, indent=2) + "\n")
    return chosen


def run(minutes):
    """True when every stage is complete."""
    stop = time.monotonic() + minutes * 60

    def left():
        return (stop - time.monotonic()) / 60

    prepare()
    latents = choose_latents(left)
    return bool(
        latents
        and autoencoder.train(latents, pictures=PICTURES["autoencoder"], minutes=left())
        and unet.train_text_encoder(latents, captions=PICTURES["captions"], minutes=left())
        and unet.train(latents, pictures=PICTURES["unet"], minutes=left())
    )


def yield_to_everything():
    os.nice(19)
    if hasattr(os, "SCHED_IDLE"):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=math.inf)
    parser.add_argument("--idle", action="store_true", help="run only when nothing else wants the processor")
    args = parser.parse_args()
    if args.idle:
        yield_to_everything()
    with open(work_dir() / "train_256.lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise SystemExit(f"another process trains in {work_dir()}") from None
        start_ranks()
        torch.set_float32_matmul_precision("high")
        print("complete" if run(args.minutes) else "stopped; the same command goes on", flush=True)


if __name__ == "__main__":
    main()
