"""The subjects: one picture each, with the names people type for it."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

LIST = Path(__file__).with_name("subjects.txt")


@dataclass(frozen=True)
class Subject:
    """One drawing: `label` is emojibase's, `names[0]` the usual word, `stage` when the curriculum adds it."""

    label: str
    names: tuple
    stage: int


def read_list(path=LIST):
    subjects, stage = [], 0
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("@"):
            stage = int(line[1:])
        elif line and not line.startswith("#"):
            label, names = line.split("|")
            subjects.append(Subject(label.strip(), tuple(n.strip() for n in names.split(",")), stage))
    labels = [s.label for s in subjects]
    repeated = {n for n in labels if labels.count(n) > 1}
    if repeated:
        raise ValueError(f"listed twice: {sorted(repeated)}")
    return subjects


def hexcodes(emojibase):
    """`{label: hexcode}`, skin-tone variants left out."""
    entries = json.loads((emojibase / "en/data.json").read_text(encoding="utf-8"))
    return {e["label"]: e["hexcode"].lower() for e in entries}


def picture_path(art, hexcode):
    names = (hexcode, hexcode.replace("-fe0f", ""), f"{hexcode}-fe0f", hexcode.split("-")[0])
    return next((p for p in (art / f"{n}.webp" for n in names) if p.exists()), None)


def load_pictures(subjects, *, emojibase, art, size):
    """`[N, size, size, 4] uint8`."""
    codes = hexcodes(emojibase)
    out = np.zeros((len(subjects), size, size, 4), np.uint8)
    missing = []
    for k, subject in enumerate(subjects):
        path = picture_path(art, codes[subject.label]) if subject.label in codes else None
        if path is None:
            missing.append(subject.label)
            continue
        out[k] = resized(np.asarray(Image.open(path).convert("RGBA")), size)
    if missing:
        raise ValueError(f"no picture for {missing}")
    return out


def resized(rgba, size):
    """`[size, size, 4] uint8` from `[H, W, 4] uint8`, color weighted by opacity so that edges stay clean."""
    rgba = rgba.astype(np.float32) / 255
    rgba = np.concatenate([rgba[..., :3] * rgba[..., 3:], rgba[..., 3:]], -1)
    planes = [Image.fromarray(rgba[..., c]).resize((size, size), Image.Resampling.LANCZOS) for c in range(4)]
    small = np.stack([np.asarray(p) for p in planes], -1).clip(0, 1)
    small[..., :3] /= np.maximum(small[..., 3:], 1e-3)
    return (small.clip(0, 1) * 255).round().astype(np.uint8)
