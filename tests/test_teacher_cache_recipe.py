"""`minilm distill --teacher-cache`: what is refused, what is said, what identifies a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

import minilm
from minilm.cli import main
from minilm.errors import DataError, InputError, TrainingError
from minilm.recipes.distillation import DistillationRecipe
from minilm.recipes.runs import Run
from teacher_cache_driver import ROUND, make_data

TEXT = "\n\n".join(
    f"The {animal} number {number} runs over the hill and sees {number + 7} other animals."
    for number in range(12)
    for animal in ("cat", "dog", "mouse")
)
SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 32,
}
COMMAND = (
    "distill", "--corpus", "store", "--teacher", "teacher", "--tokens-per-step", "256",
    "--precision", "float32", "--mask-rounds", "1", "--epochs", "2", "--teacher-cache", "cache",
)  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two stores with one tokenizer, two teachers."""
    place = tmp_path_factory.mktemp("made")
    (place / "text.txt").write_text(TEXT)
    (place / "other.txt").write_text(TEXT.replace("hill", "sees"))
    tokenizer = minilm.train_tokenizer([place / "text.txt"], place / "vocabulary", vocab_size=90)
    for text, store in (("text.txt", "store"), ("other.txt", "other-store")):
        minilm.tokenize_corpus([place / text], tokenizer, place / store, workers=1)
    for seed, name in ((1, "teacher"), (2, "other-teacher")):
        torch.manual_seed(seed)
        config = minilm.BertConfig(vocab_size=tokenizer.vocab_size, **SIZES)
        minilm.BertForMaskedLM(config).save_pretrained(place / name)
        tokenizer.save_pretrained(place / name)
    return place


@pytest.fixture
def place(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory in which the made things are."""
    for path in made.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command(*arguments: str) -> Result:
    return CliRunner().invoke(main, [*COMMAND, *arguments])


def prepare(**changes: Any) -> Run:
    given = {"corpus": "store", "teacher": "teacher", "epochs": 1, "teacher_cache": "cache"}
    return DistillationRecipe(**{**given, **changes}).prepare()


def test_a_later_run_reads_what_the_first_has_computed(place: Path) -> None:
    first = command("--output", "first")
    assert first.exit_code == 0, first.output
    assert "one round of masks take" in first.stderr
    assert "64 bytes for each token" in first.stderr
    assert "targets of 36 samples read, of 36 computed" in first.stderr
    record = json.loads((place / "first/run/settings.json").read_text())
    assert record["data"]["mask_rounds"] == 1
    assert "targets" not in record["description"]
    # another student, other weights, steps of another size, text held out
    second = command(
        "--output", "second", "--layers", "1", "--kl", "1", "--tokens-per-step", "128",
        "--held-out", "6",
    )  # fmt: skip
    assert second.exit_code == 0, second.output
    assert ", of 6 computed" in second.stderr  # the held-out documents, which have other masks
    for refused, named in (
        (("--teacher", "other-teacher"), "its teacher is"),
        (("--corpus", "other-store"), "its sequences.store is"),
        (("--seed", "5"), "its seed is 0, that of this run 5"),
        (("--masking", "tokens"), "its masking.name is 'rare_tokens', that of this run 'tokens'"),
        (("--mask-probability", "0.2"), "its masking.probability is 0.15"),
        (("--max-length", "16"), "its sequences.max_length is 32, that of this run 16"),
        (("--teacher-cache-dtype", "float16"), "its dtype is 'float32'"),
    ):
        found = command("--output", "third", *refused)
        assert found.exit_code == 2, found.output
        assert "cache is a teacher cache of something else" in found.stderr
        assert named in found.stderr, found.stderr
    assert not (place / "third").exists()


def test_a_dry_run_stores_nothing(place: Path) -> None:
    result = command("--output", "run", "--dry-run")
    assert result.exit_code == 0, result.output
    assert not (place / "cache").exists()


def test_only_what_changes_the_losses_identifies_a_run(place: Path) -> None:
    without = prepare(teacher_cache=None)
    assert prepare().description == without.description
    assert "mask_rounds" not in without.data.fingerprint
    half = prepare(teacher_cache_dtype="float16")
    assert half.description["targets"] == {"dtype": "float16", "top_k": None}
    top = prepare(teacher_cache_top_k=8, cosine=0.0)
    assert top.description["targets"] == {"dtype": "float32", "top_k": 8}


def test_masks_that_repeat_are_another_run(place: Path) -> None:
    settings: dict[str, Any] = {"corpus": "store", "teacher": "teacher", "steps": 1}
    DistillationRecipe(**settings).train("run")
    with pytest.raises(TrainingError, match="mask_rounds"):
        DistillationRecipe(**settings, mask_rounds=2).train("run")


def test_masks_cannot_repeat_while_their_number_changes(place: Path) -> None:
    with pytest.raises(InputError, match="mask_rounds is 2, but the mask ratio changes"):
        prepare(teacher_cache=None, mask_rounds=2, final_mask_probability=0.05)


@pytest.mark.parametrize(
    "changes",
    [{"teacher_cache_dtype": "float16"}, {"teacher_cache_top_k": 4}],
)
def test_how_to_store_without_where(changes: dict[str, Any], place: Path) -> None:
    with pytest.raises(InputError, match=f"{next(iter(changes))} says how the teacher cache"):
        prepare(teacher_cache=None, **changes)


def test_a_store_is_no_cache(place: Path) -> None:
    with pytest.raises(DataError, match="no cache.json: it is not a teacher cache"):
        prepare(teacher_cache="store")


def test_masks_repeat_after_so_many_epochs_and_the_order_does_not() -> None:
    data, _ = make_data(3)
    samples = np.arange(ROUND)
    masks = [data.batch(epoch, samples) for epoch in range(6)]
    for epoch in range(3):
        again = masks[epoch + 3]
        assert torch.equal(masks[epoch].input_ids, again.input_ids)
        assert torch.equal(masks[epoch].labels, again.labels)
        assert again.epoch == again.to("cpu").epoch == epoch + 3
        assert not torch.equal(masks[epoch].labels, masks[(epoch + 1) % 3].labels)
    orders = [np.concatenate([*data.steps(epoch)]).tolist() for epoch in (0, 3)]
    assert orders[0] != orders[1]
    assert data.fingerprint["mask_rounds"] == 3
    fresh, _ = make_data(None)
    assert "mask_rounds" not in fresh.fingerprint
    assert torch.equal(fresh.batch(2, samples).labels, masks[2].labels)
    assert not torch.equal(fresh.batch(3, samples).labels, masks[3].labels)
    assert fresh.count_tokens() == masks[0].tokens
    with pytest.raises(InputError, match="mask_rounds must be at least 1, not 0"):
        make_data(0)
