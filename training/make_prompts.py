"""Write prompts.json: the 200 fixed prompts of evaluate.py, and 100 of attributes and relations for evaluate_256.py.

Run once: the file is committed and does not change, though subjects got other names since.
"""

import json
import random
import zlib
from pathlib import Path

from compose import countable, plural, with_article
from following import COMBINATIONS, DEFAULTS
from layouts import (
    COVERS,
    EYEWEAR,
    HEADS,
    HEADWEAR,
    RELATIONS,
    SUPPORTS,
    Layouts,
    attribute_words,
)
from scenes import COLORS, SCENE_PHRASES, TINTS
from subjects import read_list

SOLID = (
    "cat",
    "dog",
    "apple",
    "car",
    "star",
    "heart",
    "tree",
    "fish",
    "bird",
    "pizza",
    "penguin",
    "rocket",
    "robot",
    "fox",
    "ghost",
)


def held_out(subject, style, mirror, share):
    """Whether a combination of two attributes or more was kept from training for the first 2,132,000 pictures."""
    return (
        len(attribute_words(style, mirror, share)) > 1
        and zlib.crc32(repr((subject, style, mirror, share)).encode()) % 10 == 0
    )


def add_attributes(add, subjects, rng, n=60):
    """Every combination of style, side and size in turn, a third of them of combinations that were not trained then."""
    make, combinations = Layouts(subjects), [c for c in COMBINATIONS if c != DEFAULTS]
    for k in range(n):
        combination = combinations[k % len(combinations)]
        held = k % 3 == 0 and len(attribute_words(*combination)) > 1
        usable = [i for i, s in enumerate(subjects) if held_out(s.label, *combination) == held]
        chosen = rng.choice(usable)
        prompt = make.one(chosen, *combination).caption
        add("attribute", prompt, subjects=[subjects[chosen].label], combination=combination)


def add_relations(add, make, rng, n=40):
    labels = [s.label for s in make.subjects]
    solid = [s.label for s in make.subjects if s.names[0] in SOLID]
    others = {"wearing": EYEWEAR + HEADWEAR, "on": tuple(SUPPORTS), "under": COVERS}
    for k in range(n):
        relation = list(RELATIONS)[k % len(RELATIONS)]
        a = rng.choice(list(HEADS))
        b = rng.choice(others.get(relation, solid))
        while b == a:
            b = rng.choice(solid)
        names = [with_article(make.subjects[labels.index(label)].names[0]) for label in (a, b)]
        prompt = RELATIONS[relation][0].format(a=names[0], b=names[1])
        add("relation", prompt, subjects=[a, b], relation=relation)


def main():
    rng, subjects = random.Random(7), read_list()
    first = {s.names[0]: s.label for s in subjects}
    popular = [s.names[0] for s in subjects if s.stage < 3]
    rare = [s.names[0] for s in subjects if s.stage == 3]
    prompts = []

    def add(kind, prompt, **asked):
        prompts.append({"seed": 1000 + len(prompts), "kind": kind, "prompt": prompt, **asked})

    for name in rng.sample(popular, 60) + rng.sample(rare, 40):
        add("single", with_article(name), subjects=[first[name]])
    for k, name in enumerate(rng.sample([n for n in popular if countable(n)], 40)):
        if k % 2:
            color = list(COLORS)[k // 2 % len(COLORS)]
            add(
                "color",
                f"{with_article(name)} on {with_article(color)} background",
                subjects=[first[name]],
                background=color,
            )
        else:
            color = TINTS[k // 2 % len(TINTS)]
            add("color", with_article(f"{color} {name}"), subjects=[first[name]], tint=color)
    scenes = list(SCENE_PHRASES)
    for k, name in enumerate(rng.sample(popular, 30)):
        scene = scenes[k % len(scenes)]
        add("scene", f"{with_article(name)} {SCENE_PHRASES[scene][0]}", subjects=[first[name]], scene=scene)
    for k, name in enumerate(SOLID):
        count = (1, 2, 3)[k % 3]
        words = with_article(name) if count == 1 else f"{('two', 'three')[count - 2]} {plural(name)}"
        add("count", words, subjects=[first[name]], count=count)
    relations = ("{} and {}", "{} next to {}", "{} above {}")
    for k in range(15):
        a, b = rng.sample(SOLID, 2)
        prompt = relations[k % 3].format(with_article(a), with_article(b))
        add("pair", prompt, subjects=[first[a], first[b]], stacked=k % 3 == 2)
    add_attributes(add, subjects, random.Random(8))
    add_relations(add, Layouts(subjects), random.Random(9))
    lines = ",\n".join("  " + json.dumps(p) for p in prompts)
    Path(__file__).with_name("prompts.json").write_text(f"[\n{lines}\n]\n")
    print(len(prompts))


if __name__ == "__main__":
    main()
