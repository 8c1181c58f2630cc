"""`minilm ablate`: variants of a recipe, several seeds, going on, the arithmetic of the table."""

import dataclasses
import inspect
import json
import math
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

import minilm
from minilm.cli import main
from minilm.cli.ablate import report
from minilm.cli.options import field_value
from minilm.errors import InputError
from minilm.learners.masked_lm import MaskedLMLearner
from minilm.losses.distillation import DistillationLoss
from minilm.recipes.ablation import (
    DISTILBERT,
    TABLES,
    TEACHER_TERMS,
    Ablation,
    AblationResult,
    SeedResult,
    Spread,
    Variant,
    VariantResult,
    grid,
)
from minilm.recipes.distillation import DistillationRecipe
from minilm.training.updates import Updater

TEXT = "\n\n".join(
    f"The {animal} number {number} runs over the {place} and sees {number + 7} other animals. "
    f"Then it sleeps near the {place}, because every {animal} does."
    for number in range(20)
    for animal, place in [("cat", "hill"), ("dog", "river"), ("mouse", "old house")]
)
LOOP = ["--max-length", 32, "--tokens-per-step", 256, "--held-out", 6, "--precision", "float32"]
STEPS = 3


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a store, a teacher, and a teacher without a head."""
    place = tmp_path_factory.mktemp("ablation")
    (place / "text.txt").write_text(TEXT)
    tokenizer = minilm.train_tokenizer([place / "text.txt"], place / "vocabulary", vocab_size=120)
    minilm.tokenize_corpus([place / "text.txt"], tokenizer, place / "store", workers=1)
    config = minilm.BertConfig(
        vocab_size=tokenizer.vocab_size,
        num_hidden_layers=4,
        hidden_size=16,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
    )
    torch.manual_seed(1)
    minilm.BertForMaskedLM(config).save_pretrained(place / "teacher")
    tokenizer.save_pretrained(place / "teacher")
    return place


@pytest.fixture(autouse=True)
def inside(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def ablate(output: Path | str, *more: object) -> Result:
    return run("ablate", "--corpus", "store", "--teacher", "teacher", "--output", output, *LOOP,
               "--steps", STEPS, *more)  # fmt: skip


def assert_refused(done: Result, *words: str) -> None:
    assert done.exit_code == 2, done.output
    assert isinstance(done.exception, SystemExit)
    assert done.stdout == ""
    for word in words:
        assert word in done.stderr


def recipe(**given: Any) -> DistillationRecipe:
    usual: dict[str, Any] = {
        "corpus": "store",
        "teacher": "teacher",
        "held_out": 6,
        "max_length": 32,
        "tokens_per_step": 256,
        "precision": "float32",
        "steps": STEPS,
    }
    return DistillationRecipe(**{**usual, **given})


@pytest.fixture
def updates(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The steps that are taken, in all runs."""
    taken: list[int] = []
    update = Updater.update

    def counted(self: Updater, step: int, *rest: Any) -> Any:
        taken.append(step)
        return update(self, step, *rest)

    monkeypatch.setattr(Updater, "update", counted)
    return taken


# --- what comes out ---


