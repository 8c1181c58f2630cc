"""Distilling a sentence encoder: texts, the teacher's targets, the loss, the run, the command."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from click.testing import CliRunner

from minilm import DataError, Encoder, InputError, Observer, TrainingError
from minilm.cli import main
from minilm.data.sentence_texts import read_sentences
from minilm.learners.sentences import SentenceLearner, SentenceLoss, sentence_batch
from minilm.models.albert import AlbertModel
from minilm.recipes.sentences import SentenceDistillationRecipe
from minilm.sentence.evaluation import similarity_scores
from minilm.sentence.files import SentenceSettings, read_sentence_settings, write_sentence_settings
from minilm.sentence.targets import SentenceTargets, make_targets
from minilm.training.log import LOG
from saved import save_tiny


@pytest.fixture(scope="module")
def teacher_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = save_tiny(tmp_path_factory.mktemp("teacher"), num_hidden_layers=4)
    settings = SentenceSettings(max_length=18, pooling="mean", unit_length=True)
    write_sentence_settings(directory, settings)
    return directory


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 lines of two sentences; one sentence occurs in all of them."""
    path = tmp_path_factory.mktemp("texts") / "texts.txt"
    lines = [
        f"Word{n} word{n % 9} word{n + 1} word{n % 5}. Word1 word2 word3 word4." for n in range(60)
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


def recipe(teacher: Path, texts: Path, **changes: Any) -> SentenceDistillationRecipe:
    given = {
        "precision": "float32",
        "embedding_size": 16,
        "tokens_per_step": 60,
        "held_out": 10,
        "steps": 12,
    }
    return SentenceDistillationRecipe(
        teacher=teacher, texts=texts, **{**given, "learning_rate": 3e-3, **changes}
    )


# --- texts ---


def test_sentences_are_different_and_of_the_length_that_is_wanted(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("One two three. Four five.\nOne Two three. Six seven eight nine.\n")
    assert read_sentences(path, min_words=3) == ["One two three.", "Six seven eight nine."]
    assert read_sentences(path, max_words=2) == ["Four five."]
    with pytest.raises(DataError, match="no sentence of 9 to 10 words"):
        read_sentences(path, min_words=9, max_words=10)


def test_every_sentence_is_drawn_equally_often(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("".join(f"Number {n}.\n" for n in range(10)))
    drawn = [read_sentences(path, most=3, seed=seed) for seed in range(400)]
    assert all(len(set(each)) == 3 for each in drawn)
    assert drawn[0] == read_sentences(path, most=3, seed=0)
    counts = np.bincount([int(text.split()[1][:-1]) for each in drawn for text in each])
    # 1,200 draws of 10: a standard deviation of 9 around 120
    assert counts.min() > 75
    assert counts.max() < 165


# --- targets ---


def targets_of(directory: Path, teacher: Encoder, texts: list[str], **changes: Any) -> Any:
    given = {"max_length": 16, "states": True, "identity": {"of": "test"}}
    return make_targets(directory, teacher, lambda: texts, **{**given, **changes})


def test_targets_are_what_the_teacher_gives(
    teacher_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("minilm.sentence.targets.PART", 5)
    teacher = Encoder.from_pretrained(teacher_dir)
    texts = [f"word{n} " * (1 + n % 6) for n in range(12)]
    targets = targets_of(tmp_path / "t", teacher, texts)
    wanted = np.array([11, 3, 5])
    ids, vectors, states = targets.gather(wanted)
    expected = teacher.encode([texts[n] for n in wanted], max_length=16)
    assert np.abs(vectors - expected).max() < 2e-3  # stored in 16 bits
    lengths = torch.from_numpy(targets.lengths[wanted])
    with torch.inference_mode():
        hidden = teacher.model.base(torch.from_numpy(ids), lengths=lengths).last_hidden_state
    assert np.abs(states - hidden.numpy()).max() < 5e-3
    assert ids[: lengths[0]].tolist() == teacher.tokenizer(texts[11])["input_ids"][0].tolist()


def test_only_missing_parts_are_computed(
    teacher_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("minilm.sentence.targets.PART", 5)
    teacher = Encoder.from_pretrained(teacher_dir)
    texts = [f"word{n}" for n in range(12)]
    targets_of(tmp_path, teacher, texts)
    whole = SentenceTargets(tmp_path).gather(np.arange(12))[1]
    (tmp_path / "vectors-00001.npy").unlink()
    said: list[str] = []

    def not_again() -> list[str]:
        raise AssertionError("the texts are known")

    again = make_targets(
        tmp_path, teacher, not_again, max_length=16, states=True, identity={"of": "test"},
        say=said.append,
    )  # fmt: skip
    assert said == ["the teacher reads 5 sentences"]
    assert np.array_equal(again.gather(np.arange(12))[1], whole)
    with pytest.raises(DataError, match="they differ in of"):
        targets_of(tmp_path, teacher, texts, identity={"of": "another"})
    (tmp_path / "vectors-00002.npy").write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"vectors-00002\.npy cannot be read"):
        SentenceTargets(tmp_path).gather(np.array([11]))


# --- loss and learner ---


def test_the_terms_of_a_step_do_not_depend_on_how_it_is_shared_out(
    teacher_dir: Path, texts: Path, tmp_path: Path
) -> None:
    run = recipe(teacher_dir, texts).prepare(tmp_path)
    learner = run.learner
    (samples, *_) = run.data.steps(0)
    whole = run.data.batch(0, samples)
    counts = {name: float(value) for name, value in learner.counts(whole).items()}
    together = learner(whole, counts)
    parts = [run.data.batch(0, part) for part in run.data.split(0, samples, 3)]
    apart = [learner(part, counts) for part in parts]
    for name, value in together.items():
        assert sum(float(each[name].detach()) for each in apart) == pytest.approx(
            float(value.detach()), rel=1e-4
        )
    assert set(together) == {"loss", "vectors", "states"}


def test_a_student_that_is_the_teacher_has_no_loss(teacher_dir: Path, tmp_path: Path) -> None:
    teacher = Encoder.from_pretrained(teacher_dir)
    targets = targets_of(tmp_path, teacher, ["word1 word2", "word3"])
    learner = SentenceLearner(teacher.model, SentenceLoss(), pooling="mean")
    batch = sentence_batch(targets, np.array([1, 0]))
    with torch.no_grad():
        terms = learner(batch, {"texts": 2.0, "tokens": float(batch.tokens)})
    assert terms["loss"].item() == pytest.approx(0, abs=1e-4)
    cosine, count = learner.eval_step(batch)["vector_cosine"]
    assert (cosine / count, count) == (pytest.approx(1, abs=1e-4), 2)


def test_weights_that_teach_nothing_are_refused() -> None:
    with pytest.raises(InputError, match="nothing is learned"):
        SentenceLoss(vectors=0, states=0)
    with pytest.raises(InputError, match="vectors is -1"):
        SentenceLoss(vectors=-1)


# --- the run ---


def test_a_student_comes_closer_to_its_teacher(
    teacher_dir: Path, texts: Path, tmp_path: Path
) -> None:
    made = recipe(teacher_dir, texts, steps=40)
    before = made.prepare(tmp_path / "t")
    batch = before.held_out[0]
    start = before.learner.eval_step(batch)["vector_cosine"]
    result = made.train(tmp_path / "student")
    assert result.held_out["vector_cosine"] > start[0] / start[1] + 0.02
    student = Encoder.from_pretrained(tmp_path / "student")
    assert isinstance(student.model, AlbertModel)
    assert len(student.model.virtual_layers()) == 4  # 2 layers of its own, applied twice
    assert len({id(layer) for layer in student.model.virtual_layers()}) == 2
    assert (student.max_length, student.pooling, student.unit_length) == (18, "mean", True)
    theirs, found = transformers.AutoModel.from_pretrained(
        tmp_path / "student", local_files_only=True, output_loading_info=True
    )
    assert not found["missing_keys"]
    assert not found["unexpected_keys"]
    ids = student.tokenizer(["word1 word2"], layout="packed")["input_ids"]
    with torch.no_grad():
        expected = theirs.eval()(ids[None]).last_hidden_state[0]
        own = student.model(ids[None]).last_hidden_state[0]
    assert torch.allclose(own, expected, atol=1e-5)


def test_a_logged_step_is_what_its_texts_give(
    teacher_dir: Path, texts: Path, tmp_path: Path
) -> None:
    """Every term is a mean over what it says, and tokens are counted once."""
    made = recipe(teacher_dir, texts, steps=1)
    run = made.prepare(tmp_path / "targets")
    (samples, *_) = run.data.steps(0)
    batch = run.data.batch(0, samples)
    expected = run.learner(batch, run.learner.counts(batch))
    made.train(tmp_path / "student")
    row = json.loads((tmp_path / "student" / LOG).read_text().splitlines()[0])
    assert row["tokens"] == batch.tokens
    for name in ("loss", "vectors", "states"):
        assert row[name] == pytest.approx(float(expected[name].detach()), rel=1e-4), name


def test_a_run_that_was_stopped_ends_as_one_that_was_not(
    teacher_dir: Path, texts: Path, tmp_path: Path
) -> None:
    class Stop(Observer):
        def on_step(self, row: Mapping[str, Any]) -> None:
            if row["step"] == 3:
                raise ValueError("enough")

    given = {"targets": tmp_path / "targets", "snapshot_every": 1, "steps": 6}
    made = recipe(teacher_dir, texts, **given)
    made.train(tmp_path / "whole")
    with pytest.raises(TrainingError, match="enough"):
        made.train(tmp_path / "stopped", observers=[Stop()])
    assert not (tmp_path / "stopped" / "model.safetensors").exists()
    made.train(tmp_path / "stopped")
    whole, stopped = (
        (tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "stopped")
    )
    assert whole == stopped


def test_other_texts_and_wrong_numbers_are_refused(
    teacher_dir: Path, texts: Path, tmp_path: Path
) -> None:
    targets = tmp_path / "targets"
    recipe(teacher_dir, texts, targets=targets).prepare()
    with pytest.raises(DataError, match="they differ in words"):
        recipe(teacher_dir, texts, targets=targets, min_words=3).prepare()
    with pytest.raises(InputError, match="held_out is 500, but there are only 61 sentences"):
        recipe(teacher_dir, texts, targets=targets, held_out=500).prepare()
    with pytest.raises(InputError, match="no place for the teacher's vectors"):
        recipe(teacher_dir, texts).prepare()
    with pytest.raises(InputError, match="min_words is 9, more than max_words, 3"):
        recipe(teacher_dir, texts, min_words=9, max_words=3)


# --- commands ---


def test_the_commands_distil_and_evaluate(teacher_dir: Path, texts: Path, tmp_path: Path) -> None:
    student = tmp_path / "student"
    done = CliRunner().invoke(
        main,
        [
            *("distill-sentences", "--teacher", str(teacher_dir), "--texts", str(texts)),
            *("--output", str(student), "--steps", "2", "--embedding-size", "16", "--held-out"),
            *("5", "--clean", "--json", "--states", "0"),
        ],
    )
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["finished"] is True
    pairs = tmp_path / "pairs.tsv"
    rows = [(n, f"word{n} word3", f"word{2 * n} word4", n / 5) for n in range(1, 9)]
    pairs.write_text(
        "\t".join(["sentence1", "sentence2", "score"])
        + "\n"
        + "".join(f"{a}\t{b}\t{score}\n" for _, a, b, score in rows)
    )
    evaluate = ["evaluate-similarity", str(teacher_dir), str(pairs), "--json"]
    found = json.loads(CliRunner().invoke(main, evaluate).stdout)
    teacher = Encoder.from_pretrained(teacher_dir)
    expected = similarity_scores(
        teacher, [row[1] for row in rows], [row[2] for row in rows], [row[3] for row in rows]
    )
    assert found == {**{name: pytest.approx(value) for name, value in expected.items()}, "pairs": 8}
    shallow = json.loads(CliRunner().invoke(main, [*evaluate, "--num-layers", "1"]).stdout)
    assert shallow["pearson"] != found["pearson"]


def test_similarity_scores_are_scipys(teacher_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from scipy.stats import pearsonr, spearmanr

    teacher = Encoder.from_pretrained(teacher_dir)
    first = [f"word{n}" for n in range(9)]
    second = [f"word{3 * n % 11} word2" for n in range(9)]
    gold = [float(n % 4) for n in range(9)]
    random = np.random.default_rng(0)
    vectors = {text: random.normal(size=5).astype(np.float32) for text in {*first, *second}}
    monkeypatch.setattr(teacher, "encode", lambda asked, **_: np.stack([vectors[t] for t in asked]))
    found = similarity_scores(teacher, first, second, gold)
    pairs = [(vectors[a], vectors[b]) for a, b in zip(first, second, strict=True)]
    cosines = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in pairs]
    assert found["spearman"] == pytest.approx(spearmanr(gold, cosines).statistic, abs=1e-6)
    assert found["pearson"] == pytest.approx(pearsonr(gold, cosines).statistic, abs=1e-5)
    with pytest.raises(InputError, match="9 and 8 texts"):
        similarity_scores(teacher, first, second[1:], gold)


def test_files_of_sentence_transformers_are_read_as_they_were_written(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"hidden_size": 8}')
    for settings in (
        SentenceSettings(
            max_length=7, pooling="cls", unit_length=True, prompts={"query": "q: ", "document": ""}
        ),
        SentenceSettings(max_length=9, pooling="mean", prompts={"query": "", "document": ""}),
    ):
        write_sentence_settings(tmp_path, settings)
        assert read_sentence_settings(tmp_path) == settings
