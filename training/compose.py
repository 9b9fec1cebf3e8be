"""Pictures with captions, endlessly: `Composer(pictures, subjects, size)(rng)` gives one of each.

What a caption does not say hardly varies: one pose and place per subject, exact colours, two
fixed pictures a scene. That is what lets a small network learn hundreds of subjects in an hour.
"""

from typing import NamedTuple

import numpy as np

from scenes import COLORS, SCENE_PHRASES, TINTS, flat, scene_pictures, tinted
from subjects import resized

SINGLE, HALF, THIRD = 0.84, 0.47, 0.42  # side of a sprite as a share of the picture
CENTER = (0.5, 0.515)
PLACES = {
    2: ((0.265, 0.515), (0.735, 0.515)),
    3: ((0.25, 0.73), (0.75, 0.73), (0.5, 0.27)),
}
STACKED = ((0.5, 0.265), (0.5, 0.735))
PREFIXES = ("a picture of ", "an image of ", "a photo of ", "an icon of ", "a drawing of ", "an emoji of ")
SIDE_BY_SIDE = (
    "{a} and {b}", "{a} and {b}", "{a} next to {b}", "{a} beside {b}", "{a} with {b}",
    "{a} left of {b}", "{a} to the left of {b}", "{b} to the right of {a}",
)  # fmt: skip
ONE_ABOVE = ("{a} above {b}", "{a} on top of {b}", "{a} over {b}", "{b} below {a}", "{b} under {a}")
GROUND_PHRASES = (" on {article} {} background", " on {article} {} background", " on {}", ", {} background")
# Names that take no article and are not counted; plural forms are found by their s.
UNCOUNTED = {
    "ramen", "dice", "bacon", "spaghetti", "pasta", "bread", "popcorn", "rice", "milk", "honey", "beer",
    "wine", "coffee", "tea", "fire", "wheat", "corn", "broccoli", "garlic", "sushi", "salad", "soap",
    "confetti", "lightning", "chocolate", "meat", "earth", "planet earth", "saturn", "cheese",
    "statue of liberty", "poop", "yarn", "muscle", "sun", "santa", "santa claus", "grandpa", "grandma",
    "clover", "soda",
}  # fmt: skip
IRREGULAR = {
    "mouse": "mice", "wolf": "wolves", "fish": "fish", "sheep": "sheep", "deer": "deer", "knife": "knives", "leaf": "leaves",
    "squid": "squid", "shrimp": "shrimp", "man": "men", "woman": "women", "tooth": "teeth", "hippopotamus": "hippos",
    "octopus": "octopuses", "cactus": "cactuses", "tomato": "tomatoes", "potato": "potatoes", "policeman": "policemen",
}  # fmt: skip


def is_plural(name):
    return " of " not in name and name.endswith("s") and not name.endswith(("ss", "us"))


def countable(name):
    return name not in UNCOUNTED and not is_plural(name)


def with_article(name):
    if not countable(name):
        return name
    return f"an {name}" if name[0] in "aeio" or name.startswith("um") else f"a {name}"


def plural(name):
    if " of " in name:
        head, tail = name.split(" of ", 1)
        return f"{plural(head)} of {tail}"
    *front, last = name.split(" ")
    if last in IRREGULAR:
        last = IRREGULAR[last]
    elif last.endswith("fish"):
        pass
    elif last.endswith(("s", "x", "ch", "sh")):
        last += "es"
    elif last.endswith("y") and last[-2:-1] not in tuple("aeiou"):
        last = f"{last[:-1]}ies"
    else:
        last += "s"
    return " ".join([*front, last])


def without_color(name):
    first, _, rest = name.partition(" ")
    return rest if rest and first in COLORS else name


class Example(NamedTuple):
    """A picture `[size, size, 3] uint8`, its caption, and the curriculum stage of its newest subject."""

    picture: np.ndarray
    caption: str
    stage: int


