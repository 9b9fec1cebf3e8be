"""What a picture of the 256 px model shows and its caption: `Layouts(subjects)(rng)` describes one of each.

A layout is data: `render.py` draws it on a CPU or GPU, the caption goes to the tokenizer, and evaluation knows
what was asked for. A caption names every attribute that is not the default; what it leaves out does not vary.
"""

from dataclasses import dataclass, field

import numpy as np

from art import STYLES
from compose import (
    CENTER,
    COUNT_SHARES,
    COUNT_WORDS,
    GROUND_PHRASES,
    HALF,
    ONE_ABOVE,
    PLACES,
    PREFIXES,
    SIDE_BY_SIDE,
    STACKED,
    STAGE_WEIGHTS,
    choice,
    countable,
    plural,
    with_article,
    without_color,
)
from scenes import COLORS, SCENE_PHRASES, TINTS, VARIANTS

SIDES = {"": False, "mirrored": True}
SIZES = {"": 0.84, "small": 0.56, "large": 1.0}
TIMES = {
    "": (1.0, 1.0, 1.0),
    "at night": (0.32, 0.38, 0.62),
    "in the evening": (1.0, 0.68, 0.6),
}  # gains of RGB
OUTDOORS = ("snow", "beach", "field", "desert", "forest", "city")
FIFTH = 0.375  # side of five things, and of what is held
FIVE = ((0.1875, 0.6875), (0.5, 0.6875), (0.8125, 0.6875), (0.34375, 0.3125), (0.65625, 0.3125))
COUNTS = {2: 0.36, 3: 0.28, 4: 0.2, 5: 0.16}
KINDS = {"single": 0.76, "count": 0.12, "pair": 0.07, "relation": 0.05}
# By what 1,974,000 pictures with 0.3 mirrored had left wrong: one of five mirrored things outside 3D was nearest to another
# drawing of its subject, one of three in the cartoon style; of things that are not mirrored, one of fifty.
STYLE_SHARES = (0.28, 0.29, 0.25, 0.18)  # of single things
MIRRORED_SHARE = 0.5
OTHER_SIZES_SHARE = 0.55  # small and large ones together
GROUP_STYLE_SHARES = (0.6, 0.2, 0.1, 0.1)  # of several things side by side
OTHER_WORDING = 0.25  # share of single things whose caption is no list: "a cartoon of a tiny fox in the snow"
SIZE_ADJECTIVES = {"small": ("small", "tiny", "little"), "large": ("large", "big", "huge")}
STYLE_PATTERNS = {
    "flat style": ("{}, flat style", "{} in flat style", "a flat drawing of {}"),
    "cartoon style": ("{}, cartoon style", "{} in cartoon style", "a cartoon of {}"),
    "ink drawing": ("{}, ink drawing", "{} as an ink drawing", "an ink drawing of {}"),
}
SHIPPED_KINDS = {"single": 0.55, "count": 0.18, "pair": 0.27}  # of what the 128 px model was taught

