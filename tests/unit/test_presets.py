"""What every preset must pass: the same tests for each, from the smallest to the largest.

`PresetShapes` needs no arithmetic and runs on the meta device as well; `PresetTests` adds what
needs numbers. The accelerator sizes pass both with a small backbone of the same kind and fewer
layers; in full, mobius-m passes both as slow tests, mobius-l and mobius-h the first on the meta
device and a backward pass.
"""

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mobius_seg.checkpoint import load_model, save_model
from mobius_seg.config import ModelConfig
from mobius_seg.data.sample import Batch, Sample, Vocabulary, collate
from mobius_seg.errors import InputError
from mobius_seg.losses import Criterion, LossConfig
from mobius_seg.model import Mobius
from mobius_seg.points import PointConfig
from mobius_seg.presets import PRESETS, get_preset
from mobius_seg.profile import preset_profile
from mobius_seg.types import ModelOutput, TextPrompt

# A constant added to every logit of a softmax changes nothing, so these biases have no gradient.
CANCELLED = ("memory.key.bias", "box_bias.x.2.bias", "box_bias.y.2.bias")
SIZE = 64


@pytest.fixture(scope="class")
def network(request: pytest.FixtureRequest) -> Mobius:
    return request.cls.build()


def unit_vectors(*shape: int, seed: int = 0, device: str = "cpu") -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(*shape, generator=generator)
    return nn.functional.normalize(values, dim=-1).to(device)


def pictures(count: int, height: int, width: int, seed: int = 0, device: str = "cpu") -> Tensor:
    """Noise at two scales in 0..1, so that the tokens of an image differ."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, height // 16, width // 16, generator=generator)
    coarse = coarse.repeat_interleave(16, 2).repeat_interleave(16, 3)
    return (0.7 * coarse + 0.3 * torch.rand(coarse.shape, generator=generator)).to(device)


def spread(network: Mobius, seed: int = 0) -> Mobius:
    """Give constant parameters values and scores a range, so that nothing hides behind a zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.startswith("backbone.body") and parameter.any():
                continue
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
            if name.endswith("log_scale"):
                parameter.fill_(3.0)
            if name.endswith("classifier.bias"):
                parameter.fill_(-1.0)
    return network


def tensors(output: ModelOutput) -> list[Tensor]:
    """Everything an output holds, the selection's and every layer's, then masks."""
    found = [t for layer in output.layers for t in layer.tensors()]
    dense = [] if output.dense is None else list(vars(output.dense).values())
    return [*found, *dense, output.mask_features_BMhw, output.text_BKC, output.mask_logits()]


def assert_close(a: ModelOutput, b: ModelOutput, tolerance: float = 1e-4) -> None:
    for left, right in zip(tensors(a), tensors(b), strict=True):
        torch.testing.assert_close(left, right, rtol=tolerance, atol=tolerance)


class RankCheck(TorchDispatchMode):
    """Remembers the highest rank of a tensor outside ``skipped``, and the operator that met it."""

    def __init__(self, skipped: nn.Module | None = None) -> None:
        super().__init__()
        self.highest = (0, "")
        self.paused = False
        self.hooks = []
        if skipped is not None:
            self.hooks = [
                skipped.register_forward_pre_hook(lambda *_: setattr(self, "paused", True)),
                skipped.register_forward_hook(lambda *_: setattr(self, "paused", False)),
            ]

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        for hook in self.hooks:
            hook.remove()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if not self.paused:
            ranks = [t.dim() for t in tree_leaves((args, out)) if isinstance(t, Tensor)]
            self.highest = max(self.highest, (max(ranks, default=0), str(func)))
        return out


COSTLY = ("mobius-l", "mobius-h", "glee-plus", "glee-pro")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n in COSTLY)) for n in PRESETS]
)
def test_states_its_cost(name: str) -> None:
    """Run and counted on the meta device: `python -m mobius_seg.profile` prints the figures."""
    config, profile = get_preset(name), preset_profile(name)
    assert profile.total_parameters == config.expected_params
    assert profile.gmac == pytest.approx(config.expected_gmac, rel=5e-3)


