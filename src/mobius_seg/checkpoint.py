"""Models on disk: a folder with ``config.json``, ``model.safetensors`` and ``training.json``.

``mobius-seg calibrate`` adds ``calibration.json``, which belongs to these very weights.

Loading is strict: what is missing, not expected or of another shape is named. Weights are
safetensors only, so that loading a file runs nothing.
"""

import difflib
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobius_seg.config import ModelConfig
from mobius_seg.errors import InputError
from mobius_seg.files import atomic_path, write_text
from mobius_seg.presets import PRESETS, get_preset

if TYPE_CHECKING:
    from torch import Tensor

    from mobius_seg.calibration_file import Calibration
    from mobius_seg.model import Mobius
    from mobius_seg.operating_points import OperatingPoints

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
TRAINING_FILE = "training.json"
CALIBRATION_FILE = "calibration.json"
POINTS_FILE = "operating_points.json"  # see operating_points.py
RUN_MODEL = "model"  # where a training run puts its finished model
SHIPPED = Path(__file__).parent / "weights"

_NAMED = 3  # tensors of each kind that an error message names


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """One line of :func:`list_models`.

    Attributes:
        name: of the preset.
        config: its configuration, with its stated parameters and GMAC.
        shipped: whether its weights are part of this installation.
    """

    name: str
    config: ModelConfig
    shipped: bool


def list_models() -> list[ModelInfo]:
    """Every preset, and whether :func:`mobius_seg.load` finds weights for it."""
    return [
        ModelInfo(name=name, config=get_preset(name), shipped=is_shipped(name)) for name in PRESETS
    ]


def is_shipped(name: str) -> bool:
    """Whether the weights of a preset are part of this installation."""
    return name in PRESETS and (SHIPPED / name / WEIGHTS_FILE).is_file()


def save_model(
    network: "Mobius",
    folder: str | Path,
    training: dict[str, Any] | None = None,
    float16: bool = True,
) -> None:
    """Write a network so that :func:`load_model` gives it back with no further argument.

    Each file is replaced whole. A calibration or operating points that lie there belong to other
    weights and are removed.

    Args:
        network: its weights and its configuration are written.
        folder: made if it is not there.
        training: what the weights were made from (assets, steps, seed...), JSON-ready.
        float16: store matrices and kernels in half precision; vectors (biases, norms, their running
            statistics) stay in float32, since they cost little and may be large.

    Raises:
        InputError: the folder cannot be written.
    """
    from safetensors.torch import save_file

    tensors = {key: _to_stored(value, float16) for key, value in network.state_dict().items()}
    folder = Path(folder)
    try:
        with atomic_path(folder / WEIGHTS_FILE) as temporary:
            save_file(tensors, temporary, metadata={"format": "pt", "model": network.config.name})
        (folder / CALIBRATION_FILE).unlink(missing_ok=True)
        network.config.save(folder / CONFIG_FILE)
        (folder / POINTS_FILE).unlink(missing_ok=True)
        if training is not None:
            write_text(folder / TRAINING_FILE, json.dumps(training, indent=2) + "\n")
    except OSError as error:
        raise InputError(f"{folder}: cannot be written: {error.strerror or error}") from None


def load_model(name: str | Path, *, random_weights: bool = False, seed: int = 0) -> "Mobius":
    """Build a network and give it its weights.

    Args:
        name: a shipped model, a folder that :func:`save_model` wrote, or that of a training run.
        random_weights: instead, the preset ``name`` with random weights, for tests and timing.
        seed: of the random weights.

    Returns:
        The network on the CPU, in float32 and evaluation mode.

    Raises:
        InputError: no such model, or its files are broken or belong to another network.
    """
    if random_weights:
        return _build_random(get_preset(str(name)), seed)
    folder = find_folder(name)
    config = read_config(folder)
    tensors = _read_tensors(folder / WEIGHTS_FILE)
    network = _build(config, folder)
    _check_fit(tensors, network.state_dict(), folder / WEIGHTS_FILE)
    network.load_state_dict(tensors, strict=True)
    return network.eval()


def load_calibration(name: str | Path) -> "Calibration | None":
    """The calibration in a model's folder, None where it has none.

    Args:
        name: of the model, as for :func:`load_model`.

    Raises:
        InputError: there is no such model, or the file is broken or belongs to another one.
    """
    from mobius_seg.calibration_file import Calibration

    folder = find_folder(name)
    path = folder / CALIBRATION_FILE
    if not path.exists():
        return None
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from None
    calibration = Calibration.from_json(text, str(path))
    stages = read_config(folder).decoder_layers + 1
    calibration.check_fit(stages, weights_digest(folder), str(path))
    return calibration


def save_calibration(calibration: "Calibration", folder: str | Path) -> Path:
    """Write a calibration into a model's folder, whole or not at all.

    Operating points that lie there were tuned with other maps and are removed, unless the
    calibration is the one that is there.

    Returns:
        The file.

    Raises:
        InputError: it cannot be written.
    """
    path, text = Path(folder) / CALIBRATION_FILE, calibration.to_json()
    try:
        if not path.exists() or path.read_bytes() != text.encode():
            (Path(folder) / POINTS_FILE).unlink(missing_ok=True)
        write_text(path, text)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from None
    return path


