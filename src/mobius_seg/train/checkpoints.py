"""Checkpoints that are whole or not there, and from which a run goes on exactly.

A checkpoint is a folder ``step-N`` of safetensors files and a ``state.json``. It is written beside
and renamed, then ``latest.json`` is replaced to point to it; older ones are removed last.
"""

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from mobius_seg.errors import InputError
from mobius_seg.files import write_text
from mobius_seg.loss_config import FIRST_LOSS
from mobius_seg.train.settings import COMPOSED_RATIOS, TrainConfig
from mobius_seg.train.switches import flatten

State = dict[str, Any]


def save_checkpoint(
    folder: Path,
    state: State,
    network: nn.Module,
    average: AveragedModel | None,
    optimizer: torch.optim.Optimizer,
) -> Path:
    """Write a checkpoint of a step.

    Args:
        folder: where checkpoints live.
        state: JSON-able facts; ``state["step"]`` names the checkpoint.
        network: the weights being trained.
        average: their moving average, None where there is none.
        optimizer: its moments are stored by parameter name.

    Returns:
        The checkpoint's folder.
    """
    final = folder / f"step-{state['step']:08d}"
    if final.is_dir() and _latest(folder) == final.name:
        return final  # a step has one state, and the only checkpoint is not put at risk
    temporary = folder / f".{final.name}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    save_file(_tensors(network.state_dict()), temporary / "network.safetensors")
    if average is not None:
        averaged = _tensors(average.module.state_dict())
        averaged["n_averaged"] = average.n_averaged.detach().clone()
        save_file(averaged, temporary / "average.safetensors")
    moments = {
        f"{name}|{key}": value.detach().cpu().contiguous()
        for name, parameter in _named(network, optimizer)
        for key, value in optimizer.state.get(parameter, {}).items()
    }
    save_file(moments, temporary / "optimizer.safetensors")
    (temporary / "state.json").write_text(json.dumps(state), encoding="utf-8")
    shutil.rmtree(final, ignore_errors=True)
    temporary.rename(final)
    write_text(folder / "latest.json", json.dumps({"checkpoint": final.name}) + "\n")
    for old in folder.glob("step-*"):
        if old != final:
            shutil.rmtree(old, ignore_errors=True)
    return final


def _latest(folder: Path) -> str | None:
    """Name of the last checkpoint."""
    try:
        name = json.loads((folder / "latest.json").read_text(encoding="utf-8"))["checkpoint"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return str(name)


def check_same_run(file: Path, config: TrainConfig) -> None:
    """Refuse to go on with a run under settings that make it another run.

    Length, intervals, rates and loader settings may change on the way; what decides which network
    sees which pictures may not.

    Args:
        file: ``run.json`` of the run.
        config: the settings asked for.

    Raises:
        InputError: names the first setting that differs.
    """
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return  # nothing to compare with; the checkpoint itself is checked when it is read
    asked = json.loads(config.to_json())
    # Of runs that say nothing about them.
    known: dict[str, Any] = {
        "loss": dataclasses.asdict(FIRST_LOSS),
        "overrides": {},
        **dict.fromkeys(COMPOSED_RATIOS, 0.0),
        "mixture": [],
        "recipe": None,
    }
    fields = ["preset", "seed", "batch_size", "annotations", *known]
    if asked["recipe"] is not None:
        fields.append("steps")  # which place the borders of the stages
    for field in fields:
        if field not in stored and field not in known:
            continue
        begun = flatten({field: _completed(stored.get(field, {}), known.get(field))})
        now = flatten({field: asked[field]})
        for key in sorted(begun.keys() | now.keys()):
            if begun.get(key) != now.get(key):
                raise InputError(
                    f"{file.parent}: was begun with {key} {begun.get(key)!r}, not {now.get(key)!r};"
                    " give the same, or choose another --out"
                )


def _completed(stored: Any, defaults: Any) -> Any:
    """What a run was begun with; fields that it does not name yet had their defaults."""
    if not isinstance(stored, dict) or not isinstance(defaults, dict):
        return stored
    return defaults | {key: _completed(stored[key], defaults.get(key)) for key in stored}


def load_checkpoint(
    folder: Path,
    network: nn.Module,
    average: AveragedModel | None,
    optimizer: torch.optim.Optimizer,
) -> State:
    """Restore the last checkpoint into its parts.

    Args:
        folder: where checkpoints live.
        network: filled in place, as the other two.
        average: moving average, None where there is none.
        optimizer: its moments.

    Returns:
        The stored state.

    Raises:
        InputError: there is no checkpoint, or it does not fit this run.
    """
    pointer = folder / "latest.json"
    if not pointer.is_file():
        raise InputError(f"{folder}: no checkpoint to resume from; start without --resume")
    try:
        last = folder / json.loads(pointer.read_text(encoding="utf-8"))["checkpoint"]
        state: State = json.loads((last / "state.json").read_text(encoding="utf-8"))
        network.load_state_dict(load_file(last / "network.safetensors"))
        if average is not None:
            averaged = load_file(last / "average.safetensors")
            average.n_averaged.copy_(averaged.pop("n_averaged"))
            average.module.load_state_dict(averaged)
        moments = load_file(last / "optimizer.safetensors")
    except (OSError, KeyError, ValueError, RuntimeError, SafetensorError) as error:
        first = str(error).splitlines()[0]
        raise InputError(f"{folder}: the checkpoint cannot be resumed here ({first})") from None
    known = dict(_named(network, optimizer))
    for key, value in moments.items():
        name, _, entry = key.rpartition("|")
        if name not in known:
            raise InputError(f"{folder}: optimiser state of unknown parameter {name!r}")
        parameter = known[name]
        place = torch.device("cpu") if entry == "step" else parameter.device
        optimizer.state[parameter][entry] = value.to(place)
    return state


def _named(
    network: nn.Module, optimizer: torch.optim.Optimizer
) -> Iterator[tuple[str, nn.Parameter]]:
    """Parameters that the optimiser holds, with their names."""
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in network.named_parameters():
        if id(parameter) in held:
            yield name, parameter


def _tensors(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous CPU copies, so that formats and shared storage do not matter."""
    return {key: value.detach().cpu().contiguous().clone() for key, value in state.items()}
