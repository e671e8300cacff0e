"""Runs that make up a claim: skipped when complete, resumed when interrupted, listed with times.

Every run is a folder ``<runs>/<claim>/<variant>-seed<k>``:

* ``plan.json``: everything that decides its outcome; a folder of another plan is refused;
* ``start/``: the weights it begins with; ``run/``: the training (``run/model`` is its result);
* ``result.json``: written last. A folder that has it is complete and never run again;
* both are copied to ``<results>/runs``, from where other machines take complete runs over;
* ``lock``: held while a process works on it, so that several may share the work.

The result file of the claim is written anew after every run, from all that are complete.
"""

import argparse
import json
import os
import shutil
import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import starts
import torch
from filelock import FileLock, Timeout
from setting import FULL, SMOKE, Bench

from conditions import RESULTS, ROOT, conditions, store
from mobius_seg.config import ModelConfig
from mobius_seg.errors import InputError
from mobius_seg.files import write_text
from mobius_seg.option_kinds import count, from_zero, threads
from mobius_seg.terminal import print_error
from mobius_seg.train.loop import train
from mobius_seg.train.settings import TrainConfig

Values = dict[str, Any]
# Fields of TrainConfig that do not decide what comes out.
_FREE = ("out", "pack", "weights", "resume", "workers", "threads", "precision", "compile")
_FREE += ("checkpoint_minutes", "snapshot_minutes", "snapshot_steps", "log_steps")


@dataclass(frozen=True, kw_only=True)
class TrainingRun:
    """One training and what is measured on its result.

    Attributes:
        claim: which experiment it belongs to.
        variant: what differs.
        seed: of start and data.
        config: model that is trained.
        parts: what is taken over from the start's weights, by beginnings of names.
        train: fields of ``TrainConfig`` that differ from the setting's.
        measure: figures of the finished model's folder.
        scenes: held-out scenes that they depend on.
    """

    claim: str
    variant: str
    seed: int
    config: ModelConfig
    parts: tuple[str, ...]
    measure: Callable[[Bench, Path], Values]
    train: Values = field(default_factory=dict)
    scenes: tuple[str, ...] = ("calib", "val")

    @property
    def name(self) -> str:
        """Name of its folder within the claim's."""
        return f"{self.variant}-seed{self.seed}"

    def folder(self, bench: Bench) -> Path:
        """Its folder."""
        return bench.runs / self.claim / self.name

    def settings(self, bench: Bench, options: argparse.Namespace) -> TrainConfig:
        """The training."""
        folder = self.folder(bench)
        values = dict(bench.setting.train) | {
            "preset": self.config.name,
            "out": folder / "run",
            "pack": bench.pack,
            "weights": folder / "start",
            "steps": bench.setting.steps,
            "batch_size": bench.setting.batch_size,
            "sizes": ((0.0, bench.setting.size),),
            "seed": self.seed,
            "threads": options.threads,
            "workers": options.workers,
            "resume": (folder / "run" / "checkpoints" / "latest.json").exists(),
        }
        return TrainConfig(**(values | self.train))

    def plan(self, bench: Bench, settings: TrainConfig) -> Values:
        """Everything that decides the outcome, as JSON values."""
        chosen = {k: v for k, v in json.loads(settings.to_json()).items() if k not in _FREE}
        scenes = {split: bench.scenes(split).info for split in self.scenes}
        plan = {
            "model": json.loads(self.config.to_json()),
            "taken_over": list(self.parts),
            "start_sha256": bench.start_digest,
            "train": chosen,
            "pack_sha256": bench.opened.digest,
            "scenes": scenes,
        }
        return json.loads(json.dumps(plan, default=str))

    def result(self, bench: Bench) -> Values | None:
        """What the run gave, None while it is not complete."""
        path = self.folder(bench) / "result.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def perform(run: TrainingRun, bench: Bench, options: argparse.Namespace) -> Values:
    """Do what is left of a run.

    Raises:
        KeyboardInterrupt: the time is up, or somebody pressed Ctrl-C; what is done is kept.
        InputError: the folder holds a run of another plan.
    """
    folder = run.folder(bench)
    settings = run.settings(bench, options)
    plan = run.plan(bench, settings)
    _check_plan(folder, plan)
    done = run.result(bench)
    if done is not None:
        return done
    print(f"{run.claim}/{run.name}: {_state(run, bench)}", flush=True)
    if not (folder / "start" / "training.json").exists():
        taken = bench.start, run.parts, bench.name_vectors
        starts.write_start(run.config, *taken, run.seed, folder / "start")
    write_text(folder / "plan.json", json.dumps(plan, indent=2) + "\n")
    model = folder / "run" / "model"
    if not (model / "training.json").exists():  # the file that a training writes last
        train(settings)
    record = json.loads((model / "training.json").read_text(encoding="utf-8"))
    begun = time.monotonic()
    figures = run.measure(bench, model)
    facts = conditions(
        threads=options.threads or torch.get_num_threads(),
        precision={"no": "float32"}.get(record["precision"], record["precision"]),
    )
    facts["device"] = record["device"] if "CPU" not in record["device"] else facts["device"]
    result = {
        "variant": run.variant,
        "seed": run.seed,
        "steps": record["steps"],
        "images": record["images"],
        "train_seconds": round(record["hours"] * 3600, 1),
        "measure_seconds": round(time.monotonic() - begun, 1),
        "conditions": {key: value for key, value in facts.items() if key != "command"},
        "figures": figures,
    }
    write_text(folder / "result.json", json.dumps(result, indent=2, allow_nan=False) + "\n")
    _copy(folder, options.results / "runs" / run.claim / run.name)
    for part in ("checkpoints", "tensorboard", "snapshots"):
        shutil.rmtree(folder / "run" / part, ignore_errors=True)
    shutil.rmtree(folder / "start", ignore_errors=True)
    return result


