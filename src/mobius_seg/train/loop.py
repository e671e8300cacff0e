"""One loop for every kind of data: one stage, one loss (docs/training.md)."""

import dataclasses
import datetime
import json
import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn
from torch.utils.data import DataLoader

from mobius_seg.checkpoint import TRAINING_FILE, find_folder, save_model
from mobius_seg.data.sample import Batch
from mobius_seg.errors import InputError
from mobius_seg.files import write_text
from mobius_seg.losses import Criterion
from mobius_seg.model import Mobius
from mobius_seg.stops import polite_stop
from mobius_seg.train.batches import StepBatches, Steps, step_plan
from mobius_seg.train.checkpoints import State, check_same_run, load_checkpoint, save_checkpoint
from mobius_seg.train.curve import draw_curve
from mobius_seg.train.folded import fold_norms
from mobius_seg.train.optim import make_average, make_optimizer
from mobius_seg.train.precision import channels_last, choose_precision
from mobius_seg.train.record import pretrained_sources, read_record
from mobius_seg.train.settings import TrainConfig
from mobius_seg.train.stages import StageKeeper
from mobius_seg.train.start import start_network
from mobius_seg.train.workers import start_worker
from mobius_seg.version import __version__

if TYPE_CHECKING:
    from mobius_seg.train.validation import Validator

logger = logging.getLogger(__name__)
_BAD_STEPS = 20


def train(config: TrainConfig) -> Path:
    """Train a model and store its averaged weights.

    Args:
        config: the run. With ``resume`` it goes on from the last checkpoint in ``config.out``; with
            the same configuration the result is that of a run never stopped (given ``steps``).

    Returns:
        Folder of the trained model, ``config.out / "model"``.

    Raises:
        InputError: the run cannot be started or resumed, or its loss is not finite for long.
        KeyboardInterrupt: the run was stopped; its last checkpoint is whole.
    """
    if not config.resume and (config.out / "checkpoints" / "latest.json").exists():
        raise InputError(f"{config.out}: holds a run already; add --resume or choose another --out")
    if config.resume:
        check_same_run(config.out / "run.json", config)
    if config.threads:
        torch.set_num_threads(config.threads)
    run = Run(config)
    with polite_stop(run):
        run.go()
    return run.finish()


