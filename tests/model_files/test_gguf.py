"""GGUF headers: read within bounds, and every damage is one line."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from swiftai_nb.core.errors import AIError, InvalidModelFilesError, UnsupportedModelError
from swiftai_nb.model_files.gguf import packed_bits
from swiftai_nb.model_files.safetensors_headers import read_header
from tests.model_files.files import write_gguf

TENSORS = {
    "a.weight": ("Q4_0", (3, 64), bytes(3 * 36)),
    "a.bias": ("F32", (3,), bytes(12)),
    "conv.weight": ("F16", (2, 3, 1, 1), bytes(12)),
}
VALUES = {
    "general.architecture": "flux",
    "names": ["x", "yy"],
    "many": list(range(100)),
    "n": 7,
    "is": True,
    "f": 0.5,
    "comfy.gguf.orig_shape.conv.weight": [2, 1, 3, 1],
}


def test_tensors_have_shapes_types_and_places(tmp_path):
    path = write_gguf(tmp_path / "m.gguf", TENSORS, VALUES)
    tensors, texts = read_header(path)
    assert texts == {"general.architecture": "flux"}
    assert {n: (t.dtype, t.shape, t.size_bytes) for n, t in tensors.items()} == {
        "a.weight": ("Q4_0", (3, 64), 108), "a.bias": ("F32", (3,), 12),
        "conv.weight": ("F16", (2, 1, 3, 1), 12),
    }  # fmt: skip
    assert all(t.offset % 32 == 0 for t in tensors.values())
    assert tensors["conv.weight"].offset + 32 == path.stat().st_size


@pytest.mark.parametrize(
    ("name", "shape", "dtype", "bits"),
    [
        ("a.weight", (8, 64), "Q4_0", 4), ("a.weight", (8, 64), "Q8_0", 8), ("a.weight", (8, 256), "Q4_K", 4),
        ("a.weight", (8, 256), "Q6_K", None), ("a.weight", (8, 64, 1, 1), "Q4_0", None),
        ("token_embedding.weight", (8, 64), "Q8_0", None), ("a.weight", (8, 64), "F16", None),
    ],
)  # fmt: skip
def test_linear_maps_in_groups_of_32_stay_quantized(name, shape, dtype, bits):
    assert packed_bits(name, shape, dtype) == bits


def test_every_cut_is_one_error(tmp_path):
    data = write_gguf(tmp_path / "m.gguf", TENSORS, VALUES).read_bytes()
    path = tmp_path / "cut.gguf"
    for length in range(0, len(data) - 20, 7):
        path.write_bytes(data[:length])
        with pytest.raises(InvalidModelFilesError, match="corrupt") as caught:
            read_header(path)
        assert len(caught.value.message.splitlines()) == 1


def test_wrong_bytes_are_an_error_or_a_header(tmp_path):
    data = write_gguf(tmp_path / "m.gguf", TENSORS, VALUES).read_bytes()
    path, rng = tmp_path / "wrong.gguf", np.random.default_rng(1)
    for at in range(4, 500):
        changed = bytearray(data)
        changed[at] ^= int(rng.integers(1, 256))
        path.write_bytes(changed)
        try:
            read_header(path)
        except AIError as error:
            assert len(error.message.splitlines()) == 1


@pytest.mark.parametrize("counts", [(2**60, 1), (1, 2**60), (50_000, 0), (0, 50_000)])
def test_impossible_counts_are_an_error_at_once(tmp_path, counts):
    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, *counts) + bytes(100))
    with pytest.raises(InvalidModelFilesError, match="corrupt"):
        read_header(path)


def test_other_forms_and_versions_are_refused_by_name(tmp_path):
    path = write_gguf(tmp_path / "m.gguf", {"a.weight": ("IQ4_XS", (1, 256), bytes(136))})
    with pytest.raises(UnsupportedModelError, match="IQ4_XS"):
        read_header(path)
    with pytest.raises(UnsupportedModelError, match="version 1"):
        read_header(write_gguf(tmp_path / "old.gguf", TENSORS, version=1))


def test_rows_that_do_not_fit_blocks_are_an_error(tmp_path):
    path = write_gguf(tmp_path / "m.gguf", {"a.weight": ("Q4_0", (64, 3), bytes(108))})
    with pytest.raises(InvalidModelFilesError, match="does not fit Q4_0"):
        read_header(path)
