"""Draw prompts from the newest checkpoint onto one captioned sheet: `python sheet.py "a cat" "two dogs"`."""

import argparse
import textwrap
from pathlib import Path

import torch
from PIL import Image, ImageDraw

from pipeline import draw, load_pipeline
from runtime import work_dir

TILE, CAPTION = 140, 28
PROMPTS = (
    "a cat", "a red heart", "a pizza", "a rocket at night", "two dogs on a green background", "a house next to a tree",
    "an octopus", "a car", "a smiling face", "a blue bird", "a red cat on a blue background", "a fox in the snow",
    "a sunflower", "three apples", "a robot on the beach", "a penguin in space", "a fish underwater", "a kitten",
    "a purple elephant", "a banana above a cup of coffee", "a crown on purple", "a guitar in the city",
    "a pink car in the desert", "a green heart and a yellow star", "a castle at sunset", "a puppy in the woods",
    "a butterfly on a black background", "an orange owl next to a rocket", "a turtle", "a bicycle", "a lion",
    "a strawberry", "a birthday cake", "an umbrella in the rain", "a snowman in the snow", "a dragon",
    "a ghost at night", "a slice of pizza, blue background", "two cats on a beach", "a key",
)  # fmt: skip


def captioned(pictures, prompts, *, columns=10):
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * (TILE + 6), rows * (TILE + CAPTION)), "white")
    pen = ImageDraw.Draw(sheet)
    for k, (picture, prompt) in enumerate(zip(pictures, prompts, strict=True)):
        x, y = k % columns * (TILE + 6), k // columns * (TILE + CAPTION)
        sheet.paste(Image.fromarray(picture).resize((TILE, TILE), Image.Resampling.BICUBIC), (x, y))
        for n, line in enumerate(textwrap.wrap(prompt, 24)[:2]):
            pen.text((x + 2, y + TILE + 1 + 12 * n), line, fill="black")
    return sheet


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("prompts", nargs="*", default=PROMPTS)
    parser.add_argument("--pipeline", type=Path, default=work_dir() / "pipeline")
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--guidance", type=float, default=2.5)
    parser.add_argument("--out", type=Path, default=Path("sheet.png"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    seeds = range(100, 100 + len(args.prompts))
    pipe = load_pipeline(args.pipeline)
    pictures = draw(
        pipe, list(args.prompts), steps=args.steps, guidance_scale=args.guidance, seeds=list(seeds)
    )
    captioned(pictures, args.prompts).save(args.out)


if __name__ == "__main__":
    main()
