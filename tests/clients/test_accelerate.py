"""accelerate: prepared, in mixed precision, its states saved and loaded, its documented save."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor

import minilm
from tiny import ragged
from twins import NO_DROPOUT, STEMS, arguments, twins


def run(
    model: Any, batch: dict[str, Tensor], precision: str, steps: int = 3
) -> tuple[list[float], Any, Accelerator, Any]:
    AcceleratorState._reset_state(True)  # the precision is the process's
    accelerator = Accelerator(cpu=True, mixed_precision=precision)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    model, optimizer = accelerator.prepare(model.train(), optimizer)
    losses = []
    for _ in range(steps):
        output = model(**batch)
        assert output.logits.dtype == torch.float32
        accelerator.backward(output.loss)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(output.loss))
    return losses, model, accelerator, optimizer


@pytest.mark.parametrize("precision", ["no", "bf16"])
@pytest.mark.parametrize("stem", STEMS)
def test_accelerate_trains_and_saves(stem: str, precision: str, tmp_path: Path) -> None:
    name = f"{stem}ForTokenClassification"
    batch = arguments(stem, ragged())
    mask = batch["attention_mask"]
    labels = (batch["input_ids"] % 2).masked_fill(mask == 0, -100)
    ours, theirs = twins(name, torch.float32, **NO_DROPOUT)
    ours.layout = "auto"
    expected = run(theirs, {**batch, "labels": labels}, precision)[0]
    losses, model, accelerator, optimizer = run(ours, {**batch, "labels": labels}, precision)
    # bfloat16 keeps three digits, and these weights are large
    assert losses == pytest.approx(expected, rel=1e-4 if precision == "no" else 0.1)

    accelerator.save_state(str(tmp_path / "state"))
    before = {key: value.clone() for key, value in ours.state_dict().items()}
    model(**batch, labels=labels).loss.backward()
    optimizer.step()
    assert any(not torch.equal(value, before[key]) for key, value in ours.state_dict().items())
    accelerator.load_state(str(tmp_path / "state"))
    assert all(torch.equal(value, before[key]) for key, value in ours.state_dict().items())

    unwrapped = accelerator.unwrap_model(model)
    unwrapped.save_pretrained(
        tmp_path / "model",
        is_main_process=accelerator.is_main_process,
        save_function=accelerator.save,
        state_dict=accelerator.get_state_dict(model),
    )
    loaded = getattr(minilm, name).from_pretrained(tmp_path / "model")
    assert all(torch.equal(value, before[key]) for key, value in loaded.state_dict().items())
    there = getattr(transformers, name).from_pretrained(tmp_path / "model").eval()
    found, wanted = loaded(**batch).logits[mask.bool()], there(**batch).logits[mask.bool()]
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4)


def test_only_the_main_process_writes(tmp_path: Path) -> None:
    model, _ = twins("BertModel", torch.float32)
    model.save_pretrained(tmp_path / "other", is_main_process=False)
    assert not (tmp_path / "other").exists()
    changed = {name: value + 1 for name, value in model.state_dict().items()}
    model.save_pretrained(tmp_path / "main", state_dict=changed, is_main_process=True)
    loaded = minilm.BertModel.from_pretrained(tmp_path / "main")
    assert all(torch.equal(value, changed[key]) for key, value in loaded.state_dict().items())
