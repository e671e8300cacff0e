"""The public names: a change here is a change of the interface and of the changelog."""

import dataclasses
import inspect

import pytest

import mobius_seg

PUBLIC = [
    "InputError",
    "Instances",
    "Mobius",
    "ModelConfig",
    "Predictor",
    "__version__",
    "list_models",
    "load",
]
PREDICT = {
    "names": None,
    "expression": None,
    "size": None,
    "threshold": 0.3,
    "max_instances": 100,
    "names_per_instance": 1,
    "calibrated": True,
}


def test_public_names() -> None:
    assert list(mobius_seg.__all__) == PUBLIC
    assert set(PUBLIC) <= set(dir(mobius_seg))


@pytest.mark.parametrize("name", PUBLIC)
def test_each_public_name_exists_and_is_documented(name: str) -> None:
    thing = getattr(mobius_seg, name)
    if name != "__version__":
        assert inspect.getdoc(thing)


def test_load_signature() -> None:
    parameters = inspect.signature(mobius_seg.load).parameters
    assert next(iter(parameters.values())).default is inspect.Parameter.empty
    assert parameters["device"].default is None


def test_predict_signature() -> None:
    parameters = inspect.signature(mobius_seg.Predictor.predict).parameters
    for name, default in PREDICT.items():
        assert parameters[name].kind is inspect.Parameter.KEYWORD_ONLY, name
        assert parameters[name].default == default, name


def test_instances_interface() -> None:
    for name in ("masks", "to_supervision", "to_coco", "plot", "boxes_xyxy", "scores", "names"):
        fields = {field.name for field in dataclasses.fields(mobius_seg.Instances)}
        assert name in fields or hasattr(mobius_seg.Instances, name), name


def test_input_error_is_a_value_error() -> None:
    assert issubclass(mobius_seg.InputError, ValueError)
