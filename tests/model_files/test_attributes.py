"""`attributes.json`: what a prompt leaves open is chosen by the seed; a stranger's table is checked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from swiftai_nb.core.errors import InvalidModelFilesError
from swiftai_nb.core.recipe import join_prompt
from swiftai_nb.model_files.attributes import Attribute, Choice, choose_phrases, read_attributes
from swiftai_nb.model_files.content_hash import content_hash

BUNDLED = Path(__file__).parents[2] / "swiftai_nb" / "assets" / "emoji-mini"
PLACE = Attribute(
    "place",
    (Choice("in the snow", frozenset({"snow", "snowman"})), Choice("at night"), Choice("")),
    unless=frozenset({"in", "on"}),
    longest_prompt=5,
)


def write(folder: Path, data: Any) -> Path:
    (folder / "attributes.json").write_text(data if isinstance(data, str) else json.dumps(data))
    return folder


def test_consecutive_seeds_choose_every_phrase_in_turn():
    assert [PLACE.choose("a cat", seed=seed) for seed in range(3)] == [
        PLACE.choose("a cat", seed=seed) for seed in range(3, 6)
    ]
    assert {PLACE.choose("a cat", seed=seed) for seed in range(3)} == {"in the snow", "at night", ""}


def test_the_choice_is_the_documented_one():
    # CRC-32 of "place" is 1948079053: on every machine and Python, now and later.
    assert [PLACE.choose("a cat", seed=seed) for seed in (0, 1, 2**53 - 1)] == ["at night", "", ""]


@pytest.mark.parametrize("prompt", ["a cat IN a hat", "cat on, tree", "one two three four five six"])
def test_a_prompt_that_names_it_or_is_long_gets_nothing(prompt):
    assert {PLACE.choose(prompt, seed=seed) for seed in range(6)} == {""}


def test_a_phrase_that_repeats_or_contradicts_the_prompt_is_not_chosen():
    assert {PLACE.choose("a Snowman", seed=seed) for seed in range(6)} == {"at night", ""}
    assert {PLACE.choose("a cat", "snow, rain", seed=seed) for seed in range(6)} == {"at night", ""}


def test_a_table_whose_phrases_all_contradict_the_prompt_adds_nothing():
    only = Attribute("place", (Choice("in the snow", frozenset({"snow"})),))
    assert only.choose("snow", seed=1) == ""


def test_phrases_of_several_attributes_are_joined():
    both = (PLACE, Attribute("style", (Choice("flat style"),)))
    assert {choose_phrases(both, "a cat", seed=seed) for seed in range(3)} == {
        "in the snow flat style",
        "at night flat style",
        "flat style",
    }


def test_a_phrase_that_begins_with_a_comma_follows_it_without_a_space():
    both = (PLACE, Attribute("side", (Choice(", mirrored"),)))
    assert {choose_phrases(both, "a cat", seed=seed) for seed in range(3)} == {
        "in the snow, mirrored",
        "at night, mirrored",
        ", mirrored",
    }
    assert join_prompt("a cat.", ", mirrored") == "a cat, mirrored"
    assert join_prompt("a cat", "in the snow, mirrored") == "a cat in the snow, mirrored"
    assert join_prompt("", "in the snow") == "in the snow"


def test_a_folder_without_a_table_has_no_attributes(tmp_path):
    assert read_attributes(tmp_path) == ()


def test_a_table_is_read(tmp_path):
    table = {"place": {"choices": [{"phrase": " in the snow ", "unless": ["Snow"]}], "unless": ["On"]}}
    (found,) = read_attributes(write(tmp_path, table))
    assert found == Attribute("place", (Choice("in the snow", frozenset({"snow"})),), frozenset({"on"}))


@pytest.mark.parametrize(
    ("table", "fault"),
    [
        ("[]", "is not a JSON object"),
        ("{", "cannot be read"),
        ('{"a":' * 5000 + "1" + "}" * 5000, "cannot be read"),
        ({"place": []}, "place must be an object"),
        ({"place": {}}, "place.choices must be a list"),
        ({"place": {"choices": []}}, "place has no choices"),
        ({"place": {"choices": ["in the snow"]}}, "a choice of place must be an object"),
        ({"place": {"choices": [{"phrase": 3}]}}, "a phrase of place must be a text"),
        ({"place": {"choices": [{"phrase": "x" * 101}]}}, "of 100 characters at most"),
        ({"place": {"choices": [{"phrase": "one\ntwo"}]}}, "a phrase of place must be a text"),
        ({"place": {"choices": [{"phrase": "\x1b[31mred"}]}}, "a phrase of place must be a text"),
        ({"place": {"choices": [{"phrase": "a", "weight": 2}]}}, "a choice of place must be an object"),
        ({"place": {"choices": [{"phrase": "a"}] * 257}}, "a list of 256 items at most"),
        ({"place": {"choices": [{"phrase": "a"}], "unless": "on"}}, "place.unless must be a list"),
        ({"place": {"choices": [{"phrase": "a"}], "unless": [None]}}, "place.unless must be a text"),
        ({"place": {"choices": [{"phrase": "a"}], "longest_prompt": True}}, "longest_prompt cannot be True"),
        ({"place": {"choices": [{"phrase": "a"}], "longest_prompt": 0}}, "longest_prompt cannot be 0"),
        ({f"a{n}": {"choices": [{"phrase": "a"}]} for n in range(17)}, "it has 17 attributes"),
    ],
)
def test_a_table_that_is_none_is_refused_by_its_fault(tmp_path, table, fault):
    with pytest.raises(InvalidModelFilesError, match=fault):
        read_attributes(write(tmp_path, table))


def test_the_bundled_model_knows_every_word_of_its_table():
    trained = set((BUNDLED / "trained_words.txt").read_text(encoding="utf-8").split())
    attributes = read_attributes(BUNDLED)
    phrases = [choice.phrase for attribute in attributes for choice in attribute.choices]
    assert {word for phrase in phrases for word in phrase.strip(", ").split()} <= trained
    assert len({choice.phrase for choice in attributes[0].choices}) >= 8


@pytest.mark.parametrize("prompt", ["a cat", "a snowman", "pink pig"])
def test_a_prompt_with_the_phrases_of_the_bundled_model_gets_no_others(prompt):
    attributes = read_attributes(BUNDLED)
    added = [choose_phrases(attributes, prompt, seed=seed) for seed in range(120)]
    assert len(set(added)) >= 8
    full = [join_prompt(prompt, phrases) for phrases in added]
    assert [choose_phrases(attributes, text, seed=seed) for seed, text in enumerate(full)] == [""] * 120


@pytest.mark.parametrize(
    "prompt",
    ["a fox wearing glasses", "a robot holding a balloon", "a cat with a hat on", "a fox, cartoon style"],
)
def test_what_is_asked_for_is_not_risked_for_a_place_of_the_bundled_model(prompt):
    assert {choose_phrases(read_attributes(BUNDLED), prompt, seed=seed) for seed in range(120)} == {""}


def test_the_table_is_no_part_of_the_weights_revision(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    before = content_hash(tmp_path)
    assert content_hash(write(tmp_path, {})) == before
