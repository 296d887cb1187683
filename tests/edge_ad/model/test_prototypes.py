"""Prototypes: that they cover what was seen, and how many there are."""

import torch

from edge_ad.model.prototypes import k_centre, select_prototypes


def test_k_centre_spreads_out():
    torch.manual_seed(0)
    clusters = torch.eye(8).repeat_interleave(50, 0) + 0.01 * torch.randn(400, 8)
    chosen = k_centre(clusters, 8)
    assert sorted((chosen // 50).tolist()) == list(range(8))


def test_fewer_tokens_than_wanted_are_repeated_and_none_is_left_out():
    tokens = torch.arange(10.0).reshape(5, 2)
    chosen = select_prototypes(tokens, 12, torch.Generator().manual_seed(0))
    assert chosen.shape == (12, 2)
    assert {tuple(row) for row in chosen.tolist()} == {tuple(row) for row in tokens.tolist()}


def test_no_token_is_chosen_twice_where_there_are_enough():
    tokens = torch.randn(200, 4, generator=torch.Generator().manual_seed(1))
    chosen = select_prototypes(tokens, 40, torch.Generator().manual_seed(0))
    assert len({tuple(row) for row in chosen.tolist()}) == 40
