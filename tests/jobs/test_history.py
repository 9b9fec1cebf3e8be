"""Histories: in memory and in a folder, and what a crash leaves of them."""

from __future__ import annotations

import concurrent.futures
import contextlib
import datetime
import multiprocessing
import os
import signal
import sqlite3
import struct
import subprocess
import sys
import time
import zlib

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from swiftai_nb.core.errors import InvalidInputError
from swiftai_nb.core.image import GeneratedImage
from swiftai_nb.core.recipe import Recipe
from swiftai_nb.jobs.history import History
from swiftai_nb.jobs.history_store import INDEX_NAME


def picture(prompt="a cat", seed=1, side=16, **fields):
    pixels = np.random.default_rng(seed).integers(0, 255, (side, side, 3), dtype=np.uint8)
    return GeneratedImage.from_pixels(pixels, recipe=Recipe(prompt, seed=seed, **fields))


@pytest.fixture(params=["memory", "folder"])
def history(request, tmp_path):
    return History(None if request.param == "memory" else tmp_path / "pictures")


def test_iterating_gives_the_newest_first(history):
    images = [picture(seed=seed) for seed in range(5)]
    ids = [history.append(image).id for image in images]
    assert len(history) == 5
    assert [entry.id for entry in history] == ids[::-1]
    assert [entry.image.data for entry in history] == [image.data for image in images[::-1]]


def test_an_entry_tells_what_a_gallery_needs(history):
    entry = history.append(picture("ein Kätzchen", side=300, width=300, height=300))
    assert (entry.width, entry.height, entry.prompt) == (300, 300, "ein Kätzchen")
    assert entry.recipe == history.find(entry.id).recipe
    assert abs(entry.created_at - time.time()) < 60
    small = __import__("PIL.Image").Image.open(__import__("io").BytesIO(entry.thumbnail))
    assert (small.format, small.size) == ("JPEG", (128, 128))


def test_the_same_picture_twice_is_two_entries(history):
    first, second = history.append(picture()), history.append(picture())
    assert first.id != second.id
    assert len(history) == 2
    assert first.image.data == second.image.data


def test_search_wants_every_word_in_any_case(history):
    history.append(picture("A red APPLE", model="emoji-mini"))
    history.append(picture("a green apple", negative_prompt="worm"))
    history.append(picture("Käse 100% _x_"))
    assert [entry.prompt for entry in history.search("apple")] == ["a green apple", "A red APPLE"]
    assert [entry.prompt for entry in history.search("apple EMOJI")] == ["A red APPLE"]
    assert [entry.prompt for entry in history.search("WORM")] == ["a green apple"]
    assert [entry.prompt for entry in history.search("KÄSE 0% _x")] == ["Käse 100% _x_"]
    assert list(history.search("pear")) == []
    assert len(list(history.search(""))) == 3


def test_an_unknown_id_is_an_error_that_helps(history):
    history.append(picture())
    for wrong in ("99", "x", "", "-1", "9" * 19, "9" * 5_000):
        with pytest.raises(InvalidInputError, match="no picture"):
            history.find(wrong)
        assert len(history.newest(3, before=wrong)) == 1


def test_pages_are_walked_by_the_last_id(history):
    for seed in range(7):
        history.append(picture(seed=seed))
    page = history.newest(3)
    assert [entry.recipe.seed for entry in page] == [6, 5, 4]
    assert [entry.recipe.seed for entry in history.newest(3, before=page[-1].id)] == [3, 2, 1]


def test_a_picture_without_recipe_is_kept(history):
    pixels = np.zeros((8, 8, 3), np.uint8)
    entry = history.append(GeneratedImage.from_pixels(pixels))
    assert entry.recipe is None
    assert history.find(entry.id).image.width == 8


def test_memory_drops_the_oldest_when_full():
    history = History(memory_bytes=5 * len(picture().data))
    for seed in range(20):
        history.append(picture(seed=seed))
    assert 1 <= len(history) < 5
    assert next(iter(history)).recipe.seed == 19


