"""Claim: adaptive pruning saves most of the decoder at equal accuracy, better than simpler cuts.

Mask AP against decoder GMAC on val-base, and the share of the full decoder's true positives that
are still there after each stage, for

* ``full``: nothing pruned;
* ``adaptive``: the operating points that were tuned for the model on the calib split (``balanced``
  and ``fast``), and floors learned there at several shares of lost true positives;
* at the cost of each of them on the calib split: ``fixed`` (of the schedules of queries and layers
  for all images alike that cost as much, the one that loses least there), ``random`` (as many
  queries and layers, the queries drawn), ``oracle`` (as many, those first that end as true
  positives of the full decoder, names aside) and ``uncalibrated`` (raw scores: one floor for all
  stages; caps, last layer and early stop are those of the policy);
* ``static``: the static operating points of the model, where it was tuned for them (``graphs``:
  what its exports prune);
* ``layers``: fewer layers with all queries.

``verdict``: what each operating point loses against ``full``, and whether it is better than each of
``fixed``, ``random`` and ``uncalibrated`` at its cost; ``static_loss`` is that of the static point.

Every cell is really run, image by image, and stored when it is done, so that a run may be cut off
and started again. Floors are learned once and stored with the cells.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from runs import run_script

import mobius_seg
from conditions import RESULTS, ROOT, conditions, store
from mobius_seg.calibration_file import NAMES
from mobius_seg.data.coco import CocoData, load_sized, read_coco
from mobius_seg.data.compose import write_dataset
from mobius_seg.evaluate.ap import MAX_DETECTIONS, ApScorer
from mobius_seg.jobs import Limits, read_instances, read_job
from mobius_seg.option_kinds import count, threads
from mobius_seg.planner import prompt_shape
from mobius_seg.predict_arguments import check_size
from mobius_seg.predictor import Predictor
from mobius_seg.prompts import Prompt
from mobius_seg.pruned_decoder import PrunedOutput, Ranker, decode, image_output
from mobius_seg.pruning import IdentityMaps, PruningPolicy, StageMaps
from mobius_seg.pruning_candidates import (
    THRESHOLDS,
    learn_floors,
    mean_decoder_gmac,
    simulated,
)
from mobius_seg.pruning_record import (
    ImageRecord,
    match,
    record_image,
    simulate,
)
from val_sets import val_set

SHARES = (0.05, 0.01, 0.18)  # most telling first
METHODS = ("adaptive", "fixed", "uncalibrated", "random", "oracle")
RIVALS = ("fixed", "random", "uncalibrated")
LEAST = 4
ENDS = (1.0, 0.5, 0.25)  # queries of the last layer of a schedule through those of the first
Values = dict[str, Any]


@dataclass
class Data:
    """A data set and how it is asked."""

    coco: CocoData
    folder: Path
    rows: range
    size: int

    def jobs(self) -> Iterator[tuple[int, Any]]:
        """Row and prepared picture, asked for all names."""
        prompt = Prompt(names=tuple(self.coco.names))
        for row in self.rows:
            picture = load_sized(self.coco.images[row], self.folder, self.coco.path)
            yield row, read_job(picture, row, prompt, self.size, None)


def main() -> None:
    """Run what is missing and store ``results/pruning.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="mobius-n", help="shipped model or folder of weights")
    parser.add_argument("--pack", type=Path, default=ROOT / "assets" / "pack.safetensors")
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "val")
    parser.add_argument(
        "--calib", type=count, default=200, help="scenes that floors are learned on"
    )
    parser.add_argument("--limit", type=count, help="only the first so many val scenes")
    parser.add_argument("--val", type=Path, help="another data set (a folder), for trials")
    parser.add_argument("--size", type=count, help="input size, default the model's own")
    parser.add_argument("--threads", type=threads, default=2)
    parser.add_argument("--out", default="pruning", help="name of the results file")
    parser.add_argument("--cells", type=count, help="stop after so many cells")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = mobius_seg.load(options.model)
    size = options.size or model.config.input_size
    check_size(size)
    name = Path(options.model).name
    experiment = Experiment(
        name=name,
        model=model,
        val=_val(options, size),
        calib=lambda: _calib(options),
        setting={"size": size, "calib": options.calib},
        facts={"threads": options.threads, "command": f"{COMMAND} --model {name}"},
        out=options.out,
        static={name: point.policy for name, point in model.planner.points.graphs.items()},
    )
    experiment.go(options.cells)


COMMAND = "python benchmarks/claims/pruning.py"


