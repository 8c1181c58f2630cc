"""Cuts a file in SQuAD's format into halves by articles, and scores answers without any model.

    python examples/squad/prepare.py dev-v2.0.json OUTPUT

writes OUTPUT/train.json (every other article, from the first on) and OUTPUT/test.json (the others),
so that no text is in both, and prints what these get right on the second half:

    no answer   every question is said to have none
    lexical     the sentence that shares the rarest words with the question; of it the longest run
                of words that are not in the question and not among the 100 most frequent ones
"""

import json
import math
import re
import sys
from collections import Counter
from itertools import groupby
from pathlib import Path

from minilm.data.records.squad import read_squad
from minilm.metrics.answers import squad_v2

WORD = re.compile(r"\w+")


def lexical(question: str, context: str, weight: dict[str, float], frequent: set[str]) -> str:
    """The words beside those that question and context share."""
    asked = {word.lower() for word in WORD.findall(question)}
    sentences = re.split(r"(?<=[.!?])\s+", context)
    best = max(
        sentences,
        key=lambda s: sum(weight[w] for w in {w.lower() for w in WORD.findall(s)} & asked),
    )
    new = groupby(WORD.finditer(best), key=lambda m: m[0].lower() not in asked | frequent)
    longest = max((list(run) for is_new, run in new if is_new), key=len, default=[])
    return best[longest[0].start() : longest[-1].end()] if longest else ""


def main(source: str, output: str) -> None:
    articles = json.loads(Path(source).read_text(encoding="utf-8"))["data"]
    place = Path(output)
    place.mkdir(parents=True, exist_ok=True)
    for name, part in (("train", articles[::2]), ("test", articles[1::2])):
        content = json.dumps({"version": "v2.0", "data": part})
        (place / f"{name}.json").write_text(content, encoding="utf-8")
    records = read_squad(place / "test.json")
    golds = {r["id"]: [answer["text"] for answer in r["answers"]] for r in records}
    contexts = {r["context"] for r in records}
    counts = Counter(w for c in contexts for w in {w.lower() for w in WORD.findall(c)})
    weight = {w: math.log(len(contexts) / n) for w, n in counts.items()}
    frequent = {w for w, _ in counts.most_common(100)}
    found = {
        "no answer": dict.fromkeys(golds, ""),
        "lexical": {
            r["id"]: lexical(r["question"], r["context"], weight, frequent) for r in records
        },
    }
    for name, answers in found.items():
        scores = squad_v2(answers, golds)
        print(
            f"{name:<12}exact {scores['exact']:5.1f}  F1 {scores['f1']:5.1f}  "
            f"F1 of questions with an answer {scores['HasAns_f1']:5.1f}"
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
