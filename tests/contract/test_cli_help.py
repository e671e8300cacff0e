"""Every subcommand explains itself."""

import subprocess
import sys

import pytest

COMMANDS = [
    (), ("segment",), ("models",), ("profile",), ("assets",), ("assets", "fetch"),
    ("assets", "pack"), ("compose",), ("rooms",), ("pretrain",), ("grow",), ("train",),
    ("eval",), ("calibrate",), ("tune-pruning",), ("export",), ("lint-export",),
    ("bench",), ("pareto",),
]  # fmt: skip


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = "import sys; from mobius_seg.cli import main; sys.exit(main())"
    return subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: " ".join(c) or "mobius-seg")
def test_help(command: tuple[str, ...]) -> None:
    done = _run(*command, "--help")
    assert done.returncode == 0, done.stderr
    assert "usage" in done.stdout.lower()
    assert done.stderr == ""


def test_unknown_subcommand_is_exit_code_two() -> None:
    done = _run("no-such-command")
    assert done.returncode == 2
    assert "no-such-command" in done.stderr
    assert "Traceback" not in done.stderr