def test_a_folder_is_there_again_for_the_next_kernel(tmp_path):
    first = History(tmp_path)
    ids = [first.append(picture(seed=seed)).id for seed in range(3)]
    again = History(tmp_path)
    assert [entry.id for entry in again] == ids[::-1]


def test_a_file_without_row_is_taken_in_on_opening(tmp_path):
    History(tmp_path).append(picture("kept"))
    (tmp_path / "stray.png").write_bytes(picture("stray", seed=2).data)
    (tmp_path / "broken.png").write_bytes(picture(seed=3).data[:200])
    (tmp_path / "notes.png").write_bytes(b"no picture")
    history = History(tmp_path)
    assert [entry.prompt for entry in history] == ["stray", "kept"]
    assert len(History(tmp_path)) == 2


@pytest.mark.parametrize("damage", ["garbage", "truncated", "deleted"])
def test_a_lost_index_is_rebuilt_from_the_pictures(tmp_path, damage):
    history = History(tmp_path)
    for seed in range(30):
        history.append(picture(f"number {seed}", seed=seed))
    index = tmp_path / INDEX_NAME
    if damage == "garbage":
        index.write_bytes(b"x" * 10_000)
    elif damage == "truncated":
        index.write_bytes(index.read_bytes()[:5000])
    else:
        index.unlink()
    assert {entry.recipe.seed for entry in History(tmp_path)} == set(range(30))


def test_a_picture_whose_file_is_gone_says_so(tmp_path):
    entry = History(tmp_path).append(picture())
    next(tmp_path.glob("*.png")).unlink()
    with pytest.raises(InvalidInputError, match="cannot read"):
        _ = History(tmp_path).find(entry.id).image


def test_a_folder_that_cannot_be_made_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidInputError, match="cannot keep a history"):
        History(tmp_path / "file" / "pictures")


def test_two_processes_append_to_one_folder_without_loss(tmp_path):
    History(tmp_path)
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as pool:
        list(pool.map(_append_twenty, [str(tmp_path)] * 2, [0, 100]))
    entries = list(History(tmp_path))
    assert len({entry.id for entry in entries}) == 40
    assert {entry.recipe.seed for entry in entries} == {*range(20), *range(100, 120)}


