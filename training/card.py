"""Stage 12: the model card, from the figures of evaluate.py: `python card.py`."""

import json
from pathlib import Path

from art import STYLES
from evaluate import NEWER_KINDS
from evaluate_256 import RANDOM_ASKED
from following import TOGETHER
from layouts import HEADS
from runtime import shipped_progress
from scenes import COLORS, SCENE_PHRASES, TINTS
from subjects import read_list

HERE = Path(__file__).parent
ASSET = HERE.parent / "swiftai_nb/assets/emoji-mini"

MARKS = {
    "single top-1": "100 single subjects: the asked subject is the nearest training picture",
    "single top-5": "the same, among the five nearest",
    "color": "40 color prompts: the asked color",
    "color of subject": "of these, color of the subject (20)",
    "color of background": "of these, color of the background (20)",
    "scene top-1": "30 scene prompts: the asked subject is nearest, on that scene",
    "scene top-5": "the same, among the five nearest",
    "count 1-3": "15 counts from one to three: as many connected shapes",
    "pair, objects in place (top-5)": "15 pairs: objects found in their place (five nearest)",
}
KINDS = {
    "single": "single subjects",
    "color": "color prompts",
    "scene": "scene prompts",
    "count": "counts",
    "pair": "pairs",
}

CARD = """\
---
license: mit
pipeline_tag: text-to-image
library_name: diffusers
tags: [stable-diffusion, emoji, text-to-image]
---
# emoji-mini

A small Stable Diffusion that draws emoji-style pictures of everyday things, {side}x{side} pixels, from plain words. It
comes with `swiftai_nb` so that the first picture needs no download and no account. {millions:.1f} million
parameters, {size_mb:.1f} MB.

## What to ask for

One of {subjects} subjects, optionally in a color ({tints}), on a colored background ({colors}), or in one of
{scenes} scenes ({scene_examples}), those out of doors also "at night" or "in the evening"; two to five of a thing; two things side
by side or one above the other. After a comma: {styles}; for a single thing also "mirrored", "small" or "large"; or
"a cartoon of a tiny fox". {heads_count} animals and
figures can wear glasses or a hat, hold something, be on a box, bed, sofa or chair, or under an umbrella, tree, cloud or rainbow.
Examples: "a cat", "a red guitar", "a rocket in space", "a slice of pizza, blue background", "three apples",
"a cat and a dog", "two foxes, cartoon style", "a bird, mirrored, flat style", "a lion wearing sunglasses". The words it was
trained with are in `trained_words.txt`; other words fall back on the nearest meaning it knows ("feline" and
"hound" lie near words it was taught), or on something arbitrary.

Sizes other than {side}x{side} are not supported. Good settings: {steps} steps, guidance {guidance:g}. Lower guidance gives paler
pictures, from 3 on colors shift, from 4.5 on the ground gets stains. 4 steps draw as well as 10 by the measures below; 2 are a usable sketch.

## How well it does

`training/evaluate.py`, 200 fixed prompts with fixed seeds, guidance {eval_guidance}; the figures are what that script
printed for the packed weights, the pictures are in `training/contact_sheet.webp`, none left out. "Nearest" is by
gradient histograms and color layout, features no training stage used, among all {subjects} subjects.

| measure | {heads} |
|---|{rule}|
{rows}

Read these with the contact sheet: with one pose for each subject, a soft picture in the right colors already finds its
subject, so full marks do not mean that every picture is clear. Likeness is the PSNR of the whole picture to the one the prompt
stands for in training; it punishes a sharp line in the wrong place more than a blur. The last column is what the
autoencoder makes of the training pictures themselves, the most the diffusion model could reach. Counts are counted as
connected shapes, so that a thing of two pieces, or two that touch, count wrong: the training pictures
themselves get {count_ceiling}. Of 72 counts of random subjects {counts} come out right, of their training pictures
{counts_ceiling}. The prompts ask for the {older}
subjects that were taught longest; of the {newer} that came last (doctors and kings, forks and suitcases) {newest} are nearest to
their own training picture, and some are vague. Pictures are soft at full
size: edges are clean, textures are not.

`training/evaluate_256.py`, {asked_256} prompts more, compared with the training pictures of all alternatives, which get {ceiling_256}
themselves: style, side and size right in {attributes} of pictures together (style {style}, side {mirror}, size {share}); the
subject is nearest in {attribute_top}, one of the five nearest in {attribute_top5}; the relation is right in {relation}. Of {random_asked}
random combinations and subjects all three are right in {random}. Styles need more training: rare things in the cartoon style or as ink drawings are vague, and flat
things whose 3D drawing has nearly the same colors are sometimes nearest to that (`training/contact_sheet_256.webp`, none left out).

The autoencoder reproduces training pictures of {coded_side} px at {psnr} dB PSNR. Fine lines, small faces and lettering are soft.

## What it cannot do

- Anything outside its subjects: no people you name, no text, no photographs, no other styles.
- One pose per subject and style. Seeds change details and the scene's variant, hardly the drawing; `swiftai_nb` therefore
  adds what the seed chooses (`attributes.json`), such as a place, to prompts that leave it open.
- More than five of a thing; three different things; sides and sizes of several things.
- Small drawings: two, three or four of a thing, and pairs, keep number, place and color, and show simple shapes well,
  but lose details and faces.
- Thin shapes (forks, scissors), patterns, and faces and people that differ only in small things are soft or wrong.
- Prompts of more than 22 words are cut.
- Negative prompts change little: "snow" as one does not take the snow away.

## Training

Data: {subjects} things in four styles: Microsoft's Fluent Emoji in 3D, flat and high contrast (MIT) and Google's Noto Emoji
(Apache-2.0; npm {packages}), composed by procedure onto plain colors and procedural scenes, with captions from hand-picked names; vocabulary from
emojibase-data 17.0.0 (MIT). Token vectors: a projection of all-MiniLM-L6-v2's word embeddings (Apache-2.0). No
photographs, no personal data, no scraped pictures.

Networks: diffusers' own classes. `UNet2DConditionModel` {unet:.1f} M ({unet_channels} channels on 8x8 latents), `CLIPTextModel`
{text:.1f} M (3 layers of 192, 24 tokens), `AutoencoderKL` {vae:.1f} M (factor {factor}, 16 channels). v-prediction, 1000 steps, scaled
linear betas 0.00085 to 0.02, trailing spacing. An autoencoder of 64 px pictures, then the text encoder by regression to
the latent, then the UNet on a curriculum of subjects in 3D (about 394,000 pictures; in the last 229,000 the text encoder
went on learning with it), autoencoders of 128 px and of {side} px with the same latents, few-step distillation, and the UNet
and text encoder again with all styles and attributes ({pictures_256:,} pictures). All of it is in `training/`.

Weights are int8 with one scale per output channel (`training/pack.py`; against the unpacked model pictures agree to 40 dB
and better); `unpack` gives an ordinary diffusers folder.

## License

The weights are MIT, like `swiftai_nb`. Notices for the works they were learned from are in NOTICE; a copy of the
Apache License 2.0 is beside this file.
"""


