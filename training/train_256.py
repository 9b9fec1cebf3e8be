"""The 256 px model, one command: goes on from the last checkpoint, stage after stage, on a GPU or a CPU.

    python launch.py train_256.py               # on a CPU with two cores
    python train_256.py --idle                  # on shared CPUs: lowest priority, until it is done or stopped
    python train_256.py --minutes 10            # ten minutes on a data-center GPU

It may be stopped at any time and started again on another machine with the same work folder. While a file `PAUSE`
lies in that folder it waits, for instance while something else is measured. Stages and their figures:

1. art_256.zip, if it is missing; everything else starts from the shipped model, and without a checkpoint where
   `progress.json` says that this one came;
2. a decoder of 256 px for its latents, and an encoder: `pipeline/` is then the shipped model at 256 px;
3. the diffusion model learns attributes, at first with half of the pictures of 20 subjects, until a gate is passed;
4. its few-step distillation (`train_few_steps.py`, on the CPU);
5. the decoder once more, on latents that this diffusion model drew.
"""

import argparse
import fcntl
import math
import os
import shutil
import time

import torch

import art
import train_decoder_256 as decoder
import train_few_steps as few_steps
import train_unet_256 as unet
from runtime import agreed, rank, say, start_ranks, work_dir

PICTURES = {
    "decoder": 18500, "encoder": 1200, "captions": 20000, "unet": 2600000, "few steps": 40000, "all of the decoder": 60000,
}  # fmt: skip


def prepare():
    """Art, tokenizer and the shipped model, by the first rank for all."""
    work = work_dir()
    if rank() != 0:
        agreed(True)
        return
    if not (work / "art_256.zip").exists():
        art.main()
    shutil.copytree(decoder.shipped() / "tokenizer", work / "tokenizer", dirs_exist_ok=True)
    art.load()
    decoder.pipeline_folder()
    agreed(True)


def run(minutes):
    """True when every stage is complete."""
    stop = time.monotonic() + minutes * 60

    def left():
        return (stop - time.monotonic()) / 60

    prepare()
    return bool(
        decoder.train(pictures=PICTURES["decoder"], minutes=left())
        and decoder.train_encoder(pictures=PICTURES["encoder"], minutes=left())
        and unet.train_text_encoder(captions=PICTURES["captions"], minutes=left())
        and unet.train(pictures=PICTURES["unet"], minutes=left())
        and few_steps.train(pictures=PICTURES["few steps"], minutes=left())
        and decoder.train(pictures=PICTURES["all of the decoder"], minutes=left(), attributes=True)
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
    start_ranks()
    with open(work_dir() / "train_256.lock", "w") as lock:
        try:
            if rank() == 0:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise SystemExit(f"another process trains in {work_dir()}") from None
        torch.set_float32_matmul_precision("high")
        say("complete" if run(args.minutes) else "stopped; the same command goes on")


if __name__ == "__main__":
    main()
