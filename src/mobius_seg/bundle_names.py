"""Make ``weights/names.safetensors``: text vectors of common names, shipped with the package.

``python -m mobius_seg.bundle_names`` writes it anew; run it when the list of names changes. With it
most calls of ``predict(names=...)`` need no text encoder. The names of ImageNet's classes, which
only :mod:`mobius_seg.recognition` reads, go into a file of their own beside it.
"""

import json
from importlib import resources

from mobius_seg.imagenet import class_names
from mobius_seg.text import MiniLMEncoder
from mobius_seg.text_cache import BUNDLED_CLASSES, BUNDLED_NAMES, write_names

# The 80 categories of COCO (Lin et al. 2014), the names that users try first.
COCO_NAMES = (
    *("person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat"),
    *("traffic light", "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog"),
    *("horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella"),
    *("handbag", "tie", "suitcase", "frisbee", "skis", "snowboard", "sports ball", "kite"),
    *("baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle"),
    *("wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich"),
    *("orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch"),
    *("potted plant", "bed", "dining table", "toilet", "tv", "laptop", "mouse", "remote"),
    *("keyboard", "cell phone", "microwave", "oven", "toaster", "sink", "refrigerator", "book"),
    *("clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush"),
)
# What the pictures of the documentation show.
DEMO_NAMES = ("coffee cup", "saucer", "table", "astronaut", "rocket", "flag", "coin", "flower")


def bundled_names() -> list[str]:
    """The names of the file: COCO's, the training vocabulary's and those of the documentation."""
    split = json.loads(
        resources.files("mobius_seg.data").joinpath("split.json").read_text(encoding="utf-8")
    )
    return sorted({*COCO_NAMES, *DEMO_NAMES, *split["base"], *split["novel"]})


if __name__ == "__main__":
    write_names(BUNDLED_NAMES, bundled_names(), MiniLMEncoder())
    write_names(BUNDLED_CLASSES, class_names(), MiniLMEncoder())
    print(f"{len(bundled_names())} names in {BUNDLED_NAMES}")