# Heads of the 3D and flat drawings: center of the eyes, width and top, as shares of the sprite.
HEADS = {
    "smiling face with smiling eyes": (0.5, 0.38, 0.8, 0.1), "cat": (0.21, 0.31, 0.36, 0.2),
    "cat face": (0.5, 0.45, 0.72, 0.26), "dog": (0.19, 0.28, 0.36, 0.17), "dog face": (0.5, 0.42, 0.6, 0.16),
    "panda": (0.5, 0.43, 0.7, 0.2), "bear": (0.5, 0.43, 0.7, 0.22), "fox": (0.5, 0.56, 0.6, 0.42),
    "lion": (0.5, 0.4, 0.55, 0.2), "robot": (0.5, 0.43, 0.6, 0.18), "penguin": (0.43, 0.27, 0.42, 0.1),
    "koala": (0.5, 0.45, 0.6, 0.22), "wolf": (0.5, 0.5, 0.5, 0.3), "hamster": (0.5, 0.5, 0.55, 0.32),
    "pig face": (0.5, 0.42, 0.7, 0.2), "cow face": (0.5, 0.36, 0.6, 0.18), "alien": (0.5, 0.43, 0.7, 0.08),
    "ghost": (0.5, 0.33, 0.5, 0.1), "skull": (0.5, 0.45, 0.7, 0.1), "baby": (0.5, 0.45, 0.6, 0.14),
    "owl": (0.5, 0.25, 0.6, 0.1),
}  # fmt: skip
EYEWEAR = ("sunglasses", "glasses")
HEADWEAR = ("top hat", "crown", "woman’s hat", "billed cap", "ribbon")
SUPPORTS = {
    "package": 0.2,
    "bed": 0.55,
    "couch and lamp": 0.6,
    "chair": 0.5,
}  # where one sits, as shares of the sprite
ANY_HEAD, ANY_SEAT = (0.5, 0.35, 0.6, 0.15), 0.4  # where evaluation asks what else was drawn
COVERS = ("umbrella", "deciduous tree", "cloud", "rainbow")
RELATIONS = {
    "wearing": ("{a} wearing {b}", "{a} with {b} on", "{a} in {b}"),
    "holding": ("{a} holding {b}", "{a} carrying {b}"),
    "on": ("{a} on {b}", "{a} sitting on {b}"),
    "under": ("{a} under {b}", "{a} beneath {b}"),
}
RELATION_SHARES = (0.4, 0.25, 0.2, 0.15)


@dataclass(frozen=True)
class Placed:
    """A sprite: indices of style and subject, its side and center as shares of the picture."""

    subject: int
    share: float
    x: float
    y: float
    style: int = 0
    mirror: bool = False
    tint: str | None = None


@dataclass(frozen=True)
class Ground:
    """A color, or one of a scene's fixed pictures at a time of day."""

    color: str = "white"
    scene: str | None = None
    variant: int = 0
    time: str = ""


@dataclass(frozen=True)
class Layout:
    """One picture: sprites from back to front, the caption, and what evaluation asks about."""

    objects: tuple[Placed, ...]
    ground: Ground
    caption: str
    stage: int
    kind: str
    asked: dict = field(default_factory=dict)


def attribute_words(style, mirror, share):
    """The words of a single thing's attributes, without those of the defaults."""
    words = [list(STYLES.values())[style].words]
    words += [w for w, m in SIDES.items() if m == mirror] + [w for w, s in SIZES.items() if s == share]
    return [w for w in words if w]


def wordlist():
    """Every text besides the subjects' names that captions contain, for the tokenizer."""
    texts = [*(s.words for s in STYLES.values()), *SIDES, *SIZES, *TIMES, "five 5"]
    texts += [word for words in SIZE_ADJECTIVES.values() for word in words]
    return [
        *texts,
        *(p for table in (RELATIONS, STYLE_PATTERNS) for patterns in table.values() for p in patterns),
    ]


def reworded(name, where, words, rng):
    """A caption of a thing with attributes `words` in the ways that people put it instead of a list after its name."""
    size = next((word for word in words if word in SIZE_ADJECTIVES), None)
    style = next((word for word in words if word in STYLE_PATTERNS), None)
    mirrored = [word for word in words if word not in (size, style)]
    if size is not None:
        adjective, article = choice(rng, SIZE_ADJECTIVES[size]), name.startswith(("a ", "an "))
        name = f"a {adjective} {name.split(' ', 1)[1]}" if article else f"{adjective} {name}"
    if style is not None:
        name = choice(rng, STYLE_PATTERNS[style]).format(name)
    if rng.random() < 0.5:
        return ", ".join([name + where, *mirrored])
    return ", ".join([name, *mirrored]) + where


