"""Pretraining on pairs: what is learned, and `minilm pretrain --objective` from end to end."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from click.testing import CliRunner, Result

import minilm
from minilm.cli import main
from minilm.data.batches import TokenBatch
from minilm.errors import CheckpointError, InputError
from minilm.learners.pairs import PretrainingLearner
from minilm.loader import load_pretraining
from minilm.models.tasks import ForPreTraining
from minilm.recipes.corpus import CorpusSettings, open_corpus
from minilm.recipes.runs import masked_lm, pretraining
from tiny import tiny

CLASSES = ["AlbertForPreTraining", "BertForPreTraining"]
LABEL = {
    "AlbertForPreTraining": "sentence_order_label",
    "BertForPreTraining": "next_sentence_label",
}
EXACT: dict[str, Any] = {"rtol": 0, "atol": 1e-10}
SHAPE = ["--layers", 2, "--hidden-size", 16, "--heads", 2, "--positions", 32]
LOOP = ["--max-length", 32, "--tokens-per-step", 256, "--held-out", 4, "--precision", "float32"]
SOP = ["--model", "albert", "--objective", "mlm+sop"]
TEXT = "\n\n".join(
    f"The {animal} number {number} runs over the {place}. It sees {number + 7} other animals. "
    f"Then it sleeps near the {place}, because every {animal} does. The end of {number} is near."
    for number in range(40)
    for animal, place in [("cat", "hill"), ("dog", "river"), ("mouse", "old house")]
)


def model_of(name: str) -> ForPreTraining:
    model = tiny(name)
    assert isinstance(model, ForPreTraining)
    return model


def batch_of(lengths: tuple[int, ...] = (7, 4, 9, 5)) -> TokenBatch:
    tokens = sum(lengths)
    ids = torch.randint(1, 61, (tokens,), generator=torch.Generator().manual_seed(3))
    labels = torch.where(torch.arange(tokens) % 3 == 1, (ids * 7) % 61, -100)
    types = torch.cat([(torch.arange(n) >= n // 2).long() for n in lengths])
    answers = torch.arange(len(lengths)) % 2
    return TokenBatch(
        np.arange(len(lengths)), ids, torch.tensor(lengths), labels, types, answers,
        "sentence_order",
    )  # fmt: skip


def part(batch: TokenBatch, first: int, last: int) -> TokenBatch:
    begin, end = int(batch.lengths[:first].sum()), int(batch.lengths[:last].sum())
    assert batch.token_type_ids is not None and batch.sentence_labels is not None  # noqa: PT018
    return TokenBatch(
        batch.samples[first:last], batch.input_ids[begin:end], batch.lengths[first:last],
        batch.labels[begin:end], batch.token_type_ids[begin:end],
        batch.sentence_labels[first:last], batch.sentence_task,
    )  # fmt: skip


@pytest.mark.parametrize("name", CLASSES)
def test_the_loss_is_the_models(name: str) -> None:
    """Value and gradients, against the model's own forward pass with labels."""
    model, batch = model_of(name), batch_of()
    learner = PretrainingLearner(model, "sentence_order")
    found = learner(batch, learner.counts(batch))
    options: dict[str, Any] = {"labels": batch.labels, LABEL[name]: batch.sentence_labels}
    wanted = model(
        batch.input_ids, None, batch.token_type_ids, lengths=batch.lengths, **options
    ).loss
    torch.testing.assert_close(found["loss"], wanted, **EXACT)
    torch.testing.assert_close(found["mlm"] + found["sentence_order"], wanted.detach(), **EXACT)
    assert float(found["masked_share"]) == pytest.approx(8 / 25)
    parameters = list(model.parameters())
    for one, other in zip(
        torch.autograd.grad(found["loss"], parameters),
        torch.autograd.grad(wanted, parameters),
        strict=True,
    ):
        torch.testing.assert_close(one, other, **EXACT)


def test_parts_add_up_to_the_step() -> None:
    """An empty part among them."""
    learner, batch = PretrainingLearner(model_of(CLASSES[0]), "sentence_order"), batch_of()
    counts = learner.counts(batch)
    assert counts == {"attended": 25, "masked": 8, "pairs": 4}
    whole = learner(batch, counts)
    parts = [learner(part(batch, a, b), counts) for a, b in ((0, 1), (1, 1), (1, 4))]
    assert all(found.keys() == whole.keys() for found in parts)
    for key, value in whole.items():
        torch.testing.assert_close(sum(found[key] for found in parts), value, **EXACT)


