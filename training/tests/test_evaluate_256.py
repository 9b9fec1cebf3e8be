import json
from pathlib import Path

import numpy as np
import pytest

import evaluate_256
import following
from evaluate_256 import Judge, combination_of, grounds_of, pixels, reduced
from layouts import Ground, Layouts
from render import Renderer

FEW = ("cat", "dog", "fox", "panda", "sunglasses", "top hat", "rocket", "package", "umbrella", "penguin")


@pytest.fixture
def judge(subjects, small_art):
    chosen = [k for k, s in enumerate(subjects) if s.label in FEW]
    layouts = Layouts([subjects[k] for k in chosen])
    return Judge(layouts, Renderer(small_art[:, chosen], size=following.JUDGED_SIZE))


ASKED = (
    {"kind": "attribute", "subjects": ["cat"], "combination": [1, True, 0.56]},
    {"kind": "attribute", "subjects": ["rocket"], "combination": [2, False, 1.0]},
    {"kind": "relation", "subjects": ["cat", "sunglasses"], "relation": "wearing"},
    {"kind": "relation", "subjects": ["fox", "top hat"], "relation": "wearing"},
    {"kind": "relation", "subjects": ["panda", "rocket"], "relation": "holding"},
    {"kind": "relation", "subjects": ["dog", "package"], "relation": "on"},
    {"kind": "relation", "subjects": ["penguin", "umbrella"], "relation": "under"},
)


def pictures(judge, asked):
    return list(pixels(judge.render([judge.layout(a) for a in asked])))


def test_training_pictures_get_full_marks(judge):
    scores = judge.score(pictures(judge, ASKED), ASKED)
    assert set(scores.values()) == {1.0}
    assert {"relation: relation", "attribute: top-1", "attribute: all attributes"} <= set(scores)


@pytest.mark.parametrize("shown", ["holding", "on", "under", "beside", "only 0", "only 1"])
def test_another_relation_gets_no_mark(judge, shown):
    asked = ASKED[2]
    a, b = (judge.labels.index(label) for label in asked["subjects"])
    (picture,) = pixels(judge.render([judge.alternatives(a, b)[shown]]))
    assert judge.marks(picture, asked) == {"relation": False}


def test_another_subject_is_not_recognized(judge):
    (picture,) = pictures(judge, [{**ASKED[0], "subjects": ["dog"]}])
    assert not judge.marks(picture, ASKED[0])["top-1"]


def test_phrases_stand_for_attributes():
    assert combination_of("in the snow, mirrored") == (0, True, 0.84)
    assert combination_of(", small, cartoon style") == (2, False, 0.56)
    assert combination_of("") == following.DEFAULTS


def test_phrases_stand_for_backgrounds():
    assert grounds_of("on a light blue background") == (Ground("light blue"),)
    assert [g.scene for g in grounds_of("in the snow")] == ["snow", "snow"]
    assert grounds_of("") == (Ground(),)


@pytest.mark.parametrize(("phrases", "varied"), [([""], False), (["", "on a blue background"], True)])
def test_variety_is_that_of_seeds_where_subjects_stay_recognized(judge, monkeypatch, phrases, varied):
    def draw(pipe, prompts, **_):
        made = []
        for prompt in prompts:
            caption, _, ground = prompt.partition(" on a ")
            k = next(k for k in range(len(judge.labels)) if judge.layouts.one(k).caption == caption)
            made.append(judge.layouts.one(k, ground=Ground("blue" if ground else "white")))
        return list(pixels(judge.render(made)))

    def choose(attributes, prompt, *, seed):
        return phrases[seed % len(phrases)]

    monkeypatch.setattr(evaluate_256, "draw", draw)
    figures = evaluate_256.variety(
        None,
        judge,
        (),
        steps=1,
        guidance=1,
        choose=choose,
        join=lambda prompt, phrase: f"{prompt} {phrase}".strip(),
    )
    assert (figures["variety over seeds"] > 0.2) == varied
    assert figures["recognized over seeds"] == 1


def test_pictures_of_any_size_are_reduced_for_the_judge():
    picture = np.arange(256, dtype=np.uint8)[:, None, None].repeat(256, 1).repeat(3, 2)
    (small,) = reduced([picture])
    assert small.shape == (64, 64, 3)
    assert abs(int(small[1, 0, 0]) - 5.5) <= 1


def test_the_fixed_prompts_ask_for_what_can_be_judged(subjects):
    labels = {s.label for s in subjects}
    prompts = json.loads((Path(__file__).parents[1] / "prompts.json").read_text())
    assert len({p["seed"] for p in prompts}) == len(prompts) == 300
    for asked in prompts:
        assert set(asked["subjects"]) <= labels
        if asked["kind"] == "attribute":
            assert tuple(asked["combination"]) in following.COMBINATIONS