def test_kill_9_in_the_middle_of_appending_loses_no_reported_picture(tmp_path):
    code = (
        "import sys; from tests.jobs.test_history import picture, History\n"
        "history = History(sys.argv[1])\n"
        "for seed in range(100000):\n"
        "    history.append(picture(seed=seed)); print(seed, flush=True)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        reported = [int(child.stdout.readline()) for _ in range(15)]
        os.kill(child.pid, signal.SIGKILL)
        rest, _ = child.communicate()
    finally:
        child.kill()
    reported += [int(line) for line in rest.split()]
    seeds = {entry.recipe.seed for entry in History(tmp_path)}
    assert set(reported) <= seeds


@pytest.mark.parametrize("kind", ["memory", "folder"])
def test_ten_thousand_entries_are_browsed_without_delay(tmp_path, kind):
    history = History(None if kind == "memory" else tmp_path)
    if kind == "memory":
        image = picture()
        for _ in range(10_000):
            history.append(image)
    else:
        _fill_index(tmp_path, 10_000)
        history = History(tmp_path)
    started = time.perf_counter()
    assert len(history) == 10_000
    page = history.newest(50)
    deep = history.newest(50, before="200")
    found = next(history.search("nowhere"), None)
    seconds = time.perf_counter() - started
    assert (len(page), len(deep), found) == (50, 50, None)
    assert seconds < 2.0  # about 0.02 s on an idle machine


def _append_twenty(folder, first):
    history = History(folder)
    for seed in range(first, first + 20):
        history.append(picture(seed=seed))


def _fill_index(folder, count):
    history = History(folder)
    entry = history.append(picture())
    db = sqlite3.connect(folder / INDEX_NAME)
    row = db.execute("SELECT * FROM pictures").fetchone()[1:]
    with db:
        for _ in range(count - 1):
            key = db.execute(
                "INSERT INTO pictures (created_at, file, width, height, prompt, recipe, searchable) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                row,
            ).lastrowid
            db.execute("INSERT INTO thumbnails VALUES (?, ?)", (key, entry.thumbnail))
    db.close()


def test_a_picture_that_is_damaged_behind_its_pixels_costs_itself_alone(tmp_path):
    """Without a recipe in front of the pixels, Pillow meets the damage while it looks for one."""
    whole = GeneratedImage.from_pil(Image.new("RGB", (8, 8))).data
    empty_profile = b"\0\0\0\0iCCP" + zlib.crc32(b"iCCP").to_bytes(4, "big")
    (tmp_path / "damaged.png").write_bytes(whole[:-12] + empty_profile + whole[-12:])
    (tmp_path / "whole.png").write_bytes(whole)
    (entry,) = History(tmp_path)
    assert entry.image.pil.size == (8, 8)


def test_a_damaged_recipe_costs_that_recipe_alone(tmp_path):
    history = History(tmp_path)
    history.append(picture("whole"))
    history.append(picture("damaged", seed=2))
    with sqlite3.connect(tmp_path / INDEX_NAME) as db:
        db.execute("UPDATE pictures SET recipe = ? WHERE prompt = 'damaged'", ('{"prompt": 7}',))
    db.close()
    assert [(entry.prompt, entry.recipe is None) for entry in history] == [
        ("damaged", True),
        ("whole", False),
    ]


def test_a_picture_that_cannot_be_kept_is_one_line_in_the_log(tmp_path, caplog):
    history = History(tmp_path / "pictures")
    assert history.append_or_log(picture()) is not None
    (tmp_path / "pictures" / INDEX_NAME).unlink()
    (tmp_path / "pictures" / INDEX_NAME).mkdir()
    assert history.append_or_log(picture(seed=2)) is None
    assert [record.getMessage()[:45] for record in caplog.records] == [
        "this picture is not in the history: cannot wr"
    ]
    assert "Traceback" not in caplog.text


def foreign_picture(path, **texts):
    info = PngInfo()
    for key, text in texts.items():
        info.add_text(key, text)
    Image.new("RGB", (8, 8)).save(path, pnginfo=info)


HOSTILE_RECIPES = {
    "a prompt that is a list": '{"prompt": ["a"]}',
    "no prompt": '{"prompt": null}',
    "a model that is a number": '{"prompt": "a", "model": 7}',
    "infinity": '{"prompt": "a", "seed": Infinity}',
    "half an emoji": '{"prompt": "a \\ud83d", "model": "b"}',
    "deep nesting": "[" * 100_000,
    "a huge number": '{"prompt": "a", "width": ' + "9" * 4000 + "}",
}


@pytest.mark.parametrize("recipe", HOSTILE_RECIPES.values(), ids=HOSTILE_RECIPES)
def test_a_foreign_picture_with_an_odd_recipe_hurts_nobody(tmp_path, recipe):
    History(tmp_path).append(picture("mine"))
    foreign_picture(tmp_path / "foreign.png", swiftai=recipe)
    history = History(tmp_path)
    assert sorted(entry.prompt for entry in history if entry.prompt == "mine") == ["mine"]
    assert len(history) == 2
    assert [entry.image.width for entry in history] == [8, 16]
    assert not list(tmp_path.glob("*.damaged*"))


@pytest.mark.skipif(os.name != "posix", reason="links and pipes")
def test_links_to_nothing_pipes_folders_and_bombs_are_no_pictures(tmp_path):
    history = History(tmp_path)
    history.append(picture("mine"))
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    header = picture().data[:16] + struct.pack(">II", 60_000, 60_000) + picture().data[24:29]
    bomb = header + struct.pack(">I", zlib.crc32(header[12:29])) + picture().data[33:]
    (tmp_path / "bomb.png").write_bytes(bomb)
    assert [entry.prompt for entry in History(tmp_path)] == ["mine"]
    assert not list(tmp_path.glob("*.damaged*"))


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("created_at", "soon"),
        ("created_at", 1e300),
        ("recipe", "not json"),
        ("recipe", "[]"),
        ("recipe", "{}"),
        ("recipe", "[" * 100_000),
        ("recipe", 7),
        ("width", "wide"),
        ("prompt", 7),
        ("file", "../../secret.png"),
    ],
)
def test_a_damaged_row_does_not_cost_its_page(tmp_path, column, value):
    history = History(tmp_path)
    history.append(picture("whole"))
    history.append(picture("damaged", seed=2))
    with contextlib.closing(sqlite3.connect(tmp_path / INDEX_NAME)) as db:
        db.execute(f"UPDATE pictures SET {column} = ? WHERE id = 2", (value,))
        db.commit()
    damaged, whole = history
    assert whole.prompt == "whole"
    assert whole.image.width == 16
    assert datetime.datetime.fromtimestamp(damaged.created_at) is not None
    if column == "file":
        with pytest.raises(InvalidInputError, match="cannot read a picture"):
            _ = damaged.image


