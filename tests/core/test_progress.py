"""The proposal's wording of the remaining time, to the letter."""

from __future__ import annotations

import pytest

from swiftai_nb.core.progress import ImageGenerationProgress


@pytest.mark.parametrize(
    ("eta", "words"),
    [
        (None, "Calculating..."),
        (0.0, "Calculating..."),
        (-1.0, "Calculating..."),
        (float("nan"), "Calculating..."),
        (0.5, "~0s remaining"),
        (5.9, "~5s remaining"),
        (59.9, "~59s remaining"),
        (60.0, "~1m 0s remaining"),
        (125.7, "~2m 5s remaining"),
        (3725.0, "~62m 5s remaining"),
    ],
)
def test_formatted_eta(eta: float | None, words: str) -> None:
    assert ImageGenerationProgress(0, 20, 1.0, eta).formatted_eta == words


def test_eta_follows_from_the_steps_done() -> None:
    progress = ImageGenerationProgress(5, 20, 10.0)
    assert progress.estimated_time_remaining == pytest.approx(30.0)
    assert progress.formatted_eta == "~30s remaining"


def test_given_eta_is_kept() -> None:
    assert ImageGenerationProgress(5, 20, 10.0, 3.0).estimated_time_remaining == 3.0


@pytest.mark.parametrize(
    ("step", "total", "percent"), [(0, 0, 0), (0, 4, 0), (1, 3, 33), (2, 3, 66), (4, 4, 100)]
)
def test_percent_rounds_down_and_survives_unknown_totals(step: int, total: int, percent: int) -> None:
    progress = ImageGenerationProgress(step, total, 1.0)
    assert progress.percent_complete == percent
    assert 0.0 <= progress.fraction_complete <= 1.0
