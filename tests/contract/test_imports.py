"""Importing the package costs nothing and changes nothing."""

import json
import subprocess
import sys

import pytest

HEAVY = {
    "torch", "torchvision", "timm", "transformers", "sentence_transformers", "numpy", "PIL",
    "pycocotools", "faster_coco_eval", "accelerate", "cv2", "scipy", "matplotlib", "tensorboard",
    "vtk", "vtkmodules", "supervision", "open_clip", "onnx", "onnxruntime", "triton", "pandas",
}  # fmt: skip
LIGHT_MODULES = ("errors", "files", "presets", "config", "cli")


def _after(code: str) -> dict[str, object]:
    """Run ``code`` in a fresh interpreter; top-level modules and environment changes after it."""
    program = (
        "import json, os, sys; before = dict(os.environ)\n"
        f"{code}\n"
        "modules = sorted({name.partition('.')[0] for name in sys.modules})\n"
        "print(json.dumps({'modules': modules, 'changed': before != dict(os.environ)}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    result: dict[str, object] = json.loads(done.stdout)
    return result


def test_package_import_is_light() -> None:
    after = _after("import mobius_seg")
    assert not HEAVY & set(after["modules"])
    assert not after["changed"]


@pytest.mark.parametrize("module", LIGHT_MODULES)
def test_module_import_leaves_torch_alone(module: str) -> None:
    after = _after(f"import mobius_seg.{module}")
    assert not (HEAVY - {"numpy"}) & set(after["modules"])


def test_unknown_attribute_is_an_attribute_error() -> None:
    import mobius_seg

    with pytest.raises(AttributeError, match="no_such_name"):
        mobius_seg.no_such_name  # noqa: B018
