"""Tokenizer files that are wrong: one error that names the file, never the library's own or a Rust panic."""

import base64
import json
import shutil

import mlx.core as mx
import numpy as np
import pytest

from swiftai_nb.core.errors import InvalidModelFilesError
from swiftai_nb.diffusion.pipelines.text_stage import CLIPTextStage
from swiftai_nb.diffusion.tokenizers.clip_tokenizer import CLIPTokenizer
from swiftai_nb.diffusion.tokenizers.fast_tokenizer import tokenizer_errors
from swiftai_nb.diffusion.tokenizers.qwen_tokenizer import QwenTokenizer
from swiftai_nb.diffusion.tokenizers.sentencepiece_model import (
    parse_sentencepiece_model,
    t5_tokenizer_from_sentencepiece,
)
from swiftai_nb.diffusion.tokenizers.t5_tokenizer import T5Tokenizer
from swiftai_nb.model_files.folder import open_model
from tests.diffusion.parity import tiny_z_image
from tests.diffusion.parity.tiny_flux import SPIECE, write_t5_tokenizer


@pytest.fixture
def clip(sd15_folder, tmp_path):
    return shutil.copytree(sd15_folder / "tokenizer", tmp_path / "tokenizer")


def change(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize("length", [[77], "77", True, 1, 0.5, float("nan"), {}])
def test_a_length_that_is_no_number_of_tokens_is_one_error(clip, length):
    change(clip / "tokenizer_config.json", model_max_length=length)
    with pytest.raises(InvalidModelFilesError, match="model_max_length cannot be"):
        CLIPTokenizer(clip)


@pytest.mark.parametrize("length", [None, 1e30, 77, 77.0])
def test_a_missing_or_unlimited_length_is_clips_own(clip, length):
    change(clip / "tokenizer_config.json", model_max_length=length)
    assert CLIPTokenizer(clip).max_length == 77


@pytest.mark.parametrize("number", ["1", None, -1, 2**40, 1.5])
def test_a_vocabulary_with_odd_numbers_is_one_error(clip, number):
    change(clip / "vocab.json", **{"<|startoftext|>": number})
    with pytest.raises(InvalidModelFilesError, match="vocabulary is not readable"):
        CLIPTokenizer(clip)


@pytest.mark.parametrize("model", [{"vocab": [1]}, {"vocab": {}, "merges": 3}, {"merges": [[1, 2]]}, 3, None])
def test_one_json_file_for_all_of_clip_is_checked_alike(clip, model):
    (clip / "vocab.json").unlink()
    (clip / "tokenizer.json").write_text(json.dumps({"model": model}))
    with pytest.raises(InvalidModelFilesError):
        CLIPTokenizer(clip)


def test_merges_of_unknown_pieces_are_one_error(clip):
    (clip / "merges.txt").write_text("#version: 0.2\nzzzz qqqq\n")
    with pytest.raises(InvalidModelFilesError, match="cannot read the tokenizer"):
        CLIPTokenizer(clip)


def test_a_tokenizer_of_another_model_is_one_error(sd15_copy):
    change(sd15_copy / "tokenizer" / "vocab.json", **{"<|startoftext|>": 40_000})
    stage = CLIPTextStage.of(open_model(sd15_copy), dtype=mx.float32)
    with pytest.raises(InvalidModelFilesError, match="gives token 40000, but the text encoder knows"):
        stage.encode(["a fox"])


class PanicException(BaseException):
    """As Rust's panics arrive in Python."""


def test_a_panic_in_the_library_is_one_error(tmp_path):
    with pytest.raises(InvalidModelFilesError, match="overflow"), tokenizer_errors(tmp_path):
        raise PanicException("overflow")
    with pytest.raises(KeyboardInterrupt), tokenizer_errors(tmp_path):
        raise KeyboardInterrupt


@pytest.mark.parametrize(
    "text", ["{}", "[]", "", '{"model": {"type": "Unigram", "vocab": [["a", NaN]]}}', "\0"]
)
def test_a_t5_file_that_is_no_tokenizer_is_one_error(tmp_path, text):
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(InvalidModelFilesError, match="tokenizer"):
        T5Tokenizer.from_folder(tmp_path)


def changed_json(folder, **changes):
    """The tiny T5's `tokenizer.json`, with other values at its top level."""
    write_t5_tokenizer(folder)
    t5_tokenizer_from_sentencepiece(folder / "spiece.model").save(str(folder / "tokenizer.json"))
    change(folder / "tokenizer.json", **changes)
    return folder / "tokenizer.json"


def precompiled(charsmap):
    return {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(charsmap).decode()}


HUGE_TRIE = (4_000_000_000).to_bytes(4, "little") + bytes(60)


@pytest.mark.parametrize("charsmap", [HUGE_TRIE, b"", b"\1\0", (6).to_bytes(4, "little") + bytes(20)])
@pytest.mark.parametrize("depth", [0, 2])
def test_a_table_of_normalizations_is_measured_before_it_is_read(tmp_path, charsmap, depth):
    """The library allocates what the table says: gigabytes, or the end of the process."""
    normalizer = precompiled(charsmap)
    for _ in range(depth):
        normalizer = {"type": "Sequence", "normalizers": [{"type": "NFC"}, normalizer]}
    file = changed_json(tmp_path, normalizer=normalizer)
    with pytest.raises(InvalidModelFilesError, match="whose trie has"):
        T5Tokenizer.from_folder(tmp_path)
    escaped = file.read_text().replace("precompiled_charsmap", "\\u0070recompiled_charsmap")
    file.write_text(escaped)
    with pytest.raises(InvalidModelFilesError, match="whose trie has"):
        T5Tokenizer.from_folder(tmp_path)


def test_a_sentencepiece_table_of_normalizations_is_measured_before_it_is_read(tmp_path):
    data = SPIECE.read_bytes()
    model = parse_sentencepiece_model(data)
    at = data.index(model.charsmap)
    (tmp_path / "spiece.model").write_bytes(data[:at] + HUGE_TRIE[:4] + data[at + 4 :])
    with pytest.raises(InvalidModelFilesError, match="whose trie has"):
        T5Tokenizer.from_folder(tmp_path)


def test_a_vocabulary_without_an_unknown_token_fails_with_one_error(tmp_path):
    vocabulary = [["<pad>", 0.0], ["</s>", 0.0], ["a", -1.0]]
    changed_json(tmp_path, model={"type": "Unigram", "unk_id": None, "vocab": vocabulary})
    tokenizer = T5Tokenizer.from_folder(tmp_path)
    for call in (
        lambda: tokenizer(["ж"], max_length=8),
        lambda: tokenizer.token_count("ж"),
        lambda: tokenizer.cut_text("ж", max_length=8),
    ):
        with pytest.raises(InvalidModelFilesError, match="the model's tokenizer fails at this prompt"):
            call()


def test_a_pattern_that_backtracks_without_end_is_one_error(tmp_path):
    pattern = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
    changed_json(tmp_path, normalizer=None, pre_tokenizer=pattern)
    with pytest.raises(InvalidModelFilesError, match="fails at this prompt"):
        T5Tokenizer.from_folder(tmp_path)(["a" * 60 + "b"], max_length=8)


def test_half_an_emoji_in_an_added_token_is_one_error(tmp_path):
    tiny_z_image.write_tokenizer(tmp_path)
    file = tmp_path / "tokenizer_config.json"
    decoder = json.loads(file.read_text())["added_tokens_decoder"]
    decoder[min(decoder)]["content"] = "<|\ud83d"
    change(file, added_tokens_decoder=decoder)
    with pytest.raises(InvalidModelFilesError, match="cannot read the tokenizer"):
        QwenTokenizer.from_folder(tmp_path)


@pytest.mark.parametrize("data", [b"", b"\x80" * 2_000_000, SPIECE.read_bytes()[:500], b"\x0a\x05abc"])
def test_a_sentencepiece_file_that_is_none_is_one_error_at_once(tmp_path, data):
    write_t5_tokenizer(tmp_path)
    (tmp_path / "spiece.model").write_bytes(data)
    with pytest.raises(InvalidModelFilesError, match=r"spiece\.model"):
        T5Tokenizer.from_folder(tmp_path)


def test_a_valid_sentencepiece_file_is_read(tmp_path):
    write_t5_tokenizer(tmp_path)
    assert np.all(T5Tokenizer.from_folder(tmp_path)(["a fox"], max_length=8) >= 0)


def test_half_an_emoji_in_a_prompt_is_a_question_mark(tmp_path):
    write_t5_tokenizer(tmp_path / "t5")
    tiny_z_image.write_tokenizer(tmp_path / "qwen")
    t5, qwen = T5Tokenizer.from_folder(tmp_path / "t5"), QwenTokenizer.from_folder(tmp_path / "qwen")
    for broken, whole in (("a \ud83d cat", "a ? cat"), ("\udc00", "?")):
        assert np.array_equal(t5([broken], max_length=16), t5([whole], max_length=16))
        assert np.array_equal(qwen([broken], max_length=64).ids, qwen([whole], max_length=64).ids)
        assert t5.token_count(broken) == t5.token_count(whole)
        assert qwen.token_count(broken) == qwen.token_count(whole)
        assert t5.cut_text(broken, max_length=64) == qwen.cut_text(broken, max_length=640) == ""
