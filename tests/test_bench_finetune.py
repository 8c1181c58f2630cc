"""The fine-tuning benchmark: its texts, its loops, its fairness. No test asserts a speed."""

import builtins
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from minilm.bench import distillation, finetuning, measure
from minilm.bench.finetuning import (
    CONFIGS,
    LOOPS,
    SHORTER,
    BucketedLoop,
    FinetuningBenchSettings,
    MinilmLoop,
    Texts,
    TransformersLoop,
    bench_finetuning,
    check_agreement,
    draw_lengths,
    observe,
    random_texts,
    read_texts,
    save_start,
    training_settings,
)
from minilm.bench.machine import describe_machine, machine_words
from minilm.bench.measure import DisagreementError
from minilm.cli import main
from minilm.cli.bench_finetune import table
from minilm.config import BertConfig, DistilBertConfig
from minilm.errors import DependencyError, InputError
from minilm.loader import CLASSES, STEMS
from minilm.models.pretrained import PretrainedModel
from tiny import tiny

TEXTS = [("a fine film", "pos"), ("dull and long , very long", "neg"), ('" so " it is', "pos")]
WORDS = sorted({word for text, _ in TEXTS for word in text.split()})
STEADY = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No number measured here is of interest; several threads only make tiny models slower."""
    monkeypatch.setattr(measure, "PEAK_SIZE", 64)
    monkeypatch.setattr(distillation, "PROBE_SIZE", 64)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def saved(directory: Path, stem: str = "Bert", **changes: Any) -> Path:
    """A tiny classifier of two labels, with dropout."""
    model = tiny(f"{stem}ForSequenceClassification", torch.float32, **changes)
    model.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("classifier"))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder without a head, and a tokenizer."""
    directory = tmp_path_factory.mktemp("checkpoint")
    tiny("BertModel", torch.float32).save_pretrained(directory)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (directory / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    return directory


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("data") / "train.tsv"
    rows = ["sentence\tlabel", *("\t".join(row) for row in 3 * TEXTS)]
    file.write_text("\n".join(rows) + "\n")
    return file


def texts_of(batches: int = 3, batch_size: int = 4, **sizes: Any) -> Texts:
    config = BertConfig(vocab_size=61, max_position_embeddings=20, hidden_size=12, **sizes)
    return random_texts(config, batches=batches, batch_size=batch_size, seed=3)


def loops_of(directory: Path, texts: Texts, precision: Any = "float32") -> dict[str, Any]:
    told = training_settings(precision, 20)
    return {name: loop(directory, texts, told) for name, loop in LOOPS.items()}


# --- the texts ---


def test_lengths_are_those_of_sst2() -> None:
    """Measured on its 67,349 training sentences: mean 13.3, median 10, 90 % up to 27 tokens."""
    lengths = np.array(draw_lengths(20_000, seed=1))
    assert lengths.mean() == pytest.approx(13.3, abs=0.3)
    assert np.percentile(lengths, [10, 25, 50, 75, 90]) == pytest.approx([4, 6, 10, 18, 27], abs=1)
    assert lengths.min() == 3
    assert lengths.max() <= 66
    for tokens, share in SHORTER.items():
        assert (lengths < tokens).mean() == pytest.approx(share, abs=0.01)


def test_most_of_a_padded_batch_is_padding() -> None:
    texts = random_texts(CONFIGS["minilm-l6"], batches=200)
    assert texts.padding(texts.batches) == pytest.approx(0.67, abs=0.02)
    assert texts.padding(texts.bucketed()) < 0.1


def test_padding_is_a_share_of_positions() -> None:
    texts = texts_of()
    expected = [[int(n) for n in texts.lengths[batch]] for batch in texts.batches]
    positions = sum(len(rows) * max(rows) for rows in expected)
    assert texts.padding(texts.batches) == pytest.approx(1 - sum(map(sum, expected)) / positions)


def test_texts_fit_the_model_and_are_drawn_once() -> None:
    texts = texts_of(batches=30)
    assert texts.lengths.max() == 20
    assert {sample.label for sample in texts.samples} == {0, 1}
    again = texts_of(batches=30)
    for one, other in zip(texts.samples, again.samples, strict=True):
        assert one.rows[0].ids.tolist() == other.rows[0].ids.tolist()
    assert [b.tolist() for b in texts.batches] == [b.tolist() for b in again.batches]


def test_buckets_have_the_same_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finetuning, "CHUNK", 3)
    texts = texts_of(batches=7)
    buckets = texts.bucketed()
    assert sorted(np.concatenate(buckets)) == list(range(28))
    assert [len(bucket) for bucket in buckets] == [4] * 7
    chunks = [set(np.concatenate(texts.batches[n : n + 3]).tolist()) for n in (0, 3, 6)]
    for bucket in buckets:
        assert any(set(bucket.tolist()) <= chunk for chunk in chunks)
    assert texts.padding(buckets) < texts.padding(texts.batches)