def weights_digest(folder: Path) -> str:
    """SHA-256 of a model folder's weight file."""
    with (folder / WEIGHTS_FILE).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_operating_points(name: str | Path) -> "OperatingPoints":
    """The operating points stored with a model; static ones where it has not been tuned.

    Args:
        name: as for :func:`load_model`.

    Raises:
        InputError: no such model, or the file is broken, belongs to another network or was tuned
            with other weights or score maps.
    """
    from mobius_seg.operating_points import load_points
    from mobius_seg.static_points import static_points

    folder = find_folder(name)
    config = read_config(folder)
    if not (folder / POINTS_FILE).exists():
        return static_points(config)
    points, calibration = load_points(folder, config), load_calibration(name)
    maps = None if calibration is None else calibration.digest()
    points.check_scale(maps, weights_digest(folder), str(folder / POINTS_FILE))
    return points


def find_folder(name: str | Path) -> Path:
    """Folder of a model's files.

    Raises:
        InputError: the name is neither a shipped model nor a folder with weights.
    """
    if str(name) in PRESETS:
        if not is_shipped(str(name)):
            raise InputError(
                f"no weights of {str(name)!r} are part of this installation; {_shipped_text()},"
                f" or train it: mobius-seg train --preset {name} --out RUN, then load RUN"
            )
        return SHIPPED / str(name)
    folder = Path(name)
    if not str(name):
        raise InputError("the model's name is empty; allowed: a shipped model or a model's folder")
    if folder.is_file():
        raise InputError(f"{folder}: is a file; give the folder that holds {WEIGHTS_FILE}")
    if not folder.is_dir():
        near = difflib.get_close_matches(str(name), PRESETS, n=1)
        meant = f"; did you mean {near[0]}?" if near else ""
        raise InputError(
            f"unknown model {str(name)!r}: neither a folder nor one of {', '.join(PRESETS)}"
            f" ({_shipped_text()}){meant}"
        )
    if not (folder / WEIGHTS_FILE).exists() and (folder / RUN_MODEL).is_dir():
        folder = folder / RUN_MODEL
    for file in (CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / file).is_file():
            raise InputError(f"{folder}: is no model folder, it holds no {file}{_hint(folder)}")
    return folder


def _hint(folder: Path) -> str:
    """Where else a run keeps a model, if it has got that far."""
    snapshots = sorted(folder.glob(f"snapshots/*/{WEIGHTS_FILE}"))
    return f"; the newest snapshot of this run is {snapshots[-1].parent}" if snapshots else ""


def read_config(folder: Path) -> ModelConfig:
    """The configuration of a model folder.

    Raises:
        InputError: the file cannot be read or is no configuration.
    """
    path = folder / CONFIG_FILE
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from None
    try:
        return ModelConfig.from_json(text, str(path))
    except InputError as error:
        raise InputError(_named(path, error)) from None


def _named(path: Path, error: InputError) -> str:
    """An error's message that begins with the file."""
    return str(error) if str(error).startswith(str(path)) else f"{path}: {error}"


def _shipped_text() -> str:
    """Which weights there are, in words."""
    shipped = [name for name in PRESETS if is_shipped(name)]
    return f"weights are shipped for {', '.join(shipped)}" if shipped else "no weights are shipped"


def _build_random(config: ModelConfig, seed: int) -> "Mobius":
    """Random weights from a seed, without touching the process's own random state."""
    import torch

    from mobius_seg.model import Mobius

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Mobius(config).eval()


def _build(config: ModelConfig, folder: Path) -> "Mobius":
    """The network of a configuration that came from a file."""
    try:
        return _build_random(config, 0)
    except InputError as error:
        raise InputError(_named(folder / CONFIG_FILE, error)) from None
    except (RuntimeError, ValueError, TypeError, KeyError) as error:
        reason = str(error).split("\n")[0]
        raise InputError(f"{folder / CONFIG_FILE}: no network can be built: {reason}") from None


def _to_stored(tensor: "Tensor", float16: bool) -> "Tensor":
    """A tensor as it is written: contiguous, on the CPU, halved where nothing is lost to it."""
    import torch

    tensor = tensor.detach().cpu().contiguous()
    if not float16 or tensor.dtype != torch.float32 or tensor.ndim < 2:
        return tensor.clone()
    half = tensor.half()
    return half if bool(torch.isfinite(half).all()) else tensor.clone()


def _read_tensors(path: Path) -> "dict[str, Tensor]":
    """All tensors of a weight file, floating-point ones in float32 and checked to be finite."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{path}: not a readable safetensors file: {error}") from None
    for key, tensor in tensors.items():
        if tensor.is_floating_point():
            tensors[key] = tensor.float()
            if not bool(torch.isfinite(tensors[key]).all()):
                raise InputError(f"{path}: tensor {key} holds values that are not finite")
    return tensors


def _check_fit(found: "dict[str, Tensor]", wanted: "dict[str, Tensor]", path: Path) -> None:
    """Name what keeps the tensors from being this network's."""
    problems = []
    missing = sorted(set(wanted) - set(found))
    unexpected = sorted(set(found) - set(wanted))
    other = [
        f"{key} {list(found[key].shape)} instead of {list(wanted[key].shape)}"
        for key in sorted(set(found) & set(wanted))
        if found[key].shape != wanted[key].shape
    ]
    kinds = [
        f"{key} {str(found[key].dtype)[6:]} instead of {str(wanted[key].dtype)[6:]}"
        for key in sorted(set(found) & set(wanted))
        if found[key].is_floating_point() != wanted[key].is_floating_point()
    ]
    for title, keys in (
        ("missing", missing),
        ("not expected", unexpected),
        ("of another shape", other),
        ("of another type", kinds),
    ):
        if keys:
            more = f" and {len(keys) - _NAMED} more" if len(keys) > _NAMED else ""
            problems.append(f"{title}: {', '.join(keys[:_NAMED])}{more}")
    if problems:
        raise InputError(f"{path}: not the weights of its {CONFIG_FILE}; {'; '.join(problems)}")