def test_scores() -> None:
    """Masked tokens where there are no pairs, one of two accuracies where there are."""
    model, batch = model_of(CLASSES[0]), batch_of()
    learner = PretrainingLearner(model, "sentence_order")
    assert batch.sentence_labels is not None
    logits = model(batch.input_ids, None, batch.token_type_ids, lengths=batch.lengths).sop_logits
    right = int((logits.argmax(dim=1) == batch.sentence_labels).sum())
    assert learner.eval_step(batch) == {"sentence_order_accuracy": (float(right), 4)}
    single = TokenBatch(batch.samples, batch.input_ids, batch.lengths, batch.labels)
    assert learner.eval_step(single).keys() == {"masked_loss", "masked_accuracy"}
    assert (
        set(learner.metric_names)
        > learner.eval_step(batch).keys() | learner.eval_step(single).keys()
    )


def test_other_models_are_refused() -> None:
    with pytest.raises(InputError, match="is a BertForMaskedLM: expected AlbertForPreTraining"):
        PretrainingLearner(tiny("BertForMaskedLM"), "sentence_order")  # type: ignore[arg-type]


# --- the command ---


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("pretraining")
    (place / "text.txt").write_text(TEXT)
    tokenizer = minilm.train_tokenizer([place / "text.txt"], place / "vocabulary", vocab_size=120)
    minilm.tokenize_corpus([place / "text.txt"], tokenizer, place / "store", workers=1)
    return place


@pytest.fixture(autouse=True)
def inside(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)


def run(output: Path, *more: object) -> Result:
    command = ["pretrain", "--corpus", "store", "--output", output, *SHAPE, *LOOP, *more]
    return CliRunner().invoke(main, [str(argument) for argument in command])


@pytest.mark.parametrize("objective", ["mlm", "mlm+sop", "mlm+nsp"])
@pytest.mark.parametrize("model", ["albert", "bert"])
def test_every_objective_leaves_a_checkpoint(model: str, objective: str, tmp_path: Path) -> None:
    done = run(tmp_path, "--model", model, "--objective", objective, "--steps", 3, "--json")
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    pairs = objective != "mlm"
    assert ("sentence_order_accuracy" in result) == ("next_sentence_accuracy" in result) == pairs
    head = "ForPreTraining" if pairs else "ForMaskedLM"
    stem = {"albert": "Albert", "bert": "Bert"}[model]
    ours = minilm.load(tmp_path)
    assert type(ours).__name__ == f"{stem}{head}"
    oracle = getattr(transformers, f"{stem}{head}").from_pretrained(tmp_path, local_files_only=True)
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        found, wanted = ours(ids), oracle.eval()(ids)
    names = {"Albert": "sop_logits", "Bert": "seq_relationship_logits"}
    for name in ("prediction_logits", names[stem]) if pairs else ("logits",):
        torch.testing.assert_close(getattr(found, name), getattr(wanted, name), rtol=0, atol=1e-5)