@dataclass
class Experiment:
    """All cells of one model, those that are stored left out.

    Attributes:
        name: what the model is called in the results.
        model: is measured.
        val: what is measured on.
        calib: gives annotations and images that floors are learned on.
        setting: what the stored cells must have in common with these.
        facts: threads and command, for the conditions.
        out: name of the results file.
        results: its folder.
        static: static operating points by name, to be measured too.
    """

    name: str
    model: Predictor
    val: Data
    calib: Callable[[], tuple[Path, Path]]
    setting: Values
    facts: Values
    out: str = "pruning"
    results: Path = RESULTS
    static: dict[str, PruningPolicy] = field(default_factory=dict)

    def go(self, most: int | None = None) -> bool:
        """Run what is missing.

        Args:
            most: stop after so many cells.

        Returns:
            True when all cells are stored.
        """
        model, data = self.model, self.val
        path = self.results / f"{self.out}.json"
        stored = json.loads(path.read_text()) if path.exists() else {}
        maps = model.calibration
        digest = None if maps is None else maps.digest()
        setting = {**self.setting, "val": len(data.rows), "calibration_sha256": digest}
        mine = stored.get(self.name)
        if mine is None or mine["setting"] != setting:
            mine = {"setting": setting, "plans": {}, "true_positives": {}, "cells": {}}
        mine["static"] = {name: policy.to_dict() for name, policy in self.static.items()}

        def save() -> None:
            device = {} if model.device.type == "cpu" else {"device": str(model.device)}
            mine["verdict"] = verdict(mine["cells"])
            facts = {"precision": "float32", "batch": 1, **device, **self.facts}
            mine["conditions"] = conditions(**facts)
            with FileLock(self.results / f".{self.out}.lock"):  # other models run beside this one
                others = json.loads(path.read_text()) if path.exists() else {}
                store(self.out, others | {self.name: mine}, self.results)

        if not mine["plans"]:
            mine["plans"] = _plans(model, *self.calib(), data.size)
            save()
        if len(mine["true_positives"]) != len(data.rows):
            mine["true_positives"] = _true_positives(model, data)
            save()
        cells = _cells(model, mine["plans"], mine["static"])
        asked = {cell: _policy_of(model, mine, cell)[0].to_dict() for cell in cells}
        mine["cells"] = {
            cell: found
            for cell, found in mine["cells"].items()
            if found.get("policy") == asked.get(cell)  # what was tuned since then runs again
        }
        missing = [cell for cell in cells if cell not in mine["cells"]]
        for cell in missing[:most]:
            mine["cells"][cell] = {**_run(model, data, mine, cell), "policy": asked[cell]}
            print(cell, mine["cells"][cell])
            save()
        return most is None or len(missing) <= most


def _val(options: argparse.Namespace, size: int) -> Data:
    """The val set, or the folder given in its place."""
    if options.val is not None:
        annotations, images = options.val / "annotations.json", options.val / "images"
    else:
        found = val_set("val-base", options.pack, options.folder)
        annotations, images = found.annotations, found.images
    coco = read_coco(annotations)
    return Data(coco, images, range(len(coco.images))[: options.limit], size)


def _calib(options: argparse.Namespace) -> tuple[Path, Path]:
    """Annotations and images of calib scenes."""
    out = options.folder / f"calib-{options.calib}-256-3000"
    if not (out / "annotations.json").exists():
        write_dataset(options.pack, "calib", options.calib, 256, 3000, out)
    return out / "annotations.json", out / "images"


def _plans(model: Predictor, annotations: Path, images: Path, size: int) -> Values:
    """Policies of every level, learned on calib scenes."""
    coco = read_coco(annotations)
    records = [record_image(model, coco, images, row, size) for row in range(len(coco.images))]
    policies = _tuned(model)
    for share in SHARES:
        policies[f"{share:g}"] = PruningPolicy(
            thresholds=THRESHOLDS, floors=learn_floors(records, share), least=LEAST
        )
    plans: Values = {}
    # What raw scores say, where the policy reads no calibrated ones.
    raw = [replace(record, scores_SQ=record.raw_SQ) for record in records]
    for level, policy in policies.items():
        outcomes = [simulate(record, policy) for record in records]
        cost = mean_decoder_gmac(records, outcomes, model)
        plans[level] = {
            "adaptive": policy.to_dict(),
            "fixed": _schedule(model, records, cost).to_dict(),
            "uncalibrated": _uncalibrated(model, raw, policy, cost).to_dict(),
            "calib_decoder_gmac": cost,
        }
    return plans