class Run:
    """Everything that one training run holds.

    Args:
        config: the run.
    """

    def __init__(self, config: TrainConfig) -> None:
        """See the class."""
        self.config = config
        torch.manual_seed(config.seed)
        self.validator = self._make_validator()
        self.accelerator = Accelerator(
            mixed_precision=choose_precision(config.precision),
            log_with="tensorboard",
            project_dir=str(config.out),
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
        )
        self.model_config = config.model()
        self.batches = StepBatches(
            config, self.accelerator.process_index, self.accelerator.num_processes
        )
        self.names_VD = self.batches.vocabulary.embeddings_KD
        network, self.start, self.pretraining = start_network(
            config, self.model_config, self.names_VD
        )
        found = None if config.weights is None else find_folder(config.weights)
        self.previous = read_record(found, TRAINING_FILE)
        if config.minutes is not None and self.accelerator.num_processes > 1:
            raise InputError("minutes differ between processes; give --steps for several of them")
        # A backbone that was just drawn has nothing to keep: it learns as a whole.
        drawn = self.start == "random" and config.backbone is None
        network.backbone.freeze_norm = config.freeze_norm and not drawn
        network.backbone.freeze(0 if drawn else config.freeze_stride)
        network.to(self.accelerator.device)
        self.network = channels_last(network)
        fold_norms(network.backbone)
        self.optimizer = make_optimizer(network, config)
        self.stages = StageKeeper(config, network, self.optimizer)
        self.average = make_average(network, config.ema)
        self.criterion = Criterion(config.loss)
        self.state: State = {"step": 0, "seconds": 0.0, "images": 0, "snapshot_seconds": 0.0}
        if config.resume:
            self.state = load_checkpoint(self._checkpoints, network, self.average, self.optimizer)
            if self.validator is not None:
                self.validator.go_on(int(self.state["step"]))
        if config.compile:
            network.backbone.compile()
        self.ready: nn.Module = self.accelerator.prepare(network)
        self.accelerator.init_trackers("tensorboard")
        self.bad_steps = 0
        self.stop = False
        self.log: list[dict[str, float]] = self._read_log()

    def _make_validator(self) -> "Validator | None":
        """What judges the run, if anything does; bad pictures are found before any step."""
        if self.config.validation is None:
            return None
        from mobius_seg.train.validation import Validator

        return Validator(self.config.validation, self.config.out)

    @property
    def _checkpoints(self) -> Path:
        return self.config.out / "checkpoints"

    def go(self) -> None:
        """Take steps until the run is over."""
        config = self.config
        config.out.mkdir(parents=True, exist_ok=True)
        if self.accelerator.is_main_process:
            write_text(config.out / "run.json", config.to_json())
            print(self._opening(), flush=True)
        begun = time.monotonic() - self.state["seconds"]
        last_checkpoint = self.state["seconds"]
        window: list[tuple[float, int]] = [(time.monotonic(), self.state["images"])]
        with self._progress() as (bar, task):
            for batch in self._loader():
                if self.stop:
                    self.checkpoint()
                    raise KeyboardInterrupt
                if self._progress_share() >= 1:
                    break
                losses = self._step(batch)
                self.state["seconds"] = time.monotonic() - begun
                if self.state["step"] % config.log_steps == 0:
                    window = [*window[-5:], (time.monotonic(), self.state["images"])]
                    self._report(losses, window, bar, task)
                if config.snapshot_steps and self.state["step"] % config.snapshot_steps == 0:
                    self._snapshot()
                if self.validator is not None and self.validator.due(int(self.state["step"])):
                    begun += self._judge(self.validator)  # the clock of the training stands still
                    window = [(time.monotonic(), self.state["images"])]
                due = self.state["seconds"] - last_checkpoint
                if due >= config.checkpoint_minutes * 60:
                    self.checkpoint()
                    last_checkpoint = self.state["seconds"]
        self.checkpoint()

    def _opening(self) -> str:
        """One line on what begins: where, on what, from what, for how long."""
        config = self.config
        end = f"{config.minutes:g} minutes" if config.steps is None else f"{config.steps} steps"
        done = f"goes on at step {self.state['step']}" if self.state["step"] else "begins"
        return (
            f"{config.preset} {done}: {self._device()}, {len(self.names_VD)} names,"
            f" from {self.start} weights, {end} of {config.batch_size} images"
        )

    def _progress_share(self) -> float:
        """Share of the run that is done, 0..1."""
        if self.config.steps is not None:
            return float(self.state["step"] / self.config.steps)
        assert self.config.minutes is not None
        return float(self.state["seconds"] / (self.config.minutes * 60))

    def _loader(self) -> "DataLoader[Batch]":
        """Batches from the next step on."""
        end = self.config.steps if self.config.steps is not None else 2**31
        return DataLoader(
            self.batches,
            batch_size=None,
            sampler=Steps(self.state["step"], end),
            num_workers=self.config.workers,
            prefetch_factor=4 if self.config.workers else None,
            worker_init_fn=start_worker if self.config.workers else None,
        )

    def _step(self, batch: Batch) -> dict[str, float]:
        """One step: forward, losses, backward, update; returns the losses."""
        config, device = self.config, self.accelerator.device
        step = self.state["step"]
        self.ready.train()
        self.stages.enter(step, self._progress_share())
        images = batch.images_B3HW.to(device, non_blocking=True).float() / 255
        images = images.contiguous(memory_format=torch.channels_last)
        prompt = dataclasses.replace(batch.prompt, vocabulary_VD=self.names_VD).to(device)
        most = max([len(t.boxes_M4) for t in batch.targets], default=0)
        keep, layers = step_plan(config, self.model_config, step, most)
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
        with self.accelerator.autocast():
            output = self.ready(images, prompt, keep=keep, layers=layers)
        losses = self.criterion(output, batch.targets, prompt, generator)
        self.accelerator.backward(losses["loss"])
        norm = self.accelerator.clip_grad_norm_(self.ready.parameters(), config.clip)
        finite = bool(torch.isfinite(norm)) if norm is not None else True
        if finite:
            self.optimizer.step()
            self.average.update_parameters(self.network)
            self.bad_steps = 0
        else:
            self._bad_step()
        self.optimizer.zero_grad(set_to_none=True)
        self.state["step"] = step + 1
        self.state["images"] += len(batch.targets) * self.accelerator.num_processes
        if self.state["step"] % config.log_steps:
            return {}
        return {key: float(value.detach()) for key, value in losses.items()}

    def _bad_step(self) -> None:
        """A step without a finite gradient is left out; many in a row end the run."""
        self.bad_steps += 1
        logger.warning("step %d left out: the gradient is not finite", self.state["step"])
        if self.bad_steps >= _BAD_STEPS:
            raise InputError(
                f"the gradient was not finite for {_BAD_STEPS} steps in a row; lower --lr"
            )

    def _rate(self) -> float:
        """The learning rate of now; backbone, text projection and logit scales have their own."""
        group = self.optimizer.param_groups[-1]
        return float(self.config.lr * group["lr"] / group["peak_lr"])

    def _report(
        self, losses: dict[str, float], window: list[tuple[float, int]], bar: Any, task: Any
    ) -> None:
        """Log line, tracker and progress bar."""
        if not self.accelerator.is_main_process:
            return
        seconds = window[-1][0] - window[0][0]
        speed = (window[-1][1] - window[0][1]) / max(seconds, 1e-9)
        entry = {
            "step": self.state["step"],
            "minutes": round(self.state["seconds"] / 60, 2),
            "images": self.state["images"],
            "images_per_second": round(speed, 2),
            "lr": self._rate(),
            **{key: round(value, 4) for key, value in losses.items()},
        }
        self.log.append(entry)
        with (self.config.out / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
        self.accelerator.log(entry, step=self.state["step"])
        words = f"loss {losses['loss']:.2f}  quality {losses['quality']:.2f}  {speed:.1f} images/s"
        if bar is None:
            print(f"step {entry['step']}  {entry['minutes']:.1f} min  {words}", flush=True)
        else:
            bar.update(task, completed=self._progress_share(), words=words)

    def _progress(self) -> "_Bar":
        return _Bar(self.accelerator.is_main_process)

    def checkpoint(self) -> None:
        """Store everything needed to go on, and from time to time a copy of the average."""
        if not self.accelerator.is_main_process:
            return
        due = self.state["seconds"] - self.state["snapshot_seconds"]
        every = self.config.snapshot_minutes * 60
        if every and due >= every:
            self.state["snapshot_seconds"] = self.state["seconds"]
            self._snapshot()
        save_checkpoint(self._checkpoints, self.state, self.network, self.average, self.optimizer)

    def _snapshot(self) -> None:
        """Keep a copy of the averaged weights."""
        if self.accelerator.is_main_process:
            self._save(self.config.out / "snapshots" / f"step-{self.state['step']:08d}")

    def _judge(self, validator: "Validator") -> float:
        """Score the averaged weights and keep the best; returns the seconds that it took."""
        begun, step = time.monotonic(), int(self.state["step"])
        if self.accelerator.is_main_process:
            network = self.average.module
            assert isinstance(network, Mobius)
            line = validator.judge(network, step, self._save)
            figures = {f"val_{k}": v for k, v in line.items() if isinstance(v, float)}
            self.accelerator.log(figures, step=step)
            print(f"step {step}  {validator.spoken(line)}", flush=True)
        validator.last = step
        self.accelerator.wait_for_everyone()
        return time.monotonic() - begun

    def finish(self) -> Path:
        """Write the averaged model, what it was trained on, and the curve."""
        folder = self.config.out / "model"
        if self.validator is not None and self.validator.due(int(self.state["step"]), last=True):
            self._judge(self.validator)
        if self.accelerator.is_main_process:
            self._save(folder)
            draw_curve(self.log, self.config.out / "curve.png")
        self.accelerator.end_training()
        return folder

    def _save(self, folder: Path) -> None:
        network = self.average.module
        assert isinstance(network, Mobius)
        save_model(network, folder, training=self._record())

    def _record(self) -> dict[str, Any]:
        """What ``training.json`` says."""
        settings = json.loads(self.config.to_json())
        keep = {k: v for k, v in settings.items() if k not in ("out", "pack", "resume", "weights")}
        return {
            "steps": self.state["step"],
            "images": self.state["images"],
            "hours": round(self.state["seconds"] / 3600, 3),
            "device": self._device(),
            "precision": self.accelerator.mixed_precision,
            "start": self.start,
            "seed": self.config.seed,
            "settings": keep,
            "assets": self.batches.sources + pretrained_sources(self.start),
            "annotations": self.batches.annotations,
            "pretraining": self.pretraining,
            "previous": self.previous,
            **({} if self.validator is None else {"validation": self.validator.lines}),
            "curve": self.log[:: max(1, len(self.log) // 200)],
            "versions": {"torch": torch.__version__, "mobius_seg": __version__},
            "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        }

    def _device(self) -> str:
        if self.accelerator.device.type == "cuda":
            return torch.cuda.get_device_name()
        return f"CPU, {torch.get_num_threads()} threads"

    def _read_log(self) -> list[dict[str, float]]:
        """Log lines of the steps up to the checkpoint; a new run starts an empty log."""
        file = self.config.out / "log.jsonl"
        if not self.config.resume or not file.is_file():
            return []
        lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        kept = [line for line in lines if line["step"] <= self.state["step"]]
        write_text(file, "".join(json.dumps(line) + "\n" for line in kept))
        return kept


class _Bar:
    """Progress bar on a terminal, None where there is none (then lines are printed)."""

    def __init__(self, wanted: bool) -> None:
        console = Console(stderr=True)
        self.bar: Progress | None = None
        if wanted and console.is_terminal:
            self.bar = Progress(
                BarColumn(),
                TextColumn("{task.fields[words]}"),
                TimeRemainingColumn(),
                console=console,
            )

    def __enter__(self) -> tuple[Progress | None, Any]:
        if self.bar is None:
            return None, None
        self.bar.start()
        return self.bar, self.bar.add_task("train", total=1.0, words="")

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.stop()