class Layouts:
    """Descriptions of pictures of `subjects`, endlessly."""

    def __init__(self, subjects, *, only=None, kinds=None, attributes=True):
        """`only`: the indices of the subjects to draw, all by default. `kinds`: shares of what is described.

        Without `attributes` everything is described in the terms of the 128 px model.
        """
        self.subjects, self.attributed = subjects, attributes
        kinds = (KINDS if attributes else SHIPPED_KINDS) if kinds is None else kinds
        self.counts = COUNTS if attributes else COUNT_SHARES
        self.usable = np.arange(len(subjects)) if only is None else np.asarray(only)
        weights = np.array([STAGE_WEIGHTS[subjects[k].stage] for k in self.usable])
        self.cumulative = np.cumsum(weights / weights.sum())
        self.kinds, self.kind_shares = list(kinds), np.cumsum(list(kinds.values()))
        self.index = {subjects[k].label: int(k) for k in self.usable}

    def pick(self, rng):
        return int(self.usable[np.searchsorted(self.cumulative, rng.random())])

    def named(self, k, rng, *, tint=0.0):
        """A name of subject `k`, and the color it is tinted with or None."""
        names = self.subjects[k].names
        name = names[0] if rng.random() < 0.6 else choice(rng, names)
        if rng.random() >= tint:
            return name, None
        color = choice(rng, TINTS)
        phrase = f"{color} {without_color(name)}"
        return phrase, None if phrase in names else color

    def ground(self, rng, *, plain=0.36, colored=0.3):
        """A background and its words."""
        r = rng.random()
        if r < plain:
            return Ground(), ""
        if r < plain + colored:
            color = choice(rng, tuple(COLORS))
            article = "an" if color == "orange" else "a"
            return Ground(color), choice(rng, GROUND_PHRASES).format(color, article=article)
        scene, time = choice(rng, tuple(SCENE_PHRASES)), ""
        if self.attributed and scene in OUTDOORS and rng.random() < 0.3:
            time = choice(rng, tuple(TIMES)[1:])
        words = f" {choice(rng, SCENE_PHRASES[scene])}" + (f" {time}" if time else "")
        return Ground(scene=scene, variant=int(rng.integers(VARIANTS)), time=time), words

    def attributes(self, rng):
        """Style, mirror and share of a single thing."""
        if not self.attributed:
            return 0, False, SIZES[""]
        style = int(rng.choice(len(STYLES), p=STYLE_SHARES))
        mirror = bool(rng.random() < MIRRORED_SHARE)
        resized = rng.random() < OTHER_SIZES_SHARE
        return style, mirror, choice(rng, tuple(SIZES.values())[1:]) if resized else SIZES[""]

    def one(
        self,
        k,
        style=0,
        mirror=False,
        share=SIZES[""],
        *,
        name=None,
        tint=None,
        where="",
        ground=None,
        wording=None,
    ):
        """The layout of one thing with given attributes; `wording`, a random generator, varies the caption's words."""
        words = attribute_words(style, mirror, share)
        x, y = CENTER if share < 1 else (0.5, 0.5)
        name = with_article(self.subjects[k].names[0]) if name is None else name
        asked = {"style": style, "mirror": mirror, "share": share}
        placed = Placed(k, share, x, y, style, mirror, tint)
        if wording is None:
            caption = ", ".join([name + where, *words])
        elif wording.random() < OTHER_WORDING:
            caption = reworded(name, where, words, wording)
        else:
            caption = ", ".join([name + where, *(words[n] for n in wording.permutation(len(words)))])
        return Layout((placed,), ground or Ground(), caption, self.subjects[k].stage, "single", asked)

    def single(self, rng):
        k = self.pick(rng)
        style, mirror, share = self.attributes(rng)
        name, tint = self.named(k, rng, tint=0.16 if style < 3 else 0.0)
        ground, where = self.ground(rng)
        name = with_article(name) if rng.random() < 0.85 else name
        return self.one(
            k, style, mirror, share, name=name, tint=tint, where=where, ground=ground, wording=rng
        )

    def group_style(self, rng):
        return int(rng.choice(len(STYLES), p=GROUP_STYLE_SHARES)) if self.attributed else 0

    def styled(self, name, style, where, rng):
        """The caption of several things in a style."""
        words = attribute_words(style, False, SIZES[""])
        if rng.random() < OTHER_WORDING:
            return reworded(name, where, words, rng)
        return ", ".join([name + where, *words])

    def count(self, rng):
        k, style = self.pick(rng), self.group_style(rng)
        name, tint = self.named(k, rng, tint=0.1 if style < 3 else 0.0)
        if not countable(name):
            return None
        n = int(rng.choice(list(self.counts), p=list(self.counts.values())))
        places, share = (FIVE, FIFTH) if n == 5 else (PLACES[n], HALF)
        ground, where = self.ground(rng)
        word = choice(rng, ("five", "5", "five") if n == 5 else COUNT_WORDS[n])
        caption = self.styled(f"{word} {plural(name)}", style, where, rng)
        objects = tuple(Placed(k, share, x, y, style, tint=tint) for x, y in places)
        return Layout(objects, ground, caption, self.subjects[k].stage, "count", {"count": n})

    def pair(self, rng):
        ks, style = (self.pick(rng), self.pick(rng)), self.group_style(rng)
        tinted = 0.15 if style < 3 else 0.0
        names, tints = zip(*(self.named(k, rng, tint=tinted) for k in ks), strict=True)
        a, b = map(with_article, names)
        level = rng.random() < 0.7
        places = PLACES[2] if level else STACKED
        ground, where = self.ground(rng)
        pattern = choice(rng, SIDE_BY_SIDE if level else ONE_ABOVE)
        caption = self.styled(pattern.format(a=a, b=b), style, where, rng)
        objects = tuple(
            Placed(k, HALF, *at, style, tint=tint) for k, at, tint in zip(ks, places, tints, strict=True)
        )
        return Layout(objects, ground, caption, self.newest(ks), "pair")

    def newest(self, ks):
        return max(self.subjects[k].stage for k in ks)

    def relation(self, rng):
        """Two things where one touches the other: parts are placed by the tables above."""
        relation = str(rng.choice(list(RELATIONS), p=RELATION_SHARES))
        wanted = {"wearing": EYEWEAR + HEADWEAR, "on": tuple(SUPPORTS), "under": COVERS}.get(relation)
        heads = [label for label in HEADS if label in self.index]
        others = (
            [self.index[label] for label in wanted if label in self.index] if wanted else [self.pick(rng)]
        )
        if not heads or not others:
            return None
        label, b = choice(rng, heads), choice(rng, others)
        a, style = self.index[label], int(rng.random() < 0.4)
        objects = related(relation, a, b, label=label, other=self.subjects[b].label, style=style)
        names = [with_article(self.named(k, rng)[0]) for k in (a, b)]
        ground, where = self.ground(rng)
        caption = choice(rng, RELATIONS[relation]).format(a=names[0], b=names[1]) + where
        caption = ", ".join([caption, *attribute_words(style, False, SIZES[""])])
        return Layout(objects, ground, caption, self.newest((a, b)), "relation", {"relation": relation})

    def __call__(self, rng):
        described = None
        while described is None:
            kind = self.kinds[min(int(np.searchsorted(self.kind_shares, rng.random())), len(self.kinds) - 1)]
            described = getattr(self, kind)(rng)
        if rng.random() < 0.1:
            return Layout(**vars(described) | {"caption": choice(rng, PREFIXES) + described.caption})
        return described