def _schedule(model: Predictor, records: list[ImageRecord], cost: float) -> PruningPolicy:
    """Of the schedules of a cost, the one that loses least on the calib scenes."""
    config, found = model.config, []
    for layers in range(1, config.decoder_layers + 1):
        for end in ENDS:
            low, high = 0, config.queries + 1
            while high - low > 1:  # the most queries that the cost allows
                start = (low + high) // 2
                dearer = _cost(_falling(start, end, layers), records[:1], model) > cost
                low, high = (low, start) if dearer else (start, high)
            found += [_falling(low, end, layers)] if low else []
    least = _falling(1, 1.0, 1)
    return min(simulated(found or [least], records, model, "ap"), key=lambda one: one.loss).policy


def _falling(start: int, end: float, layers: int) -> PruningPolicy:
    """A schedule from a number of queries to a share of it."""
    keep = np.geomspace(start, start * end, layers)
    return PruningPolicy.static(tuple(max(1, round(float(one))) for one in keep), layers)


def _cost(policy: PruningPolicy, records: list[ImageRecord], model: Predictor) -> float:
    """Mean decoder cost of a policy on the calib scenes, GMAC."""
    return mean_decoder_gmac(records, [simulate(record, policy) for record in records], model)


def _tuned(model: Predictor) -> dict[str, PruningPolicy]:
    """The operating points that were tuned for the model and prune."""
    points = model.planner.points
    found = {} if points.origin else {name: p.policy for name, p in points.points.items()}
    return {name: policy for name, policy in found.items() if policy != PruningPolicy()}


def _uncalibrated(
    model: Predictor, raw: list[ImageRecord], like: PruningPolicy, cost: float
) -> PruningPolicy:
    """One floor for all stages that, with the same ends, costs as much on the calib scenes."""

    def policy(floor: float) -> PruningPolicy:
        floors = ((floor,),) * model.config.decoder_layers
        return replace(like, thresholds=(0.0,), floors=floors, least=LEAST)

    low, high = 0.0, 1.0
    for _ in range(14):
        middle = (low + high) / 2
        dearer = _cost(policy(middle), raw, model) > cost
        low, high = (middle, high) if dearer else (low, middle)
    return policy(low)  # the dearer side: the baseline is not starved


def _cells(model: Predictor, plans: Values, static: Values) -> list[str]:
    """Names of all cells, the most telling first."""
    first = ["full", *(f"adaptive@{level}" for level in plans)]
    points = [f"static@{name}" for name in static]
    layers = [f"layers@{count}" for count in range(model.config.decoder_layers - 1, -1, -1)]
    others = [f"{method}@{level}" for level in plans for method in METHODS[1:]]
    return [*first, *points, *others, *layers]


def verdict(cells: Values) -> Values:
    """What the operating points lose, and whether they beat cuts of the same cost.

    Args:
        cells: by name.

    Returns:
        For each point ``loss`` and ``agnostic_loss`` of mask AP against ``full`` in points,
        ``share`` of the full decoder's cost, the same of the static point (``static_loss``,
        ``static_share``, null where there is none), and by rival its ``mask_ap``, ``decoder_gmac``
        and whether the point is ``better``; points and rivals that have not run are left out, and
        everything where AP is undefined.
    """
    found: Values = {}
    for name in ("balanced", "fast"):
        mine, full = cells.get(f"adaptive@{name}"), cells.get("full")
        if mine is None or full is None or full["mask_ap"] is None:
            continue
        rivals = {rival: cells[f"{rival}@{name}"] for rival in RIVALS if f"{rival}@{name}" in cells}
        fixed = cells.get(f"static@{name}")
        found[name] = {
            "static_loss": fixed and 100 * (full["mask_ap"] - fixed["mask_ap"]),
            "static_share": fixed and fixed["decoder_gmac"] / full["decoder_gmac"],
            "loss": 100 * (full["mask_ap"] - mine["mask_ap"]),
            "agnostic_loss": 100 * (full["agnostic_mask_ap"] - mine["agnostic_mask_ap"]),
            "share": mine["decoder_gmac"] / full["decoder_gmac"],
            "rivals": {
                rival: {
                    "mask_ap": cell["mask_ap"],
                    "decoder_gmac": cell["decoder_gmac"],
                    "better": mine["mask_ap"] > cell["mask_ap"],
                }
                for rival, cell in rivals.items()
            },
        }
    return found


@torch.inference_mode()
def _true_positives(model: Predictor, data: Data) -> Values:
    """Queries that end as true positives of the full decoder, by row of the data set."""
    found: Values = {}
    for row in data.rows:
        record = record_image(model, data.coco, data.folder, row, data.size)
        order = np.argsort(-record.scores_SQ[-1].numpy(), kind="stable")
        hits = match(record.iou_SQM[-1][order], np.array([0.5]))[0]
        found[str(row)] = sorted(int(query) for query in order[hits])
    return found


