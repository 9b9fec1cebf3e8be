"""What the pages name exists: pages, options, magics, files, settings, models, public names."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import json
import re
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

import swiftai_nb
from swiftai_nb.notebook.magic.magics import Imagine
from swiftai_nb.notebook.magic.options import BY_NAME, OPTIONS
from swiftai_nb.notebook.magic.parser import parse
from swiftai_nb.registry.catalog import catalog
from tests.docs.pages import (
    CONTRIBUTING,
    DOCS,
    NOTEBOOKS,
    README,
    ROOT,
    SITE_PAGES,
    blocks,
    code_spans,
    table_rows,
)

PAGES = [README, CONTRIBUTING, *SITE_PAGES]
TOOLS = {
    "--strict",
    "--execute",
    "--to",
    "--inplace",
    "--nbval",
    "--force-reinstall",
    "--torch-python",
}


def by_name(path: Path) -> str:
    return path.name


def code_of(page: Path) -> list[str]:
    """Everything on a page that is set as code, line by line."""
    text = page.read_text("utf-8")
    fenced = re.findall(r"(?ms)^ *```+[^\n]*\n(.*?)^ *```+ *$", text)
    return [*code_spans(text), *(line.strip() for block in fenced for line in block.splitlines())]


@cache
def literals() -> set[str]:
    """Every literal text of the package and its tools that could be an option."""
    folders = ("swiftai_nb", "benchmarks", "tools")
    found = set()
    for path in (p for folder in folders for p in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found |= set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", node.value))
    return found


@cache
def package_code() -> str:
    return "\n".join(path.read_text("utf-8") for path in (ROOT / "swiftai_nb").rglob("*.py"))


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_hooks", ROOT / "tools" / "docs_hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_page_and_tutorial_is_in_the_navigation() -> None:
    listed = re.findall(r": ([\w/-]+\.(?:md|ipynb))$", (ROOT / "mkdocs.yml").read_text("utf-8"), re.MULTILINE)
    assert len(listed) == len(set(listed))
    assert set(listed) == {p.relative_to(DOCS).as_posix() for p in SITE_PAGES} | {
        f"tutorials/{p.name}" for p in NOTEBOOKS
    }


def test_the_option_table_is_the_parsers(hooks: ModuleType) -> None:
    rows = [row[0].strip("`") for row in table_rows(hooks.option_tables())]
    documented = {word for row in rows for word in re.findall(r"--[a-z-]+", row)}
    assert documented == {f"--{option.name}" for option in OPTIONS}
    assert all(option.help for option in OPTIONS)


def test_the_page_of_the_magic_is_filled_in(hooks: ModuleType) -> None:
    page = hooks.on_page_markdown((DOCS / "magic.md").read_text("utf-8"))
    assert "`-m, --model NAME`" in page
    assert "`Imagine.model`" in page
    assert not re.search(r"\{\{ \w+ \}\}", page)


@pytest.mark.parametrize("page", PAGES, ids=by_name)
def test_options_on_a_page_exist(page: Path) -> None:
    known = set(BY_NAME) | literals() | TOOLS
    for code in code_of(page):
        for option in re.findall(r"(?<![\w-])--[a-z][a-z-]+", code):
            assert option in known, f"{option} in {code!r}"


@pytest.mark.parametrize("page", PAGES, ids=by_name)
def test_magics_on_a_page_exist(page: Path) -> None:
    known = {name for names in Imagine.magics.values() for name in names}
    for code in code_of(page):
        for name in re.findall(r"(?<![\w%])%%?(imagine\w*)", code):
            assert name in known, code


@pytest.mark.parametrize("page", PAGES, ids=by_name)
def test_imagine_lines_of_a_page_can_be_pasted(page: Path) -> None:
    for code in code_of(page):
        line = re.fullmatch(r"%imagine +(.+)", code)
        if line and "…" not in code and not line[1].startswith("--widget"):
            parse(line[1], variables={"fox": 1})


@pytest.mark.parametrize("page", PAGES, ids=by_name)
def test_python_on_a_page_is_python_and_imports_what_exists(page: Path) -> None:
    for block in blocks(page.read_text("utf-8"), "python"):
        code = "\n".join(line for line in block.splitlines() if not line.lstrip().startswith("%"))
        tree = compile(code, page.name, "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] == "swiftai_nb":
                module = importlib.import_module(str(node.module))
                for alias in node.names:
                    assert hasattr(module, alias.name), f"{node.module}.{alias.name}"


@pytest.mark.parametrize("page", PAGES, ids=by_name)
def test_files_and_settings_on_a_page_exist(page: Path) -> None:
    roots = (ROOT, ROOT / "swiftai_nb", ROOT / "swiftai_nb" / "diffusion")
    for span in code_spans(page.read_text("utf-8")):
        if re.fullmatch(r"[a-z_]+(?:/[\w.-]+)+\.(?:py|md|yml|toml|ipynb)", span):
            assert any((root / span).exists() for root in roots), span
        for name in re.findall(r"SWIFTAI_[A-Z_]+", span):
            assert name in package_code(), name


def test_the_license_page_is_the_catalog(hooks: ModuleType) -> None:
    page = hooks.on_page_markdown((DOCS / "licenses.md").read_text("utf-8"))
    said = {row[0]: row[1].strip("`") for row in table_rows(page) if len(row) == 3}
    assert {info.id: info.license for info in catalog()}.items() <= said.items()


def test_the_readmes_models_are_the_catalogs() -> None:
    rows = {row[0]: row for row in table_rows(README.read_text("utf-8")) if len(row) == 4}
    for info in catalog():
        row = rows.get(info.id)
        if row is not None and not info.bundled:
            assert row[1:3] == [info.formatted_size, f"{info.min_memory_bytes / 1e9:.0f} GB"], info.id
    assert len(set(rows) & {info.id for info in catalog()}) >= 5


def test_the_conda_environment_has_the_packages_own_bounds() -> None:
    project = (ROOT / "pyproject.toml").read_text("utf-8")
    needed = re.findall(
        r"^  - ([a-z_-]+>=[\d.]+)$", (ROOT / "environment.yml").read_text("utf-8"), re.MULTILINE
    )
    assert len(needed) >= 5
    for requirement in needed:
        assert f'"{requirement}' in project, requirement


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=by_name)
def test_saved_tutorials_show_without_a_kernel(notebook: Path) -> None:
    saved = json.loads(notebook.read_text("utf-8"))
    assert "widgets" not in saved["metadata"], "widget state is not needed and large"
    outputs = [o for cell in saved["cells"] for o in cell.get("outputs", [])]
    plain = [o for o in outputs if "image/png" in o.get("data", {})]
    for output in plain:
        assert "text/plain" in output["data"]
        assert "application/vnd.jupyter.widget-view+json" not in output["data"]
    draws = notebook.name[:2] not in ("04",)
    assert plain or not draws
    text = notebook.read_text("utf-8")
    assert not re.search(r"/(?:home|Users|root|work)/\w", text), "a path of somebody's machine"
    assert notebook.stat().st_size < 2_000_000


def test_public_names_are_documented_by_their_public_path() -> None:
    pages = [path.read_text("utf-8") for path in sorted((DOCS / "reference").glob("*.md"))]
    names = re.findall(r"^::: ([\w.]+)$", "\n".join(pages), re.MULTILINE)
    assert len(names) == len(set(names))
    functions = {"__version__", "load_ipython_extension", "unload_ipython_extension", "AIError"}
    assert set(swiftai_nb.__all__) - functions <= {name.rsplit(".", 1)[1] for name in names}
    for name in set(names) - {"swiftai_nb.core.errors"}:
        module, _, attribute = name.rpartition(".")
        assert hasattr(importlib.import_module(module), attribute), name


def test_the_reference_lists_every_option_of_the_magic(hooks: ModuleType) -> None:
    page = hooks.on_page_markdown((DOCS / "reference" / "magics.md").read_text("utf-8"))
    assert all(f"--{option.name}" in page for option in OPTIONS)
    assert "`Imagine.model`" in page
