"""The public names: lazy, complete, and the Python twins of the original proposal's usage examples."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import swiftai_nb

ROOT = Path(__file__).parent.parent
NOTEBOOK = ROOT / "notebooks" / "08_python_api.ipynb"

# Each name in the Swift of the proposal's "Usage Examples", and how notebook 08 spells it.
TWINS = {
    "HuggingFaceProvider()": r"HuggingFaceProvider\(",
    "MLXImageProvider()": r"MLXImageProvider\(\)",
    "generateImage(prompt:config:)": r"\.generate_image\(",
    "config: .default": r"ImageGenerationConfig\.default\(\)",
    "config: .highQuality": r"config=ImageGenerationConfig\.high_quality\(\)",
    "trailing closure, onProgress:": r"on_progress=lambda",
    "progress.currentStep/totalSteps": r"\.current_step\}/\{p\.total_steps",
    "progress.percentComplete": r"\.percent_complete\b",
    "image.image, image.uiImage": r"image\.pil\b",
    "image.save(to:)": r"image\.save\(",
    "DiffusionModelDownloader()": r"DiffusionModelDownloader\(\)",
    "downloader.download(modelId:variant:)": r"await downloader\.download\(",
    "progress.fractionCompleted * 100": r"progress\.percent_completed",
    "variant: .sdxlTurbo": r"DiffusionVariant\.SDXL_TURBO",
    "mlx-community/sdxl-turbo": r"mlx-community/sdxl-turbo",
    "provider.loadModel(from:variant:)": r"await provider\.load_model\(path, DiffusionVariant",
    "some ImageGenerator": r"generator: ImageGenerator\b",
    "-> GeneratedImage": r"-> GeneratedImage:",
    "generateArt with local": r"await generate_art\(provider,",
    "generateArt with cloud": r"await generate_art\(cloud,",
}


def executed_code() -> str:
    """The code of the cells that were run and did not fail."""
    cells = [c for c in json.loads(NOTEBOOK.read_text("utf-8"))["cells"] if c["cell_type"] == "code"]
    assert all(isinstance(cell["execution_count"], int) for cell in cells), "a cell was not run"
    assert not [o for cell in cells for o in cell["outputs"] if o["output_type"] == "error"]
    return "\n".join("".join(cell["source"]) for cell in cells)


@pytest.mark.parametrize("name", TWINS)
def test_the_proposals_example_has_its_twin_in_notebook_08(name: str) -> None:
    assert re.search(TWINS[name], executed_code())


def test_lazy_names_and_names_for_type_checkers_are_the_same() -> None:
    tree = ast.parse((ROOT / "swiftai_nb" / "__init__.py").read_text("utf-8"))
    block = next(n for n in tree.body if isinstance(n, ast.If))
    typed = {
        alias.name: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("swiftai_nb")
        for alias in node.names
    }
    lazy = dict(swiftai_nb._HOMES)
    assert typed == lazy
    assert set(lazy) == set(swiftai_nb.__all__) - {
        "__version__",
        "load_ipython_extension",
        "unload_ipython_extension",
    }


def test_one_name_loads_no_more_than_it_needs() -> None:
    code = (
        "import sys, swiftai_nb; swiftai_nb.ImageGenerationConfig(seed=7)\n"
        "heavy = {'mlx', 'huggingface_hub', 'ipywidgets', 'anywidget', 'IPython', 'PIL'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_star_import_and_dir_give_the_public_names() -> None:
    namespace: dict[str, object] = {}
    exec("from swiftai_nb import *", namespace)
    assert set(swiftai_nb.__all__) <= set(namespace)
    assert dir(swiftai_nb) == sorted([*swiftai_nb.__all__, "DiffusionKitImageProvider"])


def test_a_provider_class_of_an_entry_point_is_a_public_name() -> None:
    from swiftai_nb import DiffusionKitImageProvider

    assert isinstance(DiffusionKitImageProvider(), swiftai_nb.ImageGenerator)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="Imagine"):
        swiftai_nb.Imagine  # noqa: B018
