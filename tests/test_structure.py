"""The shape of the code: who may import whom, how long things are, what importing may do."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

LEAVES = {"nexusquant.chat_config", "nexusquant.config", "nexusquant.errors"}
# who may import whom; the leaves are open to everyone
ALLOWED = {
    "nexusquant.chat_config": set(),
    "nexusquant.config": set(),
    "nexusquant.errors": set(),
    "nexusquant.lattice": set(),
    "nexusquant.kernels": {"nexusquant.lattice"},
    "nexusquant.eviction": set(),
    "nexusquant.hf": {"nexusquant.kernels", "nexusquant.lattice"},
    "nexusquant.cache": {
        *("nexusquant.hf", "nexusquant.kernels", "nexusquant.eviction", "nexusquant.lattice"),
    },
    "nexusquant.engine": {"nexusquant.cache", "nexusquant.hf"},
    "nexusquant.documents": {"nexusquant.engine"},
    # the public API of the package: what scripts use
    "nexusquant": {"nexusquant.cache", "nexusquant.engine"},
    "ui": {"nexusquant.documents", "nexusquant.engine"},
    "app": {"ui", "nexusquant.engine"},
    "launch": {"launch_checks", "launch_install"},
    "launch_install": {"launch_checks"},
    "launch_checks": set(),
}
# libraries that a package must do without
FORBIDDEN = {
    "nexusquant.chat_config": {"torch", "transformers", "gradio"},
    "nexusquant.config": {"torch", "transformers", "gradio"},
    "nexusquant.errors": {"torch", "transformers", "gradio"},
    "nexusquant.lattice": {"transformers", "gradio"},
    "nexusquant.kernels": {"transformers", "gradio"},
    "nexusquant.eviction": {"transformers", "gradio"},
    "nexusquant.hf": {"gradio"},
    "nexusquant.cache": {"gradio"},
    "nexusquant.engine": {"gradio"},
    "nexusquant.documents": {"torch", "transformers", "gradio"},
    "nexusquant": {"gradio"},
    "ui": {"torch", "transformers"},
    "app": {"torch", "transformers"},
}
NEVER_IMPORTED = {"tests", "benchmarks"}

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 50
MAX_KERNEL_LINES = 150


def product_files() -> list[Path]:
    files = [ROOT / "app.py", *ROOT.glob("launch*.py")]
    files += [path for name in ("nexusquant", "ui") for path in (ROOT / name).rglob("*.py")]
    return sorted(path for path in files if path.exists())


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def package_of(module: str) -> str:
    """Return the entry of ALLOWED that `module` belongs to, or its first name."""
    parts = module.split(".")
    names = [".".join(parts[:length]) for length in (2, 1)]
    return next((name for name in names if name in ALLOWED), parts[0])


def imported_modules(tree: ast.AST, module: str, is_package: bool) -> Iterator[tuple[str, str]]:
    """Yield (module, name) of each import, also those inside functions and relative ones."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = module.split(".")
            base = base[: len(base) - node.level + is_package] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            yield from ((source, alias.name) for alias in node.names)


def imports_of(path: Path) -> list[tuple[str, str]]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = imported_modules(tree, module_name(path), path.name == "__init__.py")
    # `from nexusquant import cache` imports the package nexusquant.cache
    return [
        (f"{source}.{name}", "") if f"{source}.{name}" in ALLOWED else (source, name)
        for source, name in found
    ]


def wrong_arrows(path: Path) -> list[str]:
    package = package_of(module_name(path))
    allowed = ALLOWED[package] | LEAVES | {package}
    found = []
    for source, _ in imports_of(path):
        target, library = package_of(source), source.split(".")[0]
        is_ours = target in ALLOWED
        if (is_ours and target not in allowed) or library in NEVER_IMPORTED:
            found.append(f"{package} imports {source}")
        if library in FORBIDDEN.get(package, ()):
            found.append(f"{package} imports {library}")
    return found


def private_names(path: Path) -> list[str]:
    """List `_names` that this file takes from another package, by import or as an attribute."""
    package = package_of(module_name(path))
    foreign = [
        (source, name)
        for source, name in imports_of(path)
        if package_of(source) in ALLOWED and package_of(source) != package
    ]
    full_names = [f"{source}.{name}".rstrip(".") for source, name in foreign]
    found = [name for name in full_names if any(part[0] == "_" for part in name.split("."))]
    modules = {name.split(".")[-1] for name in full_names}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            is_private = node.attr.startswith("_") and not node.attr.endswith("__")
            if is_private and node.value.id in modules:
                found.append(f"{node.value.id}.{node.attr}")
    return found


