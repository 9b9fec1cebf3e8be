"""The floors of the house: who may import whom, and what stays unloaded."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "swiftai_nb"

# What runs in a child process is a floor of its own: "engine/child".
ALLOWED = {
    "core": {"core"},
    "model_files": {"core", "model_files"},
    "registry": {"core", "model_files", "registry"},
    "downloads": {"core", "model_files", "registry", "downloads"},
    "diffusion": {"core", "model_files", "diffusion"},
    "engine": {"core", "model_files", "engine"},
    "engine/child": {"core", "model_files", "diffusion", "engine", "engine/child"},
    "jobs": {"core", "jobs"},
    "providers": {"core", "model_files", "engine", "registry", "downloads", "jobs", "providers"},
    # An engine of another library: what providers may know, and in its child the engine's own tools.
    "guests": {"core", "model_files", "engine", "registry", "downloads", "jobs", "providers", "guests"},
    "guests/child": {"core", "diffusion", "engine", "engine/child", "guests", "guests/child"},
    "notebook": {"core", "model_files", "registry", "downloads", "jobs", "providers", "notebook"},
}
# isolation="thread" runs the child's loop in the kernel's process, on demand.
EXCEPTIONS = {("engine/kernel/process.py", "engine/child")}
# Foreign packages that only one floor may know.
FOREIGN = {
    "mlx": {"diffusion", "engine/child", "guests/child"},
    "IPython": {"notebook"},
    "ipywidgets": {"notebook"},
    "anywidget": {"notebook"},
    "huggingface_hub": {"downloads", "providers"},
    "torch": set(),
    "transformers": set(),
    "diffusers": set(),
    "cv2": set(),
    "tqdm": set(),
}


def modules() -> list[Path]:
    return sorted({p for floor in ALLOWED for p in (PACKAGE / floor).rglob("*.py")})


def floor_of(parts: tuple[str, ...]) -> str:
    """The floor of a module, by the parts of its name below the package."""
    return f"{parts[0]}/child" if f"{parts[0]}/child" in ALLOWED and "child" in parts[1:] else parts[0]


def imports(path: Path) -> set[str]:
    tree = ast.parse(path.read_text("utf-8"))
    # What stands under TYPE_CHECKING is never executed, but it is still knowledge: it counts.
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            assert node.level == 0, f"{path}: relative import"
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_module_imports_only_its_own_floor_and_those_below(path: Path) -> None:
    floor = floor_of(path.relative_to(PACKAGE).with_suffix("").parts)
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "swiftai_nb" and len(parts) > 1 and parts[1] in ALLOWED:
            other = floor_of(tuple(parts[1:]))
            is_exception = (path.relative_to(PACKAGE).as_posix(), other) in EXCEPTIONS
            assert other in ALLOWED[floor] or is_exception, f"{floor} must not know {name}"
        if parts[0] in FOREIGN:
            assert floor in FOREIGN[parts[0]], f"{floor} must not know {name}"


# Within the engine the two processes keep apart, and others see the kernel's side only.
ENGINE_FORBIDDEN = {
    "engine/messages.py": ("diffusion", "engine.kernel", "engine.child"),
    "engine/protocol.py": ("diffusion", "engine.kernel", "engine.child"),
    "engine/channel.py": ("diffusion", "engine.kernel", "engine.child"),
    "engine/kernel": ("diffusion", "engine.child"),
    "engine/child": ("engine.kernel",),
    "providers": ("diffusion", "engine.child"),
    "notebook": ("diffusion", "engine"),
}
ENGINE_EXCEPTIONS = {
    # An engine in a thread of the kernel.
    "engine/kernel/process.py": ("swiftai_nb.engine.child.serve", "swiftai_nb.engine.child.start"),
}


@pytest.mark.parametrize("place", ENGINE_FORBIDDEN)
def test_kernel_and_engine_know_of_each_other_by_protocol_only(place: str) -> None:
    root = PACKAGE / place
    for path in sorted(root.rglob("*.py")) if root.is_dir() else [root]:
        names = imports(path)
        for module, exceptions in ENGINE_EXCEPTIONS.items():
            if path.match(module):
                names = {n for n in names if not any(f"{n}.".startswith(f"{e}.") for e in exceptions)}
        for name in names:
            for forbidden in ENGINE_FORBIDDEN[place]:
                assert not f"{name}.".startswith(f"swiftai_nb.{forbidden}."), f"{path} must not know {name}"
        if place.startswith("engine/kernel"):
            assert not any(name.split(".")[0] in ("mlx", "numpy") for name in names), path


def loaded_after(code: str) -> set[str]:
    script = f"{code}\nimport sys\nprint(' '.join(sys.modules))"
    return set(
        subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True
        ).stdout.split()
    )


def test_import_is_light() -> None:
    loaded = loaded_after("import swiftai_nb")
    assert not loaded & {"mlx", "huggingface_hub", "ipywidgets", "anywidget", "IPython", "numpy", "PIL"}


def test_load_ext_is_light() -> None:
    code = (
        "from IPython.core.interactiveshell import InteractiveShell\n"
        "shell = InteractiveShell.instance()\n"
        "import sys; before = set(sys.modules)\n"
        "shell.run_line_magic('load_ext', 'swiftai_nb')\n"
        "assert 'imagine' in shell.magics_manager.magics['cell']\n"
    )
    loaded = loaded_after(code)
    assert not loaded & {"mlx", "huggingface_hub", "ipywidgets", "anywidget", "numpy", "PIL"}


def test_local_provider_keeps_mlx_out_of_the_kernel() -> None:
    loaded = loaded_after("import swiftai_nb; swiftai_nb.MLXImageProvider().is_available")
    assert not {name for name in loaded if name.split(".")[0] in {"mlx", "torch"}}


def test_no_modules_import_each_other() -> None:
    # graphlib finds cycles; what stands in functions and under TYPE_CHECKING counts.
    names = {path: ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in modules()}
    known = set(names.values())
    graph = {name: {n for n in imports(path) if n in known and n != name} for path, name in names.items()}
    graphlib.TopologicalSorter(graph).prepare()


def test_files_and_names_stay_small() -> None:
    for path in modules():
        assert len(path.read_text("utf-8").splitlines()) <= 400, f"{path} is longer than 400 lines"
        assert not {"manager", "helper", "util", "utils"} & set(path.stem.split("_")), path


def test_every_public_name_resolves() -> None:
    code = "import swiftai_nb\nfor name in swiftai_nb.__all__: getattr(swiftai_nb, name)"
    subprocess.run([sys.executable, "-c", code], check=True)
