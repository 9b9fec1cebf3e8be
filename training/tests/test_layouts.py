import json
import re
import zipfile

import numpy as np
import pytest
from PIL import Image

import art
import layouts
from compose import with_article
from following import COMBINATIONS
from layouts import SIZE_ADJECTIVES, Layouts, attribute_words
from tokenizer import WORD, caption_words


def drawn(subjects, n=400, **options):
    make, rng = Layouts(subjects, **options), np.random.default_rng(0)
    return [make(rng) for _ in range(n)]


FORMS = {
    "flat style": ("flat style", "flat drawing"),
    "cartoon style": ("cartoon style", "cartoon of"),
    **SIZE_ADJECTIVES,
}


def test_a_caption_names_every_attribute_that_is_not_the_default(subjects):
    for layout in drawn(subjects, kinds={"single": 1.0}):
        (placed,) = layout.objects
        said = layout.caption
        for words in attribute_words(placed.style, placed.mirror, placed.share):
            assert any(all(w in said for w in form.split()) for form in FORMS.get(words, (words,))), said
        assert ("mirrored" in said) == placed.mirror
        assert (layout.ground.time in layout.caption) or not layout.ground.time


def test_attributes_are_also_named_as_people_put_it(subjects):
    captions = {layout.caption for layout in drawn(subjects, 24000, kinds={"single": 1.0}, only=range(3))}
    first = with_article(subjects[0].names[0])
    noun = first.removeprefix("a ")
    assert {
        f"a cartoon of {first}", f"{first}, ink drawing", f"a tiny {noun}", f"{first} in flat style, mirrored",
    } <= captions  # fmt: skip


def test_counts_are_the_number_of_things(subjects):
    words = {"two": 2, "2": 2, "a pair of": 2, "three": 3, "3": 3, "four": 4, "4": 4, "five": 5, "5": 5}
    seen = set()
    for layout in drawn(subjects, kinds={"count": 1.0}):
        text = re.sub(r"^(an? [\w ]+? of )+(?=two|three|four|five|\d|a pair)", "", layout.caption)
        word = next(w for w in words if text.startswith(w + " "))
        assert words[word] == len(layout.objects)
        seen.add(len(layout.objects))
    assert seen == {2, 3, 4, 5}


def test_several_things_come_in_every_style_which_the_caption_names(subjects):
    words = ("", "flat", "cartoon", "ink drawing")
    seen = set()
    for layout in drawn(subjects, kinds={"count": 0.5, "pair": 0.5}):
        (style,) = {placed.style for placed in layout.objects}
        assert words[style] in layout.caption
        assert style or not any(word in layout.caption for word in words[1:])
        seen.add((layout.kind, style))
    assert len(seen) == 8


def test_every_combination_of_attributes_is_drawn(subjects):
    singles = drawn(subjects[:20], 2000, kinds={"single": 1.0})
    assert {(p.style, p.mirror, p.share) for (p,) in (s.objects for s in singles)} == set(COMBINATIONS)


def test_what_is_worn_is_in_front_and_smaller(subjects):
    worn = [s for s in drawn(subjects, 300, kinds={"relation": 1.0}) if s.asked["relation"] == "wearing"]
    assert worn
    for layout in worn:
        body, part = layout.objects
        assert subjects[body.subject].label in layouts.HEADS
        assert part.share < body.share


@pytest.mark.parametrize(
    "table", [layouts.HEADS, layouts.EYEWEAR, layouts.HEADWEAR, layouts.SUPPORTS, layouts.COVERS]
)
def test_tables_of_parts_name_subjects(subjects, table):
    assert set(table) <= {s.label for s in subjects}


def test_one_seed_describes_the_same_pictures(subjects):
    assert drawn(subjects, 20) == drawn(subjects, 20)


def test_only_the_given_subjects_are_drawn(subjects):
    few = drawn(subjects, 100, only=range(20), kinds={"single": 1.0})
    assert {p.subject for s in few for p in s.objects} <= set(range(20))


def test_every_word_of_a_caption_is_in_the_tokenizer(subjects):
    known = set(caption_words())
    said = {w for layout in drawn(subjects, 1500) for w in WORD.findall(layout.caption.lower())}
    assert said - known == set()


def iconify(folder, icons, chars):
    (folder / "assets").mkdir(parents=True)
    (folder / "icons.json").write_text(json.dumps({"height": 8, "icons": icons}))
    (folder / "chars.json").write_text(json.dumps(chars))
    return folder


def test_svg_art_is_packed_and_unpacked(work, subjects, monkeypatch):
    red = '<rect width="8" height="4" fill="#ff0000"/><rect y="4" width="4" height="4" fill="currentColor"/>'
    folder = iconify(work / "set", {"cat": {"body": red}, "dog": {"body": red}}, {"1f408": "cat"})
    chosen = [s for s in subjects if s.label in ("cat", "dog")]
    monkeypatch.setattr(art, "STYLES", {"flat": art.STYLES["flat"]})
    codes = {"cat": "1f408", "dog": "1f415"}
    art.pack(work / "art_256.zip", chosen, codes=codes, folders={"flat": folder})
    art.unpack(work / "art_256.zip", chosen, work / "art_256.npy")
    pictures = art.load()
    assert pictures.shape == (1, 2, 256, 256, 4)
    assert np.abs(pictures[0, 0, 50, 100].astype(int) - [255, 0, 0, 255]).max() < 12
    assert pictures[0, 0, 200, 200, 3] == 0


def test_missing_art_is_named(work, subjects):
    folder = iconify(work / "set", {}, {})
    with pytest.raises(ValueError, match="flat: cat"):
        art.pack(work / "a.zip", subjects[:1], codes={}, folders={"flat": folder})


def test_art_of_the_right_size_is_kept_byte_by_byte(work, subjects):
    assets = work / "3d" / "assets"
    assets.mkdir(parents=True)
    Image.new("RGBA", (256, 256), "red").save(assets / "1f408.webp")
    art.pack(work / "a.zip", subjects[:1], codes={"cat": "1f408"}, folders={"3d": work / "3d"})
    with zipfile.ZipFile(work / "a.zip") as archive:
        assert archive.read("3d/cat.webp") == (assets / "1f408.webp").read_bytes()


def test_subjects_that_the_3d_package_lacks_are_drawn_flat(work, subjects):
    chosen = [s for s in subjects if s.label in ("lime", "lemon")]
    assert len(chosen) == 2
    with zipfile.ZipFile(work / "a.zip", "w") as archive:
        for style, color in zip(art.STYLES, ("yellow", "lime", "green", "black"), strict=True):
            for s in chosen:
                archive.writestr(
                    f"{style}/{s.label}.webp", art.webp(np.asarray(Image.new("RGBA", (256, 256), color)))
                )
    art.unpack(work / "a.zip", chosen, work / "art_256.npy")
    first = dict(zip((s.label for s in chosen), art.load()[0, :, 9, 9, :3].tolist(), strict=True))
    assert first["lemon"][0] > 240
    assert first["lime"][0] < 15