def _policy_of(
    model: Predictor, mine: Values, cell: str
) -> tuple[PruningPolicy, StageMaps | None, Callable[[int], Ranker] | None]:
    """Policy, maps and ranker (by row of the data set) of a cell."""
    method, _, level = cell.partition("@")
    maps = _maps(model)
    if method == "full":
        return PruningPolicy(), maps, None
    if method == "layers":
        return PruningPolicy(layers=int(level)), maps, None
    if method == "static":
        return PruningPolicy.from_dict(mine["static"][level]), maps, None
    plan = mine["plans"][level]
    if method == "adaptive":
        return PruningPolicy.from_dict(plan["adaptive"]), maps, None
    if method == "uncalibrated":
        return PruningPolicy.from_dict(plan["uncalibrated"]), IdentityMaps(), None
    schedule = PruningPolicy.from_dict(plan["fixed"])
    if method == "fixed":
        return schedule, maps, None
    # The selection is whole, as it is for the adaptive policy: only what follows is cut.
    depth, queries = model.config.decoder_layers, model.config.queries
    counted = PruningPolicy(
        thresholds=(0.0,), floors=((3.0,),) * depth, least=1, layers=schedule.layers
    )
    keep = [schedule.cap(layer, queries) for layer in range(1, schedule.depth(depth) + 1)]

    def ranker(row: int) -> Ranker:
        wanted = torch.tensor(mine["true_positives"][str(row)], dtype=torch.int64)

        def rank(
            stage: int, _image: int, index_Q: torch.Tensor, confidence_Q: torch.Tensor
        ) -> torch.Tensor:
            if method == "random":
                generator = torch.Generator().manual_seed(row * 100 + stage)
                score = torch.rand(len(index_Q), generator=generator).to(confidence_Q.device)
            else:
                score = confidence_Q + torch.isin(index_Q, wanted.to(index_Q.device)).float()
            # What lies above the floor of 3 goes on: the best, as many as the plan says.
            count = min(keep[min(stage, len(keep) - 1)], len(index_Q))
            best = score.topk(count).indices
            return score.index_add(0, best, torch.full_like(score[best], 4.0))

        return rank

    return counted, maps, ranker


def _maps(model: Predictor) -> StageMaps | None:
    """Calibrated confidence of prompts with names, which the floors were learned in."""
    return None if model.calibration is None else model.calibration.maps[NAMES]


@torch.inference_mode()
def _run(model: Predictor, data: Data, mine: Values, cell: str) -> Values:
    """Run one cell over the data set."""
    policy, maps, ranker = _policy_of(model, mine, cell)
    scorer = ApScorer(data.coco, data.rows)
    costs, queries, layers, kept_shares = [], [], [], []
    depth = model.config.decoder_layers
    limits = Limits(
        threshold=0.0, max_instances=MAX_DETECTIONS, maps=_maps(model), names_each=MAX_DETECTIONS
    )
    for row, job in data.jobs():
        images, prompt = model._inputs([job])
        encoded = model.network.encode(images, prompt)
        rank = None if ranker is None else ranker(row)
        stages, index = [], []
        steps = decode(model.network, encoded, policy, maps=maps, rank=rank)
        for (result,) in steps:
            stages.append(result.layer)
            index.append(set(result.index_Q.tolist()))
        pruned = PrunedOutput(image_output(encoded, 0, stages), result.index_Q, result.queries)
        found = read_instances(model.config, pruned, job, limits, prompt_shape(images, prompt))
        scorer.add(row, found.rles, found.boxes_xyxy, found.scores, found.names, found.instance_ids)
        assert found.receipt is not None
        costs.append(found.receipt.gmac)
        layers.append(found.receipt.layers)
        queries.append([*result.queries, *[0] * (depth - found.receipt.layers)])
        wanted = set(mine["true_positives"][str(row)])
        index += index[-1:] * (depth + 1 - len(index))
        if wanted:
            kept_shares.append([len(wanted & kept) for kept in index] + [len(wanted)])
    figures = scorer.named() | scorer.agnostic()
    kept = np.sum(kept_shares, axis=0) if kept_shares else np.ones(depth + 2)
    return {
        "decoder_gmac": float(np.mean([cost["transformer_decoder"] for cost in costs])),
        "total_gmac": float(np.mean([cost["total"] for cost in costs])),
        "layers": float(np.mean(layers)),
        "queries": np.mean(queries, axis=0).round(2).tolist(),
        "true_positives_kept": (kept[:-1] / kept[-1]).round(4).tolist(),
        **{key: figures[key] for key in ("mask_ap", "agnostic_mask_ap", "agnostic_ar100")},
    }


if __name__ == "__main__":
    run_script(main)
