"""What other words do: names of val-base with articles, in the plural, as captions, and kinds.

The same scenes and the same objects, the names of the file replaced. *Synonyms*: of the names that
have one, the first of each; only their objects count. *Kinds*: broad ones ("animal", "furniture"),
on the scenes whose objects are each of exactly one of them.
"""

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mobius_seg
from conditions import ROOT, conditions, store
from mobius_seg.data.wordings import article, plural, read_kinds, synonyms
from mobius_seg.evaluate.runner import evaluate
from tables import json_file
from val_sets import SEEDS, val_set

KINDS = (
    "animal",
    "bathroom fixture",
    "building",
    "clothing",
    "electronic device",
    "food",
    "furniture",
    "home appliance",
    "kitchenware",
    "light fixture",
    "musical instrument",
    "person",
    "plant",
    "sports equipment",
    "stationery",
    "timepiece",
    "vehicle",
)
Coco = dict[str, Any]


def main() -> None:
    """Measure and store ``results/wordings_<model>.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="mobius-n", help="preset name or folder of weights")
    parser.add_argument("--pack", type=Path, default=ROOT / "assets" / "pack.safetensors")
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "val")
    parser.add_argument("--limit", type=int, default=200, help="scenes (all for the kinds)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--trial", action="store_true", help="print, do not store")
    options = parser.parse_args()
    model = mobius_seg.load(options.model)
    found = val_set("val-base", options.pack, options.folder)
    plain = json_file(found.annotations)
    measured = {}
    for way, coco in _ways(plain).items():
        limit = None if way == "kinds" else options.limit
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "annotations.json"
            file.write_text(json.dumps(coco), encoding="utf-8")
            figures = evaluate(model, file, found.images, threads=options.threads, limit=limit)
        measured[way] = {key: figures[key] for key in ("images", "mask_ap", "mask_ap50")}
        print(way, measured[way], flush=True)
    if options.trial:
        return
    facts = conditions(
        threads=options.threads,
        precision="float32",
        scenes=f"the first {options.limit} of val-base (seed {SEEDS['val-base']}); for kinds those"
        " of all 500 whose objects are each of exactly one kind",
        input_size=model.config.input_size,
    )
    store(f"wordings_{Path(options.model).name}", {"conditions": facts, "ways": measured})


def _ways(plain: Coco) -> dict[str, Coco]:
    """The COCO file as it is and with other names."""
    with_synonym = _only(plain, lambda name: bool(synonyms(name)))
    return {
        "as they are": plain,
        "article": _renamed(plain, _with_article),
        "plural": _renamed(plain, plural),
        "caption": _renamed(plain, lambda name: f"a photo of {_with_article(name)}"),
        "with a synonym, as they are": with_synonym,
        "synonym": _renamed(with_synonym, lambda name: (*synonyms(name), name)[0]),
        "kinds": _kinds(plain),
    }


def _with_article(name: str) -> str:
    return name if plural(name) == name else f"{article(name)} {name}"


def _renamed(coco: Coco, wording: Callable[[str], str]) -> Coco:
    """Names in another wording; what would be another name of the file stays."""
    names = {category["name"] for category in coco["categories"]}
    categories = []
    for category in coco["categories"]:
        text = wording(category["name"])
        categories.append({**category, "name": category["name"] if text in names else text})
    return {**coco, "categories": categories}


def _only(coco: Coco, kept: Callable[[str], bool]) -> Coco:
    """The objects of some names alone; all names are still asked."""
    name_of = {category["id"]: category["name"] for category in coco["categories"]}
    annotations = [a for a in coco["annotations"] if kept(name_of[a["category_id"]])]
    return {**coco, "annotations": annotations}


def _kinds(coco: Coco) -> Coco:
    """Kinds as categories, on the scenes whose every object is of exactly one of them."""
    members = read_kinds()
    name_of = {category["id"]: category["name"] for category in coco["categories"]}
    annotations = []
    unclear = set()
    for annotation in coco["annotations"]:
        name = name_of[annotation["category_id"]]
        own = [number for number, kind in enumerate(KINDS) if name in members[kind]]
        if len(own) == 1:
            annotations.append({**annotation, "category_id": own[0] + 1})
        else:
            unclear.add(annotation["image_id"])
    return {
        **coco,
        "categories": [{"id": i + 1, "name": kind} for i, kind in enumerate(KINDS)],
        "images": [image for image in coco["images"] if image["id"] not in unclear],
        "annotations": [a for a in annotations if a["image_id"] not in unclear],
    }


if __name__ == "__main__":
    main()
