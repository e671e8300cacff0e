"""The measurable part of the house rules."""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
# Absolute folders of somebody's machine; spelt in halves so that this file passes too.
MACHINE_PATH = re.compile(
    "(?<![\\w.~$})])/(?:" + "|".join(["wo" + "rk", "ho" + "me", "ro" + "ot", "Us" + "ers"]) + ")/"
)

Function = ast.FunctionDef | ast.AsyncFunctionDef


def _ids(path: Path) -> str:
    return str(path.relative_to(ROOT / "src"))


def _functions(tree: ast.AST) -> Iterator[Function]:
    return (node for node in ast.walk(tree) if isinstance(node, Function))


def _public(tree: ast.Module) -> Iterator[tuple[str, ast.AST]]:
    """Public functions, classes and methods of a module, forward included."""
    for node in tree.body:
        if isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_"):
            yield node.name, node
            if isinstance(node, ast.ClassDef):
                for item in node.body:
                    if isinstance(item, Function) and not item.name.startswith("_"):
                        yield f"{node.name}.{item.name}", item


def _is_overload(node: ast.AST) -> bool:
    decorators = getattr(node, "decorator_list", [])
    return any(ast.unparse(d).rpartition(".")[2] in ("overload", "setter") for d in decorators)


@pytest.mark.parametrize("path", SOURCES, ids=_ids)
def test_size_of_files_and_functions(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MAX_FILE_LINES
    for node in _functions(ast.parse(text)):
        assert node.end_lineno is not None
        assert node.end_lineno - node.lineno < MAX_FUNCTION_LINES, node.name


@pytest.mark.parametrize("path", SOURCES, ids=_ids)
def test_public_things_are_documented(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree), "the module has no docstring"
    for name, node in _public(tree):
        assert isinstance(node, Function | ast.ClassDef)
        assert _is_overload(node) or ast.get_docstring(node), f"{name} has no docstring"


def test_no_catch_all_modules() -> None:
    assert not [p.name for p in SOURCES if p.stem in ("utils", "util", "helpers", "misc", "common")]


def _tracked() -> list[Path]:
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if done.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in done.stdout.decode().split("\0") if name]


def test_no_machine_paths_in_tracked_files() -> None:
    found = []
    for path in _tracked():
        try:
            text = path.read_text(encoding="utf-8")
        except (UnicodeDecodeError, FileNotFoundError, IsADirectoryError):
            continue
        found += [
            f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}"
            for number, line in enumerate(text.splitlines(), 1)
            if MACHINE_PATH.search(line)
        ]
    assert not found, "\n".join(found)


def test_tracked_files_are_of_reasonable_size() -> None:
    weights = ROOT / "src" / "mobius_seg" / "weights"
    limit = {True: 32 * 2**20, False: 2 * 2**20}
    large = [
        str(path.relative_to(ROOT))
        for path in _tracked()
        if path.is_file() and path.stat().st_size > limit[weights in path.parents]
    ]
    assert not large
