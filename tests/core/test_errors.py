"""One tree, one line of what and one of what to try, and no traceback in a cell."""

from __future__ import annotations

import pytest

from swiftai_nb.core import errors
from swiftai_nb.core.errors import AIError, all_error_types, error_from_dict


@pytest.mark.parametrize("kind", list(all_error_types()), ids=lambda t: t.__name__)
def test_error_crosses_a_process_boundary_as_itself(kind: type[AIError]) -> None:
    error = error_from_dict(kind("what happened", hint="what to try").to_dict())
    assert type(error) is kind
    assert (error.message, error.hint) == ("what happened", "what to try")


@pytest.mark.parametrize("kind", list(all_error_types()), ids=lambda t: t.__name__)
def test_cell_shows_at_most_two_lines(kind: type[AIError]) -> None:
    lines = kind("what happened", hint="what to try")._render_traceback_()
    assert 1 <= len(lines) <= 2
    assert "what happened" in lines[0]


@pytest.mark.parametrize("kind", list(all_error_types()), ids=lambda t: t.__name__)
def test_every_error_is_drawn_in_the_module_docstring(kind: type[AIError]) -> None:
    assert kind.__name__ in (errors.__doc__ or "")


def test_details_survive_the_wire() -> None:
    error = error_from_dict(errors.RateLimitedError("slow down", retry_after_s=3.5).to_dict())
    assert isinstance(error, errors.RateLimitedError)
    assert error.retry_after_s == 3.5


def test_unknown_type_becomes_a_plain_failure() -> None:
    error = error_from_dict({"type": "ErrorOfTomorrow", "message": "new"})
    assert type(error) is errors.GenerationFailedError


def test_builtin_classes_are_honored() -> None:
    assert issubclass(errors.InvalidInputError, ValueError)
    assert issubclass(errors.ModelNotFoundError, LookupError)
    assert issubclass(errors.InsufficientMemoryError, MemoryError)
    assert issubclass(errors.GenerationTimeoutError, TimeoutError)
    assert issubclass(errors.NetworkError, ConnectionError)


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"type": ["x"], "message": None, "hint": 7, "extra": [1]},
        {"type": "NoSuchError", "extra": "text"},
        {
            "type": "RateLimitedError",
            "message": "x",
            "extra": {"message": 1, "hint": [], "retry_after_s": 2.0, 3: 4},
        },
    ],
)
def test_odd_data_of_another_process_is_still_an_error(data: dict[str, object]) -> None:
    error = error_from_dict(data)
    assert isinstance(error, AIError)
    assert isinstance(error.message, str)
    assert str(error)
    assert error._render_traceback_()


def test_a_message_that_quotes_a_whole_input_loses_its_middle() -> None:
    error = AIError(f"no variable {'a' * 9_000!r} here", hint="b" * 9_000)
    assert error.message.startswith("no variable 'aaa")
    assert error.message.endswith("aaa' here")
    assert len(str(error)) < 5_000
