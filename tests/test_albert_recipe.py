"""The page's ALBERT from scratch: it leaves the plateau, as on record.

Takes about seven minutes on one core:

    pytest -m slow tests/test_albert_recipe.py
"""

import json
import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from minilm.cli import main

PAGE = (Path(__file__).parent.parent / "examples" / "training.md").read_text()
# masked loss, masked accuracy and sentence-order accuracy by step, as the page has them
ROW = re.compile(r"^\| ([\d,]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", re.MULTILINE)
# between processors, and between versions of Python, whose help texts differ
LOSS, ACCURACY, ORDER = 0.25, 0.04, 0.08


def recipe() -> tuple[list[str], dict[int, list[float]]]:
    """The page's commands, and its curve."""
    section = PAGE.split("## ALBERT from scratch")[1].split("\n## ")[0]
    commands = section.split("```text\n")[1].split("```")[0].splitlines()
    curve = {
        int(step.replace(",", "")): [float(value) for value in values]
        for step, *values in ROW.findall(section)
    }
    return commands, curve


def test_the_readme_has_commands_and_a_curve() -> None:
    commands, curve = recipe()
    assert [command.split()[:2] for command in commands[1:]] == [
        ["minilm", "train-tokenizer"],
        ["minilm", "tokenize"],
        ["minilm", "pretrain"],
    ]
    assert len(curve) >= 5
    losses = [values[0] for values in curve.values()]
    assert losses == sorted(losses, reverse=True)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_curve_is_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands, curve = recipe()
    monkeypatch.chdir(tmp_path)
    import pydoc_data.topics

    assert "import pydoc_data.topics" in commands[0]
    topics = [
        "\n".join(line for line in topic.splitlines() if line.strip())
        for _, topic in sorted(pydoc_data.topics.topics.items())
    ]
    Path("topics.txt").write_text("\n\n".join(topics) + "\n", encoding="utf-8")
    for command in commands[1:]:
        done = CliRunner().invoke(main, shlex.split(command)[1:])
        assert done.exit_code == 0, done.output
    rows = [json.loads(line) for line in Path("sop/run/log.jsonl").read_text().splitlines()]
    found = {row["step"]: row["held_out"] for row in rows if "held_out" in row}
    for step, (loss, accuracy, order) in curve.items():
        assert found[step]["masked_loss"] < loss + LOSS, step
        assert found[step]["masked_accuracy"] > accuracy - ACCURACY, step
        assert found[step]["sentence_order_accuracy"] > order - ORDER, step
    last = found[max(found)]
    assert last["masked_loss"] < 4.4
    assert last["sentence_order_accuracy"] > 0.55
