"""What a user or a page types or sends: values of options, messages and traits of the widget; foreign recipes."""

from __future__ import annotations

import contextlib
import json
import os
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import traitlets
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from swiftai_nb.core.config import ImageGenerationConfig
from swiftai_nb.core.control import KINDS, ControlReference, control_references
from swiftai_nb.core.control_pictures import control_pixels
from swiftai_nb.core.errors import AIError, InvalidInputError
from swiftai_nb.core.image import GeneratedImage
from swiftai_nb.core.outpaint import Outpaint
from swiftai_nb.core.prompt_editing import edited_prompts
from swiftai_nb.core.recipe import Recipe
from swiftai_nb.notebook.magic.options import BY_NAME, OPTIONS
from swiftai_nb.notebook.session import Session
from swiftai_nb.notebook.widget.imagine_widget import ImagineWidget
from swiftai_nb.testing import FakeGenerator
from tests.attack.limits import attack, only, scratch_folder
from tests.attack.strategies import (
    COMFYUI,
    INFOTEXTS,
    INVOKEAI,
    ODD,
    RECIPE,
    VALUES,
    json_like,
    mutated,
    pngs,
)
from tests.attack.test_answers import FORM, SYNTAX
from tests.attack.test_pictures import use

TYPED = (
    st.sampled_from(
        [
            "1", "-1", "0", "1.5", "nan", "inf", "-inf", "1e400", "٣", "²", "9" * 30, "9" * 5000, "9" * 5000 + "x9",
            "64x64", "9" * 5000 + "x1", "wide", "1-4", "1..4", "9" * 5000 + "-" + "9" * 5001, "1,2,3", "1,,2", "a/b:0.5",
            "a:b:c:0.5", "a:IN04=0.5,M00=0", "a:" + "1," * 25 + "1", "canny=x.png:0.8", "canny=x:0.8:0-0.6:guess",
            "canny@a=b", "canny=:1", "=x", "depth=x:-99", "left=128,top=64", "left=9999999999", "left=-1", "64",
            "left=1,left=2", "a=" + "[" * 2_000, "a={", "a=" + "9" * 5000, "quality=high", "n=1", "x=NaN", "'", '"', "",
            " ", "x" * 5_000, "\0", "\ud83d",
        ]
    )
    | st.text(max_size=12)
    | st.builds("{}={}:{}:{}-{}".format, st.sampled_from(sorted(KINDS)), *[ODD] * 4)
    | st.builds("{}={},{}={}".format, st.sampled_from(["left", "top", ""]), ODD, st.just("right"), ODD)
)  # fmt: skip
TYPED_OPTIONS = sorted(option.name for option in OPTIONS if option.takes_value and option.kind != "axes")


@attack
@given(st.sampled_from(TYPED_OPTIONS), TYPED)
def test_an_options_value_is_read_or_refused(name: str, text: str) -> None:
    option = BY_NAME[f"--{name}"]
    with only(InvalidInputError, target="options: values"):
        value = option.convert(text)
        if option.setting and option.kind not in ("control", "setting"):
            ImageGenerationConfig(**{option.setting: (value,) if option.repeats else value})


CONFIG: dict[str, Any] = {
    "width": 64, "height": 64, "steps": 4, "guidance_scale": 7.5, "seed": 1, "scheduler": "euler", "model": "a",
    "strength": 0.5, "clip_skip": 1, "quantization_bits": 8, "hires": 2.0, "hires_strength": 0.4, "hires_steps": 4,
    "upscale": 2.0, "upscaler": "lanczos", "eta": 0.5, "guidance_rescale": 0.5, "preview": "rgb",
    "prompt_syntax": "weighted", "precision": "auto", "extra_body": {"quality": "high"},
    "image_guidance_scale": 1.5, "embeddings": ["a.safetensors"], "vae": "a",
}  # fmt: skip


@attack
@given(mutated(CONFIG))
def test_settings_are_a_configuration_or_refused(data: dict[str, Any]) -> None:
    known = {name: value for name, value in data.items() if name in CONFIG}
    with only(InvalidInputError, target="configurations"):
        config = ImageGenerationConfig(**known)
        repr(config)
        assert config.replace(seed=2).seed == 2


@attack
@given(st.lists(st.lists(ODD | st.sampled_from(["canny", 0.5]), max_size=7), max_size=3) | VALUES)
def test_controls_are_read_or_refused(controls: Any) -> None:
    picture = b"\x89PNG"
    given_ = (
        [(one[0], picture, *one[1:]) if isinstance(one, list) and one else one for one in controls]
        if isinstance(controls, list)
        else controls
    )
    with only(InvalidInputError, target="controls"):
        for control in control_references(given_):
            assert control.describe()


@attack
@given(st.sampled_from(["canny", "lineart", "scribble", "tile", "depth", "x"]), pngs(), st.integers(1, 9))
def test_a_controls_picture_is_used_or_refused(kind: str, data: bytes, side: int) -> None:
    with only(InvalidInputError, target="controls: pictures"):
        control = ControlReference(kind, data)
        control.check_picture()
        width = 8 * max(1, min(side, 9))
        assert control_pixels(control, width=width, height=16).shape == (16, width, 3)


