"""The form as a request, and presets of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from swiftai_nb.core.config import LoraReference
from swiftai_nb.core.errors import AIError, InvalidInputError, ModelNotFoundError
from swiftai_nb.core.request import GenerationPlan
from swiftai_nb.notebook import wire
from swiftai_nb.notebook.widget.form import PRESET_SETTINGS, Presets, error_report, plan_report, request_of


def form(**settings: Any) -> dict[str, Any]:
    return {"prompt": "a fox", **settings}


def test_an_empty_form_leaves_everything_to_the_model() -> None:
    request = request_of(form())
    assert request.config.to_dict() == {}
    assert (request.engine, request.count, request.aspect_ratio) == ("local", 1, None)


def test_every_setting_travels() -> None:
    settings = form(
        negative_prompt="blur",
        model="emoji-mini",
        steps=3,
        guidance_scale=2.5,
        seed=7,
        count=2,
        scheduler="euler",
        loras=[{"source": "owner/name", "scale": 0.5}],
    )
    request = request_of({**settings, "width": 64, "height": 96})
    config = request.config
    assert (config.width, config.height, config.steps, config.scheduler) == (64, 96, 3, "euler")
    assert [(lora.source, lora.scale) for lora in config.loras] == [("owner/name", 0.5)]
    assert (request.negative_prompt, request.seeds) == ("blur", (7, 8))


def test_style_wraps_the_prompt_and_the_typed_one_is_shown() -> None:
    request = request_of(form(style="ink", negative_prompt="blur"))
    assert request.prompt.startswith("ink drawing of a fox")
    assert request.display_prompt == "a fox"
    assert request.negative_prompt == "blur, color, photo"
    with pytest.raises(InvalidInputError, match="no style 'inky'"):
        request_of(form(style="inky"))
    with pytest.raises(InvalidInputError, match="prompt is empty"):
        request_of({"prompt": " ", "style": "ink"})


def test_choices_are_drawn_and_lora_tags_are_loras(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWIFTAI_HOME", str(tmp_path))
    (tmp_path / "wildcards").mkdir()
    (tmp_path / "wildcards" / "pet.txt").write_text("cat", encoding="utf-8")
    request = request_of({"prompt": "a {red|blue} __pet__ <lora:style:0.5> __nope__", "seed": 3, "count": 8})
    assert request.config.loras == (LoraReference("style", 0.5),)
    prompts = {request.with_seeds((seed,)).prompt for seed in request.seeds}
    assert prompts == {"a red cat __nope__", "a blue cat __nope__"}
    assert request.notes[0].startswith("__nope__ is read as text")


def test_what_the_form_does_not_have_comes_from_config(shell: Any, tmp_path: Path) -> None:
    (tmp_path / "pet.txt").write_text("cat", encoding="utf-8")
    assert request_of(form()).config.filled_in is None
    shell.run_line_magic("config", "Imagine.plain = True")
    shell.run_line_magic("config", "Imagine.styles = {'mine': 'a map of {prompt}'}")
    shell.run_line_magic("config", f"Imagine.wildcards = {str(tmp_path)!r}")
    shell.run_line_magic("config", "Imagine.embed_references = 'none'")
    shell.run_line_magic("config", "Imagine.bill_to = 'team'")
    shell.run_line_magic("config", "Imagine.provider = 'fal-ai'")
    request = request_of(form(prompt="a __pet__", style="mine", seed=1))
    assert request.with_seeds((1,)).prompt == "a map of a cat"
    assert (request.config.filled_in, request.config.embed_references) == ("", False)
    assert (request.provider, request.bill_to) == (None, None), "nothing is sent"
    request = request_of(form(engine="cloud"))
    assert (request.provider, request.bill_to) == ("fal-ai", "team")


def test_aspect_ratio_replaces_the_size() -> None:
    request = request_of(form(aspect_ratio="3:4", width=100, height=100))
    assert (request.aspect_ratio, request.config.width) == ((3, 4), None)
    for text in ("0:1", "3", "3:4:5", "100:1", "a:b"):
        with pytest.raises(InvalidInputError, match="aspect_ratio must be such as 3:4"):
            request_of(form(aspect_ratio=text))


@pytest.mark.parametrize(
    "settings",
    [
        {"count": 0},
        {"count": 101},
        {"steps": "many"},
        {"loras": [{"source": ""}]},
        {"loras": [{"source": "a", "scale": float("nan")}]},
        {"loras": [{"source": "a"}] * 9},
        {"loras": "a"},
        {"strength": 2, "width": 17_000},
    ],
)
def test_values_outside_their_limits_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError):
        request_of(form(**settings))


def test_an_error_names_its_field_and_what_would_do() -> None:
    def told(error: AIError) -> tuple[str, list[float]]:
        report = error_report(error)
        return report["field"], report["fixes"]

    multiple = InvalidInputError(
        "width 100 is not a multiple of 16, which this model needs", hint="use 96 or 112"
    )
    assert told(multiple) == ("width", [96, 112])
    assert told(InvalidInputError("height must be between 16 and 4096 pixels (got 5000)")) == (
        "height",
        [4096],
    )
    assert told(InvalidInputError("steps must be between 1 and 1000 (got 0)")) == ("steps", [1])
    assert told(InvalidInputError("the prompt is empty", hint="describe it")) == ("prompt", [])
    assert told(InvalidInputError("scheduler 'x' does not fit this model", hint="use one of a, b")) == (
        "scheduler",
        [],
    )
    assert told(ModelNotFoundError("no model named 'x'")) == ("model", [])
    assert told(AIError("between 1 and 2 (got ...)")) == ("", [])


def test_a_long_picture_on_the_cpu_is_asked_about() -> None:
    def report(device: str, estimated_s: float | None, count: int = 1) -> dict[str, Any]:
        plan = GenerationPlan(request=request_of(form(count=count)), device=device, estimated_s=estimated_s)
        return plan_report(plan, request_id="1")

    assert report("cpu", 61)["asks"]
    assert report("cpu", 20, count=4)["estimated_s"] == 80
    assert report("cpu", 20, count=4)["asks"]
    assert not report("cpu", 59)["asks"]
    assert not report("metal", 600)["asks"]
    assert not report("cpu", None)["asks"]


def test_presets_are_kept_by_name_without_what_is_drawn(tmp_path: Path) -> None:
    presets = Presets(tmp_path)
    presets.save("  my   ink ", form(style="ink", steps=4, seed=7, count=3, guidance_scale=None))
    assert Presets(tmp_path).read() == {"my ink": {"style": "ink", "steps": 4, "guidance_scale": None}}
    presets.save("my ink", form(style="oil"))
    assert presets.read() == {"my ink": {"style": "oil"}}
    presets.delete("my ink")
    presets.delete("my ink")
    assert presets.read() == {}
    for name in ("", "  ", "x" * 61):
        with pytest.raises(InvalidInputError, match="needs a name"):
            presets.save(name, form())


def test_a_file_of_presets_is_data(tmp_path: Path) -> None:
    path = tmp_path / "widget_presets.json"
    for content in ("", "[]", '{"presets": 7}', "{" * 100_000, "\0"):
        path.write_text(content)
        assert Presets(tmp_path).read() == {}
    hostile = {"steps": "1; rm", "width": True, "loras": {}, "prompt": "x", "__class__": 1, "style": "ink"}
    path.write_text(json.dumps({"presets": {"odd": hostile, "none": 3}}))
    assert Presets(tmp_path).read() == {"odd": {"style": "ink"}}
    path.write_text(
        '{"presets": {"odd": {"guidance_scale": NaN, "strength": Infinity, "width": 1e9, "height": 99999999,'
        ' "engine": "elsewhere", "aspect_ratio": "x", "loras": [{"source": "a", "scale": NaN}], "steps": 7}}}'
    )
    assert Presets(tmp_path).read() == {"odd": {"steps": 7}}
    path.write_text(
        '{"presets": {"odd": {"loras": [7]}, "fine": {"loras": [{"source": "a", "scale": 0.5}]}}}'
    )
    assert Presets(tmp_path).read() == {"odd": {}, "fine": {"loras": [{"source": "a", "scale": 0.5}]}}


def test_too_many_presets_are_refused(tmp_path: Path) -> None:
    presets = {str(number): {} for number in range(100)}
    (tmp_path / "widget_presets.json").write_text(json.dumps({"presets": presets}))
    with pytest.raises(InvalidInputError, match="100 presets already"):
        Presets(tmp_path).save("more", form())
    Presets(tmp_path).save("7", form(steps=1))


def test_a_preset_that_cannot_be_written_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(AIError, match="cannot write"):
        Presets(tmp_path / "file").save("ink", form())


def test_every_preset_setting_is_one_of_the_form() -> None:
    assert set(PRESET_SETTINGS) < set(wire.SETTINGS)


@pytest.mark.parametrize("name", ["prompt", "negative_prompt", "model", "engine", "scheduler", "style"])
def test_a_text_of_another_type_is_refused(name: str) -> None:
    with pytest.raises(InvalidInputError, match=f"{name} must be a text"):
        request_of(form(**{"style": "ink", name: True}))
