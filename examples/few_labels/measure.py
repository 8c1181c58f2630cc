"""What a teacher is worth where labels are few and texts are many.

For each number of labels N and each seed, three models are fine-tuned on the same texts:

    teacher   a large pretrained model, on the N labelled texts alone
    alone     a small model, on the N labelled texts alone
    taught    the same small model, on the N labelled texts, and on all other training texts without
              their labels, for which the teacher's predictions stand

Nobody sees more than N labels. Both small models take the same number of steps, and all are judged
on the same test texts; no test text is used for any choice. Every result is a line of
OUTPUT/results.jsonl as soon as it is there, and the same command goes on where it was stopped.

    python examples/few_labels/measure.py TRAIN TEST --teacher DIR --student DIR --output OUTPUT

TRAIN and TEST are files that `minilm finetune --task classification` reads.
"""

import argparse
import json
from collections import Counter
from pathlib import Path

import numpy as np
import torch

import minilm
from minilm.data.records.files import read_records
from minilm.learners.soft_targets import SoftTargets
from minilm.recipes.finetuning import mean_and_deviation

BATCH = 32


def stratified(records, count, seed):
    """So many records, of all classes alike, and the others."""
    order = np.random.default_rng(seed).permutation(len(records)).tolist()
    seen = Counter()
    ranked = []
    for place, number in enumerate(order):
        label = records[number]["label"]
        ranked.append((seen[label], place, number))
        seen[label] += 1
    chosen = {number for _, _, number in sorted(ranked)[:count]}
    rest = [record for number, record in enumerate(records) if number not in chosen]
    return [records[number] for number in sorted(chosen)], rest


def epochs_for(steps, records):
    """The whole number of epochs that comes nearest to so many steps."""
    return max(1, round(steps / -(-records // BATCH)))


def arguments():
    """Of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("train")
    parser.add_argument("test")
    parser.add_argument("--teacher", required=True, help="pretrained checkpoint of the teacher")
    parser.add_argument("--student", required=True, help="pretrained checkpoint of the student")
    parser.add_argument("--output", required=True, type=Path)
    parser.add_argument("--labels", nargs="+", default=["100", "1000", "all"])
    parser.add_argument("--texts", type=int, help="use so many training texts; default: all")
    parser.add_argument("--tests", type=int, help="use so many test texts; default: all")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=400, help="about so many for each student")
    parser.add_argument("--rate", type=float, default=5e-4, help="learning rate of the students")
    parser.add_argument("--teacher-epochs", type=int, nargs="+", default=[12, 4, 2])
    parser.add_argument("--teacher-rate", type=float, default=3e-4)
    parser.add_argument("--freeze-layers", type=int, default=0, help="of the teacher")
    parser.add_argument("--labelled-share", type=float, help="as of minilm finetune")
    parser.add_argument("--temperature", type=float, default=2.0)
    return parser.parse_args()


def main():
    """Runs what is not in results.jsonl yet, then prints the table."""
    options = arguments()
    torch.set_num_threads(1)
    train, _ = stratified(list(read_records(options.train)), options.texts or 10**9, seed=0)
    test, _ = stratified(list(read_records(options.test)), options.tests or 10**9, seed=0)
    options.output.mkdir(parents=True, exist_ok=True)
    file = options.output / "results.jsonl"
    done = [json.loads(line) for line in file.open()] if file.exists() else []

    def measure(name, model, records, count, seed, **more):
        if any((row["model"], row["labels"], row["seed"]) == (name, count, seed) for row in done):
            return
        output = options.output / f"{name}-{count}-{seed}"
        settings = {"batch_size": BATCH, "seed": seed, "select": "last", "evaluate_every": 0}
        settings |= {"snapshot_every": 0, **more.pop("settings")}
        result = minilm.finetune(
            "classification",
            model,
            records,
            output,
            dev=test,
            settings=minilm.FinetuningSettings(**settings),
            clean=True,
            **more,
        )
        row = {"model": name, "labels": count, "seed": seed, "steps": result.steps}
        row |= {"accuracy": result.scores["accuracy"], "macro_f1": result.scores["macro_f1"]}
        done.append(row)
        with file.open("a") as results:
            results.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)

    for words, epochs in zip(options.labels, options.teacher_epochs, strict=False):
        for seed in range(options.seeds):
            count = len(train) if words == "all" else int(words)
            few, rest = stratified(train, count, seed)
            teacher = {
                "epochs": epochs,
                "learning_rate": options.teacher_rate,
                "freeze_embeddings": True,
                "freeze_layers": options.freeze_layers,
            }
            measure("teacher", options.teacher, few, count, seed, settings=teacher)
            student = {"learning_rate": options.rate}
            alone = {**student, "epochs": epochs_for(options.steps, count)}
            measure("alone", options.student, few, count, seed, settings=alone)
            taught = {
                **student,
                "epochs": epochs_for(options.steps, len(train)),
                "labelled_share": options.labelled_share if rest else None,
                "soft_targets": SoftTargets(options.temperature),
            }
            measure(
                "taught",
                options.student,
                few,
                count,
                seed,
                settings=taught,
                teacher=options.output / f"teacher-{count}-{seed}",
                unlabelled=rest or None,
            )
    for count in sorted({row["labels"] for row in done}):
        for name in ("teacher", "alone", "taught"):
            rows = [row for row in done if (row["model"], row["labels"]) == (name, count)]
            if rows:
                found = mean_and_deviation([{"accuracy": row["accuracy"]} for row in rows])
                mean, deviation = (found["accuracy"][key] for key in ("mean", "deviation"))
                print(f"{count:>6,} {name:<8}{mean:.3f} ± {deviation:.3f}  ({len(rows)} seeds)")


if __name__ == "__main__":
    main()