def long_functions(path: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            is_kernel = any("jit" in ast.unparse(mark) for mark in node.decorator_list)
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > (MAX_KERNEL_LINES if is_kernel else MAX_FUNCTION_LINES):
                found.append(f"{node.name}: {length} lines")
    return found


FILES = product_files()
each_file = pytest.mark.parametrize("path", FILES, ids=[str(p.relative_to(ROOT)) for p in FILES])


@each_file
def test_imports_follow_the_arrows_of_the_design(path):
    assert wrong_arrows(path) == []


@each_file
def test_no_private_name_crosses_a_package_border(path):
    assert private_names(path) == []


@each_file
def test_files_and_functions_stay_readable(path):
    num_lines = len(path.read_text(encoding="utf-8").splitlines())
    assert num_lines <= MAX_FILE_LINES
    assert long_functions(path) == []


def test_every_package_has_its_place_in_the_table():
    folders = [path for path in (ROOT / "nexusquant").iterdir() if (path / "__init__.py").exists()]
    modules = [path for path in (ROOT / "nexusquant").glob("*.py") if path.stem != "__init__"]
    assert {module_name(path) for path in folders + modules} <= ALLOWED.keys()


@pytest.mark.parametrize(
    ("place", "line", "complaint"),
    [
        ("nexusquant/lattice/x.py", "from nexusquant.cache import y", "nexusquant.cache"),
        ("nexusquant/lattice/x.py", "from ..cache import y", "nexusquant.cache"),
        ("nexusquant/engine/x.py", "def f():\n    import gradio.themes", "gradio"),
        ("nexusquant/documents/x.py", "from nexusquant import cache", "nexusquant.cache"),
        ("nexusquant/cache/x.py", "import nexusquant", "nexusquant"),
        ("ui/x.py", "import torch", "torch"),
        ("ui/x.py", "from nexusquant.cache.usage import CacheUsage", "nexusquant.cache.usage"),
        ("nexusquant/engine/x.py", "from benchmarks import run", "benchmarks"),
    ],
)
def test_a_wrong_arrow_is_found(tmp_path, monkeypatch, place, line, complaint):
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    path = tmp_path / place
    path.parent.mkdir(parents=True)
    path.write_text(line)
    package = package_of(module_name(path))
    assert wrong_arrows(path) == [f"{package} imports {complaint}"]


def test_a_private_name_of_another_package_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    path = tmp_path / "ui" / "x.py"
    path.parent.mkdir()
    path.write_text(
        "from nexusquant.engine import events, _hidden\nfrom ui.a import _own\nevents._b\n"
    )
    assert private_names(path) == ["nexusquant.engine._hidden", "events._b"]


def test_test_files_have_different_names():
    # pytest imports them by their bare names
    names = Counter(path.name for path in (ROOT / "tests").rglob("*.py"))
    names.subtract(["conftest.py"] * names["conftest.py"])
    assert [name for name, count in names.items() if count > 1] == []


def test_the_code_passes_ruff():
    command = [sys.executable, "-m", "ruff", "check", "--no-cache", "--output-format", "concise"]
    result = subprocess.run([*command, "."], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


LOOK_AROUND_AN_IMPORT = """
import json, sys
from transformers import AttentionInterface, modeling_utils, cache_utils
from transformers.masking_utils import AttentionMaskInterface
import torch

def registries():
    return {
        "attention": sorted(AttentionInterface()),
        "masks": sorted(AttentionMaskInterface()),
        "cache": sorted(f"{n}={id(v)}" for n, v in vars(cache_utils.Cache).items()),
        "layer": sorted(f"{n}={id(v)}" for n, v in vars(cache_utils.DynamicLayer).items()),
        "model": sorted(f"{n}={id(v)}" for n, v in vars(modeling_utils.PreTrainedModel).items()),
    }

before = registries()
import nexusquant
after = registries()
print(json.dumps({
    "changed": [name for name in before if before[name] != after[name]],
    "num_attention": len(before["attention"]),
    "cuda": torch.cuda.is_initialized(),
    "gradio": "gradio" in sys.modules,
    "kernels": [n for n in sys.modules if n.startswith("nexusquant.kernels") and "triton" in n],
}))
"""


def test_importing_the_library_touches_no_gpu_no_gradio_and_nothing_of_transformers():
    command = [sys.executable, "-c", LOOK_AROUND_AN_IMPORT]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert result.returncode == 0, result.stderr
    seen = json.loads(result.stdout.splitlines()[-1])
    # an empty registry would mean that the look at it no longer works
    assert seen.pop("num_attention") > 1
    assert seen == {"changed": [], "cuda": False, "gradio": False, "kernels": []}