def test_the_table_of_distilbert(tmp_path: Path) -> None:
    done = ablate(tmp_path / "out", "--table", "distilbert", "--seeds", 2, "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert json.loads((tmp_path / "out" / "ablation.json").read_text()) == found
    names = [row["name"] for row in found["variants"]]
    assert names == [variant.name for variant in DISTILBERT]
    first, *others = found["variants"]
    losses = np.array(
        [[r["held_out"]["masked_loss"] for r in row["runs"]] for row in found["variants"]]
    )
    assert losses.shape == (5, 2)
    assert len(set(losses[:, 0])) == 5  # each change tells
    for row, values in zip(found["variants"], losses, strict=True):
        assert [r["seed"] for r in row["runs"]] == [0, 1]
        assert row["mean"]["masked_loss"] == pytest.approx(values.mean(), abs=1e-12)
        assert row["deviation"]["masked_loss"] == pytest.approx(values.std(ddof=1), abs=1e-12)
        assert row["difference"]["masked_loss"] == pytest.approx((values - losses[0]).mean())
        assert row["difference_deviation"]["masked_loss"] == pytest.approx(
            (values - losses[0]).std(ddof=1)
        )
        accuracy = row["mean"]["masked_accuracy"] / found["teacher"]["masked_accuracy"]
        assert row["of_teacher"] == pytest.approx(accuracy)
        assert row["tokens"] == first["tokens"] > 0
        student = minilm.load(tmp_path / "out" / row["name"].replace(" ", "-").lower() / "seed-1")
        assert row["parameters"] == student.num_parameters()
    assert first["difference"]["masked_loss"] == 0
    assert others[0]["changes"] == {"kl": 0.0}
    assert "run 10 of 10: random start, seed 1" in done.stderr


def test_a_run_is_what_minilm_distill_does(tmp_path: Path) -> None:
    done = ablate(tmp_path / "out", "--variant", "no KL: kl=0", "--seeds", 2, "--seed", 5, "--json")
    row = json.loads(done.stdout)["variants"][1]
    alone = run("distill", "--corpus", "store", "--teacher", "teacher", *LOOP, "--steps", STEPS,
                "--output", tmp_path / "alone", "--kl", 0, "--seed", 6, "--json")  # fmt: skip
    expected = json.loads(alone.stdout)
    assert row["runs"][1]["seed"] == 6
    for name, value in row["runs"][1]["held_out"].items():
        assert value == expected[name]
    log = (tmp_path / "alone" / "run" / "log.jsonl").read_text().splitlines()
    assert row["runs"][1]["tokens"] == [json.loads(line) for line in log][-2]["tokens"]


def test_a_variant_that_changes_nothing_gives_the_same_numbers(tmp_path: Path) -> None:
    done = ablate(tmp_path / "out", "--variant", "the same: kl=5 mlm=2", "--seeds", 2, "--json")
    base, same = json.loads(done.stdout)["variants"]
    assert (base["name"], base["changes"]) == ("base", {})
    assert base["runs"] == same["runs"]
    assert set(same["difference"].values()) == {0.0}
    assert set(same["difference_deviation"].values()) == {0.0}


def test_every_seed_has_a_teacher_cache_which_the_variants_share(tmp_path: Path) -> None:
    """A cache is of the masks of one seed: the second seed would find another's."""
    options = ["--variant", "no cosine: cosine=0", "--seeds", 2, "--json"]
    plain = ablate(tmp_path / "plain", *options)
    cached = ablate(tmp_path / "out", *options, "--teacher-cache", tmp_path / "cache")
    assert cached.exit_code == 0, cached.output
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == ["seed-0", "seed-1"]
    assert cached.stderr.count(", of 0 computed") == 2  # the other variant has computed all
    for row, other in zip(
        *(json.loads(r.stdout)["variants"] for r in (plain, cached)), strict=True
    ):
        losses = [[run["held_out"]["masked_loss"] for run in each["runs"]] for each in (row, other)]
        np.testing.assert_allclose(*losses, rtol=1e-5)


def test_what_only_a_student_has_is_not_asked_of_the_teacher(tmp_path: Path) -> None:
    options = ["--student", "albert", "--shared-weight-decay", 0, "--seeds", 1, "--json"]
    done = ablate(tmp_path / "out", *options, "--axis", "kl=5")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["teacher"]["masked_accuracy"] >= 0


def test_the_teacher_is_asked_the_same_questions(tmp_path: Path) -> None:
    result = Ablation(base=recipe(), variants=[Variant("one")], seeds=1).run(tmp_path)
    prepared = recipe().prepare()
    learner = MaskedLMLearner(minilm.BertForMaskedLM.from_pretrained("teacher"))
    steps = [learner.eval_step(batch) for batch in prepared.held_out]
    loss = sum(step["masked_loss"][0] for step in steps)
    count = sum(step["masked_loss"][1] for step in steps)
    assert result.teacher["masked_loss"] == pytest.approx(loss / count)
    assert result.masked_tokens == count > 10


def test_both_forms_of_the_table(tmp_path: Path) -> None:
    variants = ["--variant", "triple:", "--variant", "no KL: kl=0"]
    plain = ablate(tmp_path / "out", *variants, "--seeds", 2)
    marked = ablate(tmp_path / "out", *variants, "--seeds", 2, "--markdown")
    assert plain.stdout.splitlines()[1].startswith("triple ")  # and no base before it
    assert "2 seeds, mean ± standard deviation." in plain.stdout
    assert "Differences are from 'triple', seed by seed." in plain.stdout
    lines = marked.stdout.splitlines()
    assert lines[0].startswith("| variant | masked words right (%) | difference |")
    assert set(lines[1]) == set("|-:")
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[:4]]
    assert {len(row) for row in cells} == {8}
    assert cells[2][2] == "–"
    assert cells[3][2][0] in "+-"
    assert " ± " in cells[3][2]


