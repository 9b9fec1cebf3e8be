"""Stage 11: 200 fixed prompts, measured; figures to `evaluation.json`, pictures to `contact_sheet.webp`.

Retrieval embeds the picture by gradient histograms and color layout (measures.py), which no
training stage uses, and asks which of all the training subjects, drawn the same way, is nearest.
Pictures are reduced to 64 px first.
"""

import argparse
import json
import math
import os
from pathlib import Path

import numpy as np
import torch

import measures
from compose import CENTER, HALF, PLACES, SINGLE, STACKED, STAGE_WEIGHTS, countable, plural, with_article
from pipeline import draw, load_pipeline
from runtime import composer, to_model, work_dir
from scenes import COLORS, TINTS, contact_sheet, flat

HERE = Path(__file__).parent
JUDGED_SIZE = 64
SHEET_TILE = 128
NEWER_KINDS = ("attribute", "relation")  # for evaluate_256.py


class References:
    """Training pictures to compare with."""

    def __init__(self, *, size=JUDGED_SIZE):
        self.compose = composer(size=size)
        self.labels = [s.label for s in self.compose.subjects]
        self.cache = {}

    def picture(self, label, *, color=None, background=None, share=SINGLE, place=CENTER):
        size = self.compose.size
        canvas = (
            np.full((size, size, 3), 255, np.float32)
            if background is None
            else background.astype(np.float32).copy()
        )
        self.compose.paste(canvas, self.labels.index(label), share, place, color)
        return canvas.round().astype(np.uint8)

    def originals(self, asked):
        """The training pictures of a prompt: one, or one for each picture of its scene."""
        size, labels, count = self.compose.size, asked["subjects"], asked.get("count", 1)
        grounds = self.compose.scenes.get(asked.get("scene"), [flat(size, asked.get("background", "white"))])
        places = PLACES.get(count, [CENTER])
        if asked["kind"] == "pair":
            places = STACKED if asked["stacked"] else PLACES[2]
        out = []
        for ground in grounds:
            canvas = ground.astype(np.float32).copy()
            for k, place in enumerate(places):
                share = SINGLE if len(places) == 1 else HALF
                label = labels[min(k, len(labels) - 1)]
                self.compose.paste(canvas, self.labels.index(label), share, place, asked.get("tint"))
            out.append(canvas.round().astype(np.uint8))
        return out

    def gallery(self, scene=None):
        """`[variants * N, D]` embeddings of every subject on white, or on each picture of a scene."""
        if scene not in self.cache:
            grounds = [None] if scene is None else self.compose.scenes[scene]
            self.cache[scene] = np.stack(
                [measures.embedding(self.picture(n, background=g)) for g in grounds for n in self.labels]
            )
        return self.cache[scene]

    def rank(self, picture, label, scene=None):
        """Place of `label` among the subjects nearest to the picture, 0 for the nearest."""
        order = [self.labels[k % len(self.labels)] for k in measures.ranks(picture, self.gallery(scene))]
        return list(dict.fromkeys(order)).index(label)

    def tint(self, picture, label):
        """Which tint of the subject has the nearest mean color."""
        means = {c: measures.mean_foreground(self.picture(label, color=c)) for c in TINTS}
        return measures.nearest_color(measures.mean_foreground(picture), means)

    def pair_found(self, picture, asked):
        """Share of the two places whose nearest subject (of those drawn there) is in the top five."""
        places = STACKED if asked["stacked"] else PLACES[2]
        found = 0
        for label, place in zip(asked["subjects"], places, strict=True):
            y, x = (slice(0, 32), slice(16, 48)) if asked["stacked"] else (slice(16, 48), slice(0, 32))
            if place[0] > 0.6:
                x = slice(32, 64)
            if place[1] > 0.6:
                y = slice(32, 64)
            key = ("pair", place)
            if key not in self.cache:
                self.cache[key] = np.stack(
                    [measures.embedding(self.picture(n, share=HALF, place=place)[y, x]) for n in self.labels]
                )
            found += self.labels.index(label) in measures.ranks(picture[y, x], self.cache[key])[:5]
        return found / 2


def judged(picture, asked, references):
    """The marks of one picture, each 0 or 1."""
    kind, label = asked["kind"], asked["subjects"][0]
    if kind in ("single", "scene"):
        place = references.rank(picture, label, asked.get("scene"))
        return {f"{kind} top-1": place == 0, f"{kind} top-5": place < 5}
    if kind == "color" and "tint" in asked:
        right = references.tint(picture, label) == asked["tint"]
        return {"color": right, "color of subject": right}
    if kind == "color":
        right = measures.nearest_color(measures.border_color(picture), COLORS) == asked["background"]
        return {"color": right, "color of background": right}
    if kind == "count":
        return {"count 1-3": measures.count_objects(picture) == asked["count"]}
    return {"pair, objects in place (top-5)": references.pair_found(picture, asked)}


def reduced(picture, size=JUDGED_SIZE):
    """`[size, size, 3] uint8`, the mean of each cell."""
    n = picture.shape[0] // size
    cells = picture.astype(np.float32).reshape(size, n, size, n, 3)
    return cells.mean((1, 3)).round().astype(np.uint8)


