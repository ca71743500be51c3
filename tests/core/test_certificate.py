"""What the certificate decides, and what it refuses."""

import pytest
import torch

from percep import InputError, certify
from tests.support.references import photograph


def test_levels_are_decided_image_by_image_without_tolerance():
    x = torch.cat([photograph(3, 32), photograph(4, 32)])
    y = x.clone()
    y[1] = (x[1] + 0.2 * torch.randn(x[1].shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    measured = certify(x, y)
    assert measured.min_ssim[0] == 1 and measured.mean_ssim[0] == 1
    level = float(measured.min_ssim[1])
    assert certify(x, y, floor=level).within.tolist() == [True, True]
    assert certify(x, y, floor=level + 1e-12).within.tolist() == [True, False]
    average = float(measured.mean_ssim[1])
    assert certify(x, y, mean=average).within.tolist() == [True, True]
    assert certify(x, y, mean=average + 1e-12).within.tolist() == [True, False]


def test_out_of_range_and_not_finite_are_not_within():
    x = photograph(3, 32).expand(3, -1, -1, -1)
    y = x.clone()
    y[0, 0, 0, 0] = 1.0001
    y[1, 0, 0, 0] = torch.nan
    answer = certify(x, y, mean=0.5)
    assert answer.within.tolist() == [False, False, True]
    assert torch.isnan(answer.min_ssim[1]) and answer.min_ssim[2] == 1


def test_bad_arguments_are_refused():
    x = photograph(3, 32)
    with pytest.raises(InputError, match="floor"):
        certify(x, x, floor=1.2)
    with pytest.raises(InputError, match="both be"):
        certify(x, x[:, :1])
    with pytest.raises(InputError, match="too small"):
        certify(x[..., :4, :4], x[..., :4, :4])