def test_an_unreadable_index_is_one_error(tmp_path):
    history = History(tmp_path)
    (tmp_path / INDEX_NAME).unlink()
    (tmp_path / INDEX_NAME).mkdir()
    for use in (lambda: list(history), lambda: len(history), lambda: history.find("1")):
        with pytest.raises(InvalidInputError, match="cannot read the history"):
            use()


@pytest.mark.skipif(os.name != "posix", reason="modes")
@pytest.mark.parametrize("mask", [0o077, 0o027, 0o022])
def test_the_umask_decides_who_reads_kept_pictures(tmp_path, mask):
    old = os.umask(mask)
    try:
        History(tmp_path / "history").append(picture())
    finally:
        os.umask(old)
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "history").glob("*.png")}
    assert modes == {0o666 & ~mask}
    assert [path.name for path in (tmp_path / "history").glob(".*")] == []


def test_a_deleted_picture_is_gone_with_its_file_and_stays_gone(tmp_path):
    history = History(tmp_path)
    first, second = history.append(picture(seed=1)), history.append(picture(seed=2))
    history.delete(first.id)
    assert [entry.id for entry in history] == [second.id]
    assert [entry.id for entry in History(tmp_path)] == [second.id]
    assert len(list(tmp_path.glob("*.png"))) == 1
    with pytest.raises(InvalidInputError, match="no picture"):
        history.delete(first.id)


def test_deleting_one_of_two_equal_pictures_keeps_the_other(history):
    first, second = history.append(picture()), history.append(picture())
    history.delete(first.id)
    assert history.find(second.id).image.data == picture().data
    assert len(history) == 1


def test_favorites_are_marked_and_unmarked(history):
    first, second = history.append(picture(seed=1)), history.append(picture(seed=2))
    history.mark_favorite(first.id)
    history.mark_favorite(first.id)
    assert [entry.is_favorite for entry in history] == [False, True]
    history.mark_favorite(first.id, False)
    assert not any(entry.is_favorite for entry in history)
    history.mark_favorite(second.id)
    if history.folder is not None:
        assert [entry.is_favorite for entry in History(history.folder)] == [True, False]
    history.delete(second.id)
    assert not any(entry.is_favorite for entry in history)
    with pytest.raises(InvalidInputError, match="no picture"):
        history.mark_favorite("99")


def test_a_folder_of_an_older_version_has_no_favorites_yet(tmp_path):
    History(tmp_path).append(picture())
    with contextlib.closing(sqlite3.connect(tmp_path / INDEX_NAME)) as index:
        index.execute("DROP TABLE favorites")
    assert [entry.is_favorite for entry in History(tmp_path)] == [False]


