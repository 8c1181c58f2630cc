"""First messages about one's own data name all that is to be said, and following them works."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

import minilm
from minilm.cli import main
from minilm.data.records.base import Skips
from minilm.data.records.files import read_records
from minilm.errors import MinilmError
from minilm.files.file_names import check_directory
from minilm.tasks.catalogue import task_class
from minilm.training.curves import read_runs

OPTIONS = {"text_column": "2", "label_column": "1"}


def learn(task, records, **options):
    made = task_class(task).learn(records, 16, options)
    examples = made.examples(records, Skips(), labelled=True)
    return made, examples


def test_columns_that_are_missing_are_named_together():
    records = [{"v1": "ham", "v2": "see you"}, {"v1": "spam", "v2": "win"}]
    with pytest.raises(MinilmError) as raised:
        learn("classification", records)
    message = str(raised.value)
    assert "There is no 'label' and no 'text'" in message
    assert "label_column=" in message
    assert "text_column=" in message
    assert "header" not in message
    made, _ = learn("classification", records, text_column="v2", label_column="v1")
    assert list(made.labels) == ["ham", "spam"]


@pytest.mark.parametrize(
    "first", ["ham\tOk, see you at six then", "0.5\tOk", "ham\t" + "x" * 70], ids=str.strip
)
def test_a_first_line_of_data_is_suspected(tmp_path: Path, first):
    path = tmp_path / "a.tsv"
    path.write_text(f"{first}\nspam\tWin a prize\n")
    with pytest.raises(MinilmError, match="header=False") as raised:
        learn("classification", read_records(path))
    assert "x" * 50 not in str(raised.value)
    made, examples = learn("classification", read_records(path, header=False), **OPTIONS)
    assert len(examples) == 2
    assert "spam" in made.labels


def test_numbers_with_decimals_as_classes_are_remarked_on():
    records = [{"text": "a", "label": value} for value in ("0.5", "3", "4.25")]
    made, _ = learn("classification", records)
    assert any("3 classes without any order" in note for note in made.take_notes())
    for values in (("0", "1", "2"), ("1.0", "2.0", "3.0"), ("0.5", "1", "good")):
        made, _ = learn("classification", [{"text": "a", "label": value} for value in values])
        assert not any("without any order" in note for note in made.take_notes())


def test_classes_given_to_regression_are_sent_to_classification():
    with pytest.raises(MinilmError, match="task 'classification'"):
        learn("regression", [{"text": "a", "label": "good"}])


def test_out_of_scope_names_the_labels_there_are():
    records = [{"text": "a", "label": "oos"}, {"text": "b", "label": "pay"}]
    with pytest.raises(MinilmError, match="out_of_scope.*OOS.*They have .*oos"):
        learn("classification", records, out_of_scope="OOS")
    with pytest.raises(MinilmError, match="tune_thresholds=True .*out_of_scope="):
        learn("classification", records, tune_thresholds=True)
    with pytest.raises(MinilmError, match="min_confidence=.*out_of_scope="):
        learn("classification", records, min_confidence=0.5)


def test_a_field_that_holds_nothing_is_not_called_a_missing_column():
    records = [{"sentence": "a", "label": "x"}, {"sentence": None, "label": "y"}]
    with pytest.raises(
        MinilmError, match="There is no 'text' here: 'sentence' holds nothing"
    ) as raised:
        learn("classification", records)
    assert "text_column" not in str(raised.value)


def test_the_directory_of_several_seeds_says_so(tmp_path: Path):
    for seed in (0, 1):
        (tmp_path / f"seed-{seed}" / "run").mkdir(parents=True)
        (tmp_path / f"seed-{seed}" / "config.json").write_text("{}")
        (tmp_path / f"seed-{seed}" / "run" / "log.jsonl").write_text("")
    with pytest.raises(MinilmError, match="2 models, one for each seed: seed-0, seed-1"):
        check_directory(tmp_path)
    check_directory(tmp_path / "seed-0")
    with pytest.raises(MinilmError, match="holds 2. Name them: .*seed-0.*seed-1"):
        read_runs([tmp_path])


def test_many_texts_given_as_one_are_told_the_way():
    predictor = object.__new__(minilm.Predictor)
    for texts in ([{"text": "a"}], None, {"text": "a"}, b"a"):
        with pytest.raises(MinilmError, match=r"predict\("):
            predictor(texts)


def test_options_without_effect_are_refused(tmp_path: Path):
    given = ["--task", "classification", "--model", "x", "--output", str(tmp_path / "out")]
    given += ["--train", str(tmp_path / "nowhere.tsv")]  # ends before anything is read

    def refused(*more):
        result = CliRunner().invoke(main, ["finetune", *given, *more])
        assert result.exit_code == 2
        return result.stderr

    assert "--decay can be used with --schedule wsd only" in refused("--decay", "0.5")
    assert "--power can be used with --schedule polynomial" in refused("--power", "2")
    assert "--max-skips can be used with --on-nonfinite skip" in refused("--max-skips", "9")
    assert "--temperature can be used with --teacher only" in refused("--temperature", "3")
    assert "can be used" not in refused()
    assert "can be used" not in refused("--decay", "0.5", "--schedule", "wsd")
    assert "can be used" not in refused("--temperature", "3", "--teacher", "t")
