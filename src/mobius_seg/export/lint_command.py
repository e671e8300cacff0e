"""``mobius-seg lint-export``: what in a model's graph a runtime would not take."""

import argparse
import dataclasses
import json

from mobius_seg.checkpoint import find_folder, read_config
from mobius_seg.config import ModelConfig
from mobius_seg.errors import InputError
from mobius_seg.export.lint import LintResult, lint_model
from mobius_seg.predict_arguments import SIZE_LIMITS
from mobius_seg.presets import PRESETS, get_preset
from mobius_seg.terminal import make_console

FOUND = 1


def run_lint(options: argparse.Namespace) -> int:
    """Run the command with the options of :mod:`mobius_seg.export.options`.

    Returns:
        The exit code: 0, or 1 where something is found.

    Raises:
        InputError: there is no such model, or the size cannot be used.
    """
    low, high = SIZE_LIMITS
    if options.size is not None and any(s % 32 or not low <= s <= high for s in options.size):
        height, width = options.size
        raise InputError(
            f"--size is {height}x{width}; allowed: multiples of 32 from {low} to {high}"
        )
    configs = [_config(name) for name in options.model or PRESETS]
    results = [
        result for config in configs for result in lint_model(config, options.target, options.size)
    ]
    if options.json:
        print(json.dumps([dataclasses.asdict(result) for result in results], indent=1))
    else:
        _print(results)
    return FOUND if any(result.findings for result in results) else 0


def _config(name: str) -> ModelConfig:
    """Of a preset without weights, or of a model's folder."""
    return get_preset(name) if name in PRESETS else read_config(find_folder(name))


def _print(results: list[LintResult]) -> None:
    """A row for each graph, and for each finding."""
    from rich.table import Table

    console = make_console()
    table = Table("model", "vocabulary", "target", "operators", "findings")
    for result in results:
        count = sum(finding.count for finding in result.findings)
        total = sum(result.operators.values())
        table.add_row(result.model, result.vocabulary, result.target, str(total), str(count))
    console.print(table)
    for result in results:
        for finding in result.findings:
            console.print(
                f"{result.model} ({result.vocabulary}): {finding.kind}: {finding.what},"
                f" {finding.count} times, in {', '.join(finding.modules)}",
                soft_wrap=True,
            )
