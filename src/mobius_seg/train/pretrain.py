"""Teach a backbone the names before the masks: given masks, one softmax over all names.

Full training looks at some fifty objects a second on two cores, and most of its work goes into
masks. Here only the backbone and the name map run, and each object is named among all names under
its true mask: more objects a second, and no other loss in the gradient. What a backbone from
ImageNet cannot do is to keep neighbours apart, so pictures begin with a single object and fill up
(docs/experiments.md has the figures).
"""

import dataclasses
import datetime
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mobius_seg.backbone import load_imagenet
from mobius_seg.checkpoint import RUN_MODEL, TRAINING_FILE, find_folder, load_model, save_model
from mobius_seg.data.pack import Pack
from mobius_seg.errors import InputError
from mobius_seg.files import atomic_path, write_text
from mobius_seg.model import Mobius
from mobius_seg.presets import get_preset
from mobius_seg.segment_files import make_folder
from mobius_seg.stops import polite_stop
from mobius_seg.train.crowds import STAGES, CrowdBatches, base_rows
from mobius_seg.train.pretrain_loop import NamesRun
from mobius_seg.train.pretrain_settings import PretrainConfig
from mobius_seg.train.record import pretrained_sources, read_record
from mobius_seg.train.settings import BACKBONE_FILE, PRETRAINING_FILE

_PARTS = ("backbone.", "name_map.", "text_projection.", "text_mean")


def pretrain(config: PretrainConfig) -> Path:
    """Train the backbone and the name map of a preset to name objects whose masks are given.

    Args:
        config: the run.

    Returns:
        ``config.out / "backbone.safetensors"``, for ``mobius-seg train --backbone``; with
        ``config.weights`` the model's folder, for ``mobius-seg train --weights``.

    Raises:
        InputError: the pack, the preset, the weights or the teacher cannot be used, or
            ``config.out`` holds a model or a run already, or nothing to resume.
        KeyboardInterrupt: the run was stopped; with ``resume`` it goes on.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    _check_start(config)
    previous = None
    if config.weights is not None:
        previous = read_record(find_folder(config.weights), TRAINING_FILE)
    teacher = None if config.teacher is None else load_model(config.teacher)
    make_folder(config.out)
    pack = Pack.open(config.pack)
    names_KD = torch.from_numpy(np.asarray(pack.name_embeddings, dtype=np.float32))[base_rows(pack)]
    network, start = _start(config, names_KD)
    drawn = start == "random" and config.weights is None
    network.backbone.freeze_norm = not drawn
    network.backbone.freeze(0 if drawn else config.freeze_stride)
    runner = NamesRun(config, network, names_KD, teacher)
    stride = network.config.name_stride
    stages = STAGES if config.weights is None else STAGES[-1:]
    ends = [stage.start for stage in stages[1:]] + [1.0]
    with polite_stop(runner):
        for stage, end in zip(stages, ends, strict=True):
            runner.go(CrowdBatches(pack, config, stage, name_stride=stride), end)
    runner.checkpoint()
    crowded = dataclasses.replace(STAGES[-1], close=0.0)  # as every record before
    judged = CrowdBatches(pack, config, crowded, "calib", stride)
    record = {
        **_record(config, runner, start),
        "calib_top1": runner.accuracy([judged[i] for i in range(8)]),
        "assets": [*(dict(source) for source in pack.meta.sources), *pretrained_sources(start)],
        "curve": runner.state["log"],
    }
    if config.weights is not None:
        record["previous"] = previous
        save_model(network, config.out / RUN_MODEL, training=record)
        return config.out / RUN_MODEL
    return _write(config.out, network, record)


def _check_start(config: PretrainConfig) -> None:
    """Refuse what cannot be trained, or would replace what is there."""
    if not get_preset(config.preset).name_map:
        raise InputError(f"{config.preset} has no name map to pretrain; allowed: mobius-*")
    if config.resume:
        return
    there = (config.out / "checkpoints" / "latest.json", config.out / BACKBONE_FILE)
    if any(file.exists() for file in there):
        raise InputError(f"{config.out}: holds a run already; add --resume or choose another --out")
    if config.weights is not None and (config.out / RUN_MODEL).exists():
        raise InputError(f"{config.out}: holds a model already; choose another --out")


def _record(config: PretrainConfig, runner: NamesRun, start: str) -> dict[str, Any]:
    """What ran, on what, for how long."""
    record = {
        "settings": {k: v for k, v in dataclasses.asdict(config).items() if k not in _PLACES},
        "start": start,
        "steps": runner.state["step"],
        "images": runner.state["images"],
        "objects": runner.state["objects"],
        "hours": round(runner.state["seconds"] / 3600, 3),
        "device": runner.described,
        "precision": "bf16" if runner.half else "no",
        "seed": config.seed,
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
    }
    if config.teacher is not None:
        record["teacher"] = read_record(find_folder(config.teacher), TRAINING_FILE)
    return record


def _start(config: PretrainConfig, names_KD: Tensor) -> tuple[Mobius, str]:
    """The network that the run begins with, and a word for where its weights came from."""
    if config.weights is not None:
        network = load_model(config.weights)
        if network.config.name != config.preset:
            raise InputError(f"{config.weights}: holds {network.config.name}, not {config.preset}")
        if network.name_map is None:
            raise InputError(f"{config.weights}: has no name map to go on with")
        return network, str(config.weights.name)
    model = get_preset(config.preset)
    network = Mobius(model)
    start = "random"
    if config.pretrained:
        start = load_imagenet(network.backbone, model.backbone, config.pack.parent) or start
    network.fit_text(names_KD)
    return network, start


def load_pretrained(network: Mobius, file: Path, partly: bool = False) -> list[str]:
    """Start a network's backbone, name map and text projection from what :func:`pretrain` wrote.

    Args:
        network: what is filled.
        file: its ``backbone.safetensors``.
        partly: leave out the name map or the text projection where it does not fit the network.

    Returns:
        The parts left out.

    Raises:
        InputError: the file cannot be read, or belongs to another preset.
    """
    try:
        tensors = load_file(file)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{file}: no backbone could be read here: {error}") from None
    if bad := [name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor).all())]:
        raise InputError(f"{file}: tensor {bad[0]!r} holds values that are not finite")
    own = _pretrained_part(network)
    left_out = []
    for part in (("backbone.",), ("name_map.",), ("text_projection.", "text_mean")):
        stored = {k: v for k, v in tensors.items() if k.startswith(part)}
        wanted = {k: v.shape for k, v in own.items() if k.startswith(part)}
        if {k: v.shape for k, v in stored.items()} == wanted:
            network.load_state_dict(stored, strict=False)
        elif partly and part != ("backbone.",):
            left_out.append(part[0].rstrip("."))
        else:
            raise InputError(f"{file}: belongs to another preset than {network.config.name}")
    return left_out


_PLACES = ("out", "pack", "weights", "teacher", "resume")


def _pretrained_part(network: Mobius) -> dict[str, Tensor]:
    return {k: v for k, v in network.state_dict().items() if k.startswith(_PARTS)}


def _write(out: Path, network: Mobius, record: dict[str, Any]) -> Path:
    """The trained part and the record beside it."""
    out.mkdir(parents=True, exist_ok=True)
    tensors = {k: v.detach().cpu().contiguous() for k, v in _pretrained_part(network).items()}
    with atomic_path(out / BACKBONE_FILE) as temporary:
        save_file(tensors, temporary)
    write_text(out / PRETRAINING_FILE, json.dumps(record, indent=2) + "\n")
    return out / BACKBONE_FILE