def _copy(source: Path, target: Path) -> None:
    """Plan and result of a complete run, the result last."""
    target.mkdir(parents=True, exist_ok=True)
    for name in ("plan.json", "result.json"):
        write_text(target / name, (source / name).read_text(encoding="utf-8"))


def restore(results: Path, runs: Path) -> None:
    """Take over complete runs that another machine has stored with the results.

    Args:
        results: folder of the result files.
        runs: folder of all runs; what is there stays as it is.
    """
    for stored in sorted((results / "runs").glob("*/*/result.json")):
        folder = runs / stored.parent.relative_to(results / "runs")
        if not folder.exists():
            _copy(stored.parent, folder)


def _check_plan(folder: Path, plan: Values) -> None:
    """Refuse to mix runs of different plans."""
    path = folder / "plan.json"
    if not path.exists():
        return
    stored = json.loads(path.read_text(encoding="utf-8"))
    # Fields that came later have their defaults in runs that were begun before.
    try:
        model = ModelConfig.from_json(json.dumps(stored["model"]), str(path))
    except InputError as error:
        raise InputError(f"{error}; remove {folder}, or choose another --runs") from None
    stored["model"] = json.loads(model.to_json())
    differs = [key for key in plan if stored.get(key) != plan[key]]
    if differs:
        raise InputError(
            f"{folder}: was begun under another plan ({', '.join(differs)}; see plan.json); remove"
            " it, or choose another --runs"
        )


def run_script(main: Callable[[], object]) -> None:
    """Run a script; what its user did wrong is one line on standard error and exit code 2.

    Args:
        main: the script's.
    """
    try:
        main()
    except InputError as error:
        print_error(error)
        raise SystemExit(2) from None


