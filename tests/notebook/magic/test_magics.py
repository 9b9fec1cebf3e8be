"""`%imagine` in a shell: results, bindings, files, recipes, grids, errors."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from IPython.core.error import UsageError
from PIL import Image

from swiftai_nb.core.errors import AIError, GenerationFailedError
from swiftai_nb.core.image import GeneratedImage
from swiftai_nb.core.recipe import Recipe
from swiftai_nb.notebook.output.pictures import Pictures
from swiftai_nb.notebook.session import get_session
from swiftai_nb.testing import FakeGenerator


def imagine(shell: Any, line: str, cell: str | None = None) -> Any:
    if cell is None:
        return shell.run_line_magic("imagine", line)
    return shell.run_cell_magic("imagine", line, cell)


def test_one_picture_answers_for_itself(shell: Any, tmp_path: Path) -> None:
    result = imagine(shell, "a red fox --seed 7 --size 32x48")
    assert isinstance(result, Pictures)
    assert (len(result), result.seed, result.pil.size, result.width, result.height) == (
        1,
        7,
        (32, 48),
        32,
        48,
    )
    assert result.recipe.prompt == "a red fox"
    assert shell.user_ns["_imagine"] is result
    assert Recipe.from_image(result.save(tmp_path / "fox.png")).seed == 7


def test_cell_and_line_give_the_same_picture(shell: Any) -> None:
    assert imagine(shell, "a red fox --seed 7") == imagine(shell, "--seed 7", "a red\nfox")


def test_several_pictures_count_up_and_are_each_remade_alone(shell: Any) -> None:
    four = imagine(shell, "a fox --seed 5 -n 4 --out foxes")
    assert four.seeds == (5, 6, 7, 8)
    assert shell.user_ns["foxes"] is four
    assert isinstance(four[1:3], Pictures)
    assert four[-1].seed == 8
    for picture in four:
        assert imagine(shell, f"a fox --seed {picture.seed}")[0].data == picture.data
    with pytest.raises(AIError, match="4 pictures, not one"):
        four.save("x.png")


def test_out_binds_the_picture_itself_when_there_is_one(shell: Any) -> None:
    imagine(shell, "a fox --out fox")
    assert isinstance(shell.user_ns["fox"], GeneratedImage)


def test_every_seed_is_concrete_and_random_by_default(shell: Any) -> None:
    seeds = {imagine(shell, "a fox").seed for _ in range(4)}
    assert len(seeds) == 4
    assert None not in seeds


def test_the_text_of_a_result_tells_no_seed(shell: Any) -> None:
    assert repr(imagine(shell, "a fox")) == "1 picture: a fox"
    assert repr(imagine(shell, "a fox -n 3")) == "3 pictures: a fox"
    assert len(repr(imagine(shell, "fox " * 500))) < 120


def test_save_template(shell: Any, tmp_path: Path) -> None:
    imagine(shell, "a fox --seed 3 -n 2 --save out/{n:02d}-{seed}-{prompt}.png")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["01-3-a-fox.png", "02-4-a-fox.png"]
    imagine(shell, "a fox -n 2 --save two.webp")
    assert sorted(p.name for p in tmp_path.glob("two*")) == ["two-1.webp", "two-2.webp"]


@pytest.mark.parametrize("template", ["x.gif", "x", "{nope}.png", "{n.png", "/proc/none/x.png"])
def test_bad_save_is_refused_before_any_work(shell: Any, template: str) -> None:
    with pytest.raises(UsageError) as caught:
        imagine(shell, f"a fox --save {template} --raw")
    assert len(str(caught.value).splitlines()) == 1
    assert get_session().queue.jobs == ()


def test_save_all_and_grid(shell: Any, tmp_path: Path) -> None:
    three = imagine(shell, "a fox -n 3")
    assert [p.name for p in three.save_all(tmp_path / "all" / "{n}.png")] == ["1.png", "2.png", "3.png"]
    sheet = three.grid(columns=3)
    assert sheet.width > 3 * sheet.height * 0.9


def test_style_and_negative(shell: Any) -> None:
    recipe = imagine(shell, "a fox --style pixel --negative blur").recipe
    assert recipe.prompt.startswith("pixel art of a fox")
    assert recipe.negative_prompt.startswith("blur, ")
    shell.run_line_magic("config", "Imagine.styles = {'mine': 'my {prompt}!'}")
    assert imagine(shell, "a fox --style mine").recipe.prompt == "my a fox!"
    with pytest.raises(UsageError, match="no style 'pixle': did you mean pixel"):
        imagine(shell, "a fox --style pixle")


def test_config_traits_are_defaults(shell: Any) -> None:
    shell.run_line_magic("config", "Imagine.steps = 2")
    shell.run_line_magic("config", "Imagine.size = '32x32'")
    assert (imagine(shell, "a fox").recipe.steps, imagine(shell, "a fox").width) == (2, 32)
    assert imagine(shell, "a fox --steps 3").recipe.steps == 3


def test_from_remakes_byte_for_byte_and_takes_overrides(shell: Any, tmp_path: Path) -> None:
    first = imagine(
        shell, "a fox --steps 3 --guidance 2.5 --size 48x32 --negative dogs --scheduler ddim --out fox"
    )
    first.save(tmp_path / "fox.png")
    for source in ("fox", "_imagine", "fox.png", '"fox.png"'):
        assert imagine(shell, f"--from {source}")[0].data == first.data
    changed = imagine(shell, "--from fox.png --seed 99").recipe
    assert (changed.seed, changed.steps, changed.prompt) == (99, 3, "a fox")
    assert imagine(shell, "a cat --from fox").recipe.prompt == "a cat"


@pytest.mark.parametrize(("source", "message"), [
    ("nothing", "--from nothing: there is neither a variable nor a file of that name"),
    ("gone.png", "cannot read a picture from 'gone.png'"),
])  # fmt: skip
def test_from_something_that_is_not_there(shell: Any, source: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        imagine(shell, f"--from {source}")


def test_pasted_settings_hold_unless_the_line_says_otherwise(shell: Any) -> None:
    body = "a fox\nNegative prompt: dogs\nSteps: 3, Sampler: Euler a, CFG scale: 2, Seed: 12, Size: 64x32"
    recipe = imagine(shell, "", body).recipe
    assert (recipe.steps, recipe.seed, recipe.width, recipe.guidance_scale) == (3, 12, 64, 2.0)
    assert imagine(shell, "--steps 5", body).recipe.steps == 5


def test_variables_in_prompt_and_local_scope(shell: Any) -> None:
    shell.run_cell("def draw(animal):\n    return get_ipython().run_line_magic('imagine', 'a {animal}')")
    shell.run_cell("drawn = draw('owl')")
    assert shell.user_ns["drawn"].recipe.prompt == "a owl"


def test_image_from_variable_and_missing_variable(shell: Any) -> None:
    with pytest.raises(UsageError, match="--image photo: there is neither a variable nor a file"):
        imagine(shell, "a fox --image photo")
    shell.user_ns["number"] = 5
    with pytest.raises(UsageError, match="int is not a picture"):
        imagine(shell, "a fox --image number")


def test_grid_varies_two_options_and_is_found_again(shell: Any) -> None:
    grid = imagine(shell, "a fox --grid steps=1,2,3 seed=4,5")
    assert len(grid) == 6
    assert [(p.recipe.steps, p.seed) for p in grid][:4] == [(1, 4), (2, 4), (3, 4), (1, 5)]
    assert grid.at(steps=2, seed=5).recipe.steps == 2
    assert imagine(shell, "a fox --steps 2 --seed 5")[0].data == grid.at(steps=2, seed=5).data
    assert repr(grid) == "3 x 2 grid of steps and seed: a fox"
    with pytest.raises(AIError, match="the grid has no steps 9: 1, 2, 3"):
        grid.at(steps=9, seed=4)


def test_grid_without_seeds_uses_one_seed_for_all(shell: Any) -> None:
    grid = imagine(shell, '--grid prompt="a cat|a dog"')
    assert len({p.seed for p in grid}) == 1
    assert [p.recipe.prompt for p in grid] == ["a cat", "a dog"]
    assert repr(grid) == "2 pictures by prompt"


def test_grid_goes_on_where_it_failed(shell: Any, fake: FakeGenerator) -> None:
    fake.fail_at_step, fake.error = 3, GenerationFailedError("made to fail")
    with pytest.raises(GenerationFailedError):
        imagine(shell, "a fox --grid steps=1,2,3")
    fake.fail_at_step = None
    before = len(get_session().queue.jobs)
    grid = imagine(shell, "a fox --grid steps=1,2,3")
    assert len(grid) == 3
    assert len(get_session().queue.jobs) - before == 1, "what was made is not made again"


def test_finished_grid_is_made_anew(shell: Any) -> None:
    first = imagine(shell, "a fox --grid steps=1,2 --bg").result(timeout_s=60)
    second = imagine(shell, "a fox --grid steps=1,2")
    assert first[0].seed != second[0].seed


def test_failed_grid_does_not_go_on_with_other_settings(shell: Any, fake: FakeGenerator) -> None:
    fake.fail_at_step = 3
    with pytest.raises(AIError):
        imagine(shell, "a {animal} --grid steps=1,3 --raw")
    fake.fail_at_step = None
    shell.run_line_magic("config", "Imagine.guidance = 5.0")
    grid = imagine(shell, "a {animal} --grid steps=1,3 --raw")
    assert {p.recipe.guidance_scale for p in grid} == {5.0}


def test_terminal_shows_the_result_as_the_value(shell: Any, capsys: pytest.CaptureFixture[str]) -> None:
    shell.run_cell("%imagine a fox")
    assert "1 picture: a fox" in capsys.readouterr().out


def test_background_job_is_awaited_from_a_loop(shell: Any) -> None:
    job = imagine(shell, "a fox --bg --seed 3 --out later")
    pictures = asyncio.run(_awaited(job))
    assert pictures.seed == 3
    assert shell.user_ns["later"].seed == 3
    assert job.state == "done"


async def _awaited(job: Any) -> Any:
    return await asyncio.wait_for(job, 30)


def test_background_job_is_cancelled(shell: Any, fake: FakeGenerator) -> None:
    fake.step_duration_s = 0.05
    job = imagine(shell, "a fox --bg --steps 1000")
    job.cancel()
    assert job.wait(30)
    assert job.state == "cancelled"


def test_failure_is_the_engines_own_error(shell: Any, fake: FakeGenerator) -> None:
    fake.fail_at_step, fake.error = 2, GenerationFailedError("out of paint", hint="buy some")
    with pytest.raises(GenerationFailedError, match="out of paint"):
        imagine(shell, "a fox")
    fake.fail_at_step = None
    assert len(imagine(shell, "a fox")) == 1


def test_unknown_model_lists_what_there_is(shell: Any) -> None:
    with pytest.raises(UsageError, match="emoji-mini") as caught:
        imagine(shell, "a fox --engine local --model no-such-model")
    assert len(str(caught.value).splitlines()) == 1


def test_unknown_engine(shell: Any) -> None:
    with pytest.raises(UsageError, match="huggingface"):
        imagine(shell, "a fox --engine nowhere")


def test_dry_run_does_nothing(shell: Any) -> None:
    plan = imagine(shell, "a fox --dry-run -n 3 --seed 4 --engine local")
    assert plan["model"].startswith("emoji-mini")
    assert (plan["pictures"], plan["seeds"], plan["size"]) == ("3", "4, 5, 6", "256x256")
    assert "license mit: free to use" in plan["model files"]
    assert plan["memory"].startswith("about ")
    assert get_session().queue.jobs == ()


def test_a_dry_run_shows_the_notes_of_the_plan(shell: Any) -> None:
    Image.new("RGB", (64, 64), "red").save("start.png")
    plan = imagine(shell, "a fox --dry-run --image start.png --strength 0.3 --steps 2 --engine local")
    (note,) = [text for name, text in plan if name == "note"]
    assert note.startswith("strength 0.3 with 2 steps runs 1 of them")


def test_dry_run_of_a_model_that_is_not_here_says_size_license_and_memory(
    shell: Any, tmp_path, monkeypatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    plan = imagine(shell, "a fox --dry-run --model z-image --engine local")
    assert plan["download"].startswith("needed: z-image is not downloaded (5.9 GB; license apache-2.0")
    assert plan["memory"] == "meant for machines with 16 GB or more"


def test_help_shows_every_option(shell: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert imagine(shell, "--help") is None
    assert "--preview-every K" in capsys.readouterr().out
    assert "--preview-every K" in shell.find_line_magic("imagine").__doc__


def test_jobs_and_history(shell: Any) -> None:
    imagine(shell, "a fox --seed 1")
    imagine(shell, "a red owl --seed 2")
    assert "a red owl" in repr(shell.run_line_magic("imagine_jobs", ""))
    assert len(shell.run_line_magic("imagine_history", "")) == 2
    (found,) = shell.run_line_magic("imagine_history", "OWL")
    recalled = shell.run_line_magic("imagine_history", f"--recall {found.id}")
    assert recalled.seed == 2
    with pytest.raises(UsageError, match="no picture '99'"):
        shell.run_line_magic("imagine_history", "--recall 99")
    with pytest.raises(UsageError, match="unknown option --nope"):
        shell.run_line_magic("imagine_history", "--nope")
    with pytest.raises(UsageError, match="no job 'zzz'; %imagine_jobs lists them"):
        shell.run_line_magic("imagine_jobs", "cancel zzz")


def test_history_kept_in_a_folder(shell: Any, tmp_path: Path) -> None:
    shell.run_line_magic("config", f"Imagine.history_folder = {str(tmp_path / 'kept')!r}")
    imagine(shell, "a fox")
    assert len(list((tmp_path / "kept").rglob("*.png"))) == 1
    assert shell.run_line_magic("imagine_history", "")[0].prompt == "a fox"


def test_doctor_reports_and_never_raises(shell: Any) -> None:
    report = repr(shell.run_line_magic("imagine_doctor", ""))
    for topic in ("swiftai_nb", "packages", "local engine", "installed models", "cancel"):
        assert topic in report
    assert "emoji-mini" in report
    assert " total, " in report
    with pytest.raises(UsageError, match="takes no options"):
        shell.run_line_magic("imagine_doctor", "--verbose")


@pytest.mark.parametrize(("cell", "calls"), [
    ("%imagine is this a cat?", ["is this a cat?"]),
    ("%imagine what's that??", ["what's that??"]),
    ("x = %imagine what is it? ", ["what is it?"]),
    ("for i in range(2):\n    %imagine is it {i}?\n", ["is it {i}?"]),
    ("y = 1\n%imagine a (cat?\n%imagine ¿qué es?", ["a (cat?", "¿qué es?"]),
])  # fmt: skip
def test_a_question_mark_at_the_end_belongs_to_the_prompt(shell: Any, cell: str, calls: list[str]) -> None:
    text = shell.transform_cell(cell)
    assert [text.count(f"run_line_magic('imagine', {call!r})") for call in calls] == [1] * len(calls)
    assert "pinfo" not in text


@pytest.mark.parametrize("cell", ["%imagine?", "%imagine??", "%imagine_models?", "print?"])
def test_help_is_still_asked_for_by_a_question_mark(shell: Any, cell: str) -> None:
    assert "pinfo" in shell.transform_cell(cell)


def test_text_that_looks_like_a_question_is_left_alone(shell: Any) -> None:
    cell = "text = '''\n%imagine is this a cat?\n'''\n"
    assert shell.transform_cell(cell) == cell


def test_unload_takes_everything_away(shell: Any) -> None:
    shell.run_line_magic("unload_ext", "swiftai_nb")
    assert "pinfo" in shell.transform_cell("%imagine is this a cat?")
    assert "imagine" not in shell.magics_manager.magics["line"]
    assert "imagine" not in shell.magics_manager.magics["cell"]
    assert not [m for m in shell.configurables if type(m).__name__ == "Imagine"]
    shell.run_line_magic("load_ext", "swiftai_nb")
    shell.run_line_magic("reload_ext", "swiftai_nb")
    assert len([m for m in shell.configurables if type(m).__name__ == "Imagine"]) == 1


def test_a_search_for_a_pasted_prompt_runs_no_code(shell: Any, tmp_path: Path) -> None:
    imagine(shell, "a fox")
    shell.user_ns["words"] = "fox"
    text = f"{{open({str(tmp_path / 'made')!r}, 'w')}}"
    assert len(shell.run_line_magic("imagine_history", text)) == 0
    assert not (tmp_path / "made").exists()
    assert len(shell.run_line_magic("imagine_history", "{words}")) == 1
    assert len(shell.run_line_magic("imagine_history", "{nothing|of|that} {kind}")) == 0


@pytest.mark.parametrize("limit", ["inf", "nan", "1e308"])
def test_an_endless_limit_of_embedded_pictures_is_none(shell: Any, limit: str) -> None:
    shell.run_line_magic("config", f"Imagine.embed_limit_mb = float({limit!r})")
    assert len(imagine(shell, "a fox")) == 1


def test_a_style_that_repeats_a_long_prompt_is_one_error(shell: Any) -> None:
    shell.run_line_magic("config", 'Imagine.styles = {"many": "{prompt} " * 3000}')
    assert imagine(shell, "fox --style many").recipe.prompt.count("fox") == 3000
    with pytest.raises(UsageError, match="longer by more than 1,000,000 characters"):
        imagine(shell, "--style many", "fox " * 20_000)
