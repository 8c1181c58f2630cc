"""A tokenizer with more tokens than the model has embeddings is found before anything is done."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from tokenizers import AddedToken

import minilm
from minilm.bench.finetuning import read_texts
from minilm.cli import main
from minilm.cli.fill_mask import fill_mask
from minilm.compare.text_scores import score_text
from minilm.errors import InputError
from minilm.loader import load_masked_lm
from minilm.models.pretrained import PretrainedModel
from minilm.recipes.runs import distillation, masked_lm
from minilm.tasks.catalogue import task_of
from task_data import ARCHITECTURES, VOCABULARY, colour_texts, quick, save_start, tiny_model

NEW = [*VOCABULARY, "newtok"]
SIZES = (f"{len(NEW)} tokens", f"the model {len(VOCABULARY)} ")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def enlarge(directory: Path, how: str = "vocab.txt") -> Path:
    """A checkpoint whose tokenizer has one token more than its model."""
    if how == "vocab.txt":
        (directory / how).write_text("\n".join(NEW) + "\n")
    else:
        tokenizer = minilm.Tokenizer.from_pretrained(directory)
        # "a" stands twice in the vocabulary, so the first new token takes a number that is there
        tokenizer.backend.add_tokens([AddedToken("spare"), AddedToken("newtok")])
        (directory / "vocab.txt").unlink(missing_ok=True)
        tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture(params=["vocab.txt", "tokenizer.json"])
def wide(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return enlarge(save_start(tmp_path / "wide", head="ForMaskedLM"), request.param)


def write_records(path: Path) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in colour_texts(24)))
    return path


def refused(result: Result) -> None:
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit)
    assert result.stdout == ""
    last = result.stderr.strip().splitlines()[-1]
    for words in ("tokenizer", *SIZES):
        assert words in last


def test_python_entries(wide: Path) -> None:
    model, tokenizer = load_masked_lm(wide), minilm.Tokenizer.from_pretrained(wide)
    with pytest.raises(InputError, match="The tokenizer has") as caught:
        minilm.Encoder.from_pretrained(wide)
    for words in SIZES:
        assert words in str(caught.value)
    with pytest.raises(InputError, match="The tokenizer has"):
        minilm.Encoder(model, tokenizer)
    with pytest.raises(InputError, match="The tokenizer has"):
        fill_mask(model, tokenizer, "the [MASK]", 3)
    with pytest.raises(InputError, match="The tokenizer has"):
        score_text(model, tokenizer, ["the red thing is in rome and it is very here"])


def test_a_predictor(tmp_path: Path) -> None:
    directory = save_start(tmp_path / "model", head="ForSequenceClassification")
    predictor = minilm.Predictor.from_pretrained(directory)
    enlarge(directory)
    with pytest.raises(InputError, match="The tokenizer has"):
        minilm.Predictor.from_pretrained(directory)
    with pytest.raises(InputError, match="The tokenizer has"):
        minilm.Predictor(
            predictor.model,
            minilm.Tokenizer.from_pretrained(directory),
            task_of(directory, predictor.model),
        )


def test_commands(wide: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("the red thing is in rome and it is very here\n")
    records = write_records(tmp_path / "train.jsonl")
    refused(run("encode", wide, text, "-o", tmp_path / "out.npy"))
    refused(run("fill-mask", wide, "the [MASK]"))
    refused(run("compare", wide, "--text", text, "--no-memory"))
    refused(run("finetune", "--task", "classification", "--model", wide, "--train", records,
                "--output", tmp_path / "out"))  # fmt: skip
    assert sorted(path.name for path in tmp_path.iterdir()) == ["text.txt", "train.jsonl", "wide"]


def test_the_benchmark(wide: Path, tmp_path: Path) -> None:
    records = write_records(tmp_path / "train.jsonl")
    with pytest.raises(InputError, match="The tokenizer has"):
        read_texts(records, wide, batches=1, batch_size=2, seed=0)


def test_commands_with_a_task(tmp_path: Path) -> None:
    head = "ForSequenceClassification"
    model = enlarge(save_start(tmp_path / "model", head=head))
    records = write_records(tmp_path / "data.jsonl")
    for command in (["classify", model, "the red"], ["predict", model, records],
                    ["evaluate", model, records]):  # fmt: skip
        refused(run(*command))


def test_pretraining_and_distillation(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("the red thing is in rome and it is very here\n" * 20)
    directory = save_start(tmp_path / "wide", head="ForMaskedLM", vocabulary=NEW)
    tokenizer = minilm.Tokenizer.from_pretrained(directory)
    minilm.tokenize_corpus([text], tokenizer, tmp_path / "store")
    corpus = minilm.CorpusSettings(store=tmp_path / "store", max_length=16)
    small = tiny_model("bert", "ForMaskedLM")
    with pytest.raises(InputError, match="The tokenizer has"):
        masked_lm(small, corpus)
    with pytest.raises(InputError, match="The tokenizer has"):
        distillation(small, load_masked_lm(directory), minilm.DistillationLoss(), corpus)
    small.save_pretrained(tmp_path / "small")
    for command in (["pretrain", "--from", tmp_path / "small"],
                    ["distill", "--teacher", tmp_path / "small"]):  # fmt: skip
        (tmp_path / "small" / "vocab.txt").write_text("\n".join(NEW) + "\n")
        refused(run(*command, "--corpus", tmp_path / "store", "--output", tmp_path / "out",
                    "--max-length", 16, "--steps", 1))  # fmt: skip
        assert not (tmp_path / "out").exists()


# --- growing the model instead ---


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_fine_tuning_grows_the_table(architecture: str, tmp_path: Path) -> None:
    start = save_start(tmp_path / "start", architecture)
    enlarge(start)
    train = [*colour_texts(16), {"text": "the newtok is here", "label": "red"}]
    quick("classification", start, train, tmp_path / "out", resize_embeddings=True,
          freeze_embeddings=True)  # fmt: skip
    before: PretrainedModel = minilm.load(start)
    after = minilm.load(tmp_path / "out")
    assert after.config.vocab_size == len(NEW)
    # with frozen embeddings the old rows are those of the start
    old, new = (model.base.embeddings.word.weight for model in (before, after))
    assert torch.equal(new[: len(VOCABULARY)], old)
    assert new[-1].any()
    predictor = minilm.Predictor.from_pretrained(tmp_path / "out")
    assert predictor.tokenizer.token_to_id("newtok") == len(VOCABULARY)
    assert predictor("the newtok is here")["label"] in ("red", "blue", "green")


def test_the_option_of_the_command(tmp_path: Path) -> None:
    start = enlarge(save_start(tmp_path / "start"))
    records = write_records(tmp_path / "train.jsonl")
    command = ["finetune", "--task", "classification", "--model", start, "--train", records,
               "--epochs", 1, "--precision", "float32", "--resize-embeddings"]  # fmt: skip
    outputs = [tmp_path / "one", tmp_path / "two"]
    for output in outputs:
        done = run(*command, "--output", output)
        assert done.exit_code == 0, done.output
    one, two = (minilm.load(output).state_dict() for output in outputs)
    assert all(torch.equal(one[name], two[name]) for name in one)  # new rows follow the seed
    assert minilm.load(outputs[0]).config.vocab_size == len(NEW)


def test_a_tokenizer_that_fits_changes_nothing(tmp_path: Path) -> None:
    start = save_start(tmp_path / "start")
    for name, resize in (("plain", False), ("resized", True)):
        quick("classification", start, colour_texts(16), tmp_path / name, resize_embeddings=resize)
    one, two = (minilm.load(tmp_path / name).state_dict() for name in ("plain", "resized"))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_teacher_does_not_grow(tmp_path: Path) -> None:
    teacher = tmp_path / "teacher"
    quick("classification", save_start(tmp_path / "start"), colour_texts(16), teacher)
    enlarge(teacher, "tokenizer.json")
    with pytest.raises(InputError, match="The tokenizer has"):
        quick("classification", None, colour_texts(16), tmp_path / "out", teacher=teacher,
              layers=[0], resize_embeddings=True)  # fmt: skip
    assert not (tmp_path / "out").exists()
