"""Regions have the areas, textures and budgets they claim."""

import pytest
import torch
from scipy import stats
from torch import Tensor

from percep.errors import InputError
from percep.explain import (
    dissimilarity,
    local_standard_deviation,
    matched_region,
    random_region,
    restrict,
    shifted_region,
    ssim_maps,
    top_region,
)
from tests.support.smooth_fields import smooth_fields


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def outline(masks: Tensor) -> Tensor:
    """Pairs of neighbours of which one is inside."""
    return (masks[:, 1:] != masks[:, :-1]).sum((1, 2)) + (masks[:, :, 1:] != masks[:, :, :-1]).sum((1, 2))


@pytest.fixture
def texture() -> Tensor:
    """As uneven as that of photographs, and finer than the maps."""
    return smooth_fields(4, 56, 2, 5).exp()


@pytest.fixture
def tops() -> Tensor:
    return top_region(smooth_fields(4, 56, 6, 6), 0.2, generator())


@pytest.mark.parametrize("share", [0.001, 0.1, 0.2, 0.5])
def test_the_top_holds_the_largest_values_in_its_exact_area(share):
    maps = torch.randn(3, 30, 21, generator=generator())
    mask = top_region(maps, share, generator())
    assert mask.dtype == torch.bool and (mask.sum((1, 2)) == max(1, round(share * 630))).all()
    for values, inside in zip(maps, mask, strict=True):
        assert values[inside].min() > values[~inside].max()


def test_ties_are_broken_at_random_with_the_area_kept():
    maps = torch.zeros(2, 20, 20)
    maps[:, :2, :5] = 1
    masks = torch.stack([top_region(maps, 0.1, generator(seed)) for seed in range(200)])
    assert (masks.sum((2, 3)) == 40).all() and masks[:, :, :2, :5].all()
    frequency = masks[:, 0].double().mean(0)
    rest = torch.ones(20, 20, dtype=torch.bool)
    rest[:2, :5] = False
    assert float(frequency[rest].mean()) == pytest.approx(30 / 390)
    assert float(frequency[rest].max()) < 30 / 390 + 5 * (30 / 390 / 200) ** 0.5


def test_a_matched_region_has_the_area_and_the_texture_and_lies_elsewhere(tops, texture):
    rough = texture.log() + 2.5 * smooth_fields(4, 56, 6, 6)  # a top with a texture of its own
    tied = top_region(rough, 0.1, generator())
    for mask in (tops, tied):
        found = matched_region(mask, texture, generator())
        assert not (found.mask & mask).any()
        assert torch.equal(found.mask.sum((1, 2)), mask.sum((1, 2)))
        edges = torch.stack([values.flatten().quantile(torch.linspace(0, 1, 11).double()) for values in texture])
        for image in range(4):
            histograms = [
                torch.histc(torch.bucketize(texture[image][m[image]], edges[image][1:-1]).double(), 10, -0.5, 9.5)
                for m in (mask, found.mask)
            ]
            torch.testing.assert_close(*histograms, rtol=0, atol=1)
        # Within a quantile the mask may prefer its rougher half.
        assert float(found.distance.max()) < 0.2
    unmatched = matched_region(tied, texture, generator(), bins=1).distance
    assert float(unmatched.min()) > 0.25 and (found.distance < unmatched / 2).all()
    assert float(matched_region(tops, texture, generator()).distance.max()) < 0.1


def test_a_matched_region_comes_in_patches(tops, texture):
    coherent = outline(matched_region(tops, texture, generator()).mask)
    scattered = outline(top_region(torch.rand(4, 56, 56, generator=generator()), 0.2, generator()))
    assert float((coherent / scattered).max()) < 0.4


def test_exhausted_textures_are_replaced_by_their_neighbours():
    texture = torch.arange(100.0).reshape(1, 10, 10)
    mask = texture >= 60  # four of the ten quantiles, completely
    found = matched_region(mask, texture, generator())
    assert torch.equal(found.mask, (texture >= 20) & (texture < 60)) and float(found.distance) == 1
    flat = matched_region(mask, torch.ones(1, 10, 10), generator())
    assert int(flat.mask.sum()) == 40 and float(flat.distance) == 0


def test_a_random_region_is_the_mask_somewhere_else(tops):
    found = random_region(tops, generator())
    assert torch.equal(found.sum((1, 2)), tops.sum((1, 2)))
    spectra = [torch.fft.fft2(masks.double()).abs() for masks in (tops, found)]
    torch.testing.assert_close(*spectra)
    overlaps = torch.stack([(random_region(tops, generator(k)) & tops).sum((1, 2)) for k in range(200)]).double()
    assert float(overlaps.mean() / tops[0].sum()) == pytest.approx(0.2, abs=0.03)


@pytest.fixture
def attack() -> tuple[Tensor, Tensor]:
    reference = smooth_fields(6, 40, 1.5, 0).sigmoid().reshape(2, 3, 40, 40).float()
    delta = 0.01 * torch.randn(2, 3, 40, 40, generator=generator())
    return reference, (reference + delta).clamp(0, 1) - reference