# --- going on ---


def test_what_is_finished_is_not_repeated(tmp_path: Path, updates: list[int]) -> None:
    variants = ["--variant", "no KL: kl=0"]
    first = ablate(tmp_path / "out", *variants, "--seeds", 1, "--json")
    assert len(updates) == 2 * STEPS
    again = ablate(tmp_path / "out", *variants, "--seeds", 1, "--json")
    assert len(updates) == 2 * STEPS
    assert again.stdout == first.stdout
    more = ablate(tmp_path / "out", *variants, "--variant", "no MLM: mlm=0", "--seeds", 2, "--json")
    assert len(updates) == 6 * STEPS
    rows = json.loads(more.stdout)["variants"]
    assert rows[0]["runs"][0] == json.loads(first.stdout)["variants"][0]["runs"][0]
    assert not list((tmp_path / "out").rglob("snapshots"))


def test_a_killed_ablation_goes_on(
    tmp_path: Path, updates: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["--variant", "no KL: kl=0", "--seeds", 2, "--snapshot-every", 2, "--steps", 5]
    whole = ablate(tmp_path / "whole", *options, "--json")
    assert len(updates) == 20
    updates.clear()
    counted = Updater.update

    def killed(self: Updater, *rest: Any) -> Any:
        if len(updates) == 9:  # the second run has done four steps
            raise MemoryError
        return counted(self, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(Updater, "update", killed)
        assert isinstance(ablate(tmp_path / "out", *options).exception, MemoryError)
    assert not (tmp_path / "out" / "ablation.json").exists()
    updates.clear()
    done = ablate(tmp_path / "out", *options, "--json")
    assert updates == [5, 1, 2, 3, 4, 5, 1, 2, 3, 4, 5]  # on from the snapshot after step 4
    assert done.stdout == whole.stdout


def test_a_signal_stops_it_between_two_steps(
    tmp_path: Path, updates: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = Updater.update

    def asked(self: Updater, *rest: Any) -> Any:
        if len(updates) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return counted(self, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(Updater, "update", asked)
        done = ablate(tmp_path / "out", "--table", "distilbert")
    assert done.exit_code == 128 + signal.SIGTERM
    assert done.stdout == ""
    assert "the same command resumes" in done.stderr
    assert updates == [1, 2]


def test_a_variant_is_not_taken_for_another_of_its_name(tmp_path: Path) -> None:
    ablate(tmp_path / "out", "--variant", "weaker: kl=1", "--seeds", 1)
    other = ["--variant", "weaker: kl=2", "--seeds", 1]
    assert_refused(
        ablate(tmp_path / "out", *other),
        "Variant weaker, seed 0",
        "description.loss.kl: 1.0 then, 2.0 now",
        "--allow-changes",
    )
    assert ablate(tmp_path / "out", *other, "--allow-changes").exit_code == 0


# --- what is refused ---


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], ["--table, --variant, --variants and --axis"]),
        (["--variant", "x: kll=0"], ["'x'", "no setting kll", "Did you mean kl?"]),
        (["--variant", "x: --mask-probabilty=0"], ["Did you mean mask_probability?"]),
        (["--variant", "x: quite=0"], ["no setting quite", "minilm distill --help"]),
        (["--variant", "x: kl=many"], ["'x'", "kl: ", "'many'"]),
        (["--variant", "x: kl=-1"], ["kl: -1.0 is not in the range"]),
        (["--variant", "x: betas=0.9"], ["betas: ", "2 numbers"]),
        (["--variant", "x: positions=some"], ["positions: ", "attended, masked"]),
        (["--variant", "x: from_scratch=perhaps"], ["from_scratch: ", "'perhaps'"]),
        (["--variant", "x: seed=1"], ["'x' changes the seed", "--seeds"]),
        (["--variant", "kl=0"], ["no colon", "NAME: FIELD=VALUE"]),
        (["--variant", "x: kl"], ["'kl' has no =", "FIELD=VALUE"]),
        (["--variant", "x: kl='0"], ["No closing quotation"]),
        (["--variant", "?!: kl=0"], ["'?!'", "letter or digit"]),
        (["--variant", "No KL: kl=0", "--variant", "no-kl: kl=1"], ["same directory, no-kl"]),
        (["--axis", "kl"], ["'kl' has no ="]),
        (["--axis", "kl=0 x"], ["kl: ", "'x'"]),
        (["--table", "distilbert", "--held-out", 0], ["--held-out is 0"]),
        (["--table", "distilbert", "--epochs", 1], ["--steps and --epochs"]),
        (["--table", "distilbert", "--json", "--markdown"], ["--json and --markdown"]),
        (["--table", "distilbert", "--device", "tpu"], ["'tpu'"]),
    ],
)
def test_wrong_use_is_explained(tmp_path: Path, options: list[object], words: list[str]) -> None:
    assert_refused(ablate(tmp_path / "out", *options), *words)
    assert not (tmp_path / "out").exists()


