"""Prompts and lines: arguments, or one line that says what is wrong."""

from __future__ import annotations

import types
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from swiftai_nb.core.errors import InvalidInputError
from swiftai_nb.notebook.magic.parser import parse
from swiftai_nb.notebook.magic.prompt import interpolate, read_prompt
from tests.attack.limits import attack, only
from tests.attack.strategies import INFOTEXTS, MAGIC_LINES

SECRET = "hf_" + "S3cret" * 6
VARIABLES: dict[str, Any] = {
    "x": ["a", {"b": 1.5}],
    "y": types.SimpleNamespace(z="w", token=SECRET, _private=SECRET),
    "f": lambda: SECRET,
    "module": types,
    "HF_TOKEN": SECRET,
    "environment": {"HF_TOKEN": SECRET},
    "text": "a" * 200_000,
}
PATHS = st.lists(
    st.sampled_from(
        [".z", "[0]", "[1]", "['b']", ".__class__", ".__globals__", ".token", "._private", "['HF_TOKEN']",
         ".format", ".mro", "[-99999999999]", "[::2]", ".f", "()", "!r", ":>9", ":>900000000", ":9.999999999f",
         ":{x}", ".__init__.__globals__['os'].environ"]
    ),
    max_size=4,
).map("".join)  # fmt: skip
FIELDS = st.builds(
    lambda name, path, braces: "{" * braces + name + path + "}" * braces,
    st.sampled_from([*VARIABLES, "get_ipython", "_", "__name__", "In", "Out", "os", "missing", ""]),
    PATHS,
    st.integers(1, 3),
)
PROMPTS = st.lists(FIELDS | st.text(max_size=12) | st.sampled_from(["{", "}", "{a|b}"]), max_size=6).map(
    "".join
)


@attack
@given(PROMPTS)
def test_a_prompt_reads_no_secret_and_stays_bounded(prompt: str) -> None:
    with only(InvalidInputError, target="prompts"):
        text = interpolate(prompt, VARIABLES)
        assert SECRET not in text
        assert len(text) < len(prompt) + 10 * 100_000


@attack
@given(MAGIC_LINES, PROMPTS | INFOTEXTS | st.text(max_size=60))
def test_a_cell_is_arguments_or_one_line(line: str, body: str) -> None:
    with only(InvalidInputError, target="lines and cells"):
        arguments = parse(line, body, variables=VARIABLES)
        assert SECRET not in arguments.prompt


@attack
@given(INFOTEXTS | st.text(max_size=200))
def test_pasted_settings_are_read_or_left_in_the_prompt(text: str) -> None:
    with only(InvalidInputError, target="pasted settings"):
        read_prompt(text)