def parser(text: str | None) -> argparse.ArgumentParser:
    """Options that all scripts of claims share.

    Args:
        text: the script's docstring.
    """
    found = argparse.ArgumentParser(
        description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    found.add_argument("--list", action="store_true", help="say what is done and what is left")
    found.add_argument("--minutes", type=from_zero, help="stop cleanly after so many minutes")
    found.add_argument("--only", help="only these variants, by comma")
    found.add_argument("--seeds", type=count, help="only the first so many seeds")
    found.add_argument("--pack", type=Path, default=ROOT / "assets" / "pack.safetensors")
    found.add_argument("--start", help="weights that runs start from, default the shipped ones")
    found.add_argument("--runs", type=Path, help="folder of all runs, default runs/claims")
    found.add_argument("--results", type=Path, help="folder of the result files")
    found.add_argument("--threads", type=_whole, default=0 if torch.cuda.is_available() else 2)
    found.add_argument("--workers", type=_whole, default=_workers(), help="processes that compose")
    found.add_argument("--smoke", action="store_true", help="of seconds; figures mean nothing")
    return found


def read_options(
    found: argparse.ArgumentParser, argv: Sequence[str] | None
) -> tuple[argparse.Namespace, Bench]:
    """Parsed options, completed, and the bench that they ask for."""
    options = found.parse_args(argv)
    setting = SMOKE if options.smoke else FULL
    options.runs = options.runs or ROOT / "runs" / ("claims-smoke" if options.smoke else "claims")
    options.results = options.results or (options.runs / "results" if options.smoke else RESULTS)
    options.runs = options.runs.resolve()
    restore(options.results, options.runs)
    start = options.start or setting.preset
    if options.smoke and options.start is None:
        start = str(options.runs / "smoke-start")
        if not Path(start).exists():
            starts.write_smoke_start(Path(start))
    return options, Bench(setting, options.pack, options.runs, start)


def work(
    runs: Sequence[TrainingRun],
    bench: Bench,
    options: argparse.Namespace,
    gather: Callable[[list[Values]], Values],
) -> bool:
    """Do the runs, most telling first as given, and store what is known after each.

    Args:
        runs: all of the claim.
        bench: their data.
        options: of :func:`parser`.
        gather: makes the claim's values from the results of the complete runs.

    Returns:
        True when all are complete.
    """
    chosen = chosen_runs(runs, bench, options)
    if options.list:
        list_runs(chosen, bench)
        return False
    try:
        with deadline(options.minutes) as left:
            for run in chosen:
                if left() <= 0:
                    raise KeyboardInterrupt
                known = run.result(bench) is not None
                with reserved(run, bench) as mine:
                    if not mine:
                        print(f"{run.claim}/{run.name}: another process works on it")
                        continue
                    perform(run, bench, options)
                if not known:
                    publish(runs, bench, options, gather)
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here")
        return False
    publish(runs, bench, options, gather)
    return all(run.result(bench) is not None for run in chosen)


@contextmanager
def reserved(run: TrainingRun, bench: Bench) -> Iterator[bool]:
    """Keep other processes off a run, until the block or the process ends.

    Yields:
        False where another process has it.
    """
    folder = run.folder(bench)
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / "lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def publish(
    runs: Sequence[TrainingRun],
    bench: Bench,
    options: argparse.Namespace,
    gather: Callable[[list[Values]], Values],
) -> None:
    """Write the claim's result file from the runs that are complete."""
    claim = runs[0].claim
    bench.runs.mkdir(parents=True, exist_ok=True)
    with FileLock(bench.runs / f"{claim}.lock"):  # so that no slower writer drops a newer run
        done = [found for run in runs if (found := run.result(bench)) is not None]
        if not done:
            return
        facts = dict(done[-1]["conditions"])
        facts["command"] = f"python benchmarks/claims/{claim}.py"
        values = {
            "conditions": facts,
            "setting": bench.facts(),
            "runs": {"complete": len(done), "planned": len(runs)},
            **gather(done),
        }
        store(claim, values, options.results)


def list_runs(runs: Sequence[TrainingRun], bench: Bench) -> None:
    """Print what is done, what is left, and how long that will take."""
    total = 0.0
    for run in runs:
        seconds = _seconds_left(run, runs, bench)
        total += seconds
        print(f"{run.claim}/{run.name:32} {_state(run, bench):24} {seconds / 60:6.1f} min left")
    done = sum(run.result(bench) is not None for run in runs)
    timed = "timed runs" if done else f"{bench.setting.images_per_second} images a second, assumed"
    print(f"{done} of {len(runs)} complete; about {total / 60:.0f} minutes left (by {timed})")


def chosen_runs(
    runs: Sequence[TrainingRun], bench: Bench, options: argparse.Namespace
) -> list[TrainingRun]:
    """The runs that were asked for.

    Raises:
        InputError: no variant has a name that was given.
    """
    variants = list(dict.fromkeys(run.variant for run in runs))
    wanted = variants if options.only is None else options.only.split(",")
    unknown = [name for name in wanted if name not in variants]
    if unknown:
        raise InputError(f"no variant {unknown[0]!r}; there are {', '.join(variants)}")
    seeds = bench.setting.seeds[: options.seeds]
    return [run for run in runs if run.variant in wanted and run.seed in seeds]


