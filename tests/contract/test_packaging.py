"""What the package declares, and that a built wheel stands on its own."""

import ast
import hashlib
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
MAX_CORE_DEPENDENCIES = 10
DISTRIBUTIONS = {  # where the import name is not that of the package
    "PIL": "pillow",
    "cv2": "opencv-python-headless",
    "skimage": "scikit-image",
    "vtkmodules": "vtk",
}
# The text as apache.org and Debian ship it, leading blank line included.
APACHE_SHA256 = "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"


def _project() -> dict[str, Any]:
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return project


def _name(requirement: str) -> str:
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert found is not None
    return re.sub(r"[-_.]+", "-", found[0]).lower()


def test_core_dependencies_are_few_and_explained() -> None:
    dependencies = _project()["dependencies"]
    assert len(dependencies) <= MAX_CORE_DEPENDENCIES
    lines = (ROOT / "pyproject.toml").read_text().splitlines()
    for requirement in dependencies:
        line = next(line for line in lines if line.strip().startswith(f'"{requirement}"'))
        assert "#" in line, f"{requirement} has no reason beside it"


def test_ranges_have_no_upper_end() -> None:
    project = _project()
    extras = project["optional-dependencies"].values()
    for requirement in [*project["dependencies"], *(r for extra in extras for r in extra)]:
        assert not re.search(r"<|==|~=", requirement), requirement


def test_extras_are_there() -> None:
    assert {"train", "eval", "export", "dev"} <= set(_project()["optional-dependencies"])


def test_imports_are_declared() -> None:
    project = _project()
    declared = {_name(r) for r in project["dependencies"]}
    for extra in project["optional-dependencies"].values():
        declared |= {_name(r) for r in extra}
    undeclared = set()
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                modules = [node.module]
            else:
                continue
            for module in (name.partition(".")[0] for name in modules):
                package = DISTRIBUTIONS.get(module, module.replace("_", "-")).lower()
                if module not in sys.stdlib_module_names | {"mobius_seg"}:
                    undeclared |= {package} - declared
    assert not undeclared


def test_constraints_pin_what_ci_installs() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {}
    for line in lines:
        if line and not line.startswith("#"):
            name, _, version = line.partition("==")
            assert version, f"not an exact pin: {line}"
            pinned[_name(name)] = version
    project = _project()
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["train"], *extras["eval"], *extras["dev"]]
    assert not {_name(requirement) for requirement in wanted} - set(pinned)


def test_license_is_apache_2() -> None:
    assert hashlib.sha256((ROOT / "LICENSE").read_bytes()).hexdigest() == APACHE_SHA256
    project = _project()
    assert project["license"] == "Apache-2.0"
    assert "Apache-2.0" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert "license: Apache-2.0" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


def test_versions_agree() -> None:
    import mobius_seg

    version = _project()["version"]
    assert mobius_seg.__version__ == version
    assert f"## [{version}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"version: {version}" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


def test_make_targets_exist() -> None:
    text = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", text, flags=re.MULTILINE))
    assert {"demo", "test", "lint", "type", "ci", "bench", "assets", "train-release"} <= targets
    assert "ci" in (ROOT / ".ci" / "run").read_text()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from the checkout, with the backend of the environment (no download)."""
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", str(out), str(ROOT)], check=True, timeout=300)
    (built,) = out.glob("*.whl")
    return built


@pytest.mark.slow
def test_wheel_holds_the_package_data(wheel: Path) -> None:
    package = ROOT / "src" / "mobius_seg"
    kinds = (".safetensors", ".json", ".typed", ".html", ".css", ".js")
    data = [p for p in package.rglob("*") if p.suffix in kinds]
    wanted = {p.relative_to(package.parent).as_posix() for p in data}
    weights = "mobius_seg/weights/mobius-n"
    wanted |= {f"{weights}/{n}" for n in ("config.json", "model.safetensors", "training.json")}
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert wanted <= names
    assert not [n for n in names if n.startswith(("tests/", "benchmarks/", "docs/"))]


@pytest.mark.slow
def test_wheel_works_outside_the_clone(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--target",
        str(site),
    ]
    subprocess.run([*command, str(wheel)], check=True, timeout=300)
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import numpy, mobius_seg\n"
        "assert mobius_seg.__file__.startswith(sys.argv[1]), mobius_seg.__file__\n"
        "model = mobius_seg.load('mobius-n')\n"
        "found = model.predict(numpy.zeros((48, 64, 3), numpy.uint8), names=['cat'])\n"
        "assert found.masks.shape[1:] == (48, 64), found.masks.shape\n"
    )
    subprocess.run(
        [sys.executable, "-c", program, str(site)], check=True, cwd=tmp_path, timeout=300
    )
