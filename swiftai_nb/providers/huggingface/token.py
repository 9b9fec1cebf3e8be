"""Where the access token comes from, and how to give one in the front end at hand."""

from __future__ import annotations

import sys

TOKEN_PAGE = "huggingface.co/settings/tokens"


def find_token(given: str | None = None) -> str | None:
    """The token to use: the given one, `HF_TOKEN`, the hub's login, or Colab's secret."""
    if given is not None:
        return given
    from huggingface_hub import get_token

    return get_token()


def how_to_give_a_token() -> str:
    """One sentence that fits where the user is."""
    get_one = f"make one at {TOKEN_PAGE} with permission to call Inference Providers"
    if "google.colab" in sys.modules:
        return f"{get_one}, then store it as the Colab secret HF_TOKEN (the key at the left)"
    return f"{get_one}, then set HF_TOKEN before the kernel starts or run `hf auth login` in a terminal"
