"""Recipes: one place for defaults, the same run by command and by call, what identifies a run."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import load_file

import minilm
from minilm.cli import main
from minilm.cli.distill import command as distill_command
from minilm.cli.finetune import command as finetune_command
from minilm.cli.pretrain import command as pretrain_command
from minilm.data.records.base import Skips
from minilm.errors import InputError, TrainingError
from minilm.learners.soft_targets import SoftTargets
from minilm.recipes.distillation import DistillationRecipe
from minilm.recipes.finetuning_settings import FinetuningSettings
from minilm.recipes.pretraining import PretrainingRecipe
from minilm.recipes.settings import LoopSettings
from minilm.training.settings import TrainingSettings
from test_observers import Diary

TEXT = "\n\n".join(
    f"The {animal} number {number} runs over the {place} and sees {number + 7} other animals. "
    f"Then it sleeps near the {place}, because every {animal} does."
    for number in range(30)
    for animal, place in [("cat", "hill"), ("dog", "river"), ("mouse", "old house")]
)
SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 32,
}
SMALL: dict[str, Any] = {"tokens_per_step": 256, "held_out": 4, "precision": "float32"}
SHAPE: dict[str, Any] = {"layers": 2, "hidden_size": 16, "heads": 2, "positions": 32}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a store, one of documents of a single sentence, and a teacher."""
    place = tmp_path_factory.mktemp("recipes")
    (place / "text.txt").write_text(TEXT)
    (place / "lines.txt").write_text(TEXT.replace(". Then", ".\n\nThen"))
    tokenizer = minilm.train_tokenizer([place / "text.txt"], place / "vocabulary", vocab_size=120)
    minilm.tokenize_corpus([place / "text.txt"], tokenizer, place / "store", workers=1)
    minilm.tokenize_corpus([place / "lines.txt"], tokenizer, place / "single", workers=1)
    config = minilm.BertConfig(vocab_size=tokenizer.vocab_size, num_hidden_layers=4, **SIZES)
    torch.manual_seed(1)
    minilm.BertForMaskedLM(config).save_pretrained(place / "teacher")
    tokenizer.save_pretrained(place / "teacher")
    return place


@pytest.fixture(autouse=True)
def inside(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def refused(result: Result, *words: str) -> None:
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit)
    for word in words:
        assert word in result.stderr


