"""Tests of the 256 px model's training, in the training environment: `python -m pytest tests` in `training/`."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

import runtime

torch.set_num_threads(1)  # as in training: two threads wait for each other on a busy machine


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A work folder, and a shipped model that has seen nothing."""
    monkeypatch.setenv("SWIFTAI_TRAINING", str(tmp_path))
    monkeypatch.setattr(runtime, "PROGRESS", tmp_path / "training/progress.json")
    runtime.PROGRESS.parent.mkdir()
    runtime.PROGRESS.write_text("{}")
    return tmp_path


@pytest.fixture(scope="session")
def subjects():
    from subjects import read_list

    return read_list()


@pytest.fixture(scope="session")
def small_art(subjects):
    """`[4, N, 32, 32, 4]`: for each subject a lopsided shape of its own color, paler in each style."""
    art = np.zeros((4, len(subjects), 32, 32, 4), np.uint8)
    colors = np.random.default_rng(3).integers(0, 200, (len(subjects), 3))
    for style in range(4):
        art[style, :, 4:28, 4:16, :3] = (colors + 12 * style)[:, None, None]
        art[style, :, 20 - 4 * style : 28, 16:28, :3] = 40 * style
        art[style, :, 4:28, 4:16, 3] = art[style, :, 20 - 4 * style : 28, 16:28, 3] = 255
    return art
