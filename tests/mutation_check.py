"""How many small faults in losses, layouts, masking and metrics the tests notice.

The command draws a sample of all mutants (`mutants.py`), runs the tests that execute each changed
line and prints the mutants that no test noticed, with file and line, to be read.

    python tests/mutation_check.py --mutants 400 --seed 0 --log mutants.jsonl

First every test file runs once, unchanged, while `coverage` notes which test executes which line
and how long it takes; with `--log` this is kept beside the log for the files that have not changed
since. Each mutant then meets only the tests that execute its statement, the fastest first, until
one fails. It runs in a process of its own, forked after the large packages are imported; no file is
changed. Tests that start other processes do not see the mutant there.

A run with the same log goes on where it was stopped; `--again` repeats the mutants that were not
noticed, after tests were added.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import importlib.machinery
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType
from typing import Any

import coverage
import hypothesis
import pytest

from mutants import ROOT, Mutant, mutants

# what the tests import takes seconds; a forked process has it already
for package in ("torch", "transformers", "scipy.stats", "sklearn.metrics", "pandas"):
    importlib.import_module(package)

LOSSES = (
    "losses losses_layers losses_learned loss_precision loss_labels distillation top_predictions"
)
MASKING = "masking mask_ratios ngram_masking batches epochs pretraining"
# modules -> the tests that are theirs
TESTS = {
    "losses/*.py": f"{LOSSES} cached_teacher learners teachers",
    "blocks/layout.py": "layout kernels model_layout models early_exit",
    "data/masking.py": MASKING,
    "data/ngram_masking.py": MASKING,
    "data/mask_ratios.py": MASKING,
    "data/masked_lm.py": MASKING,
    "metrics/answers.py": "metrics_answers metrics tasks_windows",
    "metrics/*.py": "metrics metrics_classification metrics_entities score_table tasks_tags",
}
OPTIONS = (
    *("-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"),
    # hypothesis is imported before pytest, once for all mutants
    *("-W", "ignore::pytest.PytestAssertRewriteWarning"),
)
SHARED = "shared"  # stands for all tests of a file: its import and its shared fixtures

# a failing example is not kept for the next mutant and not made smaller
hypothesis.settings.register_profile(
    "mutants",
    database=None,
    deadline=None,
    derandomize=True,
    phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
    suppress_health_check=list(hypothesis.HealthCheck),
)
hypothesis.settings.load_profile("mutants")


class Measuring:
    """Notes the lines and the processor time of every test."""

    def __init__(self, measured: coverage.Coverage) -> None:
        self._measured = measured
        self._test = SHARED
        self.seconds: dict[str, float] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        begin = time.process_time()
        self._test = item.nodeid
        self._measured.switch_context(self._test)
        result = yield
        self._measured.switch_context(SHARED)
        self.seconds[item.nodeid] = time.process_time() - begin
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[Any]) -> Iterator[None]:
        if fixturedef.scope != "function":
            self._measured.switch_context(SHARED)
        result = yield
        self._measured.switch_context(self._test)
        return result


class Chosen:
    """Runs the chosen tests alone, in their order."""

    def __init__(self, tests: list[str]) -> None:
        self._order = {test: place for place, test in enumerate(tests)}

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        chosen = [item for item in items if item.nodeid in self._order]
        items[:] = sorted(chosen, key=lambda item: self._order[item.nodeid])


class Reach:
    """Which tests of one file execute which lines."""

    def __init__(self, seconds: dict[str, float], lines: dict[str, dict[str, list[int]]]) -> None:
        self.seconds = seconds  # test -> processor time
        self.lines = lines  # module -> test -> lines

    def tests(self, mutant: Mutant) -> set[str]:
        """The tests that execute the changed statement."""
        lines = range(mutant.first, mutant.last + 1)
        by_test = self.lines.get(mutant.file, {})
        found = {test for test, ran in by_test.items() if not set(lines).isdisjoint(ran)}
        if SHARED in found:
            # what the import or a fixture computes: tests that execute the module, or all
            found = set(by_test) - {SHARED} or set(self.seconds)
        return found


def forked(work: Callable[[], int], output: str | Path) -> int:
    """Starts a process that does `work` with its output in a file; its id."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            with open(output, "w") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
            status = work()
        finally:
            sys.stdout.flush()
            os._exit(status)
    return child


