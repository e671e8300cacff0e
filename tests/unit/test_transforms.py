"""Pictures of a user's own made one size and changed as a camera would."""

import torch

from mobius_seg.data.sample import Sample
from mobius_seg.data.transforms import AugmentedSamples


class Pictures:
    """Two pictures with one instance each."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Sample:
        generator = torch.Generator().manual_seed(index)
        masks = torch.zeros(1, 48, 64, dtype=torch.bool)
        masks[0, 10:40, 10:50] = True
        return Sample(
            image=torch.randint(60, 200, (3, 48, 64), dtype=torch.uint8, generator=generator),
            boxes_xyxy=torch.tensor([[10.0, 10, 50, 40]]),
            masks=masks,
            names=("cat",),
        )


def samples(ratio: float, seed: int = 0) -> list[Sample]:
    augmented = AugmentedSamples(Pictures(), 64, seed, photometric_ratio=ratio)
    return [augmented[index] for index in range(40)]


def test_light_and_noise_change_pictures_and_nothing_else() -> None:
    plain, changed = samples(0.0), samples(1.0)
    for before, after in zip(plain, changed, strict=True):
        assert after.image.dtype == torch.uint8
        assert after.image.shape == before.image.shape
        assert torch.equal(before.boxes_xyxy, after.boxes_xyxy)
        assert before.masks is not None
        assert after.masks is not None
        assert torch.equal(before.masks, after.masks)
    differ = [
        not torch.equal(before.image, after.image)
        for before, after in zip(plain, changed, strict=True)
    ]
    assert 25 < sum(differ) < 40  # each change comes only sometimes


def test_a_share_of_the_pictures_is_changed_and_always_the_same_way() -> None:
    plain, some = samples(0.0), samples(0.3)
    differ = sum(not torch.equal(a.image, b.image) for a, b in zip(plain, some, strict=True))
    assert 4 <= differ <= 20
    assert all(torch.equal(a.image, b.image) for a, b in zip(some, samples(0.3), strict=True))
