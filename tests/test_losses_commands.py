"""The terms beyond the triple loss as options of commands, from corpus to saved student."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

import minilm
from minilm.cli import main
from minilm.compression.pair_heads import add_pair_head
from minilm.errors import InputError
from minilm.losses.distillation import DistillationLoss
from minilm.recipes.distillation import DistillationRecipe
from minilm.recipes.runs import distillation
from tiny import tiny

TEXT = "\n\n".join(
    f"The {animal} number {number} runs over the {place} and sees {number + 7} other animals. "
    f"Then it sleeps near the {place}, because every {animal} does."
    for number in range(20)
    for animal, place in [("cat", "hill"), ("dog", "river")]
)
SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 32,
}
SMALL = ("--steps", 2, "--tokens-per-step", 256, "--held-out", 6, "--precision", "float32")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a store and two teachers, one without head."""
    place = tmp_path_factory.mktemp("losses")
    (place / "text.txt").write_text(TEXT)
    tokenizer = minilm.train_tokenizer([place / "text.txt"], place / "vocabulary", vocab_size=120)
    minilm.tokenize_corpus([place / "text.txt"], tokenizer, place / "store", workers=1)
    config = minilm.BertConfig(vocab_size=tokenizer.vocab_size, num_hidden_layers=4, **SIZES)
    torch.manual_seed(1)
    teacher = minilm.BertForMaskedLM(config)
    teacher.save_pretrained(place / "teacher")
    teacher.encoder.save_pretrained(place / "headless")
    for name in ("teacher", "headless"):
        tokenizer.save_pretrained(place / name)
    return place


@pytest.fixture(autouse=True)
def inside(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def distill(output: Path, *options: object, teacher: str = "teacher") -> Result:
    return run("distill", "--teacher", teacher, "--corpus", "store", "--output", output,
               "--json", *SMALL, *options)  # fmt: skip


def record(output: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((output / "run/settings.json").read_text())["description"]
    return found


def logged(output: Path) -> dict[str, float]:
    lines = (output / "run/log.jsonl").read_text().splitlines()
    found: dict[str, float] = next(row for row in map(json.loads, lines) if "loss" in row)
    return found


def test_an_albert_learns_from_states_relations_and_pairs(tmp_path: Path) -> None:
    terms = ("hidden-cosine", "hidden-mse", "attention", "relations", "pooled", "pooled-mse")
    options = [word for term in terms for word in (f"--{term}", 0.5)]
    done = distill(tmp_path / "student", "--student", "albert", *options, "--sentence-order", 2,
                   "--short-sequences", 0.5, "--relation-kinds", "qk-vv")  # fmt: skip
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert 0 <= result["sentence_order_accuracy"] <= 1
    assert {"masked_loss", "masked_accuracy", "masked_kl"} <= result.keys()
    names = {"kl", "mlm", "cosine", "sentence_order", *(term.replace("-", "_") for term in terms)}
    row = logged(tmp_path / "student")
    assert names <= row.keys()
    weights = {"kl": 5, "mlm": 2, "cosine": 1, "sentence_order": 2}
    total = sum(weights.get(name, 0.5) * row[name] for name in names)
    assert row["loss"] == pytest.approx(total, rel=1e-5)
    student = minilm.load(tmp_path / "student")
    assert isinstance(student, minilm.AlbertForPreTraining)
    found = record(tmp_path / "student")
    assert found["loss"]["relation_kinds"] == "qk_vv"
    assert found["start"]["pair_head"] == {"seed": 0}


def test_the_triple_loss_is_known_as_ever(tmp_path: Path) -> None:
    """A run of a version before there were other terms goes on."""
    assert distill(tmp_path / "student").exit_code == 0
    assert record(tmp_path / "student")["loss"] == {
        "temperature": 2.0, "kl": 5.0, "mlm": 2.0, "cosine": 1.0, "mse": 0.0,
        "positions": "attended", "projection": False,
    }  # fmt: skip
    other = distill(tmp_path / "student", "--hidden-cosine", 1)
    assert other.exit_code == 2
    assert "hidden_cosine" in other.stderr


def test_a_teacher_without_head(tmp_path: Path) -> None:
    done = distill(tmp_path / "student", "--kl", 0, "--mlm", 0, "--hidden-mse", 1, "--pooled", 1,
                   "--student", "albert", teacher="headless")  # fmt: skip
    assert done.exit_code == 0, done.output
    assert type(minilm.load(tmp_path / "student")) is minilm.AlbertModel
    assert {"cosine", "hidden_mse", "pooled"} <= json.loads(done.stdout).keys()
    refused = distill(tmp_path / "other", teacher="headless")
    assert refused.exit_code == 2
    assert "no masked-LM head" in refused.stderr


def test_layer_maps_are_lists_or_words(tmp_path: Path) -> None:
    done = distill(tmp_path / "student", "--hidden-cosine", 1, "--layer-map", "0,3")
    assert done.exit_code == 0, done.output
    assert record(tmp_path / "student")["loss"]["layer_map"] == [0, 3]
    for wrong, words in (("0,1,2", "--layer-map has 3 numbers"), ("0,4", "names layer 4")):
        refused = distill(tmp_path / wrong, "--hidden-cosine", 1, "--layer-map", wrong)
        assert refused.exit_code == 2
        assert words in refused.stderr
    with pytest.raises(InputError, match="layer_map is 'all'"):
        DistillationLoss(layer_map="all")  # type: ignore[arg-type]


def test_settings_without_effect_are_refused(tmp_path: Path) -> None:
    refused = distill(tmp_path, "--short-sequences", 0.5)
    assert refused.exit_code == 2
    assert "--short-sequences has no effect" in refused.stderr
    assert "--sentence-order" in refused.stderr
    with pytest.raises(InputError, match="short_sequences has no effect"):
        DistillationRecipe(corpus="store", teacher="teacher", steps=1, short_sequences=0.5)
    single = minilm.CorpusSettings(store="store", max_length=16)
    student, teacher = minilm.load("teacher"), minilm.load("teacher")
    with pytest.raises(InputError, match="segments is 'single', but the loss has a weight for"):
        distillation(student, teacher, DistillationLoss(sentence_order=1.0), single)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("--layer-map", "0,3"),
            "--hidden-cosine or --hidden-mse or --attention or --relations",
        ),
        (("--relation-heads", 2, "--attention", 1), "--relations"),
        (("--relation-kinds", "qk-vv", "--hidden-mse", 1), "--relations"),
        (("--temperature", 3, "--kl", 0, "--mse", 1), "--kl"),
        (("--positions", "masked", "--kl", 0), "--kl or --mse"),
        (("--max-ngram", 2), "--masking ngrams"),
        (("--power", 2), "--schedule polynomial"),
        (("--evaluation-tokens", 9, "--held-out", 0), "--held-out"),
        (("--evaluate-every", 9, "--held-out", 0), "--held-out"),
        (("--fold-token-types", "--student", "bert"), "--student distilbert"),
    ],
)
def test_options_of_what_is_not_asked_for_are_refused(
    options: tuple[object, ...], message: str, tmp_path: Path
) -> None:
    refused = distill(tmp_path, *options)
    assert refused.exit_code == 2
    option = str(options[0]).replace("fold-token-types", "fold-token-types/--drop-token-types")
    assert f"{option} can be used with {message} only" in refused.stderr


