"""``mobius-seg export``: write the folder, compare it with the network, say what came of it."""

import argparse
import importlib.util
from typing import TYPE_CHECKING

from mobius_seg.errors import InputError
from mobius_seg.export.request import ExportRequest, open_source
from mobius_seg.segment_files import make_folder
from mobius_seg.terminal import make_console, print_warning

if TYPE_CHECKING:
    from mobius_seg.export.spec import ExportSpec

BAR_MISSED = 1
_ONNX = ("onnx", "onnxscript", "onnxruntime")
_PACKAGES = {
    "onnx": _ONNX,
    "openvino": (*_ONNX, "openvino"),
    "executorch": ("executorch",),
    "litert": ("litert_torch", "ai_edge_litert", "ai_edge_quantizer"),
}


def run_export(options: argparse.Namespace) -> int:
    """Run the command with the options of :mod:`mobius_seg.export.options`.

    Returns:
        The exit code: 0, or 1 where a bar of the comparison is missed.

    Raises:
        InputError: something that the user gave cannot be used.
    """
    request = ExportRequest(
        model=options.model,
        out=options.out,
        runtime=options.format,
        operating_point=options.operating_point,
        names=_names(options.names),
        dynamic_names=options.dynamic_names,
        everything=options.everything,
        size=options.size,
        dynamic_size=options.dynamic_size,
        precision=options.precision,
        names_count=options.names_count,
        segments=options.segments,
        calibration_images=options.calibration_images,
        calibration_limit=options.calibration_limit,
    )
    _check_parity_options(options)
    import torch

    if options.threads is not None:
        torch.set_num_threads(options.threads)
    source = open_source(request.model, request.seed)
    if source.random:
        print_warning(f"{request.model} has no weights: it is exported with random ones")
    _check_packages(request)
    make_folder(request.out)
    from mobius_seg.export.write import export_model

    spec, graphs = export_model(request, source)
    _print_spec(request, spec)
    if not options.parity:
        return 0
    from mobius_seg.export.report import measure_parity, print_parity, write_parity

    report = measure_parity(
        request.out,
        spec,
        graphs,
        annotations=options.parity_annotations,
        images=options.parity_images,
        limit=options.parity_limit,
        threads=options.threads,
    )
    print_parity(report)
    print(f"wrote {write_parity(request.out, report)}")
    return 0 if report["passed"] else BAR_MISSED


def _check_packages(request: ExportRequest) -> None:
    """What the export needs is there before it begins.

    Raises:
        ModuleNotFoundError: it is not; the command line says which extra brings it.
    """
    encoder = _ONNX if "dynamic" in request.vocabularies else ()
    for name in dict.fromkeys((*_PACKAGES[request.runtime], *encoder)):
        if importlib.util.find_spec(name) is None:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def _names(text: str | None) -> tuple[str, ...] | None:
    """Names separated by commas."""
    return None if text is None else tuple(name.strip() for name in text.split(","))


def _check_parity_options(options: argparse.Namespace) -> None:
    """The files of the comparison come together, and before the work that leads to it."""
    annotations, images = options.parity_annotations, options.parity_images
    if (annotations is None) != (images is None):
        raise InputError("--parity-annotations and --parity-images belong together")
    if annotations is None:
        return
    if not options.parity:
        raise InputError("--no-parity leaves out what --parity-annotations is for")
    if options.segments:
        raise InputError("--parity-annotations: segments are compared picture by picture alone")
    from mobius_seg.data.coco import read_coco

    read_coco(annotations)
    if not images.is_dir():
        raise InputError(f"{images}: no such folder of pictures")


def _print_spec(request: ExportRequest, spec: "ExportSpec") -> None:
    """What was written."""
    from mobius_seg.export.chain import CHAIN, chain_files

    console = make_console()
    schedule = spec.schedule
    for graph in spec.graphs:
        files = chain_files(spec.facts[CHAIN]) if CHAIN in spec.facts else [graph.file]
        size = sum((request.out / file).stat().st_size for file in files) / 1e6
        names = f", {len(graph.names)} names" if graph.names else ""
        more = f" and {len(files) - 1} more files" if len(files) > 1 else ""
        console.print(
            f"{request.out / graph.file}{more}: {graph.vocabulary}{names}, {size:.1f} MB",
            soft_wrap=True,
        )
    console.print(
        f"{spec.operating_point}: {schedule['layers']} layers, queries"
        f" {' '.join(map(str, schedule['queries']))} ({schedule['origin']})",
        soft_wrap=True,
    )