def likenesses(pictures, prompts, originals):
    """Mean PSNR to what the prompts stand for in training, by their kind: it still moves where the marks are full."""
    values = {}
    for picture, asked in zip(pictures, prompts, strict=True):
        near = measures.likeness(picture, originals.originals(asked))
        values.setdefault(f"likeness {asked['kind']}", []).append(near)
    return {name: round(float(np.mean(v)), 2) for name, v in values.items()}


def score(pictures, prompts, references):
    marks = {}
    for picture, asked in zip(map(reduced, pictures), prompts, strict=True):
        for name, mark in judged(picture, asked, references).items():
            marks.setdefault(name, []).append(float(mark))
    return {name: round(float(np.mean(values)), 3) for name, values in marks.items()}


def score_counts(pipe, originals, *, steps, guidance, n=72):
    """Connected shapes in pictures of one to three of random subjects, and in the training pictures of the same."""
    rng, subjects = np.random.default_rng(0), [s for s in originals.compose.subjects if countable(s.names[0])]
    chosen = [subjects[k] for k in rng.choice(len(subjects), n, replace=False)]
    counts = rng.integers(1, 4, n).tolist()
    words = {1: with_article, 2: lambda name: f"two {plural(name)}", 3: lambda name: f"three {plural(name)}"}
    prompts = [words[c](s.names[0]) for s, c in zip(chosen, counts, strict=True)]
    asked = [
        {"kind": "count", "subjects": [s.label], "count": c} for s, c in zip(chosen, counts, strict=True)
    ]
    drawn = draw(pipe, prompts, steps=steps, guidance_scale=guidance, seeds=range(4000, 4000 + n))
    trained = [originals.originals(a)[0] for a in asked]
    return {
        name: score(pictures, asked, None)["count 1-3"]
        for name, pictures in (("drawn", drawn), ("training pictures", trained))
    }


def score_newest(pipe, references, *, steps, guidance):
    """How many of the subjects of the last curriculum stage are recognized; the fixed prompts ask for none of them."""
    newest = [s for s in references.compose.subjects if s.stage == max(STAGE_WEIGHTS)]
    prompts = [with_article(s.names[0]) for s in newest]
    pictures = draw(
        pipe, prompts, steps=steps, guidance_scale=guidance, seeds=range(3000, 3000 + len(newest))
    )
    places = [references.rank(reduced(p), s.label) for p, s in zip(pictures, newest, strict=True)]
    return {f"top-{n}": round(float(np.mean([p < n for p in places])), 3) for n in (1, 5)}


@torch.no_grad()
def autoencoded(vae, x):
    y = torch.cat([vae.decode(vae.encode(part).latent_dist.mean).sample for part in x.split(20)])
    return y.clamp(-1, 1)


def autoencoder_psnr(vae, *, n=200):
    compose, rng = composer(size=vae.config.sample_size), np.random.default_rng(99)
    x = to_model([compose(rng).picture for _ in range(n)])
    return round(-10 * math.log10((autoencoded(vae, x) - x).square().mean().item() / 4), 2)


def ceilings(vae, prompts, references, originals):
    """The marks of the training pictures themselves, and of these through the autoencoder."""
    drawn = [originals.originals(asked)[0] for asked in prompts]
    through = ((autoencoded(vae, to_model(drawn)) + 1) * 127.5).round().byte()
    coded = list(through.permute(0, 2, 3, 1).numpy())
    return {
        "training pictures": score(drawn, prompts, references),
        "autoencoder": score(coded, prompts, references) | likenesses(coded, prompts, originals),
    }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pipeline", type=Path, default=work_dir() / "pipeline")
    parser.add_argument("--guidance", type=float, default=1.7)
    parser.add_argument(
        "--steps", type=int, nargs="+", default=[10, 20, 6, 4, 2], help="the first for the sheet"
    )
    parser.add_argument(
        "--out", type=Path, default=HERE, help="folder for evaluation.json and contact_sheet.webp"
    )
    args = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count())))
    prompts = [p for p in json.loads((HERE / "prompts.json").read_text()) if p["kind"] not in NEWER_KINDS]
    pipe, references = load_pipeline(args.pipeline), References()
    originals = References(size=pipe.vae.config.sample_size)
    report = {"guidance_scale": args.guidance, "autoencoder PSNR (dB)": autoencoder_psnr(pipe.vae)}
    report |= ceilings(pipe.vae, prompts, references, originals)
    for steps in args.steps:
        texts, seeds = [p["prompt"] for p in prompts], [p["seed"] for p in prompts]
        pictures = draw(pipe, texts, steps=steps, guidance_scale=args.guidance, seeds=seeds)
        report[f"{steps} steps"] = score(pictures, prompts, references) | likenesses(
            pictures, prompts, originals
        )
        if steps == args.steps[0]:
            tiles = [reduced(p, SHEET_TILE) for p in pictures]
            contact_sheet(tiles, 20).save(args.out / "contact_sheet.webp", quality=70, method=6)
    report["72 counts"] = score_counts(pipe, originals, steps=args.steps[0], guidance=args.guidance)
    report["newest subjects"] = score_newest(pipe, references, steps=args.steps[0], guidance=args.guidance)
    report["parameters"] = {
        n: sum(p.numel() for p in getattr(pipe, n).parameters()) for n in ("unet", "text_encoder", "vae")
    }
    report["picture size"] = pipe.vae.config.sample_size
    (args.out / "evaluation.json").write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
