"""Options of ``mobius-seg pretrain``; imports nothing heavy."""

from pathlib import Path

from mobius_seg.export.options import Add, Option
from mobius_seg.option_kinds import count, threads


def add_pretrain(add: Add, option: Option, pack: Path) -> None:
    """Add the subcommand.

    Args:
        add: makes a subcommand from its name and texts.
        option: adds an option with a value.
        pack: default of ``--pack``.
    """
    parser = add(
        "pretrain",
        "Teach a backbone names on crowded scenes with given masks, as a start for training.",
        "Then: mobius-seg train --backbone OUT; after --weights: train --weights OUT/model.",
    )
    parser.add_argument("--preset", required=True, metavar="NAME", help="see `mobius-seg models`")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write")
    option(parser, "--pack", Path, pack, "pack file to compose scenes from")
    option(
        parser, "--weights", Path, None, "trained model that goes on learning names, in OUT/model"
    )
    option(parser, "--teacher", Path, None, "trained model whose answers are learnt too")
    option(parser, "--teacher-share", float, None, "part of the loss its answers make up (0.5)")
    option(parser, "--minutes", float, None, "train for so many minutes (60), or")
    option(parser, "--steps", count, None, "train so many steps")
    option(parser, "--size", count, 192, "side of the scenes in pixels")
    option(parser, "--batch-size", count, 16, "scenes a step")
    option(parser, "--lr", float, 6e-4, "peak learning rate of the backbone")
    option(parser, "--freeze-stride", int, 8, "freeze the backbone up to this map, 0 for nothing")
    option(parser, "--threads", threads, None, "CPU threads (default: torch's choice)")
    option(parser, "--precision", str, "auto", "auto, fp32 or bf16")
    option(parser, "--seed", int, 0, "of everything random")
    option(parser, "--checkpoint-minutes", float, 5.0, "minutes between checkpoints")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
