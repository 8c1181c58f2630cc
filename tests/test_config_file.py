"""--config: options from a TOML file, or from the settings.json of a run."""

from __future__ import annotations

import json
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

import minilm
from minilm.cli import COMMANDS, main
from minilm.cli.config_file import option_values
from minilm.errors import InputError
from minilm.recipes.distillation import DistillationRecipe
from minilm.recipes.pretraining import PretrainingRecipe
from minilm.recipes.settings import given_options
from saved import save_tiny
from task_data import colour_texts, save_start

TEXT = "\n\n".join(
    f"The {animal} number {number} sleeps near the {place}. Then it runs, as every {animal} does."
    for number in range(20)
    for animal, place in [("cat", "hill"), ("dog", "river")]
)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def command(name: str) -> click.Command:
    found = main.get_command(click.Context(main), name)
    assert found is not None
    return found


def toml(directory: Path, text: str) -> Path:
    path = directory / "options.toml"
    path.write_text(text)
    return path


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("store")
    (place / "text.txt").write_text(TEXT)
    tokenizer = minilm.train_tokenizer([place / "text.txt"], place / "words", vocab_size=120)
    minilm.tokenize_corpus([place / "text.txt"], tokenizer, place / "store", workers=1)
    return place / "store"


# --- what a file may say ---


def test_a_file_gives_values_and_the_command_line_has_the_last_word(tmp_path: Path) -> None:
    model = save_tiny(tmp_path / "model", "BertForMaskedLM")
    file = toml(tmp_path, "top = 2\njson = true\n")
    found = json.loads(run("fill-mask", model, "word3 [MASK]", "--config", file).stdout)
    assert len(found[0]) == 2
    found = run("fill-mask", model, "word3 [MASK]", "--config", file, "--top", 4)
    assert len(json.loads(found.stdout)[0]) == 4
    # without the file neither holds
    assert len(run("fill-mask", model, "word3 [MASK]").stdout.splitlines()) == 5


def test_names_are_those_of_the_options(tmp_path: Path) -> None:
    text = """
    "--learning-rate" = 1e-3
    max_length = 64
    betas = [0.8, 0.9]
    from = "somewhere"
    gradient-accumulation-steps = 2
    sharing = 3
    layers = 6
    """
    values = option_values(str(toml(tmp_path, text)), command("pretrain"), "pretrain")
    assert values == {
        "learning_rate": 1e-3,
        "max_length": 64,
        "betas": [0.8, 0.9],
        "start": "somewhere",
        "accumulation": 2,
        "sharing": 3,
        "layers": 6,
    }


def test_an_option_that_may_be_repeated_takes_one_value_or_a_list(tmp_path: Path) -> None:
    both = ["a: kl=0", "b: kl=1"]
    for text, expected in (("'a: kl=0'", both[:1]), (json.dumps(both), both)):
        file = toml(tmp_path, f"variant = {text}")
        assert option_values(str(file), command("ablate"), "ablate") == {"variants": expected}


def test_positional_arguments_may_stand_in_the_file(tmp_path: Path) -> None:
    file = toml(tmp_path, 'models = ["albert-base-v2"]\nlength = 32\n')
    result = run("cost", "--config", file)
    assert result.exit_code == 0, result.stderr
    assert "length 32" in result.stdout
    assert "albert-base-v2" in result.stdout


def test_a_required_option_may_stand_in_the_file(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(TEXT)
    file = toml(tmp_path, f"output = {json.dumps(str(tmp_path / 'words'))}\nvocab-size = 90\n")
    assert run("train-tokenizer", tmp_path / "text.txt").exit_code == 2
    result = run("train-tokenizer", tmp_path / "text.txt", "--config", file)
    assert result.exit_code == 0, result.stderr
    assert minilm.Tokenizer.from_pretrained(tmp_path / "words").vocab_size == 90


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lerning-rate = 1e-3", "no option 'lerning-rate'. Did you mean learning-rate?"),
        ("xyzzy = 1", "no option 'xyzzy'. minilm pretrain --help lists its options."),
        ("steps = 'many'", "steps: 'many' is not a valid integer"),
        ("steps = 0", "steps: 0 is not in the range"),
        ("steps = true", "steps is True: expected a value, not true or false"),
        ("head-start = 1", "head-start is 1: expected true or false"),
        ("betas = 0.9", "betas is 0.9: expected a list of values"),
        ("betas = [0.9]", "betas: "),
        ("masking = 'words'", "masking: 'words' is not one of tokens"),
        ("[optimiser]\nname = 1", "optimiser is a table: expected one value"),
        ("epsilon = 1e-3\neps = 1e-4", "a value for --epsilon twice"),
        ("steps = ", "is not valid TOML"),
        ("config = 'other.toml'", "no option 'config'"),
    ],
)
def test_what_a_file_may_not_say(tmp_path: Path, text: str, message: str) -> None:
    file = toml(tmp_path, text)
    with pytest.raises(InputError) as raised:
        option_values(str(file), command("pretrain"), "pretrain")
    assert message in str(raised.value)
    assert str(file) in str(raised.value)
    result = run("pretrain", "--config", file)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert "Traceback" not in result.output