def test_texts_from_a_file(data: Path, checkpoint: Path) -> None:
    texts = read_texts(data, checkpoint, batches=2, batch_size=4, seed=1)
    assert len(texts.samples) == 8
    assert texts.task.labels == ("neg", "pos")
    known = {len(text.split()) + 2: label for text, label in TEXTS}
    for sample in texts.samples:
        assert texts.task.labels[sample.label] == known[sample.tokens]
    fewer = read_texts(data, checkpoint, batches=9, batch_size=4, seed=1)
    assert [len(batch) for batch in fewer.batches] == [4, 4, 1]


# --- where the loops start ---


def test_a_start_is_drawn_once_for_all(tmp_path: Path, checkpoint: Path) -> None:
    texts = texts_of()
    for name, start in (("fresh", BertConfig.from_dict(_config(checkpoint))), ("old", checkpoint)):
        for number in (1, 2):
            save_start(start, texts.task, tmp_path / f"{name}{number}", seed=7)
        one, other = (
            CLASSES["BertForSequenceClassification"].from_pretrained(tmp_path / f"{name}{number}")
            for number in (1, 2)
        )
        for key, value in one.state_dict().items():
            assert torch.equal(value, other.state_dict()[key]), key
    base = CLASSES["BertModel"].from_pretrained(checkpoint)
    for key, value in base.state_dict().items():
        if not key.startswith("pooler"):
            assert torch.equal(value, one.base.state_dict()[key]), key