def measure(test_file: Path, modules: list[str], directory: Path) -> Reach | None:
    """Runs a test file unchanged; None if it fails."""
    result = directory / "measured.json"

    def work() -> int:
        measured = coverage.Coverage(data_file=None, include=modules, config_file=False)
        measured.start()
        measured.switch_context(SHARED)
        plugin = Measuring(measured)
        status = pytest.main(
            [*OPTIONS, f"--basetemp={directory / 'plain'}", str(test_file)], [plugin]
        )
        measured.stop()
        data = measured.get_data()
        lines: dict[str, dict[str, list[int]]] = {}
        for module in data.measured_files():
            by_test = lines.setdefault(Path(module).relative_to(ROOT).as_posix(), {})
            for line, tests in data.contexts_by_lineno(module).items():
                for test in tests:
                    by_test.setdefault(test, []).append(line)
        result.write_text(json.dumps([plugin.seconds, lines]))
        return int(status)

    output = directory / "output"
    child = forked(work, output)
    _, status = os.waitpid(child, 0)
    shutil.rmtree(directory / "plain", ignore_errors=True)
    if status:
        print(output.read_text()[-4000:])
        return None
    return Reach(*json.loads(result.read_text()))


def start(mutant: Mutant, tests: list[str], seconds: float, directory: Path) -> int:
    """Starts a process that runs the tests with the mutant, for at most so much processor time."""
    original = importlib.machinery.SourceFileLoader.get_code
    code = mutant.code()

    def get_code(self: importlib.machinery.SourceFileLoader, fullname: str) -> CodeType | None:
        return code if Path(self.path) == mutant.path else original(self, fullname)

    def work() -> int:
        signal.setitimer(signal.ITIMER_PROF, seconds)
        importlib.machinery.SourceFileLoader.get_code = get_code  # type: ignore[method-assign]
        files = dict.fromkeys(str(ROOT / test.partition("::")[0]) for test in tests)
        basetemp = f"--basetemp={directory / str(os.getpid())}"
        return int(pytest.main([*OPTIONS, basetemp, *files], [Chosen(tests)]))

    return forked(work, os.devnull)


def names_of(mutant: Mutant) -> list[str]:
    """The test files of the mutant's module."""
    inside = mutant.path.relative_to(ROOT / "minilm")
    return next(names for pattern, names in TESTS.items() if inside.match(pattern)).split()


def reaches(
    names: list[str], modules: list[Path], log: Path | None, directory: Path
) -> dict[str, Reach] | None:
    """What these test files execute, measured or from the last time; None if a test fails."""
    kept_in = log.with_suffix(".tests.json") if log else None
    kept = json.loads(kept_in.read_text()) if kept_in and kept_in.exists() else {}
    sources = hashlib.sha256(b"".join(module.read_bytes() for module in modules))
    found = {}
    for name in names:
        test_file = ROOT / "tests" / f"test_{name}.py"
        state = sources.copy()
        state.update(test_file.read_bytes())
        if name not in kept or kept[name][0] != state.hexdigest():
            print(f"measuring {test_file.name}", file=sys.stderr, flush=True)
            reach = measure(test_file, [str(module) for module in modules], directory)
            if reach is None:
                print(f"{test_file.relative_to(ROOT)} fails without any change")
                return None
            kept[name] = [state.hexdigest(), reach.seconds, reach.lines]
            if kept_in:
                kept_in.write_text(json.dumps(kept))
        found[name] = Reach(*kept[name][1:])
    return found


