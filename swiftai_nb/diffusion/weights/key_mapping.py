"""Key names of files in all their ages -> parameter paths of our modules, as rule tables."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Rule:
    """A regular expression on a key name, and what replaces the match; None drops the key.

    A rule is applied wherever it matches (`re.sub`); rules run in order.
    """

    pattern: str
    replacement: str | None


# Buffers that old files carry along.
_DROP_BUFFERS = Rule(r"(^|\.)position_ids$", None)

CLIP_RULES = (
    _DROP_BUFFERS,
    Rule(r"^logit_scale$", None),
    # transformers 5 saves text models without the prefix that all older files have.
    Rule(r"^(?!text_model\.|text_projection\.)", "text_model."),
)

UNET_RULES = (_DROP_BUFFERS,)

VAE_RULES = (
    _DROP_BUFFERS,
    # Names of 2022.
    Rule(r"\.query\.", ".to_q."),
    Rule(r"\.key\.", ".to_k."),
    Rule(r"\.value\.", ".to_v."),
    Rule(r"\.proj_attn\.", ".to_out.0."),
)


def normalize_key(key: str, rules: Iterable[Rule]) -> str | None:
    """The parameter path of a key name, or None when it is to be dropped."""
    for rule in rules:
        if rule.replacement is None:
            if re.search(rule.pattern, key):
                return None
        else:
            key = re.sub(rule.pattern, rule.replacement, key)
    return key
