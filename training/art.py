"""Art of the 256 px model: every subject in four styles at 256 px, rendered once and packed into `art_256.zip`.

The 3D style is WebP of this size already and is kept byte by byte; the others are SVG, rendered by resvg.
Licenses: Fluent Emoji (three styles) MIT, Microsoft; Noto Emoji Apache-2.0, Google.
"""

import io
import json
import re
import zipfile
from dataclasses import dataclass

import numpy as np
from PIL import Image

from prepare_data import PACKAGES, fetch
from runtime import work_dir
from subjects import hexcodes, picture_path, read_list

SIZE = 256
WEBP = {"quality": 88, "method": 4, "exact": False}
INK = "#1a1a1e"  # what `currentColor` of the line drawings stands for


@dataclass(frozen=True)
class Style:
    """A style of drawing: the words of a caption (none for the default) and the npm package of the art."""

    words: str
    package: str


STYLES = {
    "3d": Style("", PACKAGES["art"]),
    "flat": Style("flat style", "@iconify-json/fluent-emoji-flat@1.2.6"),
    "cartoon": Style("cartoon style", "@iconify-json/noto@1.2.9"),
    "ink": Style("ink drawing", "@iconify-json/fluent-emoji-high-contrast@1.2.6"),
}
# The 3D package lacks these, and their code points begin with those of a bird and a lemon: they are drawn flat.
NOT_IN_3D = ("phoenix", "lime")


def plain_code(hexcode):
    return "-".join(part for part in hexcode.lower().split("-") if part != "fe0f")


def slug(label):
    return re.sub(r"[^a-z0-9]+", "-", label.lower().replace("’", "").replace("'", "")).strip("-")


class IconSet:
    """SVG of an iconify package, by code point or, where the package lists none, by name."""

    def __init__(self, package):
        read = {
            name: json.loads((package / f"{name}.json").read_text("utf-8")) for name in ("icons", "chars")
        }
        self.icons, self.grid = read["icons"]["icons"], read["icons"].get("height", 16)
        self.aliases = {k: v["parent"] for k, v in read["icons"].get("aliases", {}).items()}
        self.by_code = {plain_code(code): name for code, name in read["chars"].items()}

    def svg(self, label, hexcode):
        """The SVG text, or None."""
        name = self.by_code.get(plain_code(hexcode), slug(label))
        icon = self.icons.get(self.aliases.get(name, name))
        if icon is None:
            return None
        width, height = icon.get("width", self.grid), icon.get("height", self.grid)
        body = icon["body"].replace("currentColor", INK)
        return f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="0 0 {width} {height}">{body}</svg>'


def rendered(svg, size=SIZE):
    """`[size, size, 4] uint8`, not premultiplied."""
    import resvg_py

    picture = Image.open(io.BytesIO(resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size)))
    return squared(picture, size)


def squared(picture, size=SIZE):
    """`[size, size, 4] uint8` of any picture, resized with opacity as weight where it has another size."""
    picture = picture.convert("RGBA")
    if picture.size != (size, size):
        picture = picture.convert("RGBa").resize((size, size), Image.Resampling.LANCZOS).convert("RGBA")
    return np.asarray(picture)


def webp(rgba):
    stream = io.BytesIO()
    Image.fromarray(rgba).save(stream, "WEBP", **WEBP)
    return stream.getvalue()


def pack(path, subjects, *, codes, folders):
    """Write the zip of `<style>/<label>.webp`; a subject that a style lacks is an error that names it."""
    missing = []
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for style, folder in folders.items():
            icons = IconSet(folder) if (folder / "icons.json").exists() else None
            for subject in subjects:
                code = codes.get(subject.label, "")
                found = icons.svg(subject.label, code) if icons else picture_path(folder / "assets", code)
                if found is None:
                    missing.append(f"{style}: {subject.label}")
                else:
                    content = webp(rendered(found)) if icons else found.read_bytes()
                    archive.writestr(f"{style}/{slug(subject.label)}.webp", content)
    if missing:
        raise ValueError(f"no picture for {missing}")


def unpack(path, subjects, target):
    """Decode the zip to `target`, an `.npy` of `[len(STYLES), N, 256, 256, 4] uint8` that ranks map into memory."""
    partial = target.with_suffix(".partial")
    shape = (len(STYLES), len(subjects), SIZE, SIZE, 4)
    out = np.lib.format.open_memmap(partial, "w+", np.uint8, shape)
    with zipfile.ZipFile(path) as archive:
        for k, style in enumerate(STYLES):
            for n, subject in enumerate(subjects):
                drawn = "flat" if style == "3d" and subject.label in NOT_IN_3D else style
                content = archive.read(f"{drawn}/{slug(subject.label)}.webp")
                out[k, n] = squared(Image.open(io.BytesIO(content)))
    out.flush()
    partial.replace(target)


def load():
    """`[styles, N, 256, 256, 4] uint8`, mapped; decoded from the packed art the first time."""
    path = work_dir() / "art_256.npy"
    if not path.exists():
        unpack(work_dir() / "art_256.zip", read_list(), path)
    return np.load(path, mmap_mode="c")  # copy on write: torch wants writable arrays


def main():
    work, subjects = work_dir(), read_list()
    codes = hexcodes(fetch(PACKAGES["emojibase"], work / "npm/emojibase"))
    folders = {name: fetch(style.package, work / "npm" / name) for name, style in STYLES.items()}
    pack(work / "art_256.zip", subjects, codes=codes, folders=folders)
    size = (work / "art_256.zip").stat().st_size
    print(f"{len(subjects)} subjects in {len(STYLES)} styles, {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
