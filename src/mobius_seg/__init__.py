"""Universal instance segmentation from names, an expression, or nothing at all.

>>> import mobius_seg
>>> model = mobius_seg.load("mobius-n")
>>> result = model.predict("photo.jpg", names=["cup", "spoon"])

Importing this package imports neither torch nor any optional package; the public names below are
loaded when they are first used.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mobius_seg.checkpoint import list_models
    from mobius_seg.config import ModelConfig
    from mobius_seg.errors import InputError
    from mobius_seg.instances import Instances
    from mobius_seg.model import Mobius
    from mobius_seg.predictor import Predictor, load
    from mobius_seg.version import __version__

__all__ = [
    "InputError",
    "Instances",
    "Mobius",
    "ModelConfig",
    "Predictor",
    "__version__",
    "list_models",
    "load",
]

_HOMES = {
    "InputError": "errors",
    "Instances": "instances",
    "Mobius": "model",
    "ModelConfig": "config",
    "Predictor": "predictor",
    "__version__": "version",
    "list_models": "checkpoint",
    "load": "predictor",
}


def __getattr__(name: str) -> object:
    """Load a public name from the module it lives in."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names, loaded or not."""
    return sorted({*globals(), *__all__})