ENDLESS = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n)"
FOREIGN_INDEXES = {
    "an endless view": f"ALTER TABLE thumbnails RENAME TO t; CREATE VIEW thumbnails AS {ENDLESS} "
    "SELECT x AS id, x'00' AS jpeg FROM n",
    "an endless trigger": "CREATE TRIGGER t AFTER INSERT ON pictures BEGIN "
    f"INSERT INTO favorites {ENDLESS} SELECT max(x) FROM n; END",
    "a trigger that refuses": "CREATE TRIGGER t BEFORE INSERT ON pictures BEGIN SELECT RAISE(ABORT, 'no'); END",
    "a check": "DROP TABLE favorites; CREATE TABLE favorites (id INTEGER CHECK (length(zeroblob(9)) = 1))",
    "a table that is none": "DROP TABLE pictures; CREATE VIRTUAL TABLE pictures USING fts5(id)",
    "one picture of each size": "DELETE FROM pictures WHERE id > 1; CREATE UNIQUE INDEX u ON pictures (width)",
    "another column": "ALTER TABLE pictures RENAME COLUMN prompt TO words",
    "the largest id": "UPDATE pictures SET id = 9223372036854775807 WHERE id = 1",
    "no id left": "UPDATE sqlite_sequence SET seq = 9223372036854775807",
    "a text for the last id": "UPDATE sqlite_sequence SET seq = 'x'",
    "lost thumbnails": "DELETE FROM thumbnails",
    "thumbnails of what is to come": "INSERT INTO thumbnails VALUES (3, x'00'), (4, x'00'), (5, x'00')",
    "a prompt that is no UTF-8": "UPDATE pictures SET prompt = CAST(x'ff' AS TEXT)",
    "a file that is no UTF-8": "UPDATE pictures SET file = CAST(x'ff' AS TEXT) WHERE id = 1",
}


@pytest.mark.parametrize("sql", FOREIGN_INDEXES.values(), ids=FOREIGN_INDEXES)
def test_an_index_of_somebody_else_costs_itself_and_no_picture(tmp_path, sql):
    history = History(tmp_path)
    for seed in (1, 2):
        history.append(picture(seed=seed))
    with contextlib.closing(sqlite3.connect(tmp_path / INDEX_NAME)) as index:
        index.executescript(sql)
    history = History(tmp_path)
    history.append(picture(seed=3))
    shown = []
    for entry in history:
        with contextlib.suppress(InvalidInputError):
            shown.append(entry.image.recipe.seed)
    assert set(shown) == {1, 2, 3}
    for entry in list(history):
        history.delete(entry.id)
    assert len(history) == 0


def test_a_row_cannot_have_another_file_deleted(tmp_path):
    history = History(tmp_path)
    entry = history.append(picture())
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    with contextlib.closing(sqlite3.connect(tmp_path / INDEX_NAME, isolation_level=None)) as index:
        index.execute("UPDATE pictures SET file = 'notes.txt'")
    history.delete(entry.id)
    assert (tmp_path / "notes.txt").read_text(encoding="utf-8") == "mine"


def test_half_an_emoji_is_kept_and_searched(history):
    image = picture()
    history.append(GeneratedImage(image.data, image.width, image.height, recipe=Recipe("a \ud83d fox")))
    assert len(list(history.search("fox"))) == 1
    assert len(list(history.search("\ud83d"))) in (0, 1)


def test_a_search_of_very_many_words_is_one_error(history):
    history.append(picture())
    assert len(list(history.search("cat " * 2_000))) == 1
    with pytest.raises(InvalidInputError, match="100 is the most"):
        history.search(" ".join(map(str, range(2_000))))


@pytest.mark.parametrize(("count", "found"), [(10**30, 1), (-1, 0)])
def test_an_odd_number_of_entries(history, count, found):
    history.append(picture())
    assert len(history.newest(count)) == found
