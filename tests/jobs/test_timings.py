"""Estimates from measured times."""

from __future__ import annotations

import contextlib
import sqlite3

import pytest

from swiftai_nb.jobs.timings import TimingKey, Timings

KEY = TimingKey("sd-1.5", 512, 512)


@pytest.fixture(params=["file", "memory"])
def timings(request, tmp_path):
    timings = Timings(tmp_path / "deep" / "timings.sqlite" if request.param == "file" else None, machine="a")
    yield timings
    if timings._memory is not None:
        timings._memory.close()


def test_nothing_is_estimated_before_the_first_picture(timings):
    assert timings.estimate_s(KEY, steps=20) is None


def test_an_estimate_counts_steps_and_the_fixed_part(timings):
    timings.record(KEY, steps=10, denoising_s=20.0, fixed_s=3.0)
    assert timings.estimate_s(KEY, steps=20) == pytest.approx(43.0)
    assert timings.estimate_s(KEY, steps=1) == pytest.approx(5.0)


def test_loading_counts_only_when_cold(timings):
    timings.record(KEY, steps=1, denoising_s=1.0, fixed_s=0.0)
    assert timings.estimate_s(KEY, steps=1, cold=True) == pytest.approx(1.0)
    timings.record_load("sd-1.5", 8.0)
    assert timings.estimate_s(KEY, steps=1, cold=True) == pytest.approx(9.0)
    assert timings.estimate_s(KEY, steps=1) == pytest.approx(1.0)


def test_other_sizes_and_guidance_are_scaled_from_what_was_measured(timings):
    timings.record(KEY, steps=10, denoising_s=10.0, fixed_s=1.0)
    assert timings.estimate_s(TimingKey("sd-1.5", 256, 512), steps=10) == pytest.approx(5.5)
    assert timings.estimate_s(TimingKey("sd-1.5", 512, 512, guided=False), steps=10) == pytest.approx(6.0)


def test_newer_times_outweigh_older_ones(timings):
    timings.record(KEY, steps=1, denoising_s=10.0, fixed_s=0.0)
    for _ in range(8):
        timings.record(KEY, steps=1, denoising_s=2.0, fixed_s=0.0)
    assert timings.estimate_s(KEY, steps=1) == pytest.approx(2.0, rel=0.1)


def test_machines_and_kernels_share_a_file_without_mixing(tmp_path):
    path = tmp_path / "timings.sqlite"
    Timings(path, machine="a").record(KEY, steps=1, denoising_s=1.0, fixed_s=0.0)
    assert Timings(path, machine="a").estimate_s(KEY, steps=2) == pytest.approx(2.0)
    assert Timings(path, machine="b").estimate_s(KEY, steps=2) is None


@pytest.mark.parametrize("fault", ["garbage", "folder", "unwritable parent"])
def test_an_unusable_file_costs_only_the_estimate(tmp_path, fault):
    path = tmp_path / "timings.sqlite"
    if fault == "garbage":
        path.write_bytes(b"no database" * 1000)
    elif fault == "folder":
        path.mkdir()
    else:
        (tmp_path / "file").write_text("not a folder")
        path = tmp_path / "file" / "timings.sqlite"
    timings = Timings(path)
    timings.record(KEY, steps=1, denoising_s=1.0, fixed_s=0.0)
    timings.record_load("sd-1.5", 1.0)
    assert timings.estimate_s(KEY, steps=1) is None


@pytest.mark.parametrize("value", ["soon", None, -1.0, 1e300, b"x"])
@pytest.mark.parametrize(
    ("table", "column"),
    [("timings", "pixels"), ("timings", "step_s"), ("timings", "fixed_s"), ("loads", "load_s")],
)
def test_a_stored_value_of_another_type_costs_only_itself(tmp_path, table, column, value):
    path = tmp_path / "timings.sqlite"
    Timings(path).record(KEY, steps=1, denoising_s=1.0, fixed_s=0.0)
    Timings(path).record_load("sd-1.5", 1.0)
    with contextlib.closing(sqlite3.connect(path)) as db:
        definition = db.execute("SELECT sql FROM sqlite_master WHERE name = ?", (table,)).fetchone()[0]
        rows = db.execute(f"SELECT * FROM {table}").fetchall()
        db.execute(f"DROP TABLE {table}")
        db.execute(definition.replace("NOT NULL", ""))
        marks = ", ".join("?" * len(rows[0]))
        db.executemany(f"INSERT INTO {table} VALUES ({marks})", rows)
        db.execute(f"UPDATE {table} SET {column} = ?", (value,))
        db.commit()
    timings = Timings(path)
    assert timings.estimate_s(KEY, steps=1, cold=True) in (None, pytest.approx(1.0))
    timings.record(KEY, steps=1, denoising_s=1.0, fixed_s=0.0)
    timings.record_load("sd-1.5", 1.0)
    assert timings.estimate_s(KEY, steps=1, cold=True) == pytest.approx(2.0)


@pytest.mark.parametrize("pixels", [0, 1e-311, 0.5])
def test_a_row_of_less_than_one_pixel_is_left_out(tmp_path, pixels):
    Timings(tmp_path / "timings.sqlite").record(KEY, steps=1, denoising_s=1.0, fixed_s=0.0)
    with contextlib.closing(sqlite3.connect(tmp_path / "timings.sqlite")) as db:
        db.execute("UPDATE timings SET pixels = ?", (pixels,))
        db.commit()
    assert Timings(tmp_path / "timings.sqlite").estimate_s(KEY, steps=1) is None


def test_a_view_that_never_ends_is_no_estimate(tmp_path):
    path = tmp_path / "timings.sqlite"
    Timings(path, machine="a").record(KEY, steps=1, denoising_s=1.0, fixed_s=0.0)
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.executescript(
            "ALTER TABLE timings RENAME TO t; CREATE VIEW timings AS WITH RECURSIVE n(x) AS "
            "(SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT 'a' AS machine, 'sd-1.5' AS model, "
            "x AS pixels, 1 AS guided, 1.0 AS step_s, 1.0 AS fixed_s FROM n"
        )
    timings = Timings(path, machine="a")
    assert timings.estimate_s(KEY, steps=1) is None
    timings.record(KEY, steps=1, denoising_s=1.0, fixed_s=0.0)