def test_weights_that_are_not_taken_are_taken_in_no_way(tmp_path: Path) -> None:
    for option in ("--drop-token-types", "--fresh-mlm-transform", "--freeze-positions"):
        refused = distill(tmp_path, "--from-scratch", option)
        assert refused.exit_code == 2
        assert "--from-scratch takes no weights of the teacher: leave out " in refused.stderr
        assert option in refused.stderr


def test_pretraining_weighs_its_pairs(tmp_path: Path) -> None:
    shape = ("--layers", 1, "--hidden-size", 16, "--heads", 2, "--positions", 32)
    base = ("pretrain", "--corpus", "store", *SMALL, *shape, "--model", "albert")
    for name, weight in (("one", 1), ("three", 3)):
        done = run(*base, "--objective", "mlm+sop", "--pair-weight", weight,
                   "--output", tmp_path / name)  # fmt: skip
        assert done.exit_code == 0, done.output
    one, three = logged(tmp_path / "one"), logged(tmp_path / "three")
    assert one["loss"] == pytest.approx(one["mlm"] + one["sentence_order"], rel=1e-6)
    assert three["loss"] == pytest.approx(three["mlm"] + 3 * three["sentence_order"], rel=1e-6)
    assert "pair_weight" not in record(tmp_path / "one")
    assert record(tmp_path / "three")["pair_weight"] == 3
    refused = run(*base, "--pair-weight", 2, "--output", tmp_path / "mlm")
    assert refused.exit_code == 2
    assert "--pair-weight can be used with --objective mlm+sop or" in refused.stderr


def test_a_head_for_pairs_is_added_and_nothing_else_changes() -> None:
    model = tiny("AlbertForMaskedLM")
    model.base.embeddings.position.weight.requires_grad_(False)  # type: ignore[union-attr]
    found = add_pair_head(model)
    assert isinstance(found, minilm.AlbertForPreTraining)
    own = found.state_dict()
    for name, value in model.state_dict().items():
        assert torch.equal(own.pop(name), value), name
    assert {name.split(".")[0] for name in own} == {"encoder", "sentence_order_head"}
    frozen = [name for name, p in found.named_parameters() if not p.requires_grad]
    assert frozen == ["encoder.embeddings.position.weight"]
    for name in ("DistilBertForMaskedLM", "AlbertModel"):
        with pytest.raises(InputError, match=f"{name} has no counterpart with a head for pairs"):
            add_pair_head(tiny(name))
