import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from qfair_check.errors import OptionError
from qfair_check.remedy.augment import applicable, augmented


def images(size=64, height=32, width=48, seed=0):
    return torch.rand(size, 3, height, width, generator=torch.Generator().manual_seed(seed))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_every_image_is_itself_or_its_mirror_image_and_half_are_each():
    given_images = images(400)
    made = augmented(given_images, ["flip"], generator())
    same = (made == given_images).flatten(1).all(1)
    mirrored = (made == given_images.flip(3)).flatten(1).all(1)
    assert bool((same ^ mirrored).all())
    assert 150 < int(mirrored.sum()) < 250


@given(st.integers(0, 2**32 - 1), st.sampled_from([(32, 32), (33, 64), (64, 47)]))
def test_a_shift_is_a_crop_of_the_image_with_mirrored_edges(seed, sides):
    given_images = images(5, *sides, seed=seed)
    down, right = (side // 16 for side in sides)
    padded = functional.pad(given_images, (right, right, down, down), mode="reflect")
    crops = padded.unfold(2, sides[0], 1).unfold(3, sides[1], 1)  # samples, channels, top, left, height, width
    for row, made in enumerate(augmented(given_images, ["shift"], generator(seed))):
        alike = (crops[row] == made[:, None, None]).all(-1).all(-1).all(0)
        assert alike.shape == (2 * down + 1, 2 * right + 1)
        assert int(alike.sum()) == 1


def test_all_shifts_occur_equally_often():
    spot = torch.zeros(5000, 1, 32, 32)
    spot[:, :, 16, 16] = 1
    places = augmented(spot, ["shift"], generator()).flatten(1).argmax(1)
    found = torch.stack([places // 32 - 16, places % 32 - 16])
    assert sorted(set(found.flatten().tolist())) == [-2, -1, 0, 1, 2]
    counts = torch.bincount((found[0] + 2) * 5 + found[1] + 2)
    assert counts.shape == (25,)
    assert counts.min() > 140  # 200 expected, standard deviation 14
    assert counts.max() < 260


def test_it_depends_on_the_generator_alone_and_leaves_its_input():
    given_images = images()
    before = given_images.clone()
    first = augmented(given_images, ["flip", "shift"], generator(1))
    torch.manual_seed(7)
    assert torch.equal(first, augmented(given_images, ["flip", "shift"], generator(1)))
    assert not torch.equal(first, augmented(given_images, ["flip", "shift"], generator(2)))
    assert torch.equal(given_images, before)
    assert torch.equal(augmented(given_images, [], generator()), before)


def test_only_images_large_enough_can_be_changed():
    assert applicable(images()) == ("flip", "shift")
    for other in (images(height=31), torch.zeros(4, 64), (images(),), images().long()):
        assert applicable(other) == ()


def test_an_unknown_kind_is_named():
    with pytest.raises(OptionError, match="no augmentation 'turn': known are flip, shift"):
        augmented(images(), ["turn"], generator())
