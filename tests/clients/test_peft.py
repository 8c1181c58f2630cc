"""peft: LoRA by task, trained, saved, loaded, merged; the numbers are those on transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from torch import Tensor

import minilm
from tiny import ragged
from twins import NO_DROPOUT, STEMS, arguments, twins

TASKS = {
    "SEQ_CLS": "ForSequenceClassification",
    "TOKEN_CLS": "ForTokenClassification",
    "QUESTION_ANS": "ForQuestionAnswering",
    "FEATURE_EXTRACTION": "Model",
}
# transformers' DistilBERT has names of its own for the same two projections
TARGETS = {
    "Bert": ["query", "value"],
    "Albert": ["query", "value"],
    "DistilBert": ["q_lin", "v_lin"],
}
CLOSE = {"rtol": 0, "atol": 1e-5}


def lora(task: str, targets: list[str], head: str) -> LoraConfig:
    """Its heads of classifiers peft finds by name; that of answers has a name of its own here."""
    return LoraConfig(
        task_type=task,
        r=2,
        lora_alpha=4,
        lora_dropout=0.0,
        target_modules=targets,
        modules_to_save=[head] if task == "QUESTION_ANS" else None,
    )


def inputs_for(
    stem: str, task: str, lengths: tuple[int, ...] = (7, 3, 1, 7, 5)
) -> dict[str, Tensor]:
    batch = arguments(stem, ragged(lengths))
    if task == "QUESTION_ANS":
        batch.pop("token_type_ids", None)  # peft does not hand them on
    return batch


def batch_for(stem: str, task: str) -> dict[str, Tensor]:
    # the loss of a span is taken over attended tokens here, over padding too in transformers
    batch = inputs_for(stem, task, (6,) * 5 if task == "QUESTION_ANS" else (7, 3, 1, 7, 5))
    mask = batch["attention_mask"]
    if task == "SEQ_CLS":
        return {**batch, "labels": torch.tensor([0, 1, 1, 0, 1])}
    if task == "TOKEN_CLS":
        return {**batch, "labels": (batch["input_ids"] % 2).masked_fill(mask == 0, -100)}
    if task == "QUESTION_ANS":
        first = torch.zeros(5, dtype=torch.int64)
        return {**batch, "start_positions": first, "end_positions": mask.sum(1) - 1}
    return batch


def trained(model: Any, batch: dict[str, Tensor], steps: int = 4) -> list[Tensor]:
    """The loss before every step; without labels, the mean square of the attended states."""
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=0.05)
    mask = batch["attention_mask"].bool()
    losses = []
    for _ in range(steps):
        output = model(**batch)
        named = isinstance(output, dict) and "loss" in output
        loss = output.loss if named else output[0][mask].square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return losses


def pair(stem: str, task: str) -> tuple[Any, Any]:
    more = {"qa_dropout": 0.0} if stem + task == "DistilBertQUESTION_ANS" else {}
    return twins(stem + TASKS[task], torch.float32, **NO_DROPOUT, **more)


def adapted(stem: str, task: str) -> tuple[Any, Any]:
    """Ours and theirs with the same weights and the same adapters."""
    ours, theirs = pair(stem, task)
    ours.layout = "auto"
    ours_adapted = get_peft_model(ours.train(), lora(task, ["query", "value"], "span_head"))
    theirs_adapted = get_peft_model(theirs.train(), lora(task, TARGETS[stem], "qa_outputs"))
    pairs = zip(
        (p for name, p in ours_adapted.named_parameters() if "lora_" in name),
        (p for name, p in theirs_adapted.named_parameters() if "lora_" in name),
        strict=True,
    )
    with torch.no_grad():
        for own, other in pairs:
            other.copy_(own)
    return ours_adapted, theirs_adapted


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("stem", STEMS)
def test_lora_trains_saves_loads_and_merges(stem: str, task: str, tmp_path: Path) -> None:
    batch = batch_for(stem, task)
    ours, theirs = adapted(stem, task)
    assert ours.get_nb_trainable_parameters()[0] == theirs.get_nb_trainable_parameters()[0]
    base = ours.get_base_model()
    fresh, _ = pair(stem, task)

    losses, expected = trained(ours, batch), trained(theirs, batch)
    torch.testing.assert_close(losses, expected, rtol=1e-4, atol=1e-4)
    assert float(losses[-1]) != float(losses[0])

    ours.eval()
    inputs = inputs_for(stem, task)
    output = _first(ours(**inputs))
    ours.save_pretrained(tmp_path / "adapter")
    loaded = PeftModel.from_pretrained(fresh, tmp_path / "adapter").eval()
    torch.testing.assert_close(_first(loaded(**inputs)), output, **CLOSE)

    merged = ours.merge_and_unload()
    assert merged is base
    torch.testing.assert_close(_first(merged(**inputs)), output, **CLOSE)
    merged.save_pretrained(tmp_path / "merged")
    name = stem + TASKS[task]
    again = getattr(minilm, name).from_pretrained(tmp_path / "merged")
    assert torch.equal(_first(again(**inputs)), _first(merged(**inputs)))
    there = getattr(transformers, name).from_pretrained(tmp_path / "merged").eval()
    mask = inputs["attention_mask"].bool()
    found, wanted = _first(again(**inputs)), _first(there(**inputs))
    if found.shape[:2] == mask.shape:
        found, wanted = found[mask], wanted[mask]
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4)


def _first(output: Any) -> Tensor:
    value: Tensor = output[0]
    return value


@pytest.mark.parametrize("stem", STEMS)
def test_a_model_with_adapters_in_it_saves_and_says_the_same_afterwards(
    stem: str, tmp_path: Path
) -> None:
    """Adapters injected into the model itself: they are saved under their own names."""
    name, inputs = f"{stem}ForSequenceClassification", arguments(stem, ragged())
    model, other = twins(name, torch.float32)[0], twins(name, torch.float32)[0]
    for seed, each in enumerate((model, other)):
        torch.manual_seed(seed)
        adapters = LoraConfig(r=2, target_modules=["query", "value"], init_lora_weights=False)
        peft.inject_adapter_in_model(adapters, each).eval()
    expected = model(**inputs).logits
    assert float((other(**inputs).logits - expected).abs().max()) > 1e-3
    model.save_pretrained(tmp_path)
    other.load_state_dict(load_file(tmp_path / "model.safetensors"))
    assert torch.equal(other(**inputs).logits, expected)


@pytest.mark.parametrize("method", ["prompt", "ia3", "all-linear"])
def test_other_methods(method: str) -> None:
    """Prompts go in as vectors, with a longer mask; IA3 rescales what layers put out."""
    model, _ = twins("BertForSequenceClassification", torch.float32, max_position_embeddings=40)
    model.layout = "auto"
    config = {
        "prompt": peft.PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=4),
        "ia3": peft.IA3Config(
            task_type="SEQ_CLS",
            target_modules=["key", "value", "feed_forward.output"],
            feedforward_modules=["feed_forward.output"],
        ),
        "all-linear": LoraConfig(task_type="SEQ_CLS", target_modules="all-linear"),
    }[method]
    batch = batch_for("Bert", "SEQ_CLS")
    if method == "prompt":
        batch.pop("token_type_ids")
    losses = trained(get_peft_model(model.train(), config), batch, steps=6)
    assert float(losses[-1]) < float(losses[0])