@attack
@given(ODD | VALUES | st.dictionaries(st.sampled_from(["left", "top", "right", "x"]), ODD, max_size=3))
def test_margins_are_read_or_refused(value: Any) -> None:
    with only(InvalidInputError, target="outpainting"):
        margins = Outpaint.of(value)
        assert Outpaint.of(str(margins)) == margins


@attack
@given(SYNTAX | st.text("[]|:\\0.5 ab", max_size=40), st.integers(1, 50))
def test_an_edited_prompt_is_texts_or_refused(prompt: str, steps: int) -> None:
    with only(InvalidInputError, target="prompt editing"):
        edited_prompts(prompt, min(max(steps, 1), 1000))


WORKFLOW = {
    "nodes": [
        {"id": 3, "type": "KSampler", "inputs": [{"name": "model", "link": 1}, {"name": "positive", "link": 2}],
         "widgets_values": [7, "fixed", 4, 7.5, "euler", "karras", 1.0]},
        {"id": 4, "type": "CheckpointLoaderSimple", "outputs": [{"links": [1]}], "widgets_values": ["a.safetensors"]},
        {"id": 6, "type": "CLIPTextEncode", "outputs": [{"links": [2]}], "widgets_values": ["a fox"]},
    ],
    "links": [[1, 4, 0, 3, 0, "MODEL"], [2, 6, 0, 3, 1, "CONDITIONING"]],
    "definitions": {"subgraphs": []},
}  # fmt: skip
SWARMUI = {"sui_image_params": {
    "prompt": "a fox", "negativeprompt": "blur", "model": "a", "seed": 1, "steps": 4, "cfgscale": 7, "width": 64,
    "height": 64, "sampler": "euler", "scheduler": "karras", "loras": ["a"], "loraweights": ["0.5"],
    "refinerupscale": 2.0, "refinerupscalemethod": "model-x", "refinersteps": 4, "refinercontrolpercentage": 0.4,
}}  # fmt: skip
FOOOCUS = {
    "prompt": "a fox", "negative_prompt": "blur", "sampler": "dpmpp_2m_sde_gpu", "scheduler": "karras", "steps": 4,
    "resolution": "(896, 1152)", "styles": "['Fooocus V2']", "full_prompt": ["a", "b"], "full_negative_prompt": ["c"],
    "loras": [["a", 0.5, "hash"]], "guidance_scale": 4.0, "seed": "7", "base_model": "a", "clip_skip": 2,
}  # fmt: skip
NOVELAI = {
    "prompt": "{{a fox}}", "uc": "blur", "steps": 28, "scale": 5.0, "seed": 1, "sampler": "k_euler", "width": 64,
    "height": 64, "noise_schedule": "karras", "cfg_rescale": 0.1, "strength": 0.5, "request_type": "Img2ImgRequest",
}  # fmt: skip
DRAW_THINGS = {
    "c": "a fox", "uc": "blur", "scale": 7, "size": "64x64", "steps": 4, "seed": 1, "sampler": "Euler A",
    "strength": 0.5, "lora": [{"model": "a", "weight": 0.5}], "model": "a",
}  # fmt: skip
SD_METADATA = {"model_weights": "a", "image": {
    "prompt": [{"prompt": "a fox [fog]", "weight": 1}], "steps": 4, "cfg_scale": 7.5, "seed": 1, "width": 64,
    "height": 64, "sampler": "k_lms", "type": "img2img", "strength": 0.5,
}}  # fmt: skip
DREAMS = st.builds(
    "{} {}".format,
    st.sampled_from(['"a fox [fog]"', "a", '"', "'", '"[[[', "\\"]),
    st.lists(st.sampled_from(["-s", "-S", "-W", "-C", "-A", "5", "9" * 5000, "nan", "k_lms", '"', "-"])).map(
        " ".join
    ),
)


def _xmp(data: bytes) -> bytes:
    return b"<x:xmpmeta><exif:UserComment><rdf:li>" + data + b"</rdf:li></exif:UserComment></x:xmpmeta>"


FOREIGN: dict[str, st.SearchStrategy[bytes]] = {
    "swiftai": json_like(RECIPE),
    "parameters": json_like(SWARMUI)
    | json_like(FOOOCUS)
    | INFOTEXTS.map(lambda text: text.encode("utf-8", "replace")),
    "invokeai_metadata": json_like(INVOKEAI),
    "sd-metadata": json_like(SD_METADATA),
    "Dream": DREAMS.map(str.encode),
    "prompt": json_like(COMFYUI),
    "workflow": json_like(WORKFLOW),
    "Comment": json_like(NOVELAI),
    "XML:com.adobe.xmp": json_like(DRAW_THINGS) | json_like(DRAW_THINGS).map(_xmp),
}


@st.composite
def foreign_texts(draw: st.DrawFn) -> dict[str, bytes]:
    keys = draw(st.lists(st.sampled_from(sorted(FOREIGN)), min_size=1, max_size=2, unique=True))
    return {key: draw(FOREIGN[key]) for key in keys}


