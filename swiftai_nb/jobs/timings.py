"""Measured durations of pictures on this machine, and estimates from them.

Kept in a small SQLite file that several kernels share. Recent measurements have the highest weight, so
the estimates follow within a few pictures when a machine becomes busy or is updated.
"""

from __future__ import annotations

import contextlib
import os
import platform
import sqlite3
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_NEWEST_WEIGHT = 0.4
_BUSY_TIMEOUT_S = 1.0  # while another process holds the file; an estimate is not worth a longer wait
_LONGEST_S = 1e12  # beyond it a stored number is damage
_SCHEMA = """
CREATE TABLE IF NOT EXISTS timings (
    machine TEXT, model TEXT, pixels INTEGER, guided INTEGER,
    step_s REAL NOT NULL, fixed_s REAL NOT NULL, PRIMARY KEY (machine, model, pixels, guided));
CREATE TABLE IF NOT EXISTS loads (
    machine TEXT, model TEXT, load_s REAL NOT NULL, PRIMARY KEY (machine, model));
"""


@dataclass(frozen=True)
class TimingKey:
    """What a duration depends on.

    Args:
        model: id of the model, with its quantization when it has one.
        width: pixels.
        height: pixels.
        guided: whether the network runs twice per step.
    """

    model: str
    width: int
    height: int
    guided: bool = True


def machine_name() -> str:
    """Distinguishes machines that share a home folder: host, architecture, processors.

    A Mac's host name changes with its network, and its home folder is rarely shared: left out there.
    """
    host = "mac" if sys.platform == "darwin" else platform.node()
    return f"{host}/{platform.machine()}/{os.cpu_count()}"


class Timings:
    """Measured times per model, size and machine.

    A file that cannot be read or written means no estimates, never an error: nothing here raises.

    Args:
        path: the SQLite file; None keeps them in memory.
        machine: see `machine_name`.
    """

    def __init__(self, path: str | Path | None = None, *, machine: str | None = None) -> None:
        self._path = None if path is None else Path(path)
        self._machine = machine_name() if machine is None else machine
        self._lock = threading.Lock()
        self._memory: sqlite3.Connection | None = None

    def record(self, key: TimingKey, *, steps: int, denoising_s: float, fixed_s: float) -> None:
        """Adds one picture's times.

        Args:
            key: what it depends on.
            steps: network steps run.
            denoising_s: seconds in those steps.
            fixed_s: seconds in everything else but loading: prompt, decoding, encoding.
        """
        if steps <= 0:
            return
        where = (self._machine, key.model, key.width * key.height, int(key.guided))
        with self._open() as db:
            old = db.execute(
                "SELECT step_s, fixed_s FROM timings WHERE machine=? AND model=? AND pixels=? AND guided=?",
                where,
            ).fetchone()
            step_s = _blend(None if old is None else _stored(old[0]), denoising_s / steps)
            fixed_s = _blend(None if old is None else _stored(old[1]), fixed_s)
            db.execute("INSERT OR REPLACE INTO timings VALUES (?, ?, ?, ?, ?, ?)", (*where, step_s, fixed_s))

    def record_load(self, model: str, load_s: float) -> None:
        """Adds one loading time: engine start and weights."""
        with self._open() as db:
            old = db.execute(
                "SELECT load_s FROM loads WHERE machine=? AND model=?", (self._machine, model)
            ).fetchone()
            value = _blend(None if old is None else _stored(old[0]), load_s)
            db.execute("INSERT OR REPLACE INTO loads VALUES (?, ?, ?)", (self._machine, model, value))

    def estimate_s(self, key: TimingKey, *, steps: int, cold: bool = False) -> float | None:
        """Seconds that a picture will take, or None when this model was never timed on this machine.

        Another size of the same model is scaled by its pixels, another guidance by two.

        Args:
            key: what it depends on.
            steps: network steps to run.
            cold: whether the model must be loaded first.
        """
        estimate_s: float | None = None
        with self._open() as db:
            stored = db.execute(
                "SELECT pixels, guided, step_s, fixed_s FROM timings WHERE machine=? AND model=?",
                (self._machine, key.model),
            ).fetchall()
            rows = [row for row in map(_checked_row, stored) if row is not None]
            if rows:
                estimate_s = _scaled(rows, key, steps)
                if cold:
                    load = db.execute(
                        "SELECT load_s FROM loads WHERE machine=? AND model=?", (self._machine, key.model)
                    ).fetchone()
                    estimate_s += 0.0 if load is None else _stored(load[0]) or 0.0
        return estimate_s

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                db = self._connect()
            except (OSError, sqlite3.Error):
                db = sqlite3.connect(":memory:", isolation_level=None)
                db.executescript(_SCHEMA)
            try:
                db.execute("BEGIN IMMEDIATE")
                yield db
                db.execute("COMMIT")
            except sqlite3.Error:
                pass  # a lost measurement is harmless
            finally:
                if db is not self._memory:
                    db.close()

    def _connect(self) -> sqlite3.Connection:
        if self._path is None:
            if self._memory is None:
                self._memory = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
                self._memory.executescript(_SCHEMA)
            return self._memory
        self._path.parent.mkdir(parents=True, exist_ok=True)
        db = sqlite3.connect(self._path, timeout=_BUSY_TIMEOUT_S, isolation_level=None)
        try:
            # A view or trigger of somebody else's may never end.
            if db.execute("SELECT 1 FROM sqlite_master WHERE type IN ('trigger', 'view')").fetchone():
                raise sqlite3.DatabaseError("the file holds more than tables")
            db.executescript(_SCHEMA)
        except sqlite3.Error:
            db.close()
            raise
        return db


_Row = tuple[float, bool, float, float]  # pixels, guided, step_s, fixed_s


def _checked_row(row: tuple[object, ...]) -> _Row | None:
    """A row of the timings; None when a value is of another type, as in a file that others wrote."""
    pixels, guided, step_s, fixed_s = map(_stored, row)
    if pixels is None or pixels < 1 or guided is None or step_s is None or fixed_s is None:
        return None
    return pixels, bool(guided), step_s, fixed_s


def _stored(value: object) -> float | None:
    """A number of the file (SQLite's columns hold any type); None when it is no duration or count."""
    return float(value) if isinstance(value, (int, float)) and 0 <= value <= _LONGEST_S else None


def _blend(old: float | None, new: float) -> float:
    return new if old is None else old + _NEWEST_WEIGHT * (new - old)


def _scaled(rows: list[_Row], key: TimingKey, steps: int) -> float:
    pixels = key.width * key.height
    nearest = min(rows, key=lambda row: (row[1] != key.guided, abs(row[0] - pixels)))
    measured_pixels, guided, step_s, fixed_s = nearest
    networks = (2 if key.guided else 1) / (2 if guided else 1)
    scale = pixels / measured_pixels
    return step_s * scale * networks * steps + fixed_s * scale
