"""Weighted prompts in the pipelines: what turns them on, chunks, AND, and what is noted or refused."""

import numpy as np
import pytest

from swiftai_nb.core.errors import InvalidInputError
from swiftai_nb.diffusion.pipelines.families import load_pipeline
from swiftai_nb.diffusion.pipelines.weighted_prompts import MAX_CHUNKS, chunk_prompt
from tests.diffusion.flux_folders import write_diffusers


@pytest.fixture(scope="module")
def sd15(sd15_folder):
    return load_pipeline(sd15_folder, dtype="float32")


@pytest.fixture(scope="module")
def sdxl(sdxl_folder):
    return load_pipeline(sdxl_folder, dtype="float32")


def embeds(pipeline, prompt, syntax=None, **options):
    return np.array(pipeline.encode_prompt(prompt, prompt_syntax=syntax, **options).prompt_embeds)


def test_a_bracket_with_a_number_turns_weights_on_with_a_note(sd15):
    conditioning = sd15.encode_prompt("a (red:1.3) fox")
    assert any("prompt weights" in note for note in conditioning.notes)
    np.testing.assert_array_equal(conditioning.prompt_embeds, embeds(sd15, "a (red:1.3) fox", "weighted"))
    assert np.abs(embeds(sd15, "a (red:1.3) fox", "plain") - conditioning.prompt_embeds).max() > 0.1


def test_a_weight_in_the_negative_prompt_counts_for_both(sd15):
    conditioning = sd15.encode_prompt("a ((red)) fox", "(blur:1.2)")
    np.testing.assert_array_equal(conditioning.prompt_embeds, embeds(sd15, "a ((red)) fox", "weighted"))


def test_without_weights_weighted_is_plain(sd15, sdxl):
    for pipeline in (sd15, sdxl):
        plain, weighted = (embeds(pipeline, "a red fox", syntax) for syntax in ("plain", "weighted"))
        np.testing.assert_allclose(weighted, plain, atol=1e-6)


def test_a_long_prompt_is_cut_unless_weights_are_on(sd15):
    long = "a red fox, " * 40
    assert embeds(sd15, long).shape[1] == 77
    assert embeds(sd15, long, "weighted").shape[1] % 77 == 0
    assert embeds(sd15, long, "weighted").shape[1] > 77
    (note,) = sd15.encode_prompt("a " * 75 * (MAX_CHUNKS + 1), prompt_syntax="weighted").notes
    assert note == f"prompt cut after {MAX_CHUNKS} of {MAX_CHUNKS + 1} chunks of 75 tokens"


def test_a_chunk_ends_behind_a_near_comma(sd15):
    tokenizer = sd15._text_stages[0].tokenizer
    near, far = (chunk_prompt(tokenizer, "a " * n + ", " + "b " * 60) for n in (60, 20))
    lengths = [[77 - chunk.ids.count(tokenizer.end_id) for chunk in chunks] for chunks in (near, far)]
    assert lengths == [[62, 61], [76, 7]]


def test_prompts_of_a_batch_have_the_same_length(sd15):
    both = embeds(sd15, ["a BREAK b", "(c:1.2)"])
    assert both.shape[:2] == (2, 154)
    np.testing.assert_allclose(both[0], embeds(sd15, "a BREAK b", "weighted")[0], atol=1e-6)


def test_and_has_one_picture(sdxl):
    conditioning = sdxl.encode_prompt("a cat AND a hat :0.5", prompt_syntax="weighted")
    assert conditioning.batch_size == 1
    assert conditioning.and_weights == (1.0, 0.5)
    (last,) = sdxl.denoise(conditioning, width=32, height=32, steps=1)
    assert last.latents.shape == (1, 4, 4, 4)


def test_and_with_itself_at_half_weights_is_the_prompt_alone(sd15):
    alone, twice = (
        list(sd15.denoise(sd15.encode_prompt(prompt, prompt_syntax="weighted"), width=32, height=32, steps=2))
        for prompt in ("a cat", "a cat :0.5 AND a cat :0.5")
    )
    np.testing.assert_allclose(twice[-1].latents, alone[-1].latents, atol=1e-4)


