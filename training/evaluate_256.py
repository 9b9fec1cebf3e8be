"""The 256 px model measured: edges, variety over seeds, attributes and relations; to `evaluation_256.json`.

The 200 prompts of evaluate.py are measured there. Here what was drawn is found by comparing it with the training
pictures of every alternative, at 64 px, so that the training pictures themselves get full marks; they are measured too.
"""

import argparse
import itertools
import json
import os
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

import art
import following
import measures
from compose import HALF, PLACES, STACKED
from layouts import Ground, Layout, Layouts, Placed, attribute_words, related
from pipeline import draw, load_pipeline
from render import Renderer
from runtime import to_model, work_dir
from scenes import COLORS, SCENE_PHRASES, VARIANTS, contact_sheet
from subjects import read_list
from train_decoder_256 import SHIPPED

HERE = Path(__file__).parent
SUBJECTS_VARIED, SEEDS = 12, 8
RANDOM_ASKED = 300  # combinations of attributes: the 60 prompts alone can be off by 6 %
TILE = 128
WHITE = (Ground(),)


class Judge:
    """Marks of what pictures show, each 0 or 1, by the nearest training picture among alternatives."""

    def __init__(self, layouts, render):
        """`render` draws at `following.JUDGED_SIZE`."""
        self.layouts, self.render = layouts, render
        self.labels = [s.label for s in layouts.subjects]
        self.galleries = {}

    def gallery(self, ground, combination):
        """`[N, D]` embeddings of every subject on a ground, in a combination of attributes."""
        key = ground, combination
        if key not in self.galleries:
            every = [self.layouts.one(k, *combination, ground=ground) for k in range(len(self.labels))]
            pictures = torch.cat([self.render(every[k : k + 50]) for k in range(0, len(every), 50)])
            self.galleries[key] = np.stack([measures.embedding(p) for p in pixels(pictures)])
        return self.galleries[key]

    def rank(self, picture, label, *, grounds=WHITE, combination=following.DEFAULTS):
        """Place of `label` among the subjects nearest to a picture `[64, 64, 3] uint8`, 0 for the nearest."""
        gallery = np.concatenate([self.gallery(ground, combination) for ground in grounds])
        order = [self.labels[k % len(self.labels)] for k in measures.ranks(picture, gallery)]
        return list(dict.fromkeys(order)).index(label)

    def layout(self, asked):
        """The training picture of an attribute or relation prompt."""
        subjects = [self.labels.index(label) for label in asked["subjects"]]
        if asked["kind"] == "attribute":
            return self.layouts.one(subjects[0], *asked["combination"])
        return self.alternatives(*subjects)[asked["relation"]]

    def alternatives(self, a, b):
        """Layouts of two subjects in every relation, beside and above each other, and of each alone."""
        found = {
            relation: related(relation, a, b, label=self.labels[a], other=self.labels[b])
            for relation in ("wearing", "holding", "on", "under")
        }
        for name, places in (("beside", PLACES[2]), ("above", STACKED)):
            found[name] = tuple(Placed(k, HALF, *at) for k, at in zip((a, b), places, strict=True))
        found |= {f"only {n}": self.layouts.one(k).objects for n, k in enumerate((a, b))}
        return {name: Layout(objects, Ground(), "", 1, name) for name, objects in found.items()}

    def marks(self, picture, asked):
        """Of one picture `[64, 64, 3] uint8`."""
        if asked["kind"] == "attribute":
            combination = tuple(asked["combination"])
            subject = self.labels.index(asked["subjects"][0])
            found = following.marks(
                to_model([picture])[0], subject, combination, layouts=self.layouts, render=self.render
            )
            place = self.rank(picture, asked["subjects"][0], combination=combination)
            return found | {following.TOGETHER: min(found.values()), "top-1": place == 0, "top-5": place < 5}
        layouts = self.alternatives(*(self.labels.index(label) for label in asked["subjects"]))
        errors = (self.render(list(layouts.values())) - to_model([picture])).square().mean((1, 2, 3))
        return {"relation": list(layouts)[int(errors.argmin())] == asked["relation"]}

    def score(self, pictures, prompts):
        """Mean marks by kind of prompt, of pictures of any size."""
        marks = {}
        for picture, asked in zip(reduced(pictures), prompts, strict=True):
            for name, mark in self.marks(picture, asked).items():
                marks.setdefault(f"{asked['kind']}: {name}", []).append(float(mark))
        return {name: round(float(np.mean(values)), 3) for name, values in marks.items()}


