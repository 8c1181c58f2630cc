"""The faults that mutation_check.py makes."""

import ast
from pathlib import Path

import pytest

import mutants

CHANGES = {
    "return a < b": "return a <= b",
    "return a + b": "return a - b",
    "return a and b": "return a or b",
    "return not a": "return a",
    "return f(a, same=True)": "return f(a, same=False)",
    "return 3": "return 4",
    "return a if b else 'c'": "return a if not b else 'c'",
    "raise Error": "pass",
    "a.append(b)": "pass",
}


@pytest.mark.parametrize("statement", CHANGES)
def test_each_kind_of_fault(statement: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(mutants, "ROOT", tmp_path)
    path = tmp_path / "part.py"
    path.write_text(f"def part(a, b):\n    {statement}\n")
    (mutant,) = mutants.mutants(path)
    expected = compile(f"def part(a, b):\n    {CHANGES[statement]}\n", str(path), "exec")
    assert mutant.code().co_consts[0].co_code == expected.co_consts[0].co_code
    assert mutant.code().co_consts[0].co_consts == expected.co_consts[0].co_consts
    assert str(mutant).startswith("part.py:2: ")


def test_the_lines_of_a_statement_are_those_whose_tests_see_its_fault() -> None:
    tree = ast.parse(
        "def f(\n    a=1,\n):\n    if (\n        a\n        > 2\n    ):\n"
        "        return g(\n            a,\n        )\n    return 0\n"
    )
    assert mutants.statement_lines(tree, 2) == (1, 3)  # the head of the function
    assert mutants.statement_lines(tree, 6) == (4, 7)  # the condition without what it guards
    assert mutants.statement_lines(tree, 9) == (8, 10)
    assert mutants.statement_lines(tree, 11) == (11, 11)


def test_words_of_messages_and_types_are_left_alone(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(mutants, "ROOT", tmp_path)
    path = tmp_path / "part.py"
    path.write_text("def part(a: int | None) -> int | None:\n    return f'{a + 1} and {2}'\n")
    assert list(mutants.mutants(path)) == []
