"""Feeds readers of files with broken inputs: nothing but a MinilmError may come out.

    python tests/fuzz.py --target all --inputs 1000000 --minutes 20

For every target (tests/fuzz_targets.py) it runs until so many inputs or minutes are over, whichever
ends first, and prints the count and what it found. A finding is

- an exception that is no MinilmError;
- an input that takes more than 2 seconds of processor time;
- memory: a peak of more than twice the input plus 64 MB over what was in use before.

Each finding is written to the directory --findings, once for every place in the code, and can be
run again with --input FILE. With atheris (`pip install atheris`) inputs are guided by the coverage
of minilm's code (libFuzzer); without it, or with --engine mutations, valid files are mutated at
random, which is deterministic for a --seed. Both know JSON: half of the changes or more replace
whole values, keys and items. Linux only. Exit code: 0 nothing found, 1 findings.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import gc
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

# The Rust libraries would read 50 MB of debugging symbols at their first panic.
os.environ["RUST_BACKTRACE"] = "0"

MAX_SECONDS = 2.0
MAX_EXTRA_BYTES = 64 * 2**20
MAX_INPUT_BYTES = 8192
_STATUS_EVERY = 1000
# values that take the place of others in JSON
_ODD: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 1, 2, 3, 10**6, 2**31, 2**63, 2**64, 10**400, 0.5, 1e308, -0.0),
    *("", " ", "x", "0", "1", "[PAD]", "\ud800", "\0", "\n", "../x", "a" * 300, "\u2581", "é"),
    *([], {}, [[]], [{}], {"": None}, ["x", "x"], [None], {"content": "x"}, {"type": "Sequence"}),
)
_INTERESTING = (0, 1, 0x7F, 0x80, 0xFF, ord('"'), ord("{"), ord("\n"))


class Hang(BaseException):
    """An input took too long. No Exception, so that nothing on the way swallows it."""


class MemoryUseError(Exception):
    """An input took too much memory."""


class Checker:
    """Runs one input after another and keeps what is wrong.

    Args:
        read: gets an empty directory and the input.
        findings: where inputs are kept that are findings; None = nowhere.
        name: of the target, for file names.

    Attributes:
        counts: inputs by what became of them: "accepted", "refused" or "finding".
        found: the first message by the place in the code.
    """

    def __init__(
        self, read: Callable[[Path, bytes], object], findings: Path | None, name: str
    ) -> None:
        from minilm.errors import MinilmError

        self._expected = MinilmError
        self._read = read
        self._findings = findings
        self._name = name
        self.counts: Counter[str] = Counter()
        self.found: dict[str, str] = {}
        memory = Path("/dev/shm")
        self._folder = tempfile.TemporaryDirectory(
            prefix="minilm-fuzz-", dir=memory if memory.is_dir() else None
        )
        self._directory = Path(self._folder.name) / "x"
        self._directory.mkdir()
        self.current = Path(self._folder.name) / "input"

    def close(self) -> None:
        self._folder.cleanup()

    def check(self, data: bytes) -> None:
        """Runs one input."""
        for path in self._directory.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        before, peak = _memory(), _peak()
        try:
            with _limited(MAX_SECONDS):
                try:
                    self._read(self._directory, data)
                    verdict = "accepted"
                except self._expected:
                    verdict = "refused"
            rise = _peak() - max(peak, before)
            if rise > 0 and _peak() - before > MAX_EXTRA_BYTES + 2 * len(data):
                raise MemoryUseError(f"{(_peak() - before) / 2**20:.0f} MiB for {len(data)} bytes")
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as problem:  # a panic of the Rust library is none of Exception
            verdict = "finding"
            self._keep(problem, data)
        self.counts[verdict] += 1

    def _keep(self, problem: BaseException, data: bytes) -> None:
        frames = traceback.extract_tb(problem.__traceback__)
        own = [frame for frame in frames if "minilm" in Path(frame.filename).parts] or frames
        place = f"{Path(own[-1].filename).name}:{own[-1].lineno}" if own else "nowhere"
        key = f"{type(problem).__name__} at {place}"
        if key in self.found:
            return
        self.found[key] = f"{key}: {problem!s:.300}"
        print(f"FINDING in {self._name}: {self.found[key]}", file=sys.stderr, flush=True)
        if self._findings is not None:
            self._findings.mkdir(parents=True, exist_ok=True)
            path = self._findings / f"{self._name}-{len(self.found)}"
            path.write_bytes(data)
            trace = "".join(traceback.format_exception(problem))
            path.with_name(f"{path.name}.txt").write_text(trace, encoding="utf-8")


@contextlib.contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """Raises Hang inside after so many seconds of this process's own processor time."""

    def stop(_: int, frame: FrameType | None) -> None:
        raise Hang(f"more than {seconds:g} seconds of processor time")

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def _memory() -> int:
    """Bytes of memory in use."""
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def _peak() -> int:
    """The largest number of bytes that were ever in use."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def mutate(drawn: random.Random, seeds: tuple[bytes, ...], words: tuple[bytes, ...]) -> bytes:
    """A seed with some random changes: of its values if it is JSON, or of its bytes, or of both."""
    seed = drawn.choice(seeds)
    if drawn.random() < 0.7 and (changed := mutate_json(drawn, seed)) is not None:
        if drawn.random() < 0.8:
            return changed[:MAX_INPUT_BYTES]
        seed = changed
    data = bytearray(seed)
    for _ in range(drawn.choice((1, 1, 2, 3, 5, 8, 20))):
        place = drawn.randrange(len(data) + 1)
        end = min(len(data), place + drawn.choice((1, 2, 4, 8, 64, 1000)))
        match drawn.randrange(8):
            case 0 if data:
                data[place % len(data)] ^= 1 << drawn.randrange(8)
            case 1 if data:
                data[place % len(data)] = drawn.choice(_INTERESTING)
            case 2:
                del data[place:end]
            case 3:
                data[place:place] = data[place:end] * drawn.choice((1, 1, 2, 50))
            case 4 if words:
                data[place:place] = drawn.choice(words)
            case 5 if words:
                data[place:end] = drawn.choice(words)
            case 6:
                other = drawn.choice(seeds)
                cut = drawn.randrange(len(other) + 1)
                data[place:end] = other[cut : cut + drawn.choice((1, 8, 64))]
            case _:
                data[place:place] = drawn.randbytes(drawn.choice((1, 2, 8)))
    return bytes(data[:MAX_INPUT_BYTES])


def mutate_json(drawn: random.Random, data: bytes) -> bytes | None:
    """JSON with some values, keys and items changed; None for anything else.

    A byte in front of the JSON, by which some targets choose how to wrap an input, stays.
    """
    front = data[:1] if data[:1] not in (b"{", b"[", b'"') else b""
    try:
        whole = [json.loads(data[len(front) :])]
    except (ValueError, RecursionError):
        return None
    for _ in range(drawn.choice((1, 1, 1, 2, 4))):
        places = list(_places(whole))
        if not places:
            break
        container, key = drawn.choice(places)
        other, other_key = drawn.choice(places)
        odd = copy.deepcopy(drawn.choice(_ODD))
        match drawn.randrange(7):
            case 0 | 1 | 2:
                container[key] = odd
            case 3 if container is not whole:
                del container[key]
            case 4:
                container[key] = copy.deepcopy(other[other_key])
            case 5 if isinstance(container, dict):
                container[drawn.choice((str(odd), key + "s", str(other_key)))] = container[key]
            case 6 if isinstance(container[key], list):
                container[key] += [odd] * drawn.choice((1, 3, 300))
            case _:
                container[key] = [container[key]]
    return front + json.dumps(whole[0], ensure_ascii=True).encode()


def _places(container: Any) -> Iterator[tuple[Any, Any]]:
    """Every list or object in a JSON value, with every index or key."""
    items = container.items() if isinstance(container, dict) else enumerate(container)
    for key, value in items:
        yield container, key
        if isinstance(value, dict | list):
            yield from _places(value)


def _summary(name: str, engine: str, checker: Checker, seconds: float) -> dict[str, Any]:
    return {
        "target": name,
        "engine": engine,
        "inputs": sum(checker.counts.values()),
        "accepted": checker.counts["accepted"],
        "refused": checker.counts["refused"],
        "seconds": round(seconds, 1),
        "findings": list(checker.found.values()),
    }


def run_target(name: str, options: argparse.Namespace, result: Path) -> NoReturn:
    """Fuzzes one target in this process, writes a summary, and ends the process."""
    from fuzz_targets import TARGETS

    engine = options.engine
    target = TARGETS[name]
    checker = Checker(target.read, options.findings, name)
    start = time.monotonic()

    def over() -> bool:
        """Writes how far it is; whether it is far enough."""
        done, seconds = sum(checker.counts.values()), time.monotonic() - start
        end = done >= options.inputs or seconds >= 60 * options.minutes
        if end or done % _STATUS_EVERY == 0:
            result.write_text(json.dumps(_summary(name, engine, checker, seconds)))
        return end

    def one(data: bytes) -> None:
        checker.current.write_bytes(data)
        checker.check(data)
        if over():
            checker.close()
            os._exit(0)

    if engine == "atheris":
        import atheris

        corpus = result.parent / "corpus"
        corpus.mkdir()
        for number, seed in enumerate(target.seeds):
            (corpus / f"seed{number}").write_bytes(seed)
        words = result.parent / "words"
        hexadecimal = ("".join(f"\\x{byte:02x}" for byte in word) for word in target.words)
        words.write_text("".join(f'"{word}"\n' for word in hexadecimal))
        limits = [f"-max_len={MAX_INPUT_BYTES}", "-timeout=600", "-rss_limit_mb=0"]
        dictionary = [f"-dict={words}"] if target.words else []
        start_from = [f"-seed={options.seed + 1}", *dictionary, str(corpus)]

        def change(data: bytes, size: int, seed: int) -> bytes:
            drawn = random.Random(seed)
            changed = mutate_json(drawn, data) if drawn.random() < 0.5 else None
            return atheris.Mutate(data, size) if changed is None else changed[:size]

        arguments = [sys.argv[0], *limits, "-verbosity=0", *start_from]
        atheris.Setup(arguments, one, custom_mutator=change)
        atheris.Fuzz()  # only ends with the process
    drawn = random.Random(f"{options.seed} {name}")
    for seed in target.seeds:
        one(seed)
    gc.freeze()
    while True:
        one(mutate(drawn, target.seeds, target.words))


def main() -> int:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # threads do not outlive a fork
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--target", default="all", metavar="NAME", help="one target, several with commas, or all"
    )
    parser.add_argument("--inputs", type=int, default=1_000_000, help="inputs for each target")
    parser.add_argument("--minutes", type=float, default=20.0, help="minutes for each target")
    parser.add_argument("--engine", choices=("atheris", "mutations"), help="default: atheris")
    parser.add_argument("--seed", type=int, default=0, help="of the random mutations")
    parser.add_argument(
        "--findings",
        type=Path,
        default=Path(tempfile.gettempdir()) / "minilm-findings",
        help="directory for inputs that are findings",
    )
    parser.add_argument("--input", type=Path, help="run this input once, and let it fail")
    options = parser.parse_args()
    options.findings = options.findings.resolve()
    if options.engine != "mutations":
        try:
            import atheris
        except ImportError:
            if options.engine is not None:
                parser.error("atheris is not installed: pip install atheris")
            print("atheris is not installed: random mutations instead.", file=sys.stderr)
        options.engine = "atheris" if "atheris" in sys.modules else "mutations"
    if options.engine == "atheris":
        with atheris.instrument_imports(include=["minilm"], enable_loader_override=False):
            from fuzz_targets import TARGETS
    else:
        from fuzz_targets import TARGETS
    names = list(TARGETS) if options.target == "all" else options.target.split(",")
    if unknown := [name for name in names if name not in TARGETS]:
        parser.error(f"no target {unknown[0]!r}; there are {', '.join(TARGETS)}")
    if options.input is not None:
        with tempfile.TemporaryDirectory() as folder:
            print(TARGETS[names[0]].read(Path(folder), options.input.read_bytes()))
        return 0
    found = 0
    for name in names:
        summary = _in_process_of_its_own(name, options)
        found += len(summary["findings"])
        print(json.dumps(summary), flush=True)
    return 1 if found else 0


def _in_process_of_its_own(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """The summary of one target; a crash of the interpreter is a finding, too.

    The process is a fork: what was imported, and instrumented, once serves all targets.
    """
    with tempfile.TemporaryDirectory(prefix="minilm-fuzz-") as folder:
        result = Path(folder) / "result.json"
        child = os.fork()
        if not child:
            os.chdir(folder)
            try:
                run_target(name, options, result)
            except BaseException:  # the child must never go on as the parent
                traceback.print_exc()
            finally:
                os._exit(70)
        _, status = os.waitpid(child, 0)
        empty = {"target": name, "engine": options.engine, "inputs": 0, "findings": []}
        summary: dict[str, Any] = json.loads(result.read_text()) if result.exists() else empty
        if status:
            code = os.waitstatus_to_exitcode(status)
            summary["findings"].append(f"the process ended with code {code}")
        return summary


if __name__ == "__main__":
    sys.exit(main())
