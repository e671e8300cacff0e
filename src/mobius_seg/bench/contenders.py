"""What a benchmark measures: our models in each runtime, and other networks as ONNX files."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from mobius_seg.errors import InputError
from mobius_seg.option_kinds import count

if TYPE_CHECKING:
    from mobius_seg.config import ModelConfig

RUNTIMES = ("torch", "predict", "onnx", "openvino", "executorch", "litert")
PRECISIONS = ("fp32", "fp16", "int8")
VOCABULARIES = ("fixed", "dynamic")
EAGER = ("torch", "predict")
"""Runtimes that need no exported graph: the network alone, and the whole call of ``predict``."""
ALL_NAMES = "all names"
STAGES = "stages"
PEER = "onnx file"


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One thing that takes its turn.

    Attributes:
        model: preset or folder of ours, or name of a peer.
        runtime: one of :data:`RUNTIMES`, :data:`PEER`, or :data:`STAGES` for the parts of ours.
        size: height and width of the input in pixels.
        names: names that are asked for; 0 for a peer.
        threads: CPU threads.
        operating_point: of our model; empty for a peer.
        precision: of the weights.
        vocabulary: whether the names are constants of the graph or its input; for ``predict``
            :data:`ALL_NAMES` where none may be left out.
        path: the exported folder or the peer's file; empty for torch.
        seed: of weights that a preset has not, the picture and the text vectors.
        scenes: pictures that the network runs on in turn, so that a policy which looks at each can
            do so; empty = one picture of noise and the fixed schedule.
        asked: with ``scenes``, the names themselves.
    """

    model: str
    runtime: str
    size: tuple[int, int]
    names: int
    threads: int
    operating_point: str = "full"
    precision: str = "fp32"
    vocabulary: str = ""
    path: str = ""
    seed: int = 0
    scenes: tuple[str, ...] = ()
    asked: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """What tells it from the others of a run, in a few words."""
        parts = (self.model, self.runtime, self.operating_point, self.precision, self.vocabulary)
        size = f"{self.size[0]}x{self.size[1]}"
        return " ".join(part for part in (*parts, size) if part)

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what :meth:`to_json` wrote."""
        values: dict[str, Any] = json.loads(text)
        lists = {key: tuple(values.get(key, ())) for key in ("size", "scenes", "asked")}
        return cls(**values | lists)


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What the command line asks for, read and checked.

    Attributes:
        models: name or folder of each model with its input size.
        runtimes: some of :data:`RUNTIMES`.
        operating_points: of each model.
        precisions: of exported graphs; torch runs fp32 alone.
        vocabularies: of exported graphs; torch encodes the text vectors in every call.
        names: names that are asked for.
        threads: CPU threads.
    """

    models: tuple[tuple[str, tuple[int, int]], ...]
    runtimes: tuple[str, ...]
    operating_points: tuple[str, ...]
    precisions: tuple[str, ...]
    vocabularies: tuple[str, ...]
    names: int
    threads: int

    def contenders(self) -> Iterator[Contender]:
        """Ours, without the folders of those that have to be exported first."""
        for model, size in self.models:
            for runtime in self.runtimes:
                exported = runtime not in EAGER
                for point in self.operating_points:
                    for precision in self.precisions if exported else ("fp32",):
                        for vocabulary in self.vocabularies if exported else ("",):
                            yield Contender(
                                model=model,
                                runtime=runtime,
                                size=size,
                                names=self.names,
                                threads=self.threads,
                                operating_point=point,
                                precision=precision,
                                vocabulary=vocabulary,
                            )


def read_models(text: str, size: tuple[int, int] | None) -> tuple[tuple[str, tuple[int, int]], ...]:
    """Models from ``NAME[@SIDE|@HxW],...``, each with the size that it runs at.

    Args:
        text: what the user gave.
        size: of models without a size; None takes each model's own, square.

    Raises:
        InputError: no such model, or a size that no model takes.
    """
    from mobius_seg.cost.report import check_size

    found = []
    for entry in split(text, "--models"):
        model, _, given = entry.rpartition("@") if "@" in entry else (entry, "", "")
        config = own_config(model)
        side = -(-config.input_size // 32) * 32
        own = read_size(given, entry) if "@" in entry else size or (side, side)
        check_size(own)
        found.append((model, own))
    return tuple(found)


def own_config(model: str) -> "ModelConfig":
    """Configuration that a model runs with: of its folder, of released weights, or of a preset.

    Raises:
        InputError: neither a preset nor a model folder.
    """
    from mobius_seg.checkpoint import find_folder, is_shipped, read_config
    from mobius_seg.cost.report import config_of

    return read_config(find_folder(model)) if is_shipped(model) else config_of(model)


def read_size(text: str, where: str) -> tuple[int, int]:
    """``640`` or ``480x640`` as height and width.

    Raises:
        InputError: it is neither.
    """
    sides = re.fullmatch(r"(\d+)(?:x(\d+))?", text)
    if sides is None or int(sides[1]) < 1 or int(sides[2] or 1) < 1:
        raise InputError(f"{where}: {text!r} is no size such as 448 or 480x640")
    return int(sides[1]), int(sides[2] or sides[1])


def split(text: str, option: str, allowed: Sequence[str] | None = None) -> tuple[str, ...]:
    """Parts between commas, each once.

    Raises:
        InputError: a part is blank, or not among those allowed.
    """
    parts = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    for part in parts:
        if not part or (allowed is not None and part not in allowed):
            choices = "" if allowed is None else f"; allowed: {', '.join(allowed)}"
            raise InputError(f"{option} {text!r} holds {part!r}{choices}")
    return parts


def find_peer(name: str, folder: Path, size: tuple[int, int], threads: int) -> Contender:
    """A peer's ONNX file: a path, or a name whose file ``benchmarks/peers/build.py`` wrote.

    Args:
        name: path of an ONNX file, or NAME[@SIZE].
        folder: where files of names are.
        size: of names without a size.
        threads: CPU threads.

    Raises:
        InputError: there is no such file.
    """
    if name.endswith(".onnx"):
        if not Path(name).is_file():
            raise InputError(f"peer {name}: no such file")
        return Contender(
            model=Path(name).stem, runtime=PEER, size=size, names=0, threads=threads, path=name,
            operating_point="",
        )  # fmt: skip
    model, _, given = name.partition("@")
    own = read_size(given, name) if given else size
    path = folder / f"{model}_{own[0]}x{own[1]}.onnx"
    if not path.is_file():
        raise InputError(
            f"peer {name}: {path} is not there; python benchmarks/peers/build.py {model}"
            f" --size {own[0]}x{own[1]} --out {folder} makes it"
        )
    return Contender(
        model=model, runtime=PEER, size=own, names=0, threads=threads, path=str(path),
        operating_point="",
    )  # fmt: skip


def sides_or_side(text: str) -> tuple[int, int]:
    """Kind of a command-line value: ``640x640`` or ``640``."""
    if "x" in text:
        height, _, width = text.partition("x")
        return count(height), count(width)
    return count(text), count(text)
