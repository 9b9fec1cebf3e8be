"""Textual inversions (Gal et al. 2022): vectors in a file that stand for a word of the prompt.

Read are the layouts of AUTOMATIC1111 and kohya (`emb_params`), of SDXL's pairs (`clip_l` and `clip_g`), of
diffusers (one tensor under its token's name) and of LoRA files that carry their words (`bundle_emb.NAME.…`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
from mlx import nn

from swiftai_nb.core.errors import InvalidModelFilesError
from swiftai_nb.core.paths import user_path
from swiftai_nb.diffusion.models.layers import Embedding
from swiftai_nb.diffusion.weights.precision import assign, find_module
from swiftai_nb.diffusion.weights.stored import check_numbers, load_tensors
from swiftai_nb.model_files.adapter_files import BUNDLE_PREFIX, check_embedding, is_token, vector_keys

_TABLE = "text_model.embeddings.token_embedding"


@dataclass(frozen=True, eq=False)
class TextualInversion:
    """The vectors of one word.

    Attributes:
        names: what the word is called in prompts; the first one is the file's own name.
        vectors: [n, D] for each encoder of the model, or one for whichever encoder it fits.
        path: the file.
    """

    names: tuple[str, ...]
    vectors: tuple[mx.array, ...]
    path: Path

    def fitted(self, widths: tuple[int, ...]) -> tuple[mx.array, ...]:
        """The vectors for encoders of these widths D.

        Raises:
            InvalidModelFilesError: they were made for other encoders.
        """
        own = tuple(int(one.shape[1]) for one in self.vectors)
        if own != widths:
            raise InvalidModelFilesError(
                f"{self.path.name} has vectors of {_listed(own)} values, the model's text encoders take "
                f"{_listed(widths)}",
                hint="use an embedding made for this family of models",
            )
        return self.vectors


def load_embedding(path: str | Path) -> TextualInversion:
    """Reads a textual inversion; its word is the file's name without the suffix.

    Args:
        path: a safetensors file.

    Raises:
        ModelNotFoundError: there is no such file.
        InvalidModelFilesError: a pickle, or not a textual inversion.
    """
    file = user_path(path)
    check_embedding(file)
    return _inversion(file.stem, load_tensors(file), file)


def bundled_embeddings(tensors: Mapping[str, mx.array], file: Path) -> tuple[TextualInversion, ...]:
    """The words in a LoRA's tensors.

    Args:
        tensors: named `bundle_emb.WORD.…`.
        file: the LoRA.

    Raises:
        InvalidModelFilesError: some are no textual inversion.
    """
    by_name: dict[str, dict[str, mx.array]] = {}
    for key, value in tensors.items():
        name, _, role = key.removeprefix(BUNDLE_PREFIX).partition(".")
        by_name.setdefault(name, {})[role] = value
    return tuple(_inversion(name, parts, file) for name, parts in by_name.items())


def _inversion(name: str, tensors: Mapping[str, mx.array], file: Path) -> TextualInversion:
    keys = vector_keys({key: value.shape for key, value in tensors.items()}, file, name=name)
    check_numbers({key: tensors[key] for key in keys}, file)
    vectors = [tensors[key].reshape(-1, tensors[key].shape[-1]) for key in keys]
    mx.eval(vectors)
    names = (name, *(key for key in keys if is_token(key)))
    return TextualInversion(tuple(dict.fromkeys(names)), tuple(vectors), file)


def _listed(widths: tuple[int, ...]) -> str:
    return " and ".join(str(width) for width in widths)


def extend_vocabulary(network: nn.Module, *, vectors: mx.array) -> None:
    """Puts vectors [n, D] behind a CLIP's table of tokens."""
    table = find_module(network, _TABLE)
    weight = table(mx.arange(len(table.weight)))
    longer = Embedding(1, 1)
    longer.weight = mx.concatenate([weight, vectors.astype(weight.dtype)])
    mx.eval(longer.weight)
    assign(network, _TABLE, longer)