def tests_of(mutant: Mutant, found: dict[str, Reach], seconds: float) -> dict[str, float]:
    """The fastest tests that execute the mutant, up to so many seconds of processor time."""
    took = {
        test: found[name].seconds[test]
        for name in names_of(mutant)
        for test in found[name].tests(mutant)
    }
    chosen = {}
    for test in sorted(took, key=lambda test: took[test]):
        if sum(chosen.values()) + took[test] <= seconds:
            chosen[test] = took[test]
    return chosen


def check(
    sample: list[Mutant], found: dict[str, Reach], known: dict[str, bool],
    options: argparse.Namespace, directory: Path,
) -> None:  # fmt: skip
    """Runs the tests of every mutant of the sample that is not known yet."""
    waiting = [mutant for mutant in sample if str(mutant) not in known][::-1]
    running: dict[int, Mutant] = {}
    begin = time.monotonic()

    def note(mutant: Mutant, noticed: bool) -> None:
        known[str(mutant)] = noticed
        if options.log:
            with options.log.open("a") as log:
                log.write(json.dumps([str(mutant), noticed]) + "\n")
        done = sum(str(mutant) in known for mutant in sample)
        message = f"{done} of {len(sample)}, {time.monotonic() - begin:.0f} s"
        print(message, end="\r", file=sys.stderr, flush=True)

    while waiting or running:
        while waiting and len(running) < options.jobs:
            mutant = waiting.pop()
            tests = tests_of(mutant, found, options.seconds)
            if tests:
                limit = 60 + 10 * sum(tests.values())  # one that needs more hangs: noticed, too
                running[start(mutant, list(tests), limit, directory)] = mutant
            else:
                note(mutant, False)
        if running:
            child, status = os.wait()
            note(running.pop(child), os.waitstatus_to_exitcode(status) != 0)
            shutil.rmtree(directory / str(child), ignore_errors=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mutants", type=int, default=400, help="size of the sample (400)")
    parser.add_argument("--seed", type=int, default=0, help="of the sample (0)")
    parser.add_argument("--seconds", type=float, default=60, help="of tests per mutant (60)")
    parser.add_argument("--jobs", type=int, default=1, help="mutants at the same time (1)")
    parser.add_argument("--log", type=Path, help="JSON lines; a run with the same log goes on")
    parser.add_argument("--only", default="", help="those of the sample with this in their path")
    parser.add_argument("--again", action="store_true", help="repeat those not noticed in the log")
    parser.add_argument("--report", action="store_true", help="only count what the log has")
    options = parser.parse_args()
    files = sorted({file for pattern in TESTS for file in (ROOT / "minilm").glob(pattern)})
    every = [mutant for path in files for mutant in mutants(path)]
    sample = random.Random(options.seed).sample(every, min(options.mutants, len(every)))
    print(f"{len(sample)} of {len(every)} mutants of {len(files)} files, seed {options.seed}")
    sample = [mutant for mutant in sample if options.only in mutant.file]
    known: dict[str, bool] = {}
    if options.log and options.log.exists():
        known = dict(json.loads(line) for line in options.log.read_text().splitlines())
    if options.again:
        known = {mutant: noticed for mutant, noticed in known.items() if noticed}
    if not options.report:
        with tempfile.TemporaryDirectory() as temporary:
            directory = Path(temporary)
            sys.dont_write_bytecode = False
            sys.pycache_prefix = str(directory / "compiled")
            names = {name for mutant in sample for name in names_of(mutant)}
            found = reaches(sorted(names), files, options.log, directory)
            if found is None:
                return 2
            check(sample, found, known, options, directory)
    killed: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for mutant in sample:
        if str(mutant) in known:
            part = mutant.path.relative_to(ROOT / "minilm").parts[0]
            total[part] += 1
            killed[part] += known[str(mutant)]
            if not known[str(mutant)]:
                print(f"not noticed: {mutant}")
    for part, count in total.items():
        print(f"{part}: {killed[part]} of {count} noticed ({killed[part] / count:.1%})")
    share = killed.total() / max(1, total.total())
    print(f"all: {killed.total()} of {total.total()} noticed ({share:.1%})")
    return 0 if share >= 0.85 else 1


if __name__ == "__main__":
    sys.exit(main())
