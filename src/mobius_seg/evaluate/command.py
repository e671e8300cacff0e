"""``mobius-seg eval``: the figures of a data set, as a table and a file."""

import argparse
import statistics
from typing import TYPE_CHECKING, Any

from mobius_seg.calibration_cli import check_eval_options, print_report, report_of
from mobius_seg.evaluate.runner import evaluate, write_metrics
from mobius_seg.model_option import open_model
from mobius_seg.terminal import make_console

if TYPE_CHECKING:
    from mobius_seg.instances import Instances
    from mobius_seg.receipt import Receipt


def run_eval(options: argparse.Namespace) -> int:
    """Score, print and write.

    Returns:
        The exit code.

    Raises:
        InputError: something that the user gave cannot be used.
    """
    check_eval_options(options)
    predictor = open_model(options)
    predictor.planner.request(None, options.operating_point)  # before any picture is read
    receipts: list[Receipt] = []

    def see(found: "Instances") -> None:
        if found.receipt is not None:
            receipts.append(found.receipt)

    metrics = evaluate(
        predictor,
        options.annotations,
        options.images,
        mode=options.mode,
        expressions=options.expressions,
        size=options.size,
        threads=options.threads,
        limit=options.limit,
        operating_point=options.operating_point,
        recognise=options.recognise,
        seen=see,
    )
    metrics |= mean_cost(receipts)
    metrics["conditions"]["operating_point"] = (
        options.operating_point or predictor.planner.default_point
    )
    if options.recognise:
        metrics["conditions"]["recognise"] = True
    report = report_of(predictor, options) if options.calibration else None
    if options.out is not None:
        write_metrics(options.out, metrics | ({} if report is None else {"calibration": report}))
    _print_metrics(metrics)
    if report is not None:
        print_report(report)
    return 0


def mean_cost(receipts: "list[Receipt]") -> dict[str, float]:
    """What an image cost on average: decoder layers and GMAC; empty without receipts.

    Args:
        receipts: one for each answer that was scored.
    """
    if not receipts:
        return {}
    costs = [receipt.gmac for receipt in receipts]
    return {
        "decoder_layers_per_image": statistics.mean(receipt.layers for receipt in receipts),
        "decoder_gmac_per_image": statistics.mean(cost["transformer_decoder"] for cost in costs),
        "gmac_per_image": statistics.mean(cost["total"] for cost in costs),
    } | _crops(receipts)


def _crops(receipts: "list[Receipt]") -> dict[str, float]:
    """How many objects of an image were recognised; empty where none were."""
    crops = statistics.mean(receipt.crops for receipt in receipts)
    return {"crops_per_image": crops} if crops else {}


def _print_metrics(metrics: dict[str, Any]) -> None:
    """A table of the figures, and the conditions below it."""
    from rich.table import Table

    table = Table("figure", "value")
    for key, value in metrics.items():
        if key != "conditions":
            text = "undefined" if value is None else str(value)
            table.add_row(key, f"{value:.4f}" if isinstance(value, float) else text)
    console = make_console()
    console.print(table)
    conditions = ", ".join(f"{key} {value}" for key, value in metrics["conditions"].items())
    console.print(conditions, soft_wrap=True)