def pixels(x):
    """`[B, S, S, 3] uint8` of `[B, 3, S, S]` in -1..1."""
    return ((x + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()


def reduced(pictures):
    return pixels(following.reduced(to_model(pictures)))


def grounds_of(phrase):
    """The backgrounds that a phrase of attributes.json stands for."""
    for scene, phrases in SCENE_PHRASES.items():
        if phrase in phrases:
            return tuple(Ground(scene=scene, variant=v) for v in range(VARIANTS))
    return (Ground(next((c for c in COLORS if phrase == f"on a {c} background"), "white")),)


def combination_of(phrase):
    """The style, side and size that the words after the commas of a phrase of attributes.json stand for."""
    words = {word.strip() for word in phrase.split(",")[1:]}
    return next(c for c in following.COMBINATIONS if set(attribute_words(*c)) == words)


def edges(drawn, x, vae):
    """Edges (measures.edges) of drawn pictures `[B, 3, S, S]`, and of their training pictures `x` through the autoencoder."""
    coded = torch.cat([vae(part).sample.clamp(-1, 1) for part in sized(x, vae.config.sample_size).split(8)])
    return {
        name: measures.edges(sized(y, x.shape[-1]), x)
        for name, y in (("drawn", drawn), ("autoencoder", coded))
    }


def sized(x, side):
    """Pictures of another side, reduced by averages or enlarged by the bicubic filter."""
    if x.shape[-1] >= side:
        return F.interpolate(x, size=(side, side), mode="area")
    return F.interpolate(x, size=(side, side), mode="bicubic").clamp(-1, 1)


def spread(pictures):
    """Mean difference (root mean square) of all pairs of pictures."""
    pairs = itertools.combinations(np.stack(pictures).astype(np.float32), 2)
    return float(np.mean([np.sqrt(np.square(a - b).mean()) for a, b in pairs]))


def variety(pipe, judge, attributes, *, steps, guidance, choose, join):
    """How much seeds change a picture, as a share of how much prompts do, and how often the subject is recognized.

    `choose(attributes, prompt, seed=)` fills in what a prompt leaves open, `join(prompt, phrase)` adds it, as `swiftai_nb` does.
    """
    chosen = [s for s in judge.layouts.subjects if s.stage == 1][:SUBJECTS_VARIED]
    asked = [(s.label, judge.layouts.one(judge.labels.index(s.label)).caption) for s in chosen]
    filled = [[choose(attributes, caption, seed=seed) for seed in range(SEEDS)] for _, caption in asked]
    prompts = [join(c, f) for (_, c), row in zip(asked, filled, strict=True) for f in row]
    seeds = list(range(SEEDS)) * len(asked)
    pictures = reduced(draw(pipe, prompts, steps=steps, guidance_scale=guidance, seeds=seeds))
    rows = [pictures[k : k + SEEDS] for k in range(0, len(pictures), SEEDS)]
    places = [
        judge.rank(
            picture,
            label,
            grounds=grounds_of(phrase.split(",")[0]),
            combination=combination_of(phrase),
        )
        for (label, _), row, phrases in zip(asked, rows, filled, strict=True)
        for picture, phrase in zip(row, phrases, strict=True)
    ]
    between = np.mean([spread(column) for column in zip(*rows, strict=True)])
    return {
        "variety over seeds": round(float(np.mean([spread(row) for row in rows]) / between), 3),
        "recognized over seeds": round(float(np.mean([p == 0 for p in places])), 3),
        "top-5 over seeds": round(float(np.mean([p < 5 for p in places])), 3),
    }


def sheet(pipe, prompts, *, steps, guidance, seeds=3):
    """A contact sheet, `seeds` pictures of each prompt side by side, two prompts a row."""
    texts = [p for p in prompts for _ in range(seeds)]
    pictures = draw(pipe, texts, steps=steps, guidance_scale=guidance, seeds=range(len(texts)))
    return contact_sheet(list(pixels(sized(to_model(pictures), TILE))), 4 * seeds)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pipeline", type=Path, default=work_dir() / "pipeline")
    parser.add_argument("--guidance", type=float, default=1.7)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--sheet", type=int, default=60, help="prompts on the contact sheet, 0 for none")
    parser.add_argument("--out", type=Path, default=HERE)
    args = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    sys.path.insert(0, str(HERE.parent))
    from swiftai_nb.core.recipe import join_prompt
    from swiftai_nb.model_files.attributes import choose_phrases, read_attributes

    torch.set_grad_enabled(False)
    settings = {"steps": args.steps, "guidance": args.guidance}
    every = json.loads((HERE / "prompts.json").read_text())
    pipe, layouts = load_pipeline(args.pipeline), Layouts(read_list())
    judge = Judge(layouts, Renderer(art.load(), size=following.JUDGED_SIZE))
    report = {"steps": args.steps, "guidance_scale": args.guidance}
    report |= variety(
        pipe, judge, read_attributes(SHIPPED), choose=choose_phrases, join=join_prompt, **settings
    )
    prompts = [p for p in every if p["kind"] in ("attribute", "relation")]
    originals = Renderer(art.load())([judge.layout(p) for p in prompts])
    texts, seeds = [p["prompt"] for p in prompts], [p["seed"] for p in prompts]
    pictures = draw(pipe, texts, steps=args.steps, guidance_scale=args.guidance, seeds=seeds)
    report["edges"] = edges(to_model(pictures), originals, pipe.vae)
    report["training pictures"] = judge.score(list(pixels(originals)), prompts)
    report["drawn"] = judge.score(pictures, prompts)
    drawn = following.score(
        pipe, layouts=layouts, render=judge.render, few=len(layouts.subjects), n=RANDOM_ASKED,
        steps=args.steps, guidance_scale=args.guidance,
    )  # fmt: skip
    report["random attributes"] = {name: drawn[name] for name in (*following.NAMES, following.TOGETHER)}
    (args.out / "evaluation_256.json").write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))
    if args.sheet:
        chosen = [every[k * len(every) // args.sheet]["prompt"] for k in range(args.sheet)]
        sheet(pipe, chosen, **settings).save(args.out / "contact_sheet_256.webp", quality=80, method=6)


if __name__ == "__main__":
    main()
