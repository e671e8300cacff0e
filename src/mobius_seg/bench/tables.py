"""Figures of a benchmark on the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from mobius_seg.terminal import make_console, printable


def print_rows(rows: Sequence[Mapping[str, Any]]) -> None:
    """One line a contender, fastest first."""
    peers = list(dict.fromkeys(name for row in rows for name in row["ratio_to"]))
    table = Table("model", "as", "size")
    for title in ("ms", "ms, 95 %", "images/s", "peak MB", *(f"/ {peer}" for peer in peers)):
        table.add_column(title, justify="right")
    for row in sorted(rows, key=lambda row: row["latency_ms_median"]):
        kind = ("runtime", "operating_point", "precision", "vocabulary")
        table.add_row(
            printable(row["model"]),
            " ".join(row[key] for key in kind if row[key]),
            "x".join(map(str, row["size"])),
            f"{row['latency_ms_median']:.1f}",
            f"{row['latency_ms_p95']:.1f}",
            f"{row['throughput_ips']:.1f}",
            f"{row['peak_mb']:.0f}",
            *(f"{row['ratio_to'][peer]:.2f}" for peer in peers),
        )
    make_console().print(table)


def print_stages(entries: Sequence[Mapping[str, Any]]) -> None:
    """The parts of each model beside their rooflines."""
    for entry in entries:
        size = "x".join(map(str, entry["size"]))
        title = f"{entry['model']}, {entry['operating_point']}, {size}: parts in torch"
        table = Table("part", title=printable(title), title_justify="left")
        for column in ("ms", "GMAC", "ms at peak rate", "share of peak"):
            table.add_column(column, justify="right")
        for name, stage in entry["stages"].items():
            table.add_row(name, *_cells(stage))
        console = make_console()
        console.print(table)
        rate = entry["matrix_gmac_per_s"]
        console.print(f"peak rate: a float32 matrix product at {rate:.1f} GMAC/s", soft_wrap=True)


def _cells(stage: Mapping[str, Any]) -> list[str]:
    if stage["gmac"] is None:
        return [f"{stage['latency_ms']:.2f}", "-", "-", "-"]
    return [
        f"{stage['latency_ms']:.2f}",
        f"{stage['gmac']:.3f}",
        f"{stage['at_peak_ms']:.2f}",
        f"{100 * stage['share']:.0f} %",
    ]
