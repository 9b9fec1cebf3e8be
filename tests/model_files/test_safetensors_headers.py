"""Headers of safetensors files that anybody may have written: right ones are read, all others cost one error."""

from __future__ import annotations

import json
import time

import pytest

from swiftai_nb.core.errors import InvalidModelFilesError, UnsupportedModelError
from swiftai_nb.model_files.safetensors_headers import find_weight_files, read_header, read_weight_files
from tests.model_files.files import write_header, write_weights


def entry(begin: int, end: int, *, shape: object = None, dtype: object = "F32") -> dict:
    return {
        "dtype": dtype,
        "shape": [(end - begin) // 4] if shape is None else shape,
        "data_offsets": [begin, end],
    }


def test_tensors_and_metadata_are_read(tmp_path):
    header = {
        "__metadata__": {"format": "pt", "odd": 3},
        "b": entry(16, 24, shape=[4], dtype="F16"),
        "a": entry(0, 16, shape=[2, 2]),
    }
    tensors, metadata = read_header(write_header(tmp_path / "x.safetensors", header, data_bytes=24))
    assert {name: (t.shape, t.dtype, t.size_bytes) for name, t in tensors.items()} == {
        "a": ((2, 2), "F32", 16),
        "b": ((4,), "F16", 8),
    }
    assert metadata == {"format": "pt"}


def test_a_file_that_changed_is_read_again(tmp_path):
    path = write_weights(tmp_path / "x.safetensors", a=(3,))
    assert list(read_header(path)[0]) == ["a"]
    write_weights(path, bb=(5,))
    assert list(read_header(path)[0]) == ["bb"]


def test_empty_tensors_and_scalars_are_right(tmp_path):
    header = {"none": entry(0, 0, shape=[0, 7]), "one": entry(0, 4, shape=[])}
    tensors, _ = read_header(write_header(tmp_path / "x.safetensors", header, data_bytes=4))
    assert tensors["none"].size_bytes == 0
    assert tensors["one"].shape == ()


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ({"a": entry(0, 16), "b": entry(8, 24)}, "tensor b overlaps another"),
        ({"a": entry(0, 8), "b": entry(16, 24)}, "tensor b leaves a hole"),
        ({"a": entry(0, 16)}, "8 bytes at its end belong to no tensor"),
        ({"a": entry(0, 24), "b": entry(24, 32)}, "truncated: b cut off"),
        ({"a": entry(-8, 16)}, "not readable at a"),
        ({"a": entry(24, 0)}, "not readable at a|has -24 bytes"),
        ({"a": entry(0, 24, shape=[-6])}, "not readable at a"),
        ({"a": entry(0, 24, shape=[2.0, 3])}, "not readable at a"),
        ({"a": entry(0, 24, shape=[True, 6])}, "not readable at a"),
        ({"a": entry(0, 24, shape="6")}, "not readable at a"),
        ({"a": entry(0, 24, dtype=4)}, "not readable at a"),
        ({"a": {"dtype": "F32", "shape": [6], "data_offsets": [0]}}, "not readable at a"),
        ({"a": 3}, "not readable at a"),
        ({"a": entry(0, 24, shape=[5])}, r"shape \[5\] has 24 bytes, not 20"),
        ({"a": entry(0, 24), "__metadata__": [1]}, "not readable"),
        ([1], "not readable"),
        ('{"a": {"dtype": "F32", "shape": [Infinity], "data_offsets": [0, 24]}}', "not readable"),
        ('{"a": ' * 200_000, "not readable"),
        ("[" * 1_000_000, "not readable"),
        ("{", "header is missing|not readable"),
        ("\x00\x01", "not readable"),
    ],
)
def test_a_header_that_is_wrong_is_one_error_that_names_the_file(tmp_path, header, words):
    path = write_header(tmp_path / "x.safetensors", header, data_bytes=24)
    with pytest.raises(InvalidModelFilesError, match=words) as caught:
        read_header(path)
    assert str(path) in caught.value.message
    assert len(caught.value.message) < 500
    assert caught.value.hint


@pytest.mark.parametrize(
    "shape", [[10**15] * 100_000, [2**52] * 16, [0, *[2**50] * 15], list(range(1, 400_000))]
)
def test_shapes_that_would_take_minutes_to_multiply_are_refused_at_once(tmp_path, shape):
    path = write_header(tmp_path / "x.safetensors", {"a": entry(0, 24, shape=shape)}, data_bytes=24)
    start_s = time.monotonic()
    with pytest.raises(InvalidModelFilesError, match="corrupt"):
        read_header(path)
    assert time.monotonic() - start_s < 5


