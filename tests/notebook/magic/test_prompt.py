"""What braces in a prompt read, and what they refuse to read."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest
from traitlets.config import Config

from swiftai_nb.core.errors import InvalidInputError
from swiftai_nb.notebook.magic.parser import parse


class UserObject:
    prompt = "sea"

    def method(self) -> str:
        return "never called"


SECRET = "hf_" + "abcDEF123" * 4
HOSTILE = {
    "os": os, "environ": os.environ, "In": [SECRET], "_ih": [SECRET], "function": parse,
    "Class": UserObject, "thing": UserObject(), "n": 4, "long": "x" * 200_000, "items": [0] * 200_000,
    "shell": Config({"token": SECRET}), "api": SimpleNamespace(token=SECRET), "keys": {"HF_TOKEN": SECRET},
    "api_key": SECRET, "text": f"my {SECRET}",
}  # fmt: skip


@pytest.mark.parametrize(
    "field",
    [
        "{get_ipython.__func__.__globals__['os'].environ['HF_TOKEN']}",
        "{os.environ['HF_TOKEN']}", "{environ['HF_TOKEN']}", "{In[0]}", "{_ih[0]}", "{function}",
        "{function.__globals__}", "{Class}", "{Class.prompt}", "{thing.method}", "{thing.method.im_func}",
        "{thing.__init__.__globals__}", "{shell.token}", "{n:>900000000}", "{n:.900000000f}", "{n:0900000000}",
        "{api.token}", "{keys['HF_TOKEN']}", "{api_key}", "{text}", "{keys}",
        "{long}", "{items}", "{{{os.environ['HF_TOKEN']}}}", "{__name__:>9000000000}",
    ],
)  # fmt: skip
def test_a_prompt_reads_plain_values_only(field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", SECRET)
    variables = {**HOSTILE, "get_ipython": parse, "__name__": "__main__"}
    for line in (f"a fox {field}", f'a fox --negative "{field}"'):
        with pytest.raises(InvalidInputError) as caught:
            parse(line, variables=variables)
        assert SECRET not in str(caught.value)
        assert "--raw" in str(caught.value.hint)
    assert parse(f"a fox {field} --raw", variables=variables).prompt == f"a fox {field}"


def test_attributes_of_a_users_objects_are_read() -> None:
    assert parse("{thing.prompt}", variables=HOSTILE).prompt == "sea"


class Broken:
    """An object of a user's, whose own code fails."""

    @property
    def value(self) -> str:
        raise RuntimeError("no value")

    def __getitem__(self, index: int) -> str:
        raise RuntimeError("no item")

    def __len__(self) -> int:
        raise RuntimeError("no length")

    def __format__(self, spec: str) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize(
    "field", ["{huge:.2f}", "{huge:e}", "{n:c}", "{broken.value}", "{broken[0]}", "{broken}", "{broken:>9}"]
)
def test_what_a_value_raises_is_one_error(field: str) -> None:
    variables = {"huge": 10**400, "n": 10**9, "broken": Broken()}
    with pytest.raises(InvalidInputError, match=r"cannot (read|format)"):
        parse(f"a fox {field}", variables=variables)


def test_values_that_make_a_prompt_very_long_together_are_one_error() -> None:
    variables = {"long": "x" * 100_000}
    assert len(parse("{long} " * 9, variables=variables).prompt) > 900_000
    with pytest.raises(InvalidInputError, match="1,000,000 characters"):
        parse("{long}" * 3_000, variables=variables)