def test_two_latents_of_one_weighted_prompt_are_as_two_runs(sd15):
    conditioning = sd15.encode_prompt("a (red:1.2) cat AND a hat BREAK on it", "bad")
    start = np.random.default_rng(1).standard_normal((2, 4, 4, 4), dtype=np.float32)
    size = {"width": 32, "height": 32, "steps": 2}
    *_, both = sd15.denoise(conditioning, latents=start, **size)
    for index in range(2):
        *_, alone = sd15.denoise(conditioning, latents=start[index : index + 1], **size)
        np.testing.assert_allclose(both.latents[index], alone.latents[0], atol=1e-4)


@pytest.mark.parametrize(
    ("prompt", "options", "message"),
    [
        (["a AND b", "c"], {}, "AND joins parts of one prompt"),
        ("a AND b", {"guidance_scale": 1.0}, "AND needs guidance"),
        ("a AND " * 20 + "b", {}, "AND joins 21 prompts"),
        ("(a:1000)", {}, "a prompt weight is 1000"),
    ],
)
def test_what_cannot_be_followed_is_refused(prompt, options, message, sd15):
    with pytest.raises(InvalidInputError, match=message):
        sd15.encode_prompt(prompt, prompt_syntax="weighted", **options)


def test_another_syntax_is_refused(sd15):
    with pytest.raises(InvalidInputError, match="prompt_syntax must be one of plain, weighted, compel"):
        sd15.encode_prompt("a cat", prompt_syntax="sdnext")


def test_compels_weights_are_computed_as_weights(sd15):
    np.testing.assert_array_equal(
        embeds(sd15, "a red++ fox (on snow)0.5", "compel"),
        embeds(sd15, "a (red:1.21) fox (on snow:0.5)", "weighted"),
    )
    np.testing.assert_array_equal(embeds(sd15, "a red+ fox"), embeds(sd15, "a red+ fox", "plain"))


@pytest.mark.parametrize("sampler", ["ddim", "heun", "pndm"])
def test_an_edited_prompt_is_each_of_its_texts_in_turn(sampler, sd15, sdxl):
    for pipeline in (sd15, sdxl):
        edited = pipeline.encode_prompt(
            "[a cat:a dog AND a hat:2]", "[x::1]", prompt_syntax="weighted", steps=3
        )
        assert [first for first, _ in edited.changes] == [1, 2]
        run = {"width": 32, "height": 32, "steps": 3, "scheduler": sampler}
        drawn = [step.latents for step in pipeline.denoise(edited, **run)]
        alone = pipeline.encode_prompt("a cat", "x", prompt_syntax="weighted")
        first = [step.latents for step in pipeline.denoise(alone, **run)]
        calls = 2 if sampler == "heun" else 1
        np.testing.assert_allclose(drawn[calls - 1], first[calls - 1], atol=1e-5)
        last = pipeline.encode_prompt("a dog AND a hat", "", prompt_syntax="weighted")
        np.testing.assert_array_equal(edited.final.prompt_embeds, last.prompt_embeds)
        assert np.abs(drawn[-1] - first[-1]).max() > 1e-3


def test_alternating_a_prompt_with_itself_changes_nothing(sd15):
    texts = ("[a fox|a fox] in snow", "a fox in snow")
    runs = [sd15.encode_prompt(text, prompt_syntax="weighted", steps=4) for text in texts]
    assert runs[0].changes == ()
    alternating = sd15.encode_prompt("[a fox|a cat]", prompt_syntax="weighted", steps=4)
    assert [first for first, _ in alternating.changes] == [1, 2, 3]
    assert alternating.changes[0][1] is alternating.changes[2][1]


def test_a_long_prompts_note_names_the_switch(sd15):
    (note,) = sd15.encode_prompt("a red fox, " * 40).notes
    assert note.endswith("--prompt-syntax weighted reads it all, in chunks")


def test_flux_has_no_weights_and_says_so(tmp_path):
    pipeline = load_pipeline(write_diffusers(tmp_path / "flux"))
    (note,) = pipeline.encode_prompt("a (red:1.3) fox", max_sequence_length=32).notes
    assert note.startswith("FLUX.1 has no prompt weights")