def test_variants_that_do_not_fit_are_refused_before_the_first_step(
    tmp_path: Path, updates: list[int]
) -> None:
    done = ablate(tmp_path / "out", "--variant", "deep: layers=0,7")
    assert_refused(done, "Variant deep: ", "7")
    done = ablate(tmp_path / "out", "--variant", "short: max_length=8")
    assert_refused(done, "'short' is evaluated on other tokens than 'base'")
    assert updates == []
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.toml", "kl = 0", ["a.toml", "kl is no table"]),
        ("a.toml", "[x]\nkl =", ["a.toml", "not valid TOML"]),
        ("a.toml", "", ["a.toml names no variant"]),
        ("a.json", '{"x": {"kl": true}}', ["'x'", "kl: ", "'True'"]),
        ("a.json", '{"x": 1', ["a.json", "not valid JSON"]),
        ("a.yaml", "x:", ["a.yaml", ".toml or .json"]),
        ("absent.toml", None, ["absent.toml does not exist"]),
    ],
)
def test_files_that_are_no_variants(
    tmp_path: Path, name: str, content: str | None, words: list[str]
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    assert_refused(ablate(tmp_path / "out", "--variants", tmp_path / name), *words)


def test_no_variants_and_no_seeds() -> None:
    with pytest.raises(InputError, match="variants is empty"):
        Ablation(base=recipe(), variants=[])
    with pytest.raises(InputError, match="seeds is 0"):
        Ablation(base=recipe(), variants=DISTILBERT, seeds=0)


# --- variants ---


def test_variants_from_files(tmp_path: Path, updates: list[int]) -> None:
    (tmp_path / "v.toml").write_text('["long run"]\nepochs = 1\n\n[pair]\nbetas = [0.5, 0.9]\n')
    (tmp_path / "v.json").write_text('{"list": {"layers": [0, 3], "from-scratch": false}}')
    files = ["--variants", tmp_path / "v.toml", "--variants", tmp_path / "v.json"]
    done = ablate(tmp_path / "out", *files, "--seeds", 1, "--json")
    rows = json.loads(done.stdout)["variants"]
    assert [row["name"] for row in rows] == ["base", "long run", "pair", "list"]
    assert rows[1]["changes"] == {"epochs": 1}  # and no steps, of which there are three
    assert rows[1]["tokens"] > rows[0]["tokens"]
    assert rows[2]["changes"] == {"betas": [0.5, 0.9]}
    assert rows[3]["changes"] == {"layers": [0, 3], "from_scratch": False}
    settings = json.loads((tmp_path / "out/list/seed-0/run/settings.json").read_text())
    assert settings["description"]["start"]["layers"] == [0, 3]
    assert settings["description"]["loss"]["kl"] == 5


def test_a_grid_has_every_combination(tmp_path: Path) -> None:
    axes = ["--axis", "layers=0,3 0,1", "--axis", "cosine=1 0.5"]
    rows = json.loads(ablate(tmp_path / "out", *axes, "--seeds", 1, "--json").stdout)["variants"]
    assert [(row["name"], row["changes"]) for row in rows] == [
        (f"layers={a},{b} cosine={cosine:g}", {"layers": [a, b], "cosine": cosine})
        for a, b in ((0, 3), (0, 1))
        for cosine in (1.0, 0.5)
    ]
    assert len({row["mean"]["masked_loss"] for row in rows}) == 4


def test_names_in_a_grid() -> None:
    found = grid({"from_scratch": [True, False], "teacher": ["a/b"]})
    assert [variant.name for variant in found] == [
        "from_scratch=yes teacher=a/b",
        "from_scratch=no teacher=a/b",
    ]
    assert found[0].directory == "from-scratch-yes-teacher-a-b"


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("kl", "0", 0.0),
        ("kl", 2, 2.0),
        ("betas", "0.9,0.98", (0.9, 0.98)),
        ("betas", [0.9, 0.98], (0.9, 0.98)),
        ("layers", "published", "published"),
        ("layers", "0,2,5", [0, 2, 5]),
        ("layers", "4", 4),
        ("layers", [4], [4]),
        ("start", "none", None),
        ("start", "average", "average"),
        ("layers", [0, 2, 5], [0, 2, 5]),
        ("from_scratch", "yes", True),
        ("from_scratch", False, False),
        ("masking", "whole-words", "whole_words"),
        ("masking", "whole_words", "whole_words"),
        ("precision", "auto", None),
        ("max_length", "none", None),
        ("max_length", "64", 64),
        ("corpus", "place", Path("place")),
        ("teacher", "bert", "bert"),
    ],
)
def test_values_are_read_as_options_read_them(name: str, given: object, expected: object) -> None:
    found = field_value(DistillationRecipe, name, given)
    assert found == expected
    assert type(found) is type(expected)


