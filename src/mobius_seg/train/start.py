"""What a run starts from: ImageNet weights, a pretrained backbone, or a whole model's weights."""

import logging
from typing import Any

from torch import Tensor

from mobius_seg.backbone import load_imagenet
from mobius_seg.checkpoint import load_model
from mobius_seg.config import ModelConfig
from mobius_seg.errors import InputError
from mobius_seg.model import Mobius
from mobius_seg.train.pretrain import load_pretrained
from mobius_seg.train.record import read_record
from mobius_seg.train.settings import BACKBONE_FILE, PRETRAINING_FILE, TrainConfig

logger = logging.getLogger(__name__)
_NAMED = 3  # tensors of each kind that an error message names


def start_network(
    config: TrainConfig, model: ModelConfig, names_VD: Tensor
) -> tuple[Mobius, str, dict[str, Any] | None]:
    """The network that a run begins with.

    Args:
        config: the run.
        model: what ``config.model()`` returned.
        names_VD: text vectors of the training's names, one row a name.

    Returns:
        The network, a word for where its weights came from, and the record of its backbone's
        pretraining where there was one.

    Raises:
        InputError: no network can be built, or the weights do not fit it.
    """
    if config.weights is not None:
        return _from_weights(config, model), str(config.weights.name), None
    network = build_network(config, model)
    network.fit_text(names_VD)
    if config.backbone is not None:
        file = config.backbone / BACKBONE_FILE
        left_out = load_pretrained(network, file, partly=bool(config.overrides))
        record = read_record(config.backbone, PRETRAINING_FILE)
        if left_out:
            logger.info("of %s, not used: %s", file, ", ".join(left_out))
            record = {**(record or {}), "not_used": left_out}
        return network, str((record or {}).get("start", "pretrained")), record
    source = None
    if config.pretrained:
        source = load_imagenet(network.backbone, model.backbone, config.pack.parent)
    return network, source or "random", None


def build_network(config: TrainConfig, model: ModelConfig) -> Mobius:
    """The network of a configuration, with random weights from torch's global generator.

    Raises:
        InputError: the overrides describe no network; without them, that is ours to mend.
    """
    try:
        return Mobius(model)
    except (RuntimeError, ValueError, TypeError, KeyError) as error:
        if not config.overrides:
            raise
        first = str(error).split("\n")[0]
        raise InputError(f"model options {dict(config.overrides)}: no network: {first}") from None


def _from_weights(config: TrainConfig, model: ModelConfig) -> Mobius:
    """A whole model's weights; parts that the overrides add start anew.

    Every stored tensor must have its place: overrides that drop or reshape one are refused.
    """
    assert config.weights is not None
    stored = load_model(config.weights)
    if not config.overrides:
        stored.config = model
        return stored
    network = build_network(config, model)
    wanted, found = network.state_dict(), stored.state_dict()
    dropped = sorted(set(found) - set(wanted))
    other = sorted(k for k in set(found) & set(wanted) if found[k].shape != wanted[k].shape)
    for title, keys in (("have no place for", dropped), ("reshape", other)):
        if keys:
            more = f" and {len(keys) - _NAMED} more" if len(keys) > _NAMED else ""
            raise InputError(
                f"{config.weights}: model options {dict(config.overrides)} {title}"
                f" {', '.join(keys[:_NAMED])}{more}; allowed with weights: options that only add"
                " parts, or leave them as they are"
            )
    network.load_state_dict(found, strict=False)
    added = sorted(set(wanted) - set(found))
    if added:
        logger.info("not in %s, started anew: %s", config.weights, ", ".join(added))
    return network
