"""The distillation benchmark: its workloads, its loops, its fairness. No test asserts a speed."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch.utils.flop_counter import FlopCounterMode

import minilm
from minilm.bench import distillation, measure
from minilm.bench.contenders import read_base_config
from minilm.bench.distillation import (
    PUBLISHED,
    WORKLOADS,
    DistillationSettings,
    bench_distillation,
    check_agreement,
    lengths_of,
    observe,
)
from minilm.bench.distillation_loops import (
    LOOPS,
    STUDENT,
    TEACHER,
    LabelledBatch,
    MinilmLoop,
    TransformersLoop,
    distillation_flops,
    labelled_batches,
    save_models,
)
from minilm.bench.machine import describe_machine, machine_words
from minilm.bench.memory import in_fresh_process
from minilm.bench.workload import padding_ratio
from minilm.cli import main
from minilm.cli.bench_distill import table
from minilm.errors import InputError, MinilmError
from minilm.models.bert import BertForMaskedLM
from tiny import tiny

VOCABULARY = 61  # of the tiny models
TERMS = {"loss", "kl", "mlm", "cosine", "gradient norm"}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher of 4 layers with dropout and a student of 2."""
    directory = tmp_path_factory.mktemp("models")
    teacher = tiny("BertForMaskedLM", torch.float32, num_hidden_layers=4)
    assert isinstance(teacher, BertForMaskedLM)
    save_models(teacher, directory, seed=3)
    return directory


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No number measured here is of interest; several threads only make tiny models slower."""
    monkeypatch.setattr(measure, "PEAK_SIZE", 64)
    monkeypatch.setattr(distillation, "PROBE_SIZE", 64)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def batch_of(*lengths: int) -> LabelledBatch:
    (batch,) = labelled_batches(lengths, batch_size=16, vocab_size=VOCABULARY, seed=1)
    return batch


# --- the workloads ---


def test_the_published_batch() -> None:
    (batch,) = labelled_batches(PUBLISHED, batch_size=16, vocab_size=99, seed=0)
    assert batch.tokens == 683
    assert batch.texts.input_ids.shape == (16, 256)


def test_eight_batches_are_less_padded() -> None:
    lengths = [min(length, 256) for length in WORKLOADS["eight"]]
    batches = labelled_batches(lengths, batch_size=16, vocab_size=99, seed=0)
    assert len(batches) == 8
    assert round(padding_ratio([batch.texts for batch in batches]), 2) == 3.13


def test_labels_are_at_attended_positions() -> None:
    batch = batch_of(5, 19, 1, 15)
    attended = batch.texts.attention_mask.bool()
    assert (batch.labels[~attended] == -100).all()
    assert int((batch.labels != -100).sum()) == 6  # 15 % of 40
    assert int((batch_of(2).labels != -100).sum()) == 1  # a mean needs one


def test_lengths_add_up() -> None:
    lengths = lengths_of(1000, 20)
    assert sum(lengths) == 1000
    assert max(lengths) == 20
    assert lengths_of(3, 20) == [3]


def test_flops_are_those_that_torch_counts(models: Path) -> None:
    loop = TransformersLoop(models, "float32")
    for model in (loop.teacher, loop.student):
        model.set_attn_implementation("eager")  # the counter does not know the fused one
    batch = batch_of(7, 7)  # nothing padded: every product is one that the task needs
    with FlopCounterMode(display=False) as counter:
        loop.terms(batch)["loss"].backward()
    configs = [read_base_config(models / name) for name in (TEACHER, STUDENT)]
    assert counter.get_total_flops() == distillation_flops(*configs, [7, 7])


# --- the loops ---


def test_the_straightforward_loop_is_the_formula(models: Path) -> None:
    """Against every attended token on its own, in float64, with the models of minilm."""
    batch = batch_of(7, 3, 12)
    teacher = minilm.BertForMaskedLM.from_pretrained(models / TEACHER, dtype="float64")
    student = minilm.DistilBertForMaskedLM.from_pretrained(models / STUDENT, dtype="float64")
    kl, mlm, cosine = [], [], []
    for row, length in enumerate(batch.texts.lengths.tolist()):
        ids = batch.texts.input_ids[row : row + 1, :length]
        taught, learned = (m(ids, output_hidden_states=True) for m in (teacher, student))
        for place in range(length):
            q = (taught.logits[0, place] / 2).softmax(-1)
            p = (learned.logits[0, place] / 2).softmax(-1)
            kl.append(4 * (q * (q / p).log()).sum())
            label = int(batch.labels[row, place])
            if label != -100:
                mlm.append(-learned.logits[0, place].softmax(-1)[label].log())
            states = [m.hidden_states[-1][0, place] for m in (taught, learned)]
            cosine.append(1 - torch.cosine_similarity(states[0], states[1], dim=0))
    expected = {
        name: float(torch.stack(values).mean().detach())
        for name, values in (("kl", kl), ("mlm", mlm), ("cosine", cosine))
    }
    expected["loss"] = 5 * expected["kl"] + 2 * expected["mlm"] + expected["cosine"]
    observed = observe(TransformersLoop(models, "float32"), batch)
    assert set(observed) == TERMS
    for name, value in expected.items():
        assert observed[name] == pytest.approx(value, rel=1e-5), name


@pytest.mark.parametrize(("precision", "limit"), [("float32", 1e-5), ("bfloat16", 5e-2)])
def test_the_loops_agree(models: Path, precision: Any, limit: float) -> None:
    loops = {name: loop(models, precision) for name, loop in LOOPS.items()}
    assert check_agreement(loops, batch_of(7, 3, 12), precision) < limit


@pytest.mark.parametrize("part", ["encoder.layers.1.feed_forward.output.bias", "masked_lm_head"])
def test_loops_with_different_weights_are_not_compared(models: Path, part: str) -> None:
    loops = {name: loop(models, "float32") for name, loop in LOOPS.items()}
    chosen = [p for name, p in loops["minilm"].student.named_parameters() if part in name]
    assert chosen
    with torch.no_grad():
        chosen[0].view(-1)[3] += 0.3
    with pytest.raises(MinilmError, match="transformers and minilm differ in loss"):
        check_agreement(loops, batch_of(7, 3, 12), "float32")


def test_a_loss_of_the_same_value_with_another_gradient_is_noticed(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loops = {name: loop(models, "float32") for name, loop in LOOPS.items()}
    plain = TransformersLoop.terms

    def without_cosine_gradient(self: TransformersLoop, batch: LabelledBatch) -> Any:
        terms = dict(plain(self, batch))
        terms["loss"] = terms["loss"] - terms["cosine"] + terms["cosine"].detach()
        return terms

    monkeypatch.setattr(TransformersLoop, "terms", without_cosine_gradient)
    with pytest.raises(MinilmError, match="differ in gradient norm"):
        check_agreement(loops, batch_of(7, 3, 12), "float32")


@pytest.mark.parametrize("name", list(LOOPS))
def test_a_step_trains_the_student(models: Path, name: str) -> None:
    loop = LOOPS[name](models, "float32")
    batch = batch_of(7, 3, 12)
    before = observe(loop, batch)
    assert loop.student.training
    for _ in range(8):
        loop.step(batch)
    assert loop.student.training
    assert observe(loop, batch)["loss"] < 0.99 * before["loss"]


def test_steps_of_both_loops_lead_to_the_same_student(models: Path, tmp_path: Path) -> None:
    """Clipping and optimiser included; dropout is off."""
    steady = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    for directory, model_class in (
        (TEACHER, minilm.BertForMaskedLM),
        (STUDENT, minilm.DistilBertForMaskedLM),
    ):
        model = model_class.from_pretrained(models / directory, **steady)
        model.save_pretrained(tmp_path / directory)
    after = {}
    for name, loop_class in LOOPS.items():
        loop = loop_class(tmp_path, "float32")
        for last in (12, 13, 14):
            loop.step(batch_of(7, 3, last))
        after[name] = observe(loop, batch_of(9, 4))
    for term, value in after["transformers"].items():
        assert after["minilm"][term] == pytest.approx(value, rel=1e-4), term


# --- the measurement ---


def test_every_contender_gets_every_number(models: Path) -> None:
    settings = DistillationSettings(
        precisions=("float32", "bfloat16"), workloads=("published",), rounds=2
    )
    said: list[str] = []
    result = bench_distillation(models, settings, said.append)
    names = {"minilm", "transformers", "minilm-bfloat16", "transformers-bfloat16"}
    assert set(result["contenders"]) == names
    for found in result["contenders"].values():
        row = found["published"]
        assert row["seconds"] > 0
        assert row["gflops"] > 0
        assert set(row["ratios"]) == {"transformers", "transformers-bfloat16"}
    assert result["contenders"]["transformers"]["published"]["ratios"]["transformers"] == 1
    assert set(result["machine"]["peak_gflops"]) == {"float32", "bfloat16"}
    assert 0 < result["max_relative_difference"]["float32"] < 1e-4
    assert result["workloads"]["published"]["tokens"] == sum(min(n, 20) for n in PUBLISHED)
    assert result["models"]["student"]["layers"] == 2
    assert any(line.startswith("published") for line in said)
    assert json.loads(json.dumps(result)) == result


def test_what_is_timed_is_the_steps(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[tuple[str, int]] = []
    for loop_class in (MinilmLoop, TransformersLoop):
        step = loop_class.step

        def counted(self: Any, batch: LabelledBatch, step: Any = step) -> None:
            step(self, batch)
            taken.append((type(self).__name__, batch.tokens))

        monkeypatch.setattr(loop_class, "step", counted)
    bench_distillation(models, DistillationSettings(workloads=("published",), rounds=2))
    tokens = sum(min(n, 20) for n in PUBLISHED)
    # each loop once to warm up, then in turn
    assert taken == [
        (name, count)
        for count in (sum(min(n, 20) for n in distillation.SAMPLE), tokens, tokens)
        for name in ("MinilmLoop", "TransformersLoop")
    ]


def test_memory_is_of_a_process_of_its_own(models: Path) -> None:
    settings = DistillationSettings(
        loops=("minilm",), workloads=("published",), rounds=1, memory=True, memory_tokens=300
    )
    found = bench_distillation(models, settings)["contenders"]["minilm"]
    assert found["memory"]["tokens"] == sum(min(n, 20) for n in PUBLISHED)
    assert found["memory_of_tokens"]["tokens"] == 300
    for key in ("memory", "memory_of_tokens"):
        assert 10e6 < found[key]["loaded"] <= found[key]["peak"] < 10e9


def test_a_fresh_process_has_our_threads_and_hands_errors_back() -> None:
    assert in_fresh_process(torch.get_num_threads) == 1
    with pytest.raises(InputError, match="rounds is 0"):
        in_fresh_process(DistillationSettings, ("float32",), ("minilm",), ("eight",), 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rounds": 0}, "rounds is 0"),
        ({"memory_tokens": 0}, "memory_tokens is 0"),
        ({"loops": ("keras",)}, "expected some of minilm, transformers"),
        ({"workloads": ()}, "expected some of published, eight"),
        ({"precisions": ("float16",)}, "expected some of float32, bfloat16"),
    ],
)
def test_settings_that_make_no_sense(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        DistillationSettings(**changes)


# --- the command ---


def test_the_command_prints_json_and_a_table(models: Path) -> None:
    command = ["bench", "distill", "--rounds", "1", "--dtype", "float32", "--workload", "published"]
    sizes = ["--hidden-size", "16", "--layers", "2", "--vocab-size", "50"]
    run = CliRunner().invoke(main, [*command, *sizes])
    assert run.exit_code == 0, run.stderr
    assert "one batch of 16 texts, padding 6.0" in run.stdout
    assert "x transformers" in run.stdout
    assert "measuring the peak rate" in run.stderr
    arguments = ["--teacher", str(models / TEACHER), "--alone", "--json"]
    run = CliRunner().invoke(main, [*command, *arguments])
    assert run.exit_code == 0, run.stderr
    result = json.loads(run.stdout)
    assert result["models"]["source"] == str(models / TEACHER)
    assert describe_machine().items() <= result["machine"].items()
    assert machine_words(result["machine"]) in table(result)
    assert set(result["contenders"]) == {"minilm"}
    assert result["contenders"]["minilm"]["published"]["ratios"] == {}
    assert result["max_relative_difference"] == {}  # nothing to compare with
    assert "difference" not in table(result)
    memory = {"tokens": 1000, "loaded": 10**8, "peak": 2 * 10**8}
    result["contenders"]["minilm"] |= {"memory": memory, "memory_of_tokens": memory}
    assert table(result).count("peak memory, a step of 1,000 tokens") == 2


def test_a_teacher_of_another_architecture_is_an_error(models: Path) -> None:
    run = CliRunner().invoke(main, ["bench", "distill", "--teacher", str(models / STUDENT)])
    assert run.exit_code == 2
    assert "error:" in run.stderr
