"""The models in weights/: they load everywhere, and do what their cards say."""

import json
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file

import minilm
from minilm.compare.text_scores import help_topics, score_text
from minilm.models.tasks import ForMaskedLM, ForPreTraining

WEIGHTS = Path(__file__).parent.parent / "weights"
NAMES = ["bert-mini", "distilbert-mini", "albert-3x2-mini", "albert-mini", "albert-1x12-mini"]
TEXT = "The capital of [MASK] is a city, and [MASK] of its people live there."


def card(name: str) -> dict[str, object]:
    found = json.loads((WEIGHTS / name / "card.json").read_text())
    assert isinstance(found, dict)
    return found


def test_nothing_else_is_there() -> None:
    assert sorted(path.name for path in WEIGHTS.iterdir()) == sorted([*NAMES, "sentence-mini"])
    sizes = [path.stat().st_size for path in WEIGHTS.rglob("*") if path.is_file()]
    assert sum(sizes) < 65e6


@pytest.mark.parametrize("name", NAMES)
def test_transformers_gives_the_same_scores(name: str) -> None:
    ours = minilm.load(WEIGHTS / name).eval()
    theirs = getattr(transformers, type(ours).__name__).from_pretrained(
        WEIGHTS / name, attn_implementation="eager", dtype=torch.float32
    )
    batch = minilm.Tokenizer.from_pretrained(WEIGHTS / name)(TEXT)
    their_batch = transformers.AutoTokenizer.from_pretrained(WEIGHTS / name)(
        TEXT, return_tensors="pt"
    )
    assert torch.equal(batch["input_ids"], their_batch["input_ids"])
    with torch.no_grad():
        one, other = ours(**batch), theirs.eval()(batch["input_ids"])
    logits = "prediction_logits" if isinstance(ours, ForPreTraining) else "logits"
    torch.testing.assert_close(one[logits], other[logits], rtol=0, atol=2e-4)


@pytest.mark.parametrize("name", NAMES)
def test_transformers_fine_tunes_as_it_documents(name: str) -> None:
    """Stored in 16 bits, loaded in 32: AdamW of 16-bit weights ends in NaN."""
    stored = load_file(WEIGHTS / name / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    assert minilm.load(WEIGHTS / name, dtype="auto").dtype == torch.float16
    torch.manual_seed(0)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(WEIGHTS / name).train()
    assert model.dtype == torch.float32
    tokenizer = transformers.AutoTokenizer.from_pretrained(WEIGHTS / name)
    batch = tokenizer(["A good film.", "It was long and bad."], padding=True, return_tensors="pt")
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4)
    for _ in range(5):
        loss = model(**batch, labels=torch.tensor([1, 0])).loss
        assert torch.isfinite(loss)
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    assert all(parameter.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_the_card_is_true(name: str) -> None:
    """Parameters exactly; the score on the help topics, whose text differs between versions."""
    figures = card(name)["figures"]
    assert isinstance(figures, dict)
    model = minilm.load(WEIGHTS / name).eval()
    assert isinstance(model, ForMaskedLM | ForPreTraining)
    assert figures["parameters"] == model.num_parameters()
    tokenizer = minilm.Tokenizer.from_pretrained(WEIGHTS / name)
    found = score_text(model, tokenizer, help_topics(), max_tokens=20_000)
    assert found.masked_accuracy == pytest.approx(figures["masked_accuracy_help_topics"], abs=0.03)
    words = (WEIGHTS / name / "README.md").read_text()
    for key in ("masked_accuracy", "masked_loss"):
        assert f"{figures[key]:.3f}" in words, key
    assert f"{figures['parameters']:,}" in words


def test_the_claims_of_the_readme() -> None:
    sizes = {name: minilm.load(WEIGHTS / name).num_parameters() for name in NAMES}
    readme = (WEIGHTS.parent / "README.md").read_text()
    header, row = (
        next(line for line in readme.splitlines() if line.startswith(start)).split("|")[2:-1]
        for start in ("| | bert-mini |", "| parameters, million |")
    )
    found = {name.strip(): cell.split()[0] for name, cell in zip(header, row, strict=True)}
    assert found == {name: f"{size / 1e6:.2f}" for name, size in sizes.items()}
    bert, distilbert, combined, narrow, single = (
        card(name)["figures"]["masked_accuracy"]  # type: ignore[index]
        for name in NAMES
    )
    assert bert >= 0.39
    assert 0.97 < combined / bert < distilbert / bert < 1
    assert sizes["albert-3x2-mini"] < 0.31 * sizes["bert-mini"]
    assert max(sizes["albert-mini"], sizes["albert-1x12-mini"]) < 2e6
    assert narrow / bert > 0.94
    assert single >= 0.28