def figures(report):
    columns = [*(name for name in report if name.endswith(" steps")), "autoencoder"]
    rows = [
        f"| {text} | " + " | ".join(f"{report[c][mark]:.0%}" for c in columns) + " |"
        for mark, text in MARKS.items()
    ]
    rows += [
        f"| likeness to the training picture, {text} (dB) | "
        + " | ".join(f"{report[c][f'likeness {kind}']:.1f}" for c in columns)
        + " |"
        for kind, text in KINDS.items()
    ]
    return {"heads": " | ".join(columns), "rule": "|".join("---" for _ in columns), "rows": "\n".join(rows)}


def attribute_figures(report, prompts):
    """From evaluate_256.py's report."""
    drawn, ceilings = report["drawn"], report["training pictures"]
    percent = {name: f"{value:.0%}" for name, value in drawn.items()}
    return {
        "asked_256": sum(p["kind"] in NEWER_KINDS for p in prompts),
        "ceiling_256": f"{min(ceilings.values()):.0%} or more",
        "attributes": percent["attribute: all attributes"],
        "style": percent["attribute: style"],
        "mirror": percent["attribute: mirror"],
        "share": percent["attribute: share"],
        "attribute_top": percent["attribute: top-1"],
        "attribute_top5": percent["attribute: top-5"],
        "random_asked": RANDOM_ASKED,
        "random": f"{report['random attributes'][TOGETHER]:.0%}",
        "relation": percent["relation: relation"],
    }


def main():
    subjects = read_list()
    report = json.loads((HERE / "evaluation.json").read_text())
    newer = json.loads((HERE / "evaluation_256.json").read_text())
    prompts = json.loads((HERE / "prompts.json").read_text())
    defaults = json.loads((ASSET / "generation_defaults.json").read_text())
    channels = json.loads((ASSET / "unet/config.json").read_text())["block_out_channels"]
    levels = json.loads((ASSET / "vae/config.json").read_text())["block_out_channels"]
    counts = report["parameters"]
    size = sum(f.stat().st_size for f in ASSET.rglob("*") if f.is_file() and f.name != "README.md")
    text = CARD.format(
        millions=sum(counts.values()) / 1e6,
        size_mb=size / 1e6,
        subjects=len(subjects),
        older=sum(s.stage < 4 for s in subjects),
        newer=sum(s.stage == 4 for s in subjects),
        newest=f"{report['newest subjects']['top-1']:.0%}",
        side=defaults["width"],
        coded_side=report["picture size"],
        factor=2 ** (len(levels) - 1),
        tints=", ".join(TINTS),
        colors=", ".join(c for c in COLORS if c not in TINTS) + " and the same",
        scenes=len(SCENE_PHRASES),
        scene_examples=", ".join(p[0] for p in SCENE_PHRASES.values()),
        steps=defaults["steps"],
        guidance=defaults["guidance_scale"],
        eval_guidance=report["guidance_scale"],
        counts=f"{report['72 counts']['drawn']:.0%}",
        counts_ceiling=f"{report['72 counts']['training pictures']:.0%}",
        psnr=report["autoencoder PSNR (dB)"],
        count_ceiling=f"{report['training pictures']['count 1-3']:.0%}",
        unet=counts["unet"] / 1e6,
        text=counts["text_encoder"] / 1e6,
        vae=counts["vae"] / 1e6,
        unet_channels=" and ".join(map(str, channels)),
        styles=", ".join(f'"{s.words}"' for s in STYLES.values() if s.words),
        heads_count=len(HEADS),
        pictures_256=round(shipped_progress()["unet_256"], -4),
        packages=", ".join(f"`{s.package}`" for s in STYLES.values()),
        **attribute_figures(newer, prompts),
        **figures(report),
    )
    (ASSET / "README.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