def test_every_built_in_variant_is_a_recipe() -> None:
    for variants in TABLES.values():
        made = Ablation(base=recipe(), variants=variants)
        assert made.size == 3 * len(variants)
        assert not variants[0].changes or variants[0].of(recipe(), 0) != recipe()


def test_the_table_of_the_combined_student(tmp_path: Path) -> None:
    """Every variant is trained; the control without a teacher does not depend on the teacher."""
    options = ["--seeds", 1, "--json", "--embedding-size", 8, "--student", "albert"]
    done = ablate(tmp_path / "out", "--table", "combined", "--layers", 2, *options)
    rows = {row["name"]: row for row in json.loads(done.stdout)["variants"]}
    assert len(rows) == len(TABLES["combined"]) == 14
    one, three = (rows[f"{n}, hidden states, interval start"] for n in ("1 shared layer",
                  "3 shared layers"))  # fmt: skip
    layer = 4 * (16 * 16 + 16) + 2 * 16 * 32 + 32 + 16 + 4 * 16
    assert three["parameters"] - one["parameters"] == 2 * layer
    losses = [row["mean"]["masked_loss"] for row in rows.values()]
    assert len(set(losses)) == 14
    alone = rows["1 shared layer, without a teacher"]
    assert "masked_kl" not in alone["mean"]
    assert "masked_kl" in one["mean"]
    start = json.loads(
        (tmp_path / "out/1-shared-layer-without-a-teacher/seed-0/run/settings.json").read_text()
    )["description"]["start"]
    assert start == {"from_scratch": True, "seed": 0}


