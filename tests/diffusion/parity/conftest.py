"""Comparisons that ask for `paths` are made twice: with the CPU's fast paths, and with plain MLX."""

import pytest

from swiftai_nb.diffusion import ops


@pytest.fixture(scope="module", params=["fast", "plain"])
def paths(request):
    ops.configure(fast=request.param == "fast")
    yield request.param
    ops.configure(fast=True)
