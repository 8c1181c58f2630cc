"""Students of any shape, distilled and tied by the commands."""

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import load_file

import minilm
from minilm.cli import main
from minilm.errors import InputError
from minilm.recipes.distillation import DistillationRecipe

TEXT = "\n\n".join(
    f"The {animal} number {number} runs over the {place} and sees {number + 7} other animals. "
    f"Then it sleeps near the {place}, because every {animal} does."
    for number in range(10)
    for animal, place in [("cat", "hill"), ("dog", "river"), ("mouse", "old house")]
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a store, a teacher of four layers and an ALBERT with both its heads."""
    place = tmp_path_factory.mktemp("students")
    (place / "text.txt").write_text(TEXT)
    tokenizer = minilm.train_tokenizer([place / "text.txt"], place / "words", vocab_size=100)
    minilm.tokenize_corpus([place / "text.txt"], tokenizer, place / "store", workers=1)
    shape = {
        "vocab_size": tokenizer.vocab_size,
        "num_hidden_layers": 4,
        "hidden_size": 16,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 32,
    }
    torch.manual_seed(1)
    models = {
        "teacher": minilm.BertForMaskedLM(minilm.BertConfig(**shape)),  # type: ignore[arg-type]
        "pairs": minilm.AlbertForPreTraining(
            minilm.AlbertConfig(**shape, embedding_size=8)  # type: ignore[arg-type]
        ),
    }
    for name, model in models.items():
        model.save_pretrained(place / name)
        tokenizer.save_pretrained(place / name)
    other = minilm.train_tokenizer([place / "text.txt"], place / "other", vocab_size=90)
    models["pairs"].save_pretrained(place / "stranger")
    other.save_pretrained(place / "stranger")
    return place


@pytest.fixture(autouse=True)
def inside(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def distill(output: Path, *more: object) -> Result:
    return run(
        "distill", "--corpus", "store", "--teacher", "teacher", "--output", output, "--max-length",
        32, "--tokens-per-step", 128, "--precision", "float32", "--steps", 2, *more,
    )  # fmt: skip


def test_a_shared_student_by_command(tmp_path: Path) -> None:
    done = distill(
        tmp_path / "shared", "--student", "albert", "--inner-layers", 2, "--layers", 2,
        "--embedding-size", 8, "--json",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["steps"] == 2
    assert "encoder.groups.0.layers.1: the mean of layers 1, 3" in done.stderr
    assert "energy kept in the embeddings: " in done.stderr
    found = minilm.load(tmp_path / "shared")
    assert isinstance(found, minilm.AlbertForMaskedLM)
    assert isinstance(found.config, minilm.AlbertConfig)
    assert (found.config.inner_group_num, found.config.num_hidden_layers) == (2, 2)
    assert found.config.embedding_size == 8
    start = json.loads((tmp_path / "shared/run/settings.json").read_text())
    assert '"layers": [[0, 2], [1, 3]]' in json.dumps(start)
    assert "start" in distill(
        tmp_path / "shared", "--student", "albert", "--inner-layers", 2, "--layers", 2,
        "--embedding-size", 8, "--start", "interval",
    ).stderr  # fmt: skip


def test_trained_apart_tied_and_trained_on(tmp_path: Path) -> None:
    """Progressive sharing, in three commands."""
    apart, tied, shared = (tmp_path / name for name in ("apart", "tied", "shared"))
    shape = ("--student", "albert", "--groups", 4, "--embedding-size", 16)
    assert distill(apart, *shape, "--clean").exit_code == 0
    done = run("convert", apart, tied, "--share", 2)
    assert done.exit_code == 0, done.output
    assert "parameters became" in done.stderr
    before, after = minilm.load(apart), minilm.load(tied)
    layers = list(before.base.virtual_layers())
    weights = [layer.get_parameter("attention.value.weight") for layer in layers]
    mean = (weights[2] + weights[3]) / 2
    found = list(after.base.virtual_layers())[2].get_parameter("attention.value.weight")
    torch.testing.assert_close(found, mean)
    done = distill(shared, "--from", tied, "--clean")
    assert done.exit_code == 0, done.output
    assert minilm.load(shared).num_parameters() == after.num_parameters()
    assert minilm.load(shared).num_parameters() < before.num_parameters()


def test_a_student_from_a_checkpoint_keeps_its_head_for_pairs(tmp_path: Path) -> None:
    done = distill(
        tmp_path / "student", "--from", "pairs", "--held-out", 2, "--weight-decay", 0.5,
        "--learning-rate", 0.01,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "masked loss" in done.stdout
    found = minilm.load(tmp_path / "student")
    assert isinstance(found, minilm.AlbertForPreTraining)
    before = load_file("pairs/model.safetensors")
    after = load_file(tmp_path / "student/model.safetensors")
    assert before.keys() == after.keys()
    same = {name for name, value in before.items() if torch.equal(value, after[name])}
    assert {name.split(".")[-2] for name in same} == {"pooler", "classifier"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--from", "stranger"), ("tokenizer",)),
        (("--from", "pairs", "--hidden-size", 8), ("--hidden-size has no effect: --from",)),
        (("--embedding-size", 8), ("--embedding-size has no effect", "ALBERT students only")),
        (("--start", "middle"), ("--start is 'middle'",)),
        (("--layers", "0,9"), ("--layers contains 9",)),
        (("--student", "albert", "--inner-layers", 3), ("--inner-layers 3", "give --layers")),
        (
            ("--student", "albert", "--groups", 5, "--layers", 4),
            ("--groups is 5", "4 applications (--layers)"),
        ),
        (("--mask-probability", 0), ("--mask-probability is 0.0",)),
        (
            ("--teacher-cache", "cache", "--hidden-mse", 1),
            ("set the weights --hidden-mse to 0",),
        ),
        (("--from-scratch", "--start", "random"), ("--start has no effect: --from-scratch",)),
    ],
)
def test_refusals(options: tuple[object, ...], words: tuple[str, ...], tmp_path: Path) -> None:
    done = distill(tmp_path / "out", *options)
    assert done.exit_code == 2, done.output
    assert done.stdout == ""
    for word in words:
        assert word in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_refused_decay_leaves_no_run_behind(tmp_path: Path) -> None:
    refused = distill(tmp_path / "out", "--shared-weight-decay", 0.1)
    assert refused.exit_code == 2
    assert "--shared-weight-decay is 0.1" in refused.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("layers", "chosen"), [(3, [[0], [2], [3]]), ("3,", [[3]]), ("3,0", [[3], [0]])]
)
def test_a_number_is_a_depth_and_a_list_names_layers(
    layers: object, chosen: list[list[int]], tmp_path: Path
) -> None:
    done = distill(tmp_path / "out", "--layers", layers, "--clean")
    assert done.exit_code == 0, done.output
    lines = [f"encoder.layers.{i}: layer {n}" for i, (n,) in enumerate(chosen)]
    assert all(line in done.stderr for line in lines)
    assert minilm.load(tmp_path / "out").config.num_hidden_layers == len(chosen)


def test_only_an_albert_can_be_tied(tmp_path: Path) -> None:
    done = run("convert", "teacher", tmp_path / "out", "--share", "all")
    assert done.exit_code == 2
    assert "expected an ALBERT" in done.stderr
    assert not (tmp_path / "out").exists()
    done = run("convert", "teacher", tmp_path / "out", "--share", "all", "--from-pickle")
    assert done.exit_code == 2
    assert "--share cannot be combined with --from-pickle" in done.stderr


def test_settings_without_effect() -> None:
    given = {"corpus": "store", "teacher": "teacher", "steps": 1}
    for more, message in (
        ({"groups": 2}, "groups has no effect: it applies to ALBERT students only"),
        ({"student": "gpt"}, "student is 'gpt': expected one of distilbert, albert, bert"),
        ({"student_checkpoint": "pairs", "start": "average"}, "start has no effect"),
    ):
        with pytest.raises(InputError, match=message):
            DistillationRecipe(**given, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("pooled", [True, False])
def test_a_control_from_scratch_has_the_same_parts(pooled: bool, tmp_path: Path) -> None:
    """Of an encoder without heads, too: a pooler if, and only if, the student would have one."""
    cls = minilm.BertModel if pooled else minilm.DistilBertModel
    teacher = cls(cls.config_class(vocab_size=30, hidden_size=16, num_attention_heads=2))
    given = {"corpus": "store", "teacher": "teacher", "steps": 1, "student": "albert"}
    made, control = (
        DistillationRecipe(**given, from_scratch=fresh).build_student(teacher)[0]  # type: ignore[arg-type]
        for fresh in (False, True)
    )
    assert made.state_dict().keys() == control.state_dict().keys()
    assert (made.base.pooler is not None) == pooled


def test_fine_tuning_counts_layers_as_the_teacher_applies_them() -> None:
    from minilm.recipes.finetuning import _network
    from minilm.tasks.texts import Classification

    config = minilm.AlbertConfig(
        vocab_size=30, hidden_size=16, num_attention_heads=2, intermediate_size=32,
        embedding_size=8, inner_group_num=3, num_hidden_layers=2,
    )  # fmt: skip
    teacher = minilm.AlbertForSequenceClassification(config)
    student, start = _network(Path(), Classification(["a", "b"], max_length=16), teacher, [0, 5], 0)
    assert start["layers"] == [0, 5]
    assert student.config.num_hidden_layers == 2
