"""How many small faults in losses, layouts, masking and metrics the tests notice.

A mutant is one of these modules with one change: another comparison, operator or number, a negated
condition, `and` for `or`, a check that raises nothing, a statement left out. The command draws a
sample of all mutants, runs the tests that belong to each changed module and prints the mutants that
no test noticed, with file and line, to be read.

    python tests/mutation_check.py --mutants 400 --seed 0

Every mutant runs in a process of its own, forked after torch and pytest are imported; the files are
never changed. Tests that start other processes do not see the mutant there. It takes about an hour
on one core.
"""

from __future__ import annotations

import argparse
import ast
import copy
import importlib.machinery
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import CodeType

import pytest
import torch  # noqa: F401  (loaded before the fork, as pytest is)

ROOT = Path(__file__).parent.parent
LOSSES = (
    "losses losses_layers losses_learned loss_precision loss_labels distillation top_predictions"
)
MASKING = "masking mask_ratios ngram_masking"
# modules -> the tests that are theirs, the fastest first
TESTS = {
    "losses/*.py": f"{LOSSES} cached_teacher learners teachers",
    "blocks/layout.py": "layout kernels model_layout models early_exit",
    "data/masking.py": f"{MASKING} batches pretraining",
    "data/ngram_masking.py": f"{MASKING} batches pretraining",
    "data/mask_ratios.py": f"{MASKING} batches pretraining",
    "metrics/answers.py": "metrics_answers metrics tasks_windows",
    "metrics/*.py": "metrics metrics_classification metrics_entities score_table tasks_tags",
}
SECONDS = 240  # of processor time; a mutant that needs more hangs, which is noticed, too

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


def mutants(path: Path) -> Iterator[tuple[str, int, int]]:
    """All mutants of a file: line and change in words, number of the place and of the change."""
    for number, (parent, field, place) in enumerate(places(ast.parse(path.read_text()))):
        value = getattr(parent, field)
        node = value if place is None else value[place]
        for which, (change, _) in enumerate(changes(node)):
            old = ast.unparse(node).splitlines()[0]
            line = f"{path.relative_to(ROOT)}:{node.lineno}: {change}: {old}"  # type: ignore[attr-defined]
            yield line, number, which


def mutated(path: Path, number: int, which: int) -> CodeType:
    """The code of one mutant."""
    tree = ast.parse(path.read_text())
    parent, field, place = list(places(tree))[number]
    value = getattr(parent, field)
    _, new = list(changes(value if place is None else value[place]))[which]
    if place is None:
        setattr(parent, field, new)
    else:
        value[place] = new
    return compile(ast.fix_missing_locations(tree), str(path), "exec")


def tests_of(path: Path) -> list[str]:
    """The test files of a module."""
    inside = path.relative_to(ROOT / "minilm")
    names = next(names for pattern, names in TESTS.items() if inside.match(pattern))
    return [str(ROOT / "tests" / f"test_{name}.py") for name in names.split()]


def run_with(path: Path, code: CodeType, tests: list[str]) -> int:
    """In this process: pytest's exit status with `code` in place of the module."""
    original = importlib.machinery.SourceFileLoader.get_code

    def get_code(self: importlib.machinery.SourceFileLoader, fullname: str) -> CodeType | None:
        return code if Path(self.path) == path else original(self, fullname)

    importlib.machinery.SourceFileLoader.get_code = get_code  # type: ignore[method-assign]
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
        return int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *tests]))


def noticed(path: Path, code: CodeType, tests: list[str]) -> bool:
    """Whether the tests fail, hang or cannot even start with the mutant."""
    child = os.fork()
    if child == 0:
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        status = 1
        try:
            status = run_with(path, code, tests)
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) != 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mutants", type=int, default=400, help="size of the sample")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--log", type=Path, help="JSON lines; a run with the same log goes on")
    options = parser.parse_args()
    files = sorted({file for pattern in TESTS for file in (ROOT / "minilm").glob(pattern)})
    found = [(path, *mutant) for path in files for mutant in mutants(path)]
    sample = random.Random(options.seed).sample(found, min(options.mutants, len(found)))
    print(f"{len(sample)} of {len(found)} mutants of {len(files)} files, seed {options.seed}")
    for path in sorted({path for path, *_ in sample}):
        plain = compile(path.read_text(), str(path), "exec")
        if noticed(path, plain, tests_of(path)):
            print(f"the tests of {path.relative_to(ROOT)} fail without any change")
            return 2
    known = {}
    if options.log and options.log.exists():
        known = dict(json.loads(line) for line in options.log.read_text().splitlines())
    killed: Counter[str] = Counter()
    total: Counter[str] = Counter()
    begin = time.monotonic()
    for done, (path, line, number, which) in enumerate(sample, 1):
        if line not in known:
            known[line] = noticed(path, mutated(path, number, which), tests_of(path))
            if options.log:
                with options.log.open("a") as log:
                    log.write(json.dumps([line, known[line]]) + "\n")
        room = path.relative_to(ROOT / "minilm").parts[0]
        total[room] += 1
        killed[room] += known[line]
        if not known[line]:
            print(f"not noticed: {line}", flush=True)
        seconds = time.monotonic() - begin
        print(f"{done} of {len(sample)}, {seconds:.0f} s", end="\r", file=sys.stderr)
    for room, count in total.items():
        print(f"{room}: {killed[room]} of {count} noticed ({killed[room] / count:.1%})")
    share = killed.total() / total.total()
    print(f"all: {killed.total()} of {total.total()} noticed ({share:.1%})")
    return 0 if share >= 0.85 else 1


if __name__ == "__main__":
    sys.exit(main())