def test_albert_with_every_option(tmp_path: Path) -> None:
    done = run(
        tmp_path / "a", *SOP, "--epochs", 1, "--embedding-size", 8, "--sharing", "attention",
        "--feed-forward-dropout", "--dropout", 0.1, "--gradient-checkpointing", "--sop-mode",
        "google", "--short-sequences", 0.3, "--masking", "ngrams", "--max-ngram", 2,
        "--max-predictions", 2, "--optimiser", "lamb",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    stored = json.loads((tmp_path / "a/run/settings.json").read_text())
    assert stored["settings"]["optimiser"] == "lamb"
    assert stored["description"]["objective"] == "mlm+sentence_order"
    assert stored["data"]["sequences"]["mode"] == "google"
    assert stored["data"]["sequences"]["short_probability"] == 0.3
    masking = stored["data"]["masking"]
    assert (masking["name"], masking["max_ngram"], masking["max_predictions"]) == ("ngrams", 2, 2)
    config = minilm.load(tmp_path / "a").config
    assert isinstance(config, minilm.AlbertConfig)
    assert (config.shared_between_groups, config.feed_forward_dropout) == ("attention", True)
    assert (config.embedding_size, config.num_hidden_groups) == (8, 2)
    rows = [json.loads(line) for line in (tmp_path / "a/run/log.jsonl").read_text().splitlines()]
    assert {"mlm", "sentence_order", "masked_share"} <= rows[0].keys()
    # the cap of 2 a sample shows in the logged rate
    assert 0 < rows[0]["masked_share"] < 0.12


def test_gradient_checkpointing_changes_no_weight(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    for name, option in (("a", []), ("b", ["--gradient-checkpointing"])):
        done = run(tmp_path / name, *SOP, "--dropout", 0.1, "--steps", 3, *option)
        assert done.exit_code == 0, done.output
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in "ab")
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_an_interrupted_run_ends_with_the_same_weights(tmp_path: Path) -> None:
    """Pairs, n-grams, LAMB and an unusual way of sharing, over the border of an epoch."""
    options = [*SOP, "--sharing", "feed-forward", "--optimiser", "lamb", "--masking", "ngrams",
               "--learning-rate", 1e-2, "--schedule", "constant", "--warmup", 2,
               "--snapshot-every", 5, "--allow-changes"]  # fmt: skip
    corpus = CorpusSettings(
        store="store", held_out=4, max_length=32, tokens_per_step=256, segments="sentence_order"
    )
    steps = len(open_corpus(corpus).data.steps(0)) + 4
    assert run(tmp_path / "whole", *options, "--steps", steps).exit_code == 0
    assert run(tmp_path / "parts", *options, "--steps", steps - 6).exit_code == 0
    assert run(tmp_path / "parts", *options, "--steps", steps).exit_code == 0
    one, other = (minilm.load(tmp_path / name) for name in ("whole", "parts"))
    for value, again in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(value, again)


def test_from_a_checkpoint_without_pair_head(tmp_path: Path) -> None:
    """Masked LM first, then both: the head starts fresh."""
    assert run(tmp_path / "mlm", "--model", "albert", "--steps", 2).exit_code == 0
    model = load_pretraining(tmp_path / "mlm")
    assert model.load_report is not None
    assert {entry.own for entry in model.load_report.of("new")} == {
        "encoder.pooler.dense.weight", "encoder.pooler.dense.bias",
        "sentence_order_head.weight", "sentence_order_head.bias",
    }  # fmt: skip
    command = ["pretrain", "--corpus", "store", "--output", tmp_path / "both", *LOOP, "--from",
               tmp_path / "mlm", "--objective", "mlm+sop", "--steps", 2]  # fmt: skip
    done = CliRunner().invoke(main, [str(argument) for argument in command])
    assert done.exit_code == 0, done.output
    assert type(minilm.load(tmp_path / "both")).__name__ == "AlbertForPreTraining"


def test_a_checkpoint_with_layers_on_top(tmp_path: Path) -> None:
    """Two layers become five; fewer than there are is a mistake."""
    assert run(tmp_path / "shallow", "--steps", 2).exit_code == 0
    command = ["pretrain", "--corpus", "store", "--output", tmp_path / "deep", *LOOP, "--from",
               tmp_path / "shallow", "--steps", 2, "--layers"]  # fmt: skip
    done = CliRunner().invoke(main, [*map(str, command), "5"])
    assert done.exit_code == 0, done.output
    assert minilm.load(tmp_path / "deep").config.num_hidden_layers == 5
    done = CliRunner().invoke(main, [*map(str, command), "1"])
    assert done.exit_code == 2
    assert "num_hidden_layers is 1, fewer than the model's 2" in done.output


def test_a_checkpoint_with_identities_between_its_layers(tmp_path: Path) -> None:
    """Where nothing is learned, the deeper model computes what the shallow one does."""
    assert run(tmp_path / "shallow", "--steps", 2).exit_code == 0
    command = ["pretrain", "--corpus", "store", "--output", tmp_path / "deep", *LOOP, "--from",
               tmp_path / "shallow", "--steps", 1, "--new-layers", "identity"]  # fmt: skip
    done = CliRunner().invoke(main, [*map(str, command)])
    assert done.exit_code == 2
    assert "--new-layers can be used with --from and --layers only" in done.output
    command += ["--layers", 5, "--learning-rate", 1e-12]
    done = CliRunner().invoke(main, [*map(str, command)])
    assert done.exit_code == 0, done.output
    shallow, deep = (minilm.load(tmp_path / name) for name in ("shallow", "deep"))
    assert deep.config.num_hidden_layers == 5
    ids = torch.arange(5, 25)[None]
    torch.testing.assert_close(deep(ids).logits, shallow(ids).logits)


@pytest.mark.parametrize("model", ["bert", "distilbert", "albert"])
def test_a_head_start(model: str, tmp_path: Path) -> None:
    """The loss of the first step is that of knowing the frequencies, or better."""
    more = ["--model", model, "--steps", 1, "--schedule", "constant", "--warmup", 0]
    if model == "albert":
        more += ["--embedding-size", 16]
    losses = []
    for name, option in (("fresh", []), ("ahead", ["--head-start"])):
        done = run(tmp_path / name, *more, *option)
        assert done.exit_code == 0, done.output
        assert ("counting word vectors" in done.stderr) == (name == "ahead")
        first = (tmp_path / name / "run" / "log.jsonl").read_text().splitlines()[0]
        losses.append(json.loads(first)["loss"])
    assert losses[1] < losses[0] - 0.2
    done = run(tmp_path / "again", "--from", tmp_path / "ahead", "--steps", 1, "--head-start")
    assert done.exit_code == 2
    assert "leave out" in done.output
    assert "--head-start" in done.output


def test_checkpoints_that_cannot_be_pretrained(tmp_path: Path) -> None:
    tiny("DistilBertForMaskedLM").save_pretrained(tmp_path / "distilbert")
    with pytest.raises(CheckpointError, match="there is no DistilBertForPreTraining"):
        load_pretraining(tmp_path / "distilbert")
    tiny("AlbertModel").save_pretrained(tmp_path / "headless")
    with pytest.raises(CheckpointError, match="has no masked-LM head"):
        load_pretraining(tmp_path / "headless")


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--embedding-size", 8], "--embedding-size can be used with --model albert only"),
        (["--sharing", "none"], "--sharing can be used with --model albert only"),
        ([*SOP, "--sharing", "some"], "'some' is neither one of"),
        ([*SOP, "--sharing", 3], "do not add up to the 2"),
        (["--sop-mode", "google"], "--sop-mode"),
        (["--short-sequences", 0.2], "--short-sequences"),
        (["--objective", "mlm+nsp", "--sop-mode", "google"], "--sop-mode"),
        (["--model", "distilbert", "--objective", "mlm+sop"], "no head for pairs"),
        (["--objective", "sop"], "'sop' is not one of"),
        ([*SOP, "--max-ngram", 0], "--max-ngram"),
        ([*SOP, "--max-length", 4], "--max-length is 4"),
    ],
)
def test_wrong_use(tmp_path: Path, options: list[object], word: str) -> None:
    done = run(tmp_path / "out", "--steps", 2, *options)
    assert done.exit_code == 2, done.output
    assert isinstance(done.exception, SystemExit)
    assert word in done.stderr
    assert not (tmp_path / "out").exists()


def test_recipes_refuse_each_others_segments() -> None:
    pairs = CorpusSettings(store="store", segments="sentence_order")
    with pytest.raises(InputError, match="reads no pairs"):
        masked_lm(tiny("AlbertForMaskedLM", vocab_size=120), pairs)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="segments is 'single'"):
        pretraining(model_of(CLASSES[0]), CorpusSettings(store="store"))


def test_all_objectives_are_judged_on_the_same_masked_tokens() -> None:
    batches = [
        open_corpus(
            CorpusSettings(store="store", held_out=4, max_length=32, segments=segments)
        ).held_out
        for segments in ("single", "sentence_order", "next_sentence")
    ]
    for found in batches:
        plain = [batch for batch in found if batch.sentence_labels is None]
        for batch, wanted in zip(plain, batches[0], strict=True):
            assert torch.equal(batch.input_ids, wanted.input_ids)
            assert torch.equal(batch.labels, wanted.labels)
    tasks = [batch.sentence_task for batch in batches[1] if batch.sentence_task]
    assert set(tasks) == {"sentence_order", "next_sentence"}