def related(relation, a, b, *, label, other, style=0):
    """Sprites, from back to front, for "a RELATION b"; `label` and `other` are the labels of the two."""
    if relation == "wearing":
        share, cx, cy = 0.75, 0.5, 0.59375  # room for a hat
        x, y, width, top = HEADS.get(label, ANY_HEAD)
        left, upper = cx - share / 2, cy - share / 2
        if other in EYEWEAR:
            part = Placed(b, width * share / 0.87, left + x * share, upper + (y + 0.02) * share, style)
        else:
            side = 0.8 * width * share
            part = Placed(b, side, left + x * share, upper + top * share - 0.3 * side, style)
        return Placed(a, share, cx, cy, style), part
    if relation == "holding":
        return Placed(a, 0.75, 0.4375, 0.5, style), Placed(b, FIFTH, 0.75, 0.75, style)
    if relation == "on":
        seat = 0.5 + SUPPORTS.get(other, ANY_SEAT) * HALF  # a's drawing ends at about 0.93 of its sprite
        return Placed(b, HALF, 0.5, 0.75, style), Placed(a, HALF, 0.5, seat + 0.02 - 0.43 * HALF, style)
    return Placed(b, 0.75, 0.5, 0.375, style), Placed(a, HALF, 0.5, 0.75, style)