class PresetShapes:
    """Sizes, shapes and cost; on the meta device where ``device`` says so."""

    preset: ClassVar[str]
    device: ClassVar[str] = "cpu"
    # timm's Swin cuts windows with tensors of rank 6, which only that backbone may do.
    backbone_cuts_windows: ClassVar[bool] = False

    @classmethod
    def config(cls) -> ModelConfig:
        return get_preset(cls.preset)

    @classmethod
    def build(cls) -> Mobius:
        with torch.random.fork_rng(devices=[]), torch.device(cls.device):
            torch.manual_seed(0)
            network = Mobius(cls.config()).eval()
        return network if cls.device == "meta" else spread(network)

    def names(self, count: int, batch: int = 1) -> TextPrompt:
        return TextPrompt(unit_vectors(batch, count, 384, device=self.device))

    def expression(self, tokens: int = 5) -> TextPrompt:
        mask = torch.ones(1, tokens, dtype=torch.bool, device=self.device)
        vectors = unit_vectors(1, tokens, 384, seed=1, device=self.device)
        return TextPrompt(unit_vectors(1, 1, 384, device=self.device), None, vectors, mask)

    def images(self, count: int = 1, height: int = SIZE, width: int = SIZE) -> Tensor:
        return pictures(count, height, width, device=self.device)

    def queries(self, network: Mobius, height: int = SIZE, width: int = SIZE) -> int:
        strides = network.config.token_strides
        tokens = sum(-(-height // s) * -(-width // s) for s in strides)
        return min(network.config.queries, tokens)

    def check(self, network: Mobius, out: ModelOutput, columns: int, size: tuple[int, int]) -> None:
        config, count = network.config, self.queries(network, *size)
        batch = out.mask_features_BMhw.shape[0]
        assert len(out.layers) == config.decoder_layers + 1
        for layer in out.layers:
            assert layer.logits_BQK.shape == (batch, count, columns)
            assert layer.object_logits_BQ.shape == (batch, count)
            assert layer.boxes_BQ4.shape == (batch, count, 4)
            assert layer.mask_embed_BQM.shape == (batch, count, config.mask_width)
        assert out.mask_logits().shape == (batch, count, size[0] // 4, size[1] // 4)
        if self.device != "meta":
            assert all(torch.isfinite(t).all() for t in tensors(out))
            boxes = torch.stack([layer.boxes_BQ4 for layer in out.layers])
            assert bool(((boxes >= 0) & (boxes <= 1)).all())

    def test_config_survives_json(self) -> None:
        assert ModelConfig.from_json(self.config().to_json()) == self.config()

    @torch.no_grad()
    @pytest.mark.parametrize("size", [(96, 160), (64, 32)])
    def test_shapes(self, network: Mobius, size: tuple[int, int]) -> None:
        self.check(network, network(self.images(1, *size), self.names(3)), 3, size)

    @torch.no_grad()
    @pytest.mark.parametrize("count", [0, 1, 2000])
    def test_any_number_of_names(self, network: Mobius, count: int) -> None:
        self.check(network, network(self.images(), self.names(count)), count, (SIZE, SIZE))

    @torch.no_grad()
    def test_expression(self, network: Mobius) -> None:
        self.check(network, network(self.images(2), self.expression()), 1, (SIZE, SIZE))

    def test_size_must_be_a_multiple_of_32(self, network: Mobius) -> None:
        with pytest.raises(InputError, match="48x64"):
            network(self.images(1, 48, 64), self.names(1))

    @torch.no_grad()
    def test_dropping_shortens_the_output(self, network: Mobius) -> None:
        calls: list[int] = []
        hooks = [
            layer.register_forward_hook(lambda *_, i=i: calls.append(i))
            for i, layer in enumerate(network.decoder.layers)
        ]
        keep = [9, 7, 4]
        depth = min(3, network.config.decoder_layers - 1)
        out = network(self.images(2), self.names(3), keep=keep, layers=depth)
        for hook in hooks:
            hook.remove()
        assert calls == list(range(depth))
        counts = [layer.boxes_BQ4.shape[1] for layer in out.layers]
        assert counts == [9, 9, 7, 4][: depth + 1]
        assert all(t.shape[1] == counts[-1] for t in out.layers[-1].tensors())
        assert out.mask_logits().shape[1] == counts[-1]

    @torch.no_grad()
    def test_no_tensor_has_a_rank_above_five(self, network: Mobius) -> None:
        for training, prompt in ((True, self.names(2)), (False, self.expression())):
            network.train(training)
            with RankCheck(network.backbone.body if self.backbone_cuts_windows else None) as check:
                network(self.images(2, 64, 96), prompt).mask_logits()
            assert check.highest[0] <= 5, check.highest


class PresetTests(PresetShapes):
    """What needs numbers."""

    def batch(self, make_sample: Callable[..., Sample], vocabulary: Vocabulary) -> Batch:
        """A names sample, an expression sample and a class-agnostic one."""
        samples = [
            make_sample(names=("cup", "dog"), seed=1),
            make_sample(expression="the cup on the left", referred=(0,), seed=2),
            make_sample(names=None, seed=3),
        ]
        return collate(samples, vocabulary, np.random.default_rng(0), (2, 4))

    def test_every_parameter_gets_a_gradient(
        self, network: Mobius, make_sample: Callable[..., Sample], vocabulary: Vocabulary
    ) -> None:
        batch = self.batch(make_sample, vocabulary)
        criterion = Criterion(LossConfig(points=PointConfig(count=64, in_box=32)))
        generator = torch.Generator().manual_seed(0)
        out = network.train()(batch.images_B3HW.float() / 255, batch.prompt)
        network.eval()
        parts = criterion(out, batch.targets, batch.prompt, generator)
        assert all(torch.isfinite(value) for value in parts.values()), parts
        parts["loss"].backward()
        gradients = {name: p.grad for name, p in network.named_parameters()}
        network.zero_grad(set_to_none=True)
        assert not [name for name, g in gradients.items() if g is None]
        assert not [name for name, g in gradients.items() if not torch.isfinite(g).all()]
        dead = [n for n, g in gradients.items() if not g.any() and not n.endswith(CANCELLED)]
        assert not dead

    def test_saved_and_loaded_is_equal(self, network: Mobius, tmp_path: Path) -> None:
        save_model(network, tmp_path, float16=False)
        loaded = load_model(tmp_path)
        assert loaded.config == network.config
        assert not loaded.training
        with torch.no_grad():
            a, b = (m(self.images(), self.names(3)) for m in (network, loaded))
        for left, right in zip(tensors(a), tensors(b), strict=True):
            assert torch.equal(left, right)

    @torch.no_grad()
    def test_batch_equals_singles(self, network: Mobius) -> None:
        images, prompt = self.images(3, 64, 96), self.names(4)
        together = network(images, prompt)
        for i in range(3):
            single = network(images[i : i + 1], prompt)
            for left, right in zip(tensors(together), tensors(single), strict=True):
                left = left[i : i + 1] if left.shape[0] == 3 else left
                torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-4)

    @torch.no_grad()
    def test_each_image_of_a_batch_is_asked_its_own(self, network: Mobius) -> None:
        """Two names, an expression and everything in one batch: padding changes nothing."""
        images, vectors = self.images(3), unit_vectors(3, 6, 384)
        pooled, tokens = vectors[:, :2], vectors[:, 2:]
        columns = torch.tensor([[True, True], [True, False], [False, False]])
        real = torch.tensor([[False] * 4, [True, True, True, False], [False] * 4])
        together = network(images, TextPrompt(pooled, columns, tokens, real)).layers[-1]
        singles = [
            TextPrompt(pooled[:1]),
            TextPrompt(pooled[1:2, :1], None, tokens[1:2, :3]),
            TextPrompt.everything(384),
        ]
        for i, prompt in enumerate(singles):
            alone = network(images[i : i + 1], prompt).layers[-1]
            wanted = {"rtol": 1e-4, "atol": 1e-4}
            # Tokens whose scores are equal to the last digit may become queries in another order.
            left, right = (
                torch.cat([one.boxes_BQ4[row], one.object_logits_BQ[row, :, None]], -1)
                for one, row in ((alone, 0), (together, i))
            )  # boxes alone may meet at the picture's border
            order = torch.cdist(left, right).argmin(1)
            assert len(set(order.tolist())) == len(order)
            torch.testing.assert_close(together.boxes_BQ4[i][order], alone.boxes_BQ4[0], **wanted)
            seen = together.logits_BQK[i, order, : alone.logits_BQK.shape[2]]
            torch.testing.assert_close(seen, alone.logits_BQK[0], **wanted)
            left, right = together.object_logits_BQ[i, order], alone.object_logits_BQ[0]
            torch.testing.assert_close(left, right, **wanted)

    @torch.no_grad()
    def test_order_of_names_does_not_matter(self, network: Mobius) -> None:
        vectors, order = unit_vectors(1, 7, 384), torch.tensor([3, 0, 6, 1, 5, 2, 4])
        plain = network(self.images(), TextPrompt(vectors))
        permuted = network(self.images(), TextPrompt(vectors[:, order]))
        for a, b in zip(plain.layers, permuted.layers, strict=True):
            back = replace(a, logits_BQK=a.logits_BQK[..., order])
            for left, right in zip(back.tensors(), b.tensors(), strict=True):
                torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-4)

    @torch.no_grad()
    def test_names_change_the_answer_and_equal_names_do_not(self, network: Mobius) -> None:
        vectors = unit_vectors(1, 3, 384)[:, [0, 1, 0, 2]]
        logits = network(self.images(), TextPrompt(vectors)).layers[-1].logits_BQK
        torch.testing.assert_close(logits[..., 0], logits[..., 2], rtol=1e-5, atol=1e-5)
        assert (logits[..., 0] - logits[..., 1]).abs().mean() > 1e-2

    @torch.no_grad()
    def test_nothing_dropped_is_bit_equal(self, network: Mobius) -> None:
        plain = network(self.images(2), self.names(3))
        count = plain.layers[0].boxes_BQ4.shape[1]
        for keep in ([count, count], [10 * count]):
            again = network(self.images(2), self.names(3), keep=keep)
            for left, right in zip(tensors(plain), tensors(again), strict=True):
                assert torch.equal(left, right)

    @torch.no_grad()
    def test_what_runs_before_a_cut_is_bit_equal(self, network: Mobius) -> None:
        plain = network(self.images(2), self.names(3))
        count = plain.layers[0].boxes_BQ4.shape[1]
        short = network(self.images(2), self.names(3), layers=1)
        dropped = network(self.images(2), self.names(3), keep=[count, 5], layers=2)
        for other in (short, dropped):
            for a, b in zip(plain.layers[:2], other.layers[:2], strict=True):
                pairs = zip(a.tensors(), b.tensors(), strict=True)
                assert all(torch.equal(left, right) for left, right in pairs)
        assert len(short.layers) == 2
        assert dropped.layers[2].boxes_BQ4.shape[1] == 5

    @pytest.mark.parametrize("training", [False, True])
    def test_forward_draws_from_no_global_source(self, network: Mobius, training: bool) -> None:
        network.train(training)
        before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
        with torch.no_grad():
            first = network(self.images(2, 64, 128), self.names(3))
            second = network(self.images(2, 64, 128), self.names(3))
        network.eval()
        assert torch.equal(before[0], torch.get_rng_state())
        assert before[1] == random.getstate()
        assert np.array_equal(before[2], np.random.get_state()[1])  # noqa: NPY002
        for left, right in zip(tensors(first), tensors(second), strict=True):
            assert torch.equal(left, right)


class TestMobiusTest(PresetTests):
    preset = "mobius-test"


class TestMobiusP(PresetTests):
    preset = "mobius-p"


class TestMobiusN(PresetTests):
    preset = "mobius-n"


class TestMobiusS(PresetTests):
    preset = "mobius-s"


class Lighter(PresetTests):
    """A large preset with a small backbone of its kind and fewer layers: its code, real numbers."""

    backbone: ClassVar[str]
    backbone_args: ClassVar[dict[str, Any]] = {}

    @classmethod
    def config(cls) -> ModelConfig:
        config = get_preset(cls.preset)
        return replace(
            config,
            backbone=cls.backbone,
            backbone_args=config.backbone_args + tuple(cls.backbone_args.items()),
            width=64,
            mask_width=32,
            fusion_width=64,
            mixing_layers=1,
            mixing_ffn=128,
            decoder_layers=2,
            decoder_ffn=128,
        )


class TestMobiusMLighter(Lighter):
    preset = "mobius-m"
    backbone = "test_resnet"


class TestMobiusLLighter(Lighter):
    preset = "mobius-l"
    backbone = "swin_tiny_patch4_window7_224"
    backbone_args: ClassVar = {"embed_dim": 16, "depths": (2, 1, 1, 1), "num_heads": (1, 2, 4, 8)}
    backbone_cuts_windows = True


class TestMobiusHLighter(Lighter):
    preset = "mobius-h"
    backbone = "eva02_tiny_patch14_224"
    backbone_args: ClassVar = {"depth": 2, "embed_dim": 96}


class TestGleeLiteLighter(Lighter):
    preset = "glee-lite"
    backbone = "test_resnet"


@pytest.mark.slow
class TestMobiusM(PresetTests):
    preset = "mobius-m"


@pytest.mark.slow
class TestGleeLite(PresetTests):
    preset = "glee-lite"


class OnMeta(PresetShapes):
    """Shapes of the sizes that are too large for more, and one backward pass of the real thing."""

    device = "meta"

    def test_backward(self) -> None:
        network = Mobius(self.config()).train()
        out = network(pictures(2, 64, 64), TextPrompt(unit_vectors(1, 2, 384)))
        found = [t for t in tensors(out) if t.requires_grad]
        torch.stack([t.float().mean() for t in found]).sum().backward()
        assert not [name for name, p in network.named_parameters() if p.grad is None]


@pytest.mark.slow
class TestMobiusL(OnMeta):
    preset = "mobius-l"
    backbone_cuts_windows = True


@pytest.mark.slow
class TestMobiusH(OnMeta):
    preset = "mobius-h"


@pytest.mark.slow
class TestGleePlus(OnMeta):
    preset = "glee-plus"
    backbone_cuts_windows = True


@pytest.mark.slow
class TestGleePro(OnMeta):
    preset = "glee-pro"