def record(output: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((output / "run/settings.json").read_text())
    found.pop("circumstances")
    return found


def words(settings: Mapping[str, Any]) -> list[object]:
    """Settings as options of a command."""
    return [w for key, value in settings.items() for w in (f"--{key.replace('_', '-')}", value)]


def weights(output: Path) -> dict[str, torch.Tensor]:
    return load_file(output / "model.safetensors")


def assert_equal_weights(one: Path, other: Path) -> None:
    a, b = weights(one), weights(other)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


# --- defaults ---

# options that say where and how a run is carried out, or what is to be read
NO_SETTINGS = {
    "help": False,
    "config": None,
    "output": None,
    "threads": None,
    "device": None,
    "allow_changes": False,
    "clean": False,
    "tensorboard": False,
    "dry_run": False,
    "as_json": False,
}
OF_FINETUNE = {
    **dict.fromkeys(("task", "model", "train", "dev", "hold_out", "teacher", "layers", "seeds")),
    **dict.fromkeys(("format", "text_column", "pair_column", "label_column")),
    **dict.fromkeys(("delimiter", "encoding")),
    **dict.fromkeys(("out_of_scope", "doc_stride", "max_query", "n_best", "max_answer")),
    "no_header": False,
    "repair_offsets": False,
    "on_bad_record": Skips().policy,
    "temperature": SoftTargets().temperature,
    "soft_weight": SoftTargets().weight,
    "label_weight": SoftTargets().label_weight,
}


def defaults(command: click.Command) -> dict[str, Any]:
    """What each option is if nobody gives it, as the command sees it."""
    context = click.Context(command)
    found = {}
    for option in command.params:
        assert option.name is not None
        default = option.get_default(context)
        unset = type(default).__name__ in ("Sentinel", "NoneType")
        found[option.name] = None if unset else option.type_cast_value(context, default)
    return found


@pytest.mark.parametrize(
    ("command", "settings", "others"),
    [
        (pretrain_command, PretrainingRecipe, NO_SETTINGS),
        (distill_command, DistillationRecipe, NO_SETTINGS),
        (finetune_command, FinetuningSettings, NO_SETTINGS | OF_FINETUNE),
    ],
)
def test_the_commands_defaults_are_those_of_the_settings(
    command: click.Command, settings: type, others: Mapping[str, Any]
) -> None:
    wanted = dict(others)
    for field in dataclasses.fields(settings):
        if "help" in field.metadata:
            required = field.default is dataclasses.MISSING
            wanted[field.name] = None if required else field.default
    found = defaults(command)
    for name in found.keys() - wanted.keys():  # other settings of reading records
        assert command is finetune_command, name
        assert found[name] in (None, False), name
    assert {name: found[name] for name in wanted if name in found} == {
        name: value for name, value in wanted.items() if name in found
    }
    assert wanted.keys() - found.keys() <= {"help", "dry_run"}
    assert len(found) > 30


def test_every_number_of_the_loop_is_a_setting_of_every_recipe() -> None:
    of_loop = {field.name: field.default for field in dataclasses.fields(TrainingSettings)}
    for settings in (PretrainingRecipe, DistillationRecipe, FinetuningSettings):
        own = {field.name for field in dataclasses.fields(settings)}
        assert of_loop.keys() - own <= {"steps", "select", "patience"}
    same = {field.name: field.default for field in dataclasses.fields(LoopSettings)}
    shared = same.keys() & of_loop.keys() - {"precision"}
    assert {name: same[name] for name in shared} == {name: of_loop[name] for name in shared}


def test_what_distilbert_was_trained_with() -> None:
    recipe = DistillationRecipe.released(corpus="store", teacher="teacher")
    assert (recipe.temperature, recipe.kl, recipe.mlm, recipe.cosine, recipe.mse) == (2, 5, 2, 1, 0)
    assert (recipe.learning_rate, recipe.warmup, recipe.betas) == (5e-4, 0.05, (0.9, 0.98))
    assert (recipe.epsilon, recipe.weight_decay, recipe.max_gradient_norm) == (1e-6, 0, 5)
    assert (recipe.masking, recipe.mask_probability, recipe.freeze_positions) == (
        "rare_tokens", 0.15, True,
    )  # fmt: skip
    assert (recipe.usual_length, recipe.min_length, recipe.epochs) == (512, 12, 3)
    assert (recipe.layers, recipe.fold_token_types) == ("published", False)
    with_steps = DistillationRecipe.released(corpus="store", teacher="teacher", steps=7, kl=1)
    assert (with_steps.epochs, with_steps.steps, with_steps.kl) == (None, 7, 1)


# --- one run, called in two ways ---


def test_distilling_by_command_and_by_call_is_the_same_run(tmp_path: Path) -> None:
    recipe = DistillationRecipe(corpus="store", teacher="teacher", steps=3, **SMALL)
    diary = Diary()
    assert recipe.train(tmp_path / "call", observers=[diary], clean=True).finished
    assert len(diary.steps) == 3
    assert not (tmp_path / "call/run/snapshots").exists()
    command = ("distill", "--corpus", "store", "--teacher", "teacher", "--steps", 3, *words(SMALL))
    done = run(*command, "--output", tmp_path / "command")
    assert done.exit_code == 0, done.output
    assert record(tmp_path / "call") == record(tmp_path / "command")
    assert record(tmp_path / "call")["data"]["sequences"]["max_length"] == 32
    assert record(tmp_path / "call")["settings"]["betas"] == [0.9, 0.98]
    assert_equal_weights(tmp_path / "call", tmp_path / "command")


def test_pretraining_by_command_and_by_call_is_the_same_run(tmp_path: Path) -> None:
    recipe = PretrainingRecipe(corpus="store", steps=2, **SMALL, **SHAPE)
    torch.manual_seed(77)  # is of no consequence
    assert recipe.train(tmp_path / "call").finished
    command = ("pretrain", "--corpus", "store", "--steps", 2, *words({**SMALL, **SHAPE}))
    done = run(*command, "--output", tmp_path / "command")
    assert done.exit_code == 0, done.output
    assert record(tmp_path / "call") == record(tmp_path / "command")
    assert_equal_weights(tmp_path / "call", tmp_path / "command")


def test_a_length_that_is_given_must_fit(tmp_path: Path) -> None:
    recipe = DistillationRecipe(corpus="store", teacher="teacher", steps=1, max_length=33, **SMALL)
    with pytest.raises(InputError, match="max_length is 33, .* positions for 32"):
        recipe.train(tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({}, "one of steps and epochs"),
        ({"steps": 1, "epochs": 1}, "one of steps and epochs"),
        ({"steps": 1, "start": "teacher", "hidden_size": 16}, "hidden_size has no effect"),
        ({"steps": 1, "sharing": "none"}, "sharing has no effect: only an ALBERT has it"),
        ({"steps": 1, "sop_mode": "google"}, "sop_mode has no effect"),
        ({"steps": 1, "layers": 4, "new_layers": "identity"}, "new_layers has no effect"),
        ({"steps": 1, "objective": "mlm+sop", "model": "distilbert"}, "no head for pairs"),
        ({"steps": 1, "objective": "clm"}, "objective is 'clm'"),
    ],
)
def test_settings_that_contradict_each_other(given: dict[str, Any], problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        PretrainingRecipe(corpus="store", **given)


# --- identity ---


def test_a_changed_evaluation_is_another_run(tmp_path: Path) -> None:
    command = ["distill", "--corpus", "store", "--teacher", "teacher", "--steps", 2,
               "--output", tmp_path, *words(SMALL)]  # fmt: skip
    assert run(*command).exit_code == 0
    refused(run(*command, "--evaluation-tokens", 64), "evaluation.tokens: 65536 then, 64 now")
    refused(run(*command, "--held-out", 5), "evaluation.held_out: 4 then, 5 now")
    refused(run(*command, "--layers", "1,3"), "start.layers: [0, 2] then, [1, 3] now")
    refused(run(*command, "--train-positions"), "description.frozen")
    free = run(*command, "--workers", 2, "--threads", 1, "--gradient-checkpointing",
               "--evaluate-every", 1)  # fmt: skip
    assert free.exit_code == 0, free.output
    assert "all steps are done" in free.stderr


def test_a_head_start_is_known_by_what_it_is_made_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from minilm.recipes import corpus

    counted = []
    count = corpus.count_word_vectors

    def other_last_bits(*arguments: Any, **more: Any) -> Any:
        """As with another number of threads."""
        counted.append(arguments)
        found = count(*arguments, **more)
        return dataclasses.replace(found, vectors=found.vectors * (1 + len(counted) * 1e-6))

    monkeypatch.setattr(corpus, "count_word_vectors", other_last_bits)
    recipe = PretrainingRecipe(corpus="store", steps=2, head_start=True, **SMALL, **SHAPE)
    first = recipe.prepare(tmp_path / "a")
    assert len(counted) == 1
    again = recipe.prepare(tmp_path / "a")
    assert len(counted) == 2
    assert first.description == again.description
    assert not torch.equal(
        first.model.get_input_embeddings().weight, again.model.get_input_embeddings().weight
    )
    assert recipe.train(tmp_path / "a").finished
    assert recipe.train(tmp_path / "a").finished
    assert len(counted) == 3  # the snapshot has it
    other = dataclasses.replace(recipe, held_out=5)
    with pytest.raises(TrainingError, match=r"head_start\.documents: 86 then, 85 now"):
        other.train(tmp_path / "a")


def test_nothing_to_train_is_said(tmp_path: Path) -> None:
    prepared = PretrainingRecipe(corpus="store", steps=2, **SMALL, **SHAPE).prepare()
    prepared.model.requires_grad_(False)
    with pytest.raises(InputError, match="All parameters are frozen"):
        prepared.train(TrainingSettings(steps=1), tmp_path / "out")
    assert not (tmp_path / "out").exists()


# --- pairs ---


@pytest.mark.parametrize("model", ["bert", "albert"])
def test_a_question_that_nobody_asked_is_not_needed(model: str, tmp_path: Path) -> None:
    shape = {**SHAPE, "held_out": 1}
    done = run("pretrain", "--corpus", "store", "--objective", "mlm+sop", "--steps", 2, "--model",
               model, "--output", tmp_path, *words({**SMALL, **shape}), "--json")  # fmt: skip
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert "sentence_order_accuracy" in result
    assert "next_sentence_accuracy" not in result
    assert "note" not in done.stderr


def test_a_question_that_cannot_be_asked_is_named(tmp_path: Path) -> None:
    """Documents of one sentence: BERT pairs them with others, but one alone gives no pair."""
    shape = {**SHAPE, "held_out": 1}
    done = run("pretrain", "--corpus", "single", "--objective", "mlm+nsp", "--steps", 2,
               "--output", tmp_path, *words({**SMALL, **shape}), "--json")  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "note: next_sentence is trained, but not evaluated on the held-out part" in done.stderr
    result = json.loads(done.stdout)
    assert result["masked_loss"] > 0
    assert not {"sentence_order_accuracy", "next_sentence_accuracy"} & result.keys()


# --- memory ---


def test_gradient_checkpointing_changes_no_loss(tmp_path: Path) -> None:
    losses = {}
    for name, checkpointing in (("plain", False), ("less", True)):
        recipe = DistillationRecipe(
            corpus="store", teacher="teacher", steps=3, gradient_checkpointing=checkpointing,
            **SMALL,
        )  # fmt: skip
        prepared = recipe.prepare()
        assert prepared.model.base.gradient_checkpointing is checkpointing
        settings = recipe.training_settings(prepared.data, torch.device("cpu"))
        prepared.train(settings, tmp_path / name)
        log = (tmp_path / name / "run/log.jsonl").read_text().splitlines()
        losses[name] = [row["loss"] for row in map(json.loads, log) if "loss" in row]
    assert len(losses["plain"]) == 3
    assert losses["less"] == pytest.approx(losses["plain"], rel=1e-5)
