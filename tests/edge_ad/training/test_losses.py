import math

import pytest
import torch

from edge_ad.training.losses import cosine_loss, focal_loss, l1_loss


def test_cosine_loss_by_hand():
    teacher = torch.tensor([[[[[3.0]], [[4.0]]]]])  # one image, group and position; two channels
    assert cosine_loss(teacher, 7 * teacher) == pytest.approx(0, abs=1e-6)
    assert cosine_loss(teacher, torch.tensor([[[[[4.0]], [[3.0]]]]])) == pytest.approx(1 - 24 / 25, abs=1e-6)
    assert cosine_loss(teacher, -teacher) == pytest.approx(2, abs=1e-6)


def test_focal_and_l1_by_hand():
    logits = torch.tensor([[[0.0, math.log(3.0)]]])  # probabilities 1/2 and 3/4
    masks = torch.tensor([[[1.0, 0.0]]])
    expected = (0.5**2 * math.log(2) + 0.75**2 * math.log(4)) / 2
    assert focal_loss(logits, masks, 2.0) == pytest.approx(expected, rel=1e-6)
    assert l1_loss(logits, masks) == pytest.approx((0.5 + 0.75) / 2, rel=1e-6)


def test_focal_with_gamma_zero_is_cross_entropy():
    logits, masks = torch.randn(2, 5, 5), (torch.rand(2, 5, 5) > 0.5).float()
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, masks)
    torch.testing.assert_close(focal_loss(logits, masks, 0.0), expected)


def test_losses_stay_finite_for_extreme_logits():
    logits = torch.tensor([[[1e4, -1e4]]], requires_grad=True)
    loss = focal_loss(logits, torch.tensor([[[0.0, 1.0]]]), 4.0)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()
