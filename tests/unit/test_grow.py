"""A larger model that computes what a smaller one does."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mobius_seg.checkpoint import load_model
from mobius_seg.cli import main
from mobius_seg.errors import InputError
from mobius_seg.model import Mobius
from mobius_seg.presets import get_preset
from mobius_seg.train.grow import difference, grow
from mobius_seg.train.grow_backbone import Copies
from mobius_seg.types import TextPrompt


@pytest.fixture(scope="module")
def small() -> Mobius:
    return load_model("mobius-n")


@pytest.fixture(scope="module")
def large(small: Mobius) -> Mobius:
    return grow(small, get_preset("mobius-s"))


class TestGrow:
    def test_says_what_the_smaller_model_says(self, small: Mobius, large: Mobius) -> None:
        """Every stage's logits, boxes and mask vectors, asked for as many queries."""
        pixels = torch.rand(2, 3, 96, 64, generator=torch.Generator().manual_seed(3))
        prompt = TextPrompt(torch.randn(1, 7, 384, generator=torch.Generator().manual_seed(4)))
        with torch.no_grad():
            wanted = small(pixels, prompt, keep=[20])
            found = large(pixels, prompt, keep=[20])
        assert len(found.layers) == len(wanted.layers)
        for one, other in zip(wanted.layers, found.layers, strict=True):
            for field in ("logits_BQK", "object_logits_BQ", "boxes_BQ4", "mask_embed_BQM"):
                torch.testing.assert_close(
                    getattr(other, field), getattr(one, field), atol=2e-3, rtol=2e-3
                )
        assert difference(small, large) < 1e-5

    def test_has_room_to_learn(self, small: Mobius, large: Mobius) -> None:
        """It is larger, and no gradient of a copy is parallel to that of its original."""
        assert sum(p.numel() for p in large.parameters()) > 1.3 * sum(
            p.numel() for p in small.parameters()
        )
        network = grow(small, get_preset("mobius-s"))
        pixels = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(5))
        maps = network.backbone(pixels)
        weights = torch.randn(maps[3].shape, generator=torch.Generator().manual_seed(6))
        (maps[3] * weights).sum().backward()
        block, before = network.backbone.body.blocks[4][1], small.backbone.body.blocks[4][1]
        gradient, value = block.conv_dw.weight.grad.flatten(1), block.conv_dw.weight.flatten(1)
        count = len(before.conv_dw.weight)
        alike = 0
        for copy in range(count, len(value)):
            same = int((value[:count] == value[copy]).all(1).nonzero()[0, 0])
            pair = gradient[[same, copy]]
            if float(pair.norm(dim=1).min()) > 0:  # a channel that ReLU6 keeps off has none
                alike += float(torch.cosine_similarity(pair[0], pair[1], 0).abs()) > 0.999
        assert alike < (len(value) - count) // 4
        added = network.backbone.body.blocks[4][-1]
        assert float(added.conv_pwl.weight.detach().abs().max()) == 0
        assert float(added.conv_pwl.weight.grad.abs().max()) > 0

    def test_is_seeded(self, small: Mobius, large: Mobius) -> None:
        again, other = (grow(small, get_preset("mobius-s"), seed) for seed in (0, 1))
        state = large.state_dict()
        assert all(torch.equal(state[key], value) for key, value in again.state_dict().items())
        assert any(not torch.equal(state[key], value) for key, value in other.state_dict().items())

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"backbone": "resnet18"}, "EfficientNets of one family"),
            ({"backbone": "mobilenetv4_conv_small"}, "7 stages, the larger one 5"),
            ({"backbone": "tf_efficientnet_b0"}, "compute something else"),
            ({"width": 192}, r"128.*192|smaller model"),
            ({"decoder_layers": 6}, "more mixing layers"),
            ({"decoder_layers": 3}, "no place for decoder.layers.3"),
            ({"mixing_layers": 1}, r"no place for pixel_decoder.mix.1"),
            ({"mixing_ffn": 256}, "512"),
            ({"uncertainty_head": True}, "uncertainty"),
        ],
    )
    def test_refuses_what_it_cannot_keep(
        self, small: Mobius, changes: dict[str, object], said: str
    ) -> None:
        config = replace(get_preset("mobius-s"), **changes)  # type: ignore[arg-type]
        with pytest.raises(InputError, match=said):
            grow(small, config)


class TestCopies:
    def test_shares_of_a_weight_make_it_up(self) -> None:
        torch.manual_seed(0)
        copies = Copies.draw(3, 8, "layer")
        assert copies.index_N[:3].tolist() == [0, 1, 2]
        assert sorted(copies.index_N[3:6].tolist()) == [0, 1, 2]
        weight, x = torch.randn(5, 3, 1, 1), torch.randn(1, 3, 4, 4)
        wide = torch.nn.functional.conv2d(x[:, copies.index_N], copies.read(weight))
        torch.testing.assert_close(wide, torch.nn.functional.conv2d(x, weight))

    def test_nothing_gets_narrower(self) -> None:
        with pytest.raises(InputError, match="layer: 8 channels do not fit into 3"):
            Copies.draw(8, 3, "layer")


class TestCommand:
    def test_writes_a_model_to_go_on_with(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        out = tmp_path / "grown"
        arguments = ["grow", "--weights", "mobius-n", "--preset", "mobius-s", "--out", str(out)]
        assert main(arguments) == 0
        assert "its maps are those of mobius-n" in capsys.readouterr().out
        record = json.loads((out / "training.json").read_text())
        assert record["start"] == "mobius-n"
        assert record["previous"]["steps"] > 0
        assert record["assets"]
        assert load_model(out).config == get_preset("mobius-s")
        assert main(arguments) == 2
        assert "holds a model already" in capsys.readouterr().err

    def test_says_what_does_not_grow(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        out = str(tmp_path / "grown")
        assert main(["grow", "--weights", "mobius-n", "--preset", "mobius-m", "--out", out]) == 2
        assert "mobius-n does not grow into mobius-m" in capsys.readouterr().err
        assert main(["grow", "--weights", "mobius-n", "--preset", "mobius-n", "--out", out]) == 2
        assert "mobius-n is mobius-n already; allowed: a larger" in capsys.readouterr().err
        assert not Path(out).exists()
