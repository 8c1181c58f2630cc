"""Mutants: Python modules with one small fault each, made in the syntax tree.

A mutant has another comparison, operator or number, a negated condition, `and` for `or`, a check
that raises nothing, or a statement left out. The files themselves are never changed.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import CodeType

ROOT = Path(__file__).parent.parent

COMPARISONS = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
OPERATORS = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult, ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip


def changes(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """What a node may become: a description and the new node."""
    new = copy.deepcopy(node)
    if isinstance(new, ast.Compare) and type(new.ops[0]) in COMPARISONS:
        new.ops[0] = COMPARISONS[type(new.ops[0])]()
        yield "another comparison", new
    elif isinstance(new, ast.BinOp | ast.AugAssign) and type(new.op) in OPERATORS:
        new.op = OPERATORS[type(new.op)]()
        yield "another operator", new
    elif isinstance(new, ast.BoolOp):
        new.op = ast.Or() if isinstance(new.op, ast.And) else ast.And()
        yield "and <-> or", new
    elif isinstance(new, ast.UnaryOp) and isinstance(new.op, ast.Not | ast.USub):
        yield "a sign or a not left out", new.operand
    elif isinstance(new, ast.Constant) and isinstance(new.value, bool):
        new.value = not new.value
        yield "True <-> False", new
    elif isinstance(new, ast.Constant) and isinstance(new.value, int | float):
        new.value = new.value + 1
        yield "a number plus 1", new
    elif isinstance(new, ast.If | ast.IfExp):
        new.test = ast.UnaryOp(ast.Not(), new.test)
        yield "a condition negated", new
    elif isinstance(new, ast.Raise):
        yield "an error not raised", ast.Pass()
    elif isinstance(new, ast.Expr) and isinstance(new.value, ast.Call):
        yield "a call left out", ast.Pass()


def places(tree: ast.Module) -> Iterator[tuple[ast.AST, str, int | None]]:
    """Every node that computes something, as (parent, field, place in the field's list)."""

    def walk(node: ast.AST) -> Iterator[tuple[ast.AST, str, int | None]]:
        for field, value in ast.iter_fields(node):
            if field in ("annotation", "returns", "decorator_list", "type_params"):
                continue
            for place, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
                if isinstance(child, ast.JoinedStr):  # words of messages
                    continue
                if isinstance(child, ast.AST):
                    yield node, field, place
                    yield from walk(child)

    yield from walk(tree)


def statement_lines(tree: ast.Module, line: int) -> tuple[int, int]:
    """First and last line of the innermost statement at a line; of a block, only its head."""
    first, last = line, line
    smallest = None
    for node in ast.walk(tree):
        if isinstance(node, ast.stmt) and node.lineno <= line <= (node.end_lineno or node.lineno):
            body = getattr(node, "body", None)
            end = max(node.lineno, body[0].lineno - 1) if body else node.end_lineno or node.lineno
            if line <= end and (smallest is None or end - node.lineno < smallest):
                first, last, smallest = node.lineno, end, end - node.lineno
    return first, last


@dataclass(frozen=True)
class Mutant:
    """One change of one file.

    Attributes:
        path: the file.
        line: where the change is, from 1.
        words: what changes.
        place: number of the changed node among `places`.
        change: number of the change among the node's `changes`.
        first: first line of the changed statement.
        last: its last line.
    """

    path: Path
    line: int
    words: str
    place: int
    change: int
    first: int
    last: int

    @property
    def file(self) -> str:
        """The file, from the repository's root."""
        return self.path.relative_to(ROOT).as_posix()

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.words} [{self.place}.{self.change}]"

    def code(self) -> CodeType:
        """The changed module, compiled."""
        tree = ast.parse(self.path.read_text())
        parent, field, index = list(places(tree))[self.place]
        value = getattr(parent, field)
        _, new = list(changes(value if index is None else value[index]))[self.change]
        if index is None:
            setattr(parent, field, new)
        else:
            value[index] = new
        return compile(ast.fix_missing_locations(tree), str(self.path), "exec")


def mutants(path: Path) -> Iterator[Mutant]:
    """All mutants of a file."""
    tree = ast.parse(path.read_text())
    for place, (parent, field, index) in enumerate(places(tree)):
        value = getattr(parent, field)
        node = value if index is None else value[index]
        for change, (words, _) in enumerate(changes(node)):
            line: int = node.lineno  # type: ignore[attr-defined]
            what = f"{words}: {ast.unparse(node).splitlines()[0]}"
            yield Mutant(path, line, what, place, change, *statement_lines(tree, line))