def test_without_a_teacher_no_term_compares_with_it() -> None:
    """Each weight that the learner says needs the teacher is among those that are set to 0."""
    fields = {field.name for field in dataclasses.fields(DistillationRecipe)}
    weights = {
        name
        for name, parameter in inspect.signature(DistillationLoss).parameters.items()
        if name in fields and isinstance(parameter.default, float) and name != "temperature"
    }
    assert weights - set(TEACHER_TERMS) == {"mlm", "sentence_order"}
    assert set(TEACHER_TERMS) <= weights
    for name in weights:
        others = dict.fromkeys(weights, 0.0)
        assert DistillationLoss(**{**others, name: 1.0}).needs_teacher == (name in TEACHER_TERMS)


# --- arithmetic by hand ---


def by_hand(*accuracies: list[float], teacher: float = 0.5) -> AblationResult:
    return AblationResult(
        [
            VariantResult(
                Variant(f"variant {number}"),
                1000 + number,
                [
                    SeedResult(seed, 10 * (seed + 1), {"masked_accuracy": a, "masked_loss": 1 - a})
                    for seed, a in enumerate(values)
                ],
            )
            for number, values in enumerate(accuracies)
        ],
        {"masked_accuracy": teacher, "masked_loss": 2.0},
        documents=6,
        masked_tokens=1234,
    )


def test_means_deviations_and_differences() -> None:
    result = by_hand([0.30, 0.40, 0.50], [0.29, 0.38, 0.47])
    first, second = result.variants
    assert result.spread(first, "masked_accuracy").mean == pytest.approx(0.4)
    assert result.spread(first, "masked_accuracy").deviation == pytest.approx(0.1)
    difference = result.difference(second, "masked_accuracy")  # -0.01, -0.02, -0.03
    assert difference.mean == pytest.approx(-0.02)
    assert difference.deviation == pytest.approx(0.01)  # far less than either's own
    assert result.difference(first, "masked_loss") == Spread(0.0, 0.0)
    assert result.of_teacher(second) == pytest.approx(0.76)
    assert first.tokens == 20
    lines = report(result).splitlines()
    assert lines[1].split("  ")[0] == "variant 0"
    assert " ".join(lines[1].split()[2:]) == "40.00 ± 10.00 – 80.0% 0.600 ± 0.100 – 1,000 20"
    assert lines[2].split()[5:8] == ["-2.00", "±", "1.00"]
    assert lines[-1] == "The teacher: 50.00% right, loss 2.000."


def test_one_seed_has_no_deviation() -> None:
    result = by_hand([0.3], [0.25])
    found = report(result)
    assert "±" not in found
    assert "-5.00" in found
    assert "so the spread is unknown." in found
    assert result.to_json()["variants"][1]["deviation"]["masked_accuracy"] is None


def test_without_a_teacher_that_predicts_words_there_is_no_share() -> None:
    whole = by_hand([0.3, 0.5])
    result = AblationResult(whole.variants, {}, 6, 1234)
    assert math.isnan(result.of_teacher(result.variants[0]))
    found = report(result)
    assert "teacher" not in found
    assert "difference" not in found  # there is nothing to compare with either
    assert result.to_json()["variants"][0]["of_teacher"] is None


def test_a_score_that_is_missing_or_not_a_number_is_not_averaged() -> None:
    assert math.isnan(Spread.of([0.1, math.nan]).mean)
    result = by_hand([0.3, 0.5])
    assert math.isnan(result.spread(result.variants[0], "masked_kl").mean)
