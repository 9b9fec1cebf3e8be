"""Do pictures follow the words of attributes? The gate of the 256 px diffusion model before it learns all subjects.

A drawn picture is compared with the training pictures of its subject in all combinations of style, side and size;
the nearest one says what was drawn. Where a drawing is nearly symmetric, both sides are right.
"""

import itertools

import numpy as np
import torch.nn.functional as F

from art import STYLES
from layouts import SIDES, SIZES
from pipeline import draw
from runtime import to_model

JUDGED_SIZE = 64
TIE = 1.02  # errors this near to the least are a tie
GATE = 0.9
DEFAULTS = (0, SIDES[""], SIZES[""])
COMBINATIONS = tuple(itertools.product(range(len(STYLES)), SIDES.values(), SIZES.values()))
NAMES = ("style", "mirror", "share")
TOGETHER = "all attributes"


def asked_for(subjects, *, n, seed=77):
    """`n` pairs of a subject's index and a combination of attributes."""
    every = list(itertools.product(range(len(subjects)), COMBINATIONS))
    rng = np.random.default_rng(seed)
    return [every[k] for k in rng.choice(len(every), min(n, len(every)), replace=False)]


def reduced(x):
    return F.interpolate(x, size=(JUDGED_SIZE, JUDGED_SIZE), mode="area")


def marks(picture, subject, combination, *, layouts, render):
    """`{attribute: 0 or 1}` of one picture `[3, S, S]`."""
    references = reduced(render([layouts.one(subject, *c) for c in COMBINATIONS]))
    errors = (references - reduced(picture[None].to(references))).square().mean((1, 2, 3))
    nearest = [
        c for c, e in zip(COMBINATIONS, errors.tolist(), strict=True) if e <= TIE * errors.min().item()
    ]
    return {name: float(any(c[k] == combination[k] for c in nearest)) for k, name in enumerate(NAMES)}


def followed(pictures, asked, *, layouts, render):
    """Shares of right attributes, and of all right together, over pictures `[N, 3, S, S]` of `asked`."""
    every = [
        marks(x, k, c, layouts=layouts, render=render) for x, (k, c) in zip(pictures, asked, strict=True)
    ]
    every = [m | {TOGETHER: min(m.values())} for m in every]
    return {name: round(float(np.mean([m[name] for m in every])), 3) for name in (*NAMES, TOGETHER)}


def score(pipe, *, layouts, render, few, n=96, steps=8, guidance_scale=1.7):
    """Attributes followed by `pipe` in `n` random combinations of the first `few` subjects."""
    asked = asked_for(layouts.subjects[:few], n=n)
    prompts = [layouts.one(k, *c).caption for k, c in asked]
    drawn = draw(pipe, prompts, steps=steps, guidance_scale=guidance_scale, seeds=range(len(prompts)))
    figures = followed(to_model(drawn), asked, layouts=layouts, render=render)
    return figures | {"passed": all(figures[name] >= GATE for name in NAMES)}
