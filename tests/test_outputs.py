"""Outputs behave like Hugging Face's: by name, by number, unpacked, without the None fields."""

import dataclasses

import pytest
import torch
from torch.utils import _pytree as pytree

from minilm.outputs import HeadOutput, QuestionAnsweringOutput


def test_fields_that_are_none_do_not_exist() -> None:
    out = HeadOutput(logits=torch.ones(2, 3))
    assert out.keys() == ("logits",)
    assert out[0] is out["logits"] is out.logits
    assert len(out) == 1
    assert "loss" not in out
    with pytest.raises(KeyError, match="'loss' is not among logits"):
        out["loss"]
    with pytest.raises(IndexError):
        out[1]


def test_loss_comes_first_and_everything_unpacks() -> None:
    loss, start, end = QuestionAnsweringOutput(*torch.arange(3))
    assert (int(loss), int(start), int(end)) == (0, 1, 2)
    out = HeadOutput(torch.tensor(1.0), torch.tensor(2.0))
    assert out[:2] == out.to_tuple()


def test_outputs_are_frozen_and_pass_through_tree_functions() -> None:
    out = HeadOutput(torch.tensor(1.0), None, (torch.tensor(2.0), torch.tensor(3.0)))
    with pytest.raises(dataclasses.FrozenInstanceError):
        out.loss = None  # type: ignore[misc]
    doubled = pytree.tree_map_only(torch.Tensor, lambda value: value * 2, out)
    assert isinstance(doubled, HeadOutput)
    assert float(doubled.hidden_states[1]) == 6.0
