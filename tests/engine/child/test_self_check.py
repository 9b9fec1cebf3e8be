"""The checks of `doctor --report` run to their end on this machine."""

from __future__ import annotations

import io

import pytest

from swiftai_nb.engine.child import self_check
from swiftai_nb.engine.kernel.report import write_report


@pytest.mark.slow
def test_every_family_agrees_with_the_cpu_in_every_precision():
    out = io.StringIO()
    assert write_report(out) == 0, out.getvalue()
    lines = out.getvalue().splitlines()
    for name in ("Stable Diffusion", "autoencoder", "FLUX.1", "FLUX.2", "Z-Image"):
        for dtype in ("float32", "float16", "bfloat16"):
            assert any(line.startswith(f"| {name}, {dtype} |") and line.endswith("| ok |") for line in lines)
    assert any(line.startswith("| bundled model, float32 |") for line in lines)


def test_a_wrong_result_is_marked():
    assert str(self_check.Row("a", "b", False)) == "| a | b | **not as expected** |"
    assert str(self_check.Row("a", "b")) == "| a | b |  |"
