"""Stage 9: the linear map from latents to colors that notebooks preview with, to `pipeline/preview.json`."""

import json

import numpy as np
import torch
import torch.nn.functional as F

import networks
from runtime import SEED, composer, to_model, work_dir
from train_decoder import Teacher


def main():
    torch.set_num_threads(1)
    compose, rng, teacher = composer(size=networks.SIZE), np.random.default_rng(SEED + 3), Teacher()
    x = to_model([compose(rng).picture for _ in range(400)])
    z = torch.cat([teacher(part) for part in x.split(40)])
    means = F.avg_pool2d(x, networks.SIZE // networks.LATENT_SIZE)
    columns, wanted = (t.permute(0, 2, 3, 1).flatten(0, 2).numpy() for t in (z, means))
    columns = np.c_[columns, np.ones(len(columns))]
    solution, *_ = np.linalg.lstsq(columns, wanted, rcond=None)
    off = np.abs(columns @ solution - wanted).mean()
    *factors, bias = solution.round(4).tolist()
    (work_dir() / "pipeline/preview.json").write_text(json.dumps({"factors": factors, "bias": bias}) + "\n")
    print(f"mean error {off / 2:.3f} of the range")


if __name__ == "__main__":
    main()