@attack
@given(foreign_texts())
def test_a_recipe_of_any_program_is_a_recipe_or_none(texts: dict[str, bytes]) -> None:
    picture = Image.new("RGB", (1, 1))
    picture.info.update({key: data.decode("utf-8", "replace") for key, data in texts.items()})
    with only(InvalidInputError, target="recipes: other programs"):
        recipe = Recipe.find(picture)
        if recipe is not None:
            use(recipe)


class _Refusing(FakeGenerator):
    """Plans like an engine, draws nothing."""

    async def generate_image(self, *_: Any, **__: Any) -> GeneratedImage:
        raise AIError("made to fail")


class _Page:
    """A widget in a session of its own; `send` is what the page would get."""

    def __init__(self) -> None:
        home = scratch_folder()
        own = {"SWIFTAI_HOME": str(home / "home"), "HF_HOME": str(home / "hf"), "HF_HUB_OFFLINE": "1"}
        with patch.dict(os.environ, own):
            self.session = Session()
            self.session.add_generator("mlx", _Refusing())
            self.session.history.append(
                GeneratedImage.from_pil(Image.new("RGB", (4, 4)), recipe=Recipe(prompt="x"))
            )
            self.widget = ImagineWidget(session=self.session)
        self.folder = home
        self.reports: list[dict[str, Any]] = []
        self.widget.send = lambda content, buffers=None: self.reports.append(content)  # type: ignore[method-assign]

    def message(self, content: dict[str, Any], buffers: list[bytes]) -> list[dict[str, Any]]:
        """What a message is answered with."""
        self.reports.clear()
        before = Path.cwd()
        os.chdir(self.folder)
        try:
            with patch.object(self.session.downloader, "start", side_effect=AIError("no network")):
                self.widget._handle_custom_msg(content, buffers)
        finally:
            os.chdir(before)
        return list(self.reports)


@cache
def page() -> _Page:
    return _Page()


KINDS_OF_MESSAGES = (
    "init", "generate", "plan", "cancel", "retry", "upscale", "picture", "load_more", "save", "favorite",
    "delete_picture", "set_input", "remove_input", "save_preset", "delete_preset", "download", "cancel_download",
    "delete_model", "no_such_kind",
)  # fmt: skip
MESSAGE: dict[str, Any] = {
    "request_id": "r", "settings": FORM, "picture_id": "1", "job_id": "j", "size": "thumbnail", "favorite": True,
    "role": "image", "input_id": "input-1", "name": "mine", "model": "emoji-mini", "confirmed": True, "data": "aGk=",
}  # fmt: skip


@st.composite
def messages(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    content = draw(mutated(MESSAGE))
    dropped = draw(st.lists(st.sampled_from(sorted(MESSAGE)), max_size=4))
    return draw(st.sampled_from(KINDS_OF_MESSAGES)), {k: v for k, v in content.items() if k not in dropped}


@attack
@given(messages(), st.lists(st.binary(max_size=9) | pngs(), max_size=1))
def test_a_message_of_the_page_is_handled_or_refused(
    found: tuple[str, dict[str, Any]], buffers: list[bytes]
) -> None:
    kind, content = found
    with only(AIError, target="widget: messages"):
        for report in page().message({**content, "kind": kind}, buffers):
            json.dumps(report)
            assert not str(report.get("message", "")).startswith("unexpected"), report


TRAITS = (
    "prompt", "negative_prompt", "model", "engine", "width", "height", "steps", "guidance_scale", "seed", "count",
    "aspect_ratio", "scheduler", "style", "loras", "strength", "models", "jobs", "pictures", "picture_count", "inputs",
    "choices", "static_output_tail",
)  # fmt: skip


@attack
@given(st.dictionaries(st.sampled_from(TRAITS), VALUES, max_size=4))
def test_a_trait_from_the_page_is_taken_or_refused(state: dict[str, Any]) -> None:
    widget = page().widget
    with only(target="widget: traits"), contextlib.suppress(traitlets.TraitError, OverflowError):
        widget.set_state(
            {name: value for name, value in state.items() if name in TRAITS}
        )  # the library's errors
    with only(AIError, target="widget: form after traits"):
        page().message({"kind": "plan", "request_id": "r", "settings": {**FORM, "prompt": widget.prompt}}, [])


@pytest.mark.parametrize("controls", [[[]], [()], [("canny", b"1", 1.0, 0.0, 1.0, False, 7)], ["canny"], [5]])
def test_what_is_no_control_is_one_error(controls: Any) -> None:
    with pytest.raises(InvalidInputError, match="is not a control"):
        control_references(controls)


@pytest.mark.parametrize("kind", KINDS_OF_MESSAGES[:-1])
@pytest.mark.parametrize("content", [{}, dict.fromkeys(MESSAGE, 5), {key: ["a"] for key in MESSAGE}])
def test_a_message_without_its_values_is_one_error_for_the_page(kind: str, content: dict[str, Any]) -> None:
    for report in page().message({**content, "kind": kind}, []):
        assert not str(report.get("message", "")).startswith("unexpected")