def test_restriction_at_its_own_size_is_the_perturbation_inside(attack):
    reference, delta = attack
    mask = top_region(smooth_fields(2, 40, 4, 1), 0.2, generator())
    found = restrict(reference, delta, mask)
    torch.testing.assert_close(found.delta, delta * mask[:, None])
    assert found.delta.dtype == torch.float32 and found.factor.tolist() == [1, 1] and found.reached.all()
    expected = 1 - ssim_maps(reference, reference + delta * mask[:, None]).flatten(1).mean(1)
    torch.testing.assert_close(found.spent, expected, rtol=1e-5, atol=1e-9)


def test_restriction_to_a_budget_spends_it(attack):
    reference, delta = attack
    budget = dissimilarity(reference, delta)
    torch.testing.assert_close(
        budget, 1 - ssim_maps(reference, reference + delta).flatten(1).mean(1), rtol=1e-5, atol=0
    )
    for share in (0.05, 0.2, 0.8):
        mask = top_region(smooth_fields(2, 40, 4, 1), share, generator())
        found = restrict(reference, delta, mask, budget)
        assert found.reached.all() and (found.factor > 1).all()
        torch.testing.assert_close(dissimilarity(reference, found.delta), budget, rtol=1e-4, atol=0)
        assert not found.delta[~mask[:, None].expand_as(delta)].any()
        changed = reference + found.delta
        assert float(changed.min()) >= -1e-6 and float(changed.max()) <= 1 + 1e-6
    everywhere = torch.ones(2, 40, 40, dtype=torch.bool)
    half = restrict(reference, delta, everywhere, budget / 2)
    assert (half.factor < 1).all() and half.reached.all()
    assert float(restrict(reference, delta, everywhere, 0 * budget).delta.abs().max()) < 1e-9


def test_a_budget_out_of_reach_says_so(attack):
    reference, delta = attack
    nowhere = torch.zeros(2, 40, 40, dtype=torch.bool)
    nowhere[1, 0, 0] = True
    found = restrict(reference, delta, nowhere, torch.tensor([0.5, 0.5]))
    assert not found.reached.any() and found.spent[0] == 0 and 0 < found.spent[1] < 0.5
    assert float((reference + found.delta).max()) <= 1 + 1e-6


def test_regions_of_a_photograph_use_the_texture_of_ssims_window(attack):
    texture = local_standard_deviation(attack[0])
    mask = top_region(texture, 0.3, generator())
    found = matched_region(mask, texture, generator())
    # The top of the texture itself cannot be matched, and the distance says so.
    assert (found.mask.sum((1, 2)) == mask.sum((1, 2))).all() and (found.distance == 1).all()


def test_what_does_not_fit_is_refused(attack, texture, tops):
    reference, delta = attack
    with pytest.raises(InputError, match="finite maps"):
        top_region(torch.full((1, 4, 4), torch.nan), 0.2, generator())
    with pytest.raises(InputError, match="share"):
        top_region(torch.rand(1, 4, 4), 0.0, generator())
    with pytest.raises(InputError, match="bool mask"):
        matched_region(tops.double(), texture, generator())
    with pytest.raises(InputError, match="bins"):
        matched_region(tops, texture, generator(), bins=0)
    with pytest.raises(InputError, match="more than half"):
        matched_region(~tops, texture, generator())
    with pytest.raises(InputError, match="reference, delta and mask"):
        restrict(reference, delta, torch.ones(2, 40, 41, dtype=torch.bool))
    with pytest.raises(InputError, match="budget"):
        restrict(reference, delta, torch.ones(2, 40, 40, dtype=torch.bool), torch.tensor([-1.0, 1]))


def test_shifted_regions_keep_outline_and_area_and_come_close_in_texture():
    generator = torch.Generator().manual_seed(0)
    mask = torch.zeros(2, 48, 48, dtype=torch.bool)
    mask[:, 4:20, 6:22] = True
    texture = torch.rand(2, 48, 48, generator=generator).double() * 0.1
    texture[:, :, :24] += 1  # the mask lies where texture is strong, and half of the image is like it
    found = shifted_region(mask, texture, generator)
    for own, moved in zip(mask, found.mask, strict=True):
        places = {
            (row, column)
            for row in range(48)
            for column in range(48)
            if torch.equal(own.roll((row, column), (0, 1)), moved)
        }
        assert len(places) == 1
        assert (own & moved).sum() <= 0.1 * own.sum()
    blind = torch.stack([_distances(mask, random_region(mask, generator), texture) for _ in range(8)]).mean(0)
    assert (found.distance < blind).all() and (found.distance < 0.3).all()
    torch.testing.assert_close(found.distance, _distances(mask, found.mask, texture))


def test_a_shifted_region_that_cannot_leave_its_place_goes_as_far_as_it_can():
    everywhere = torch.ones(1, 12, 12, dtype=torch.bool)
    found = shifted_region(everywhere, torch.rand(1, 12, 12), torch.Generator().manual_seed(0), draws=3)
    assert torch.equal(found.mask, everywhere) and float(found.distance) == 0
    with pytest.raises(InputError, match="at least one draw"):
        shifted_region(everywhere, torch.rand(1, 12, 12), torch.Generator(), draws=0)


def _distances(mask, other, texture):
    values = zip(mask, other, texture, strict=True)
    return torch.tensor([stats.ks_2samp(t[m].numpy(), t[o].numpy()).statistic for m, o, t in values]).double()
