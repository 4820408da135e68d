"""Actions become blocks and blocks actions in one place, which keeps their order."""

from __future__ import annotations

import torch

from lewm_agent.models.action_codec import ActionCodec

CODEC = ActionCodec(mean=torch.tensor([1.0, -2.0, 0.0]), std=torch.tensor([0.5, 4.0, 1.0]), frame_skip=2)


def test_a_block_is_its_actions_side_by_side_as_z_scores() -> None:
    actions = torch.tensor([[1.5, 2.0, 3.0], [1.0, -2.0, 5.0]])
    assert CODEC.blocks(actions).tolist() == [1.0, 1.0, 3.0, 0.0, 0.0, 5.0]
    assert CODEC.joined(CODEC.normalize(actions)).tolist() == [CODEC.blocks(actions).tolist()]


def test_every_way_there_has_its_way_back() -> None:
    grouped, in_a_row = torch.randn(4, 3, 2, 3), torch.randn(5, 4, 6, 3)
    assert CODEC.blocks(grouped).shape == (4, 3, 6) and CODEC.joined(in_a_row).shape == (5, 4, 3, 6)
    torch.testing.assert_close(CODEC.actions(CODEC.blocks(grouped)), grouped)
    torch.testing.assert_close(CODEC.split(CODEC.joined(in_a_row)), in_a_row)
    torch.testing.assert_close(CODEC.denormalize(CODEC.normalize(in_a_row)), in_a_row)
    torch.testing.assert_close(CODEC.split(CODEC.blocks(grouped)), CODEC.normalize(grouped).flatten(1, 2))