def test_files_that_are_none(tmp_path: Path) -> None:
    missing = run("cost", "--config", tmp_path / "none.toml", "albert-base-v2")
    assert missing.exit_code == 2
    assert "none.toml does not exist" in missing.stderr
    (tmp_path / "options.yaml").write_text("length: 3\n")
    other = run("cost", "--config", tmp_path / "options.yaml", "albert-base-v2")
    assert other.exit_code == 2
    assert "expected a .toml file" in other.stderr
    old = tmp_path / "settings.json"
    old.write_text(json.dumps({"settings": {}, "data": {}, "circumstances": {}}))
    assert "does not say with which options" in run("pretrain", "--config", old).stderr


def test_options_that_exclude_one_another_do_so_from_a_file(tmp_path: Path) -> None:
    file = toml(tmp_path, 'corpus = "store"\noutput = "out"\nsteps = 1\nembedding-size = 8\n')
    result = run("pretrain", "--config", file, "--model", "bert")
    assert result.exit_code == 2
    assert "--embedding-size" in result.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_takes_a_file(name: str, tmp_path: Path) -> None:
    found = command(name)
    file = toml(tmp_path, "no-such-option-at-all = 1")
    commands = list(found.commands) if isinstance(found, click.Group) else [None]
    for inner in commands:
        words = [name] if inner is None else [name, inner]
        result = run(*words, "--config", file)
        assert result.exit_code == 2
        assert "no option 'no-such-option-at-all'" in result.stderr


# --- the settings of a run ---


def test_a_run_of_pretraining_is_repeated_from_its_settings(store: Path, tmp_path: Path) -> None:
    options = ["--layers", 1, "--hidden-size", 16, "--heads", 2, "--positions", 32, "--steps", 2]
    options += ["--betas", 0.8, 0.9, "--masking", "whole-words", "--precision", "float32"]
    options += ["--tokens-per-step", 128, "--learning-rate", 1e-3, "--held-out", 2]
    first = run("pretrain", "--corpus", store, "--output", tmp_path / "a", *options)
    assert first.exit_code == 0, first.output
    settings = tmp_path / "a" / "run" / "settings.json"
    kept = json.loads(settings.read_text())
    assert kept["command"]["name"] == "pretrain"
    assert kept["command"]["options"]["betas"] == [0.8, 0.9]
    assert "output" not in kept["command"]["options"]

    again = run("pretrain", "--config", settings, "--output", tmp_path / "b")
    assert again.exit_code == 0, again.output
    assert json.loads((tmp_path / "b" / "run" / "settings.json").read_text()) == kept
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in "ab"]
    assert weights[0] == weights[1]
    # and changed: another seed is another run
    other = run("pretrain", "--config", settings, "--output", tmp_path / "c", "--seed", 1)
    assert other.exit_code == 0, other.output
    assert (tmp_path / "c" / "model.safetensors").read_bytes() != weights[0]

    wrong = run("finetune", "--config", settings)
    assert wrong.exit_code == 2
    assert "from a run of minilm pretrain" in wrong.stderr


def test_a_run_of_fine_tuning_is_repeated_from_its_settings(tmp_path: Path) -> None:
    records = colour_texts(12)
    start = save_start(tmp_path / "start")
    train = tmp_path / "train.jsonl"
    train.write_text("".join(json.dumps(each) + "\n" for each in records))
    options = ["--task", "classification", "--model", start, "--train", train, "--epochs", 1]
    first = run("finetune", *options, "--output", tmp_path / "a", "--batch-size", 4, "--seeds", 2)
    assert first.exit_code == 0, first.output
    settings = tmp_path / "a" / "seed-1" / "run" / "settings.json"
    kept = json.loads(settings.read_text())["command"]
    assert kept["options"]["seed"] == 1
    assert "seeds" not in kept["options"]
    again = run("finetune", "--config", settings, "--output", tmp_path / "b")
    assert again.exit_code == 0, again.output
    one, other = tmp_path / "a" / "seed-1", tmp_path / "b"
    weights = [(place / "model.safetensors").read_bytes() for place in (one, other)]
    assert weights[0] == weights[1]
    assert json.loads((other / "run" / "settings.json").read_text())["command"] == kept


def test_the_settings_of_a_recipe_are_options_of_its_command(tmp_path: Path) -> None:
    recipes = [
        PretrainingRecipe(
            corpus=Path("store"), model="albert", sharing="feed_forward", layers=3, epochs=2
        ),
        DistillationRecipe(
            corpus="store", teacher="bert-mini", steps=5, layers=[0, 5], fold_token_types=False
        ),
    ]
    for recipe in recipes:
        options = given_options(recipe)
        file = tmp_path / "settings.json"
        file.write_text(json.dumps({"command": {"name": recipe.command, "options": options}}))
        values = option_values(str(file), command(recipe.command), recipe.command)
        assert len(values) == len(options) == 5