def _config(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((directory / "config.json").read_text())
    return found


def test_the_shape_of_minilm() -> None:
    config = CONFIGS["minilm-l6"]
    assert (config.num_hidden_layers, config.hidden_size, config.num_attention_heads) == (
        6,
        384,
        12,
    )
    assert (config.intermediate_size, config.vocab_size) == (1536, 30522)
    assert set(CONFIGS) == {"minilm-l6", "distilbert-base", "albert-base", "bert-base"}


# --- the loops ---


@pytest.mark.parametrize("stem", sorted(STEMS.values()))
@pytest.mark.parametrize(("precision", "limit"), [("float32", 1e-5), ("bfloat16", 5e-2)])
def test_the_loops_agree(tmp_path: Path, stem: str, precision: Any, limit: float) -> None:
    texts = texts_of()
    loops = loops_of(saved(tmp_path, stem), texts, precision)
    assert check_agreement(loops, texts.batches[0], precision) < limit


@pytest.mark.parametrize("part", ["layers.1.feed_forward.output.bias", "classifier", "word"])
def test_loops_with_different_weights_are_not_compared(classifier: Path, part: str) -> None:
    texts = texts_of()
    loops = loops_of(classifier, texts)
    chosen = [p for name, p in loops["minilm"].model.named_parameters() if part in name]
    assert chosen
    token = int(texts.samples[texts.batches[0][0]].rows[0].ids[0])
    weight = chosen[0][token] if part == "word" else chosen[0]
    with torch.no_grad():
        weight.view(-1)[3] += 0.05
    with pytest.raises(DisagreementError, match="transformers and minilm differ in loss"):
        check_agreement(loops, texts.batches[0], "float32")


def test_a_loss_of_the_same_value_with_another_gradient_is_noticed(
    classifier: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = texts_of()
    loops = loops_of(classifier, texts)
    plain = TransformersLoop.loss

    def halved(self: TransformersLoop, numbers: Any) -> torch.Tensor:
        loss = plain(self, numbers)
        return 0.5 * loss + 0.5 * loss.detach()

    monkeypatch.setattr(TransformersLoop, "loss", halved)
    with pytest.raises(DisagreementError, match="differ in gradient norm"):
        check_agreement(loops, texts.batches[0], "float32")


def test_the_loss_is_the_mean_cross_entropy(classifier: Path) -> None:
    """Every text on its own."""
    texts = texts_of()
    model = CLASSES["BertForSequenceClassification"].from_pretrained(classifier)
    numbers = texts.batches[1]
    losses = []
    for number in numbers:
        sample = texts.samples[number]
        logits = model(torch.from_numpy(sample.rows[0].ids)[None]).logits[0]
        losses.append(-logits.log_softmax(-1)[sample.label])
    expected = float(torch.stack(losses).mean().detach())
    for loop in loops_of(classifier, texts).values():
        assert observe(loop, numbers)["loss"] == pytest.approx(expected, rel=1e-5)
        assert loop.model.training
        assert all(p.grad is None for p in loop.model.parameters())


@pytest.mark.parametrize("stem", sorted(STEMS.values()))
def test_steps_of_both_loops_lead_to_the_same_classifier(tmp_path: Path, stem: str) -> None:
    """Clipping, schedule, weight decay and optimiser included; dropout is off."""
    head = {"classifier_dropout": 0.0} if stem != "Bert" else {}
    loops = loops_of(saved(tmp_path, stem, **STEADY, **head), texts := texts_of())
    before = observe(loops["minilm"], texts.batches[0])
    after = {}
    for name in ("minilm", "transformers"):
        for batch in (0, 1, 2, 0, 1, 2):
            loops[name].step(batch)
        after[name] = observe(loops[name], texts.batches[0])
    assert after["minilm"]["loss"] != pytest.approx(before["loss"], rel=1e-4)
    for what, value in after["transformers"].items():
        assert after["minilm"][what] == pytest.approx(value, rel=1e-4), what


def test_the_straightforward_loop_needs_transformers(
    classifier: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = builtins.__import__

    def without(name: str, *arguments: Any, **options: Any) -> Any:
        if name == "transformers":
            raise ImportError(name)
        return plain(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(DependencyError, match="pip install transformers"):
        TransformersLoop(classifier, texts_of(), training_settings("float32", 2))
    result = bench_finetuning(classifier, texts_of(), FinetuningBenchSettings(loops=("minilm",)))
    assert set(result["contenders"]) == {"minilm"}


# --- the measurement ---


def test_every_contender_gets_every_number(classifier: Path) -> None:
    texts = texts_of()
    settings = FinetuningBenchSettings(
        precisions=("float32", "bfloat16"), loops=tuple(LOOPS), rounds=3
    )
    said: list[str] = []
    result = bench_finetuning(classifier, texts, settings, said.append)
    assert set(result["contenders"]) == {
        name + suffix for name in LOOPS for suffix in ("", "-bfloat16")
    }
    tokens = int(texts.lengths.sum())
    for name, row in result["contenders"].items():
        assert row["precision"] == ("bfloat16" if name.endswith("bfloat16") else "float32")
        assert 0 < row["seconds"] < 10
        assert row["tokens_per_second"] == pytest.approx(tokens / 3 / row["seconds"])
        assert row["examples_per_second"] == pytest.approx(4 / row["seconds"])
        assert row["share_of_peak"] > 0
        assert set(row["ratios"]) == {"transformers", "transformers-bucketed"}
        for found in row["ratios"].values():
            assert 0 < found["lowest"] <= found["median"] <= found["highest"]
    same = {"median": 1.0, "lowest": 1.0, "highest": 1.0}
    assert result["contenders"]["transformers"]["ratios"]["transformers"] == same
    padding = {name: row["padding"] for name, row in result["contenders"].items()}
    assert padding["minilm"] == padding["minilm-bfloat16"] == 0
    assert padding["transformers"] == texts.padding(texts.batches)
    assert padding["transformers-bucketed"] == texts.padding(texts.bucketed())
    assert result["model"] == {
        "model_type": "bert",
        "hidden_size": 16,
        "layers": 3,
        "vocab_size": 61,
        "labels": 2,
    }
    assert result["workload"] == {
        "texts": 12,
        "batch_size": 4,
        "batches": 3,
        "tokens": tokens,
        "longest": int(texts.lengths.max()),
        "padding": texts.padding(texts.batches),
        "rounds": 3,
        "seed": 3,
    }
    assert result["machine"]["threads"] == 1
    assert all(peak > 0 for peak in result["machine"]["peak_gflops"].values())
    assert set(result["machine"]["peak_gflops"]) == {"float32", "bfloat16"}
    assert 0 <= result["max_relative_difference"]["float32"] < 1e-5
    assert 0 < result["max_relative_difference"]["bfloat16"] < 5e-2
    assert any(line.startswith("float32: batches 3") for line in said)
    assert json.loads(json.dumps(result)) == result


def test_what_is_timed_is_the_steps(classifier: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each loop once to warm up, then in turn, batch by batch; no step after the schedule's end."""
    taken: list[tuple[str, int]] = []
    rates: list[float] = []
    for loop_class in (MinilmLoop, TransformersLoop):
        step = loop_class.step

        def counted(self: Any, batch: int, step: Any = step) -> None:
            step(self, batch)
            taken.append((type(self).__name__, batch))
            optimiser = self.optimiser if hasattr(self, "optimiser") else self._updater.optimiser
            rates.append(optimiser.param_groups[0]["lr"])

        monkeypatch.setattr(loop_class, "step", counted)
    settings = FinetuningBenchSettings(loops=tuple(LOOPS), rounds=2)
    bench_finetuning(classifier, texts_of(batches=2), settings)
    names = (MinilmLoop.__name__, TransformersLoop.__name__, BucketedLoop.__name__)
    assert taken == [(name, batch) for batch in (0, 0, 1, 0, 1) for name in names]
    assert rates[-3] > 0  # minilm's last update


def test_a_ratio_is_that_of_the_same_round(
    classifier: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = {"minilm": [1.0, 2.0, 4.0], "transformers": [3.0, 4.0, 20.0]}
    monkeypatch.setattr(finetuning, "take_turns", lambda *_: seconds)
    settings = FinetuningBenchSettings(rounds=3)
    row = bench_finetuning(classifier, texts_of(), settings)["contenders"]["minilm"]
    assert row["ratios"] == {"transformers": {"median": 3.0, "lowest": 2.0, "highest": 5.0}}
    assert row["seconds"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rounds": 0}, "rounds is 0"),
        ({"loops": ("keras",)}, "expected some of minilm, transformers"),
        ({"precisions": ()}, "expected some of float32, bfloat16"),
    ],
)
def test_settings_that_make_no_sense(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        FinetuningBenchSettings(**changes)


# --- the command ---


def run(*arguments: object) -> Any:
    return CliRunner().invoke(main, ["bench", "finetune", *map(str, arguments)])


SMALL = ("--batches", 2, "--batch-size", 4, "--rounds", 1, "--dtype", "float32")


def test_the_command_prints_json_and_a_table(classifier: Path) -> None:
    done = run("--model", classifier, *SMALL, "--bucketed", "--threads", 1)
    assert done.exit_code == 0, done.stderr
    assert "of a padded batch is padding" in done.stdout
    assert "x transformers-bucketed" in done.stdout
    assert "float32: batches 2" in done.stderr
    done = run("--model", classifier, *SMALL, "--alone", "--json")
    assert done.exit_code == 0, done.stderr
    result = json.loads(done.stdout)
    assert set(result["contenders"]) == {"minilm"}
    assert result["model"]["source"] == str(classifier)
    assert describe_machine().items() <= result["machine"].items()
    assert machine_words(result["machine"]) in table(result)
    assert result["contenders"]["minilm"]["ratios"] == {}
    assert result["max_relative_difference"] == {}  # nothing to compare with
    assert "difference" not in table(result)


def test_a_checkpoint_learns_real_texts(data: Path, checkpoint: Path) -> None:
    done = run("--model", checkpoint, "--data", data, *SMALL, "--json")
    assert done.exit_code == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["workload"]["source"] == str(data)
    assert result["workload"]["texts"] == 8
    assert set(result["contenders"]) == {"minilm", "transformers"}
    assert result["max_relative_difference"]["float32"] < 1e-5


def test_a_name_stands_for_a_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    config = DistilBertConfig(
        vocab_size=61, hidden_size=16, num_hidden_layers=2, num_attention_heads=2
    )
    monkeypatch.setitem(CONFIGS, "distilbert-base", config)
    done = run("--model", "distilbert-base", *SMALL, "--json")
    assert done.exit_code == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["model"] | {"source": "distilbert-base", "layers": 2} == result["model"]
    assert result["workload"]["source"] == "lengths of SST-2, random ids"


def test_different_steps_are_exit_code_1(classifier: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare = MinilmLoop._prepare

    def perturbed(self: MinilmLoop, *arguments: Any) -> None:
        prepare(self, *arguments)
        model = self.model
        assert isinstance(model, PretrainedModel)
        with torch.no_grad():
            next(p for n, p in model.named_parameters() if n == "classifier.weight")[0, 0] += 0.1

    monkeypatch.setattr(MinilmLoop, "_prepare", perturbed)
    done = run("--model", classifier, *SMALL, "--json")
    assert done.exit_code == 1
    assert done.stdout == ""
    assert "error: transformers and minilm differ in loss" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--data", "train.tsv"), "--data needs a --model"),
        (("--alone", "--bucketed"), "leave out --alone"),
        (("--model", "nowhere/at/all"), "error:"),
    ],
)
def test_wrong_usage_is_exit_code_2(arguments: tuple[str, ...], message: str) -> None:
    done = run(*arguments)
    assert done.exit_code == 2
    assert message in done.stderr


def test_help_has_examples() -> None:
    done = run("--help")
    assert done.exit_code == 0
    assert "  minilm bench finetune " in done.stdout
