"""Branch coverage of the parts whose faults would be silent, each by its own tests.

    python tests/coverage_check.py

Losses, masking, sentence pairs, metrics and checkpoints: the command runs the tests of these parts
once, prints every file with the lines and branches that no test takes, and fails if a part has less
than 95 %. Code that tests start in other processes does not count.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import coverage

ROOT = Path(__file__).parent.parent
PARTS = {
    "losses": ["minilm/losses/*"],
    "masking": [
        f"minilm/data/{name}.py"
        for name in ("masking", "ngram_masking", "mask_ratios", "masked_lm")
    ],
    "pairs": ["minilm/data/segment_pairs.py"],
    "metrics": ["minilm/metrics/*"],
    "checkpoints": ["minilm/checkpoints/*"],
}
TESTS = (
    "losses losses_layers losses_learned loss_precision loss_labels distillation top_predictions "
    "masking mask_ratios ngram_masking batches epochs segment_pairs "
    "metrics metrics_answers metrics_classification metrics_entities score_table "
    "hub loading pickled tensorflow weights weights_files own_parts real_checkpoints"
)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minimum", type=float, default=95, help="per cent of each part (95)")
    parser.add_argument("--data", type=Path, help="report on this coverage file, run no test")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        data = options.data or Path(directory) / "coverage"
        if options.data is None:
            tests = [str(ROOT / "tests" / f"test_{name}.py") for name in TESTS.split()]
            run = [sys.executable, "-m", "coverage", "run", f"--data-file={data}"]
            pytest = ["-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]
            if status := subprocess.run([*run, *pytest], cwd=ROOT).returncode:
                return status
        measured = coverage.Coverage(data_file=str(data), config_file=str(ROOT / "pyproject.toml"))
        measured.load()
        shares = {}
        for part, files in PARTS.items():
            print(f"\n{part}")
            include = [str(ROOT / file) for file in files]
            shares[part] = measured.report(include=include, show_missing=True)
    print()
    for part, share in shares.items():
        print(f"{part}: {share:.1f} %")
    return int(min(shares.values()) < options.minimum)


if __name__ == "__main__":
    sys.exit(main())
