"""Pictures with captions, endlessly: `Composer(pictures, subjects, size)(rng)` gives one of each.

What a caption does not say hardly varies: one pose and place per subject, exact colors, two
fixed pictures a scene. That is what lets a small network learn hundreds of subjects in an hour.
Several things are always drawn at half size, and in quarters that start on whole latent cells: the
same drawing then has the same latents in each of its places.
"""

from typing import NamedTuple

import numpy as np

from scenes import COLORS, SCENE_PHRASES, TINTS, flat, scene_pictures, tinted
from subjects import resized

SINGLE, HALF = 0.84, 0.53  # side of a sprite as a share of the picture; an eighth of it is empty margin
CENTER = (0.5, 0.515)
PLACES = {
    2: ((0.25, 0.5), (0.75, 0.5)),
    3: ((0.25, 0.75), (0.75, 0.75), (0.5, 0.25)),
    4: ((0.25, 0.25), (0.75, 0.25), (0.25, 0.75), (0.75, 0.75)),
}
STACKED = ((0.5, 0.25), (0.5, 0.75))
COUNT_SHARES = {2: 0.45, 3: 0.35, 4: 0.2}
COUNT_WORDS = {2: ("two", "2", "a pair of", "two"), 3: ("three", "3", "three"), 4: ("four", "4", "four")}
STAGE_WEIGHTS = {1: 2.0, 2: 1.6, 3: 1.2, 4: 1.5}  # how often a subject is drawn, by its curriculum stage
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
    "clover", "soda", "thumbs up", "thumbs down", "nail polish", "skull and crossbones", "ginger", "lettuce", "mint",
    "lavender", "butter", "salt", "soup", "stew", "cereal", "curry", "champagne", "whiskey", "juice", "ice", "golf",
    "meat on the bone", "fork and knife", "dynamite", "luggage", "table tennis", "ping pong", "badminton",
    "ice hockey", "money", "dna", "shampoo", "lotion", "toilet paper", "yin yang", "wood",
}  # fmt: skip
IRREGULAR = {
    "mouse": "mice", "wolf": "wolves", "fish": "fish", "sheep": "sheep", "deer": "deer", "knife": "knives", "leaf": "leaves",
    "squid": "squid", "shrimp": "shrimp", "man": "men", "woman": "women", "tooth": "teeth", "hippopotamus": "hippos",
    "octopus": "octopuses", "cactus": "cactuses", "tomato": "tomatoes", "potato": "potatoes", "policeman": "policemen",
    "foot": "feet", "ox": "oxen", "goose": "geese", "moose": "moose", "bison": "bison", "buffalo": "buffalo",
    "elf": "elves", "fireman": "firemen", "superhero": "superheroes",
}  # fmt: skip


def is_plural(name):
    return " of " not in name and name.endswith("s") and not name.endswith(("ss", "us"))


def countable(name):
    return name not in UNCOUNTED and not is_plural(name)


def with_article(name):
    if not countable(name):
        return name
    return f"an {name}" if name[0] in "aeio" or name.startswith(("um", "up")) else f"a {name}"


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
    """A picture `[size, size, 3] uint8`, its caption, the curriculum stage of its newest subject, how many things."""

    picture: np.ndarray
    caption: str
    stage: int
    kind: int  # 0 one thing, 1 several of it, 2 a pair


class Composer:
    def __init__(self, pictures, subjects, *, size=64):
        """`pictures: [N, S, S, 4] uint8`."""
        self.size = size
        self.subjects = subjects
        self.sprites = {s: np.stack([resized(p, round(s * size)) for p in pictures]) for s in (SINGLE, HALF)}
        weights = np.array([STAGE_WEIGHTS[s.stage] for s in subjects])
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
        """A name for subject `k`, and the color it is tinted with or None."""
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
        area = canvas[max(y, 0) : y + n, max(x, 0) : x + n]
        rgba = rgba[max(-y, 0) :, max(-x, 0) :][: area.shape[0], : area.shape[1]]
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
        count = int(rng.choice(list(COUNT_SHARES), p=list(COUNT_SHARES.values())))
        for place in PLACES[count]:
            self.paste(canvas, k, HALF, place, color)
        return f"{choice(rng, COUNT_WORDS[count])} {plural(name)}", (k,)

    def pair(self, canvas, rng):
        ks = self.pick(rng), self.pick(rng)
        (a, color_a), (b, color_b) = (self.named(k, rng, tint=0.15) for k in ks)
        a, b = with_article(a), with_article(b)
        level = rng.random() < 0.7
        places = PLACES[2] if level else STACKED
        for k, color, place in zip(ks, (color_a, color_b), places, strict=True):
            self.paste(canvas, k, HALF, place, color)
        pattern = choice(rng, SIDE_BY_SIDE if level else ONE_ABOVE)
        return pattern.format(a=a, b=b), ks

    def __call__(self, rng, *, several=0.18, pair=0.27):
        r = rng.random()
        kind = 2 if r < pair else 1 if r < pair + several else 0
        draw = (self.single, self.several, self.pair)[kind]
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
        return Example(picture, caption + where, max(self.subjects[k].stage for k in subjects), kind)


def choice(rng, options):
    return options[int(rng.integers(len(options)))]
