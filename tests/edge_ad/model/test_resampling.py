"""Resizing by matrices against torch's own."""

import pytest
import torch
import torch.nn.functional as F

from edge_ad.model.resampling import upsampling_matrix


@pytest.mark.parametrize(("size", "target"), [(4, 256), (28, 256), (7, 20)])
def test_upsampling_matrix_is_torchs_resize_then_blur(size, target):
    line = torch.randn(1, 1, size, dtype=torch.float64)
    up = F.interpolate(line, size=target, mode="linear", align_corners=False)
    taps = torch.exp(-0.5 * (torch.arange(-16, 17, dtype=torch.float64) / 4) ** 2)
    expected = F.conv1d(F.pad(up, (16, 16), mode="replicate"), (taps / taps.sum())[None, None])
    got = upsampling_matrix(size, target, 4.0).double() @ line[0, 0]
    torch.testing.assert_close(got, expected[0, 0], atol=1e-6, rtol=0)