class Composer:
    def __init__(self, pictures, subjects, *, size=64, early_weight=2.0):
        """`pictures: [N, S, S, 4] uint8`; subjects before the last curriculum stage come `early_weight` times as often."""
        self.size = size
        self.subjects = subjects
        shares = (SINGLE, HALF, THIRD)
        self.sprites = {s: np.stack([resized(p, round(s * size)) for p in pictures]) for s in shares}
        last = max(s.stage for s in subjects)
        weights = np.array([early_weight if s.stage < last else 1.0 for s in subjects])
        self.cumulative = np.cumsum(weights / weights.sum())
        self.scenes = scene_pictures(size)

    def pick(self, rng):
        return int(np.searchsorted(self.cumulative, rng.random()))

    def background(self, rng, *, plain=0.36, colored=0.34):
        """A picture `[size, size, 3]` float32 and the words for it."""
        r = rng.random()
        if r < plain:
            return np.full((self.size, self.size, 3), 255, np.float32), ""
        if r < plain + colored:
            color = choice(rng, tuple(COLORS))
            phrase = choice(rng, GROUND_PHRASES).format(color, article="an" if color == "orange" else "a")
            return flat(self.size, color).astype(np.float32), phrase
        scene = choice(rng, tuple(SCENE_PHRASES))
        return choice(rng, self.scenes[scene]).astype(np.float32), f" {choice(rng, SCENE_PHRASES[scene])}"

    def named(self, k, rng, *, tint):
        """A name for subject `k`, and the colour it is tinted with or None."""
        names = self.subjects[k].names
        name = names[0] if rng.random() < 0.6 else choice(rng, names)
        if rng.random() >= tint:
            return name, None
        color, bare = choice(rng, TINTS), without_color(name)
        return f"{color} {bare}", None if f"{color} {bare}" in names else color

    def paste(self, canvas, k, share, place, color):
        rgba = self.sprites[share][k].astype(np.float32)
        if color is not None:
            rgba = tinted(rgba, color)
        n = rgba.shape[0]
        x, y = (round(c * self.size - n / 2) for c in place)
        area = canvas[y : y + n, x : x + n]
        alpha = rgba[..., 3:] / 255
        area += alpha * (rgba[..., :3] - area)

    def single(self, canvas, rng):
        k = self.pick(rng)
        name, color = self.named(k, rng, tint=0.16)
        self.paste(canvas, k, SINGLE, CENTER, color)
        return (with_article(name) if rng.random() < 0.85 else name), (k,)

    def several(self, canvas, rng):
        k = self.pick(rng)
        name, color = self.named(k, rng, tint=0.1)
        if not countable(name):
            return None
        count = 2 if rng.random() < 0.5 else 3
        for place in PLACES[count]:
            self.paste(canvas, k, HALF if count == 2 else THIRD, place, color)
        words = ("two", "2", "a pair of", "two") if count == 2 else ("three", "3", "three")
        return f"{choice(rng, words)} {plural(name)}", (k,)

    def pair(self, canvas, rng):
        ks = self.pick(rng), self.pick(rng)
        (a, color_a), (b, color_b) = (self.named(k, rng, tint=0.1) for k in ks)
        a, b = with_article(a), with_article(b)
        level = rng.random() < 0.7
        places = PLACES[2] if level else STACKED
        for k, color, place in zip(ks, (color_a, color_b), places, strict=True):
            self.paste(canvas, k, HALF, place, color)
        pattern = choice(rng, SIDE_BY_SIDE if level else ONE_ABOVE)
        return pattern.format(a=a, b=b), ks

    def __call__(self, rng, *, several=0.1, pair=0.12):
        r = rng.random()
        draw = self.pair if r < pair else self.several if r < pair + several else self.single
        while True:
            background, where = self.background(rng)
            canvas = background.copy()
            drawn = draw(canvas, rng)
            if drawn is not None:
                break
        caption, subjects = drawn
        if rng.random() < 0.1:
            caption = choice(rng, PREFIXES) + caption
        picture = canvas.round().clip(0, 255).astype(np.uint8)
        return Example(picture, caption + where, max(self.subjects[k].stage for k in subjects))


def choice(rng, options):
    return options[int(rng.integers(len(options)))]