def test_a_header_larger_than_any_model_needs_is_not_read(tmp_path):
    path = tmp_path / "x.safetensors"
    with path.open("wb") as file:
        file.write((90 * 2**20).to_bytes(8, "little"))
        file.truncate(100 * 2**20)
    with pytest.raises(InvalidModelFilesError, match="header is missing or cut off"):
        read_header(path)


@pytest.mark.parametrize("data", [b"", b"1234567", b"\xff" * 100, b"\x02\0\0\0\0\0\0\0"])
def test_what_is_no_safetensors_file_is_refused(tmp_path, data):
    path = tmp_path / "x.safetensors"
    path.write_bytes(data)
    with pytest.raises(InvalidModelFilesError, match="header is missing or cut off"):
        read_header(path)


@pytest.mark.parametrize("start", [b"PK\x03\x04", b"\x80\x02\x8a"])
def test_a_pickle_file_is_named_as_one(tmp_path, start):
    (tmp_path / "lora.pt").write_bytes(start + b"x" * 100)
    with pytest.raises(InvalidModelFilesError, match="is a pickle file"):
        read_header(tmp_path / "lora.pt")


def test_a_header_whose_length_looks_like_a_pickle_is_read(tmp_path):
    padding = "x" * (0x280 - len(json.dumps({"__metadata__": {"note": ""}})))
    path = write_header(tmp_path / "x.safetensors", {"__metadata__": {"note": padding}})
    assert path.read_bytes().startswith(b"\x80\x02")
    assert read_header(path) == ({}, {"note": padding})


def test_a_missing_file_is_an_error_of_the_model(tmp_path):
    with pytest.raises(InvalidModelFilesError, match="cannot be read"):
        read_header(tmp_path / "x.safetensors")


@pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E5M2"])
def test_float8_tensors_are_described_with_their_offsets(tmp_path, dtype):
    path = write_weights(tmp_path / "unet" / "model.safetensors", dtype, a=(6,), b=(2, 3))
    tensors = read_header(path)[0]
    assert read_weight_files(tmp_path / "unet").tensors == tensors
    assert tensors["a"].dtype == dtype
    assert tensors["b"].offset + 6 == path.stat().st_size


@pytest.mark.parametrize(
    ("name", "dtype", "kind"),
    [
        ("x.weight.quant_state.bitsandbytes__nf4", "F32", "bitsandbytes nf4"),
        ("x.weight.quant_state.bitsandbytes__fp4", "F32", "bitsandbytes fp4"),
        ("x.weight.absmax", "F32", "bitsandbytes 4-bit"),
        ("x.SCB", "F32", "bitsandbytes int8"),
        ("x.weight", "F8_E8M0", "F8_E8M0"),
    ],
)
def test_other_quantizations_are_refused_by_name(tmp_path, name, dtype, kind):
    path = write_weights(tmp_path / "unet" / "model.safetensors", dtype, **{name: (6,)})
    for read in (lambda: read_header(path), lambda: read_weight_files(tmp_path / "unet")):
        with pytest.raises(UnsupportedModelError, match=kind) as caught:
            read()
        assert "16-bit" in str(caught.value.hint)


@pytest.mark.parametrize("weight_map", [None, [], 3, {}, {"a": "../outside.safetensors"}, {"a": "gone"}])
def test_an_index_that_is_wrong_is_one_error(tmp_path, weight_map):
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    write_weights(tmp_path / "model-00001-of-00002.safetensors", a=(6,))
    with pytest.raises(InvalidModelFilesError, match=r"model\.safetensors\.index\.json"):
        find_weight_files(tmp_path)


def test_numbered_files_are_taken_in_order_and_gaps_named(tmp_path):
    for number in (0, 1, 2, 10):
        write_weights(tmp_path / f"{number}.safetensors", a=(6,))
    with pytest.raises(InvalidModelFilesError, match=r"lacks 3\.safetensors"):
        find_weight_files(tmp_path)
    (tmp_path / "10.safetensors").unlink()
    assert [p.name for p in find_weight_files(tmp_path)] == [f"{n}.safetensors" for n in range(3)]
