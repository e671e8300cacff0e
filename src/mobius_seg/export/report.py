"""Measures an exported folder against its network and writes ``parity.json``."""

import json
from pathlib import Path
from typing import Any

from mobius_seg.errors import InputError
from mobius_seg.export.chain import CHAIN, ChainSession
from mobius_seg.export.chain_parity import chain_cases
from mobius_seg.export.graph import ExportGraph
from mobius_seg.export.parity import (
    BATCHES,
    NAME_COUNTS,
    ap_difference,
    judge,
    known_texts,
    parity_images,
    tensor_cases,
)
from mobius_seg.export.runtime import ExportedModel, open_sessions
from mobius_seg.export.session import Session
from mobius_seg.export.session_torch import TorchSession
from mobius_seg.export.spec import PARITY_FILE, TEXT, ExportSpec
from mobius_seg.files import write_text
from mobius_seg.terminal import make_console
from mobius_seg.text_features import TextEncoder

_REFERENCES = {
    False: "the same module in torch, float32, CPU",
    True: "the package's pruning of the same network in torch, float32, CPU",
}


def measure_parity(
    folder: Path,
    spec: ExportSpec,
    graphs: dict[str, ExportGraph],
    *,
    annotations: Path | None = None,
    images: Path | None = None,
    limit: int = 100,
    threads: int | None = None,
    text_encoder: TextEncoder | None = None,
) -> dict[str, Any]:
    """Compare every graph of a folder with its module, and the whole by AP.

    Args:
        folder: of the export.
        spec: what its ``model.json`` says.
        graphs: the modules by vocabulary.
        annotations: COCO instance file for the AP; None leaves it out.
        images: folder of its pictures.
        limit: only the first so many of them.
        threads: CPU threads of the runtime.
        text_encoder: encodes names; None for the default.

    Returns:
        What ``parity.json`` says; ``passed`` is false where a bar is missed.

    Raises:
        InputError: the annotations or pictures cannot be used.
    """
    assert annotations is None or CHAIN not in spec.facts, "segments have no AP of their own"
    ours: dict[str, Session] = {name: TorchSession(graph) for name, graph in graphs.items()}
    theirs = open_sessions(spec, folder, threads)
    facts = _tensor_facts(spec, graphs, ours, theirs)
    ap: dict[str, Any] = {"reason": "no annotations were given (--parity-annotations)"}
    if annotations is not None and images is not None:
        sides = [ExportedModel(spec, side, text_encoder=text_encoder) for side in (ours, theirs)]
        ap = ap_difference(sides[0], sides[1], annotations, images, limit)
    bars = judge(spec.precision, [row for rows in facts["cases"].values() for row in rows], ap)
    return {
        "model": spec.config.name,
        "weights_sha256": spec.weights["sha256"],
        "runtime": spec.runtime,
        "precision": spec.precision,
        "operating_point": spec.operating_point,
        "reference": _REFERENCES[CHAIN in spec.facts],
        **facts,
        "ap": ap,
        "bars": bars,
        "passed": all(bar["holds"] for bar in bars),
    }


def _tensor_facts(
    spec: ExportSpec,
    graphs: dict[str, ExportGraph],
    ours: dict[str, Session],
    theirs: dict[str, Session],
) -> dict[str, Any]:
    """Every case of every graph, and the inputs of all."""
    height, width = spec.size or (spec.config.input_size // 32 * 32,) * 2
    pictures_B3HW, shown = parity_images(height, width, max(BATCHES))
    cases: dict[str, list[dict[str, Any]]] = {}
    for vocabulary, session in theirs.items():
        texts_KD = None
        if vocabulary == "dynamic":
            config, count = spec.config, _most_names(spec)
            texts_KD = known_texts(config.text_encoder, config.text_dim, count)
        if isinstance(session, ChainSession):
            cases[vocabulary] = chain_cases(graphs[vocabulary], session, pictures_B3HW, texts_KD)
        else:
            cases[vocabulary] = tensor_cases(ours[vocabulary], session, pictures_B3HW, texts_KD)
    return {"inputs": shown, "size": [height, width], "cases": cases}


def _most_names(spec: ExportSpec) -> int:
    """Most names of a case: those that a graph of fixed shapes takes, or the largest count."""
    rows = spec.dynamic.inputs[TEXT][0] if spec.dynamic is not None else None
    return min(rows, max(NAME_COUNTS)) if isinstance(rows, int) else max(NAME_COUNTS)


def write_parity(folder: Path, report: dict[str, Any]) -> Path:
    """Write ``parity.json``, whole or not at all; returns its path.

    Raises:
        InputError: it cannot be written.
    """
    path = folder / PARITY_FILE
    try:
        write_text(path, json.dumps(report, indent=1, allow_nan=False) + "\n")
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from None
    return path


def print_parity(report: dict[str, Any]) -> None:
    """A table of the cases, the AP, and the bars below."""
    from rich.table import Table

    table = Table("graph")
    keys = ("score", "logit", "mask_iou", "mask_iou_min", "box_iou", "classes")
    cases = [(vocabulary, row) for vocabulary, rows in report["cases"].items() for row in rows]
    inputs = ["names", "batch", "picture", "threshold", "queries"]  # the last three of a chain
    inputs = [key for key in inputs if any(key in row for _, row in cases)]
    for title in (*inputs, *keys):
        table.add_column(title.replace("_", " "), justify="right")
    for vocabulary, row in cases:
        shown = (f"{row[key]:.2g}" if key in keys[:2] else f"{row[key]:.4f}" for key in keys)
        table.add_row(vocabulary, *(_text(row.get(key)) for key in inputs), *shown)
    console = make_console()
    console.print(table)
    ap = report["ap"]
    if "difference" in ap:
        console.print(
            f"{ap['figure']} on {ap['images']} pictures, {ap['names']} names: network"
            f" {ap['network']:.2f}, exported {ap['exported']:.2f}, difference"
            f" {ap['difference']:+.3f} points",
            soft_wrap=True,
        )
    else:
        console.print(f"no AP: {ap['reason']}", soft_wrap=True)
    for bar in report["bars"]:
        limit = f"at least {bar['at_least']}" if "at_least" in bar else f"at most {bar['at_most']}"
        verdict = "holds" if bar["holds"] else "MISSED"
        console.print(f"{bar['bar']} {bar['value']:.4f}, {limit}: {verdict}", soft_wrap=True)


def _text(value: Any) -> str:
    """A case's input as it is shown."""
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
