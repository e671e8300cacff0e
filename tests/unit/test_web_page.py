"""The browser page without a browser: its modules under Node, and what its files must not hold."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

WEB = Path(__file__).parents[2] / "web"
SOURCES = sorted([*WEB.glob("js/*.js"), WEB / "index.html", WEB / "style.css", WEB / "icon.svg"])
MAX_LINES = 300


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_modules_pass_their_own_tests() -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True)
    if int(version.stdout[1:].split(".")[0]) < 20:
        pytest.skip(f"node is {version.stdout.strip()}; the page's tests need 20")
    from mobius_seg.text import packaged_minilm

    files = sorted(map(str, (WEB / "tests").glob("*.test.js")))
    tokenizer = {**os.environ, "MOBIUS_TOKENIZER": str(packaged_minilm() / "tokenizer.json")}
    done = subprocess.run(
        [node, "--test", *files], capture_output=True, text=True, check=False, env=tokenizer
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr
    assert re.search(r"^. skipped 0$", done.stdout, re.MULTILINE), done.stdout[-1000:]


def test_expected_values_are_what_python_says_now() -> None:
    module = _load(WEB / "tests" / "expected.py")
    stored = json.loads(module.FILE.read_text(encoding="utf-8"))
    current = json.loads(json.dumps(module.expected()))
    assert list(stored) == list(current)
    for key, cases in current.items():
        _assert_close(stored[key], cases, key)


def _assert_close(stored: Any, current: Any, where: str) -> None:
    """Numbers with a decimal point within rounding, everything else equal."""
    if isinstance(current, float):
        assert stored == pytest.approx(current, abs=1e-6), where
    elif isinstance(current, dict):
        assert list(stored) == list(current), where
        for key in current:
            _assert_close(stored[key], current[key], f"{where}.{key}")
    elif isinstance(current, list) and any(isinstance(v, float | dict | list) for v in current):
        assert len(stored) == len(current), where
        for i, value in enumerate(current):
            _assert_close(stored[i], value, f"{where}[{i}]")
    else:
        assert stored == current, where


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_nothing_is_asked_of_other_hosts(path: Path) -> None:
    text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
    assert not re.findall(r"(?:https?:)?//[\w-]+\.[\w.]+", text)
    assert len(text.splitlines()) <= MAX_LINES


def test_the_page_keeps_its_policy() -> None:
    page = (WEB / "index.html").read_text(encoding="utf-8")
    policy = _load(WEB / "serve.py")._POLICY.search(page)
    assert policy is not None
    assert policy.group(1).startswith("default-src 'none'; ")
    assert not re.findall(r"unsafe-inline|'unsafe-eval'|\*|data:", policy.group(1))
    assert not re.findall(r"\sstyle=|\son\w+=|<style|<script(?![^>]* src=)", page)


def test_the_lock_file_names_no_host_and_pins_everything() -> None:
    package = json.loads((WEB / "package.json").read_text())
    wanted = {**package["dependencies"], **package["devDependencies"]}
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", version) for version in wanted.values())
    lock = json.loads((WEB / "package-lock.json").read_text())["packages"]
    for name, version in wanted.items():
        assert lock[f"node_modules/{name}"]["version"] == version
    for name, entry in lock.items():
        assert not name or entry["integrity"].startswith("sha512-"), name
        assert entry.get("resolved", "https://registry.npmjs.org/").startswith(
            "https://registry.npmjs.org/"
        )