def _state(run: TrainingRun, bench: Bench) -> str:
    if run.result(bench) is not None:
        return "complete"
    folder = run.folder(bench) / "run"
    if (folder / "model" / "training.json").exists():
        return "to be measured"
    steps = run.train.get("steps", bench.setting.steps)
    step = _step(folder)
    return f"step {step} of {steps}" if step else "not begun"


def _step(folder: Path) -> int:
    """Step of the last checkpoint, 0 without one."""
    pointer = folder / "checkpoints" / "latest.json"
    if not pointer.exists():
        return 0
    return int(json.loads(pointer.read_text())["checkpoint"].rpartition("-")[2])


def _seconds_left(run: TrainingRun, runs: Sequence[TrainingRun], bench: Bench) -> float:
    """Estimate from complete runs of the variant, of the claim, or else from what is assumed."""
    if run.result(bench) is not None:
        return 0.0
    known = [(other.variant, found) for other in runs if (found := other.result(bench))]
    mine = [found for variant, found in known if variant == run.variant]
    timed = mine or [found for _, found in known]
    rate, measuring = bench.setting.images_per_second, bench.setting.measure_seconds
    if timed:
        rate = statistics.median(f["images"] / max(f["train_seconds"], 0.1) for f in timed)
        measuring = statistics.median(f["measure_seconds"] for f in timed)
    steps = run.train.get("steps", bench.setting.steps)
    batch = run.train.get("batch_size", bench.setting.batch_size)
    trained = (run.folder(bench) / "run" / "model" / "training.json").exists()
    left = 0 if trained else steps - _step(run.folder(bench) / "run")
    return left * batch / rate + measuring


@contextmanager
def deadline(minutes: float | None) -> Iterator[Callable[[], float]]:
    """Interrupt the block when the time is up, as Ctrl-C does: a training stops after its step.

    Args:
        minutes: None for no end.

    Yields:
        A function that says how many seconds are left.
    """
    end = time.monotonic() + (float("inf") if minutes is None else minutes * 60)
    lock, over = threading.Lock(), threading.Event()

    def interrupt() -> None:
        with lock:  # a signal after the block would hit whatever comes next
            if not over.is_set():
                signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    timer = None
    if minutes is not None and minutes > 0:
        timer = threading.Timer(minutes * 60, interrupt)
        timer.daemon = True
        timer.start()
    try:
        yield lambda: end - time.monotonic()
    finally:
        try:
            with lock:
                over.set()
            if timer is not None:
                timer.cancel()
        finally:
            signal.signal(signal.SIGINT, before)


def by_variant(results: Sequence[Values], keys: Sequence[str]) -> Values:
    """Figures of each variant: one value a seed, mean and spread.

    Args:
        results: of complete runs.
        keys: names of figures, fractions or None.

    Returns:
        Variant -> ``seeds`` and, for each key, ``values``, ``mean`` and ``spread`` (highest less
        lowest; None for a single seed).
    """
    found: Values = {}
    for variant in dict.fromkeys(result["variant"] for result in results):
        mine = [result for result in results if result["variant"] == variant]
        entry: Values = {"seeds": [result["seed"] for result in mine]}
        for key in keys:
            entry[key] = summary([result["figures"][key] for result in mine])
        found[variant] = entry
    return found


def summary(values: Sequence[float | None]) -> Values:
    """Values, their mean and spread; undefined ones are left out of both."""
    known = [value for value in values if value is not None]
    spread = max(known) - min(known) if len(known) > 1 else None
    mean = statistics.fmean(known) if known else None
    return {"values": list(values), "mean": mean, "spread": spread}


def _whole(text: str) -> int:
    """A whole number from 0; of threads and workers 0 means a default."""
    return 0 if text == "0" else threads(text)


def _workers() -> int:
    """One beside a training on the CPU; as many as feed an accelerator."""
    return min(12, max(1, (os.cpu_count() or 2) - 2)) if torch.cuda.is_available() else 1
