"""Let a CPU build of torch import a torchvision that was built for CUDA.

Such a pair fails at ``import torchvision`` with "operator torchvision::nms does not exist": the
compiled library of torchvision cannot be loaded, so the operators that its Python files describe
were never declared. timm and transformers import torchvision and fail with it, although neither
needs its operators here. Declaring the two missing schemas lets everything written in Python work;
calling one of the operators still fails, with torch's own message.

Nothing happens where torchvision imports by itself, or is not installed.
"""

import importlib
import sys
from typing import Any

# Kept alive: torch withdraws the declarations when the library object is collected.
_declared: list[Any] = []

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


def ensure_torchvision_ops() -> bool:
    """Import torchvision, declaring its missing operators first where that is what stops it.

    Call this before the first import of timm, transformers or torchvision. Later calls are free.

    Returns:
        True when operators had to be declared, in this call or an earlier one.

    Raises:
        RuntimeError: torchvision fails to import for another reason than missing operators.
    """
    if _declared:
        return True
    if "torchvision" in sys.modules:
        return False
    try:
        importlib.import_module("torchvision")
    except ImportError:
        return False
    except RuntimeError as error:
        if "operator torchvision::" not in str(error):
            raise
    else:
        return False
    _forget_torchvision()
    _declare()
    importlib.import_module("torchvision")
    return True


def _forget_torchvision() -> None:
    """Drop the half-imported modules, so that the next import starts afresh."""
    for name in list(sys.modules):
        if name == "torchvision" or name.startswith("torchvision."):
            del sys.modules[name]


def _declare() -> None:
    """Declare the schemas without kernels."""
    make_library: Any = importlib.import_module("torch.library").Library
    library = make_library("torchvision", "FRAGMENT")
    for schema in _SCHEMAS:
        library.define(schema)
    _declared.append(library)
