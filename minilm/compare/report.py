"""A comparison in words: rows of figures, as a plain table or in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from minilm.metrics.score_table import score_named

UNKNOWN = "–"


def table_rows(result: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """The figures of all models, a title and a text for each model in every row."""
    models = result["models"]

    def row(title: str, value: Any) -> tuple[str, list[str]]:
        return title, [value(model) for model in models]

    def card(name: str) -> Any:
        return lambda m: str(m["card"].get(name, UNKNOWN))

    rows = [
        row("compression", card("compression")),
        row("training objective", card("objective")),
        row("architecture", lambda m: m["architecture"]),
        row("parameters", lambda m: _with_share(f"{m['parameters']:,}", m, "parameters")),
    ]
    for part in ("embeddings", "layers", "pooler", "heads"):
        rows.append(row(f"  {part}", lambda m, part=part: f"{m['components'][part]:,}"))
    rows += [
        row("file", lambda m: _with_share(_bytes(m["file_bytes"]), m, "file_bytes")),
        row(
            "work for a token",
            lambda m: _with_share(f"{m['flops_per_token'] / 1e6:.1f} MFLOP", m, "flops_per_token"),
        ),
        row(
            f"one text of {result['workload']['one_text_tokens']} tokens",
            lambda m: _with_speed(f"{1000 * m['one_text_seconds']:.1f} ms", m, "one_text_speed"),
        ),
        row(
            "in bulk, tokens a second",
            lambda m: _with_speed(f"{m['tokens_per_second']:,.0f}", m, "bulk_speed"),
        ),
    ]
    if any("memory" in m for m in models):
        rows += [
            row("encoder weights in memory", lambda m: _bytes(m["memory"]["weights"])),
            row("peak memory of the process", lambda m: _bytes(m["memory"]["peak"])),
        ]
    rows += [
        row("masked words right", lambda m: _score(m, "masked_accuracy")),
        row("sentence order right", lambda m: _score(m, "sentence_order_accuracy")),
    ]
    for name, title in task_titles(models).items():
        rows.append(row(title, lambda m, name=name: task_score(m, name)))
    return [row for row in rows if set(row[1]) != {UNKNOWN}]


def task_titles(models: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """A heading for every task that a model was scored on."""
    return {
        name: f"{score_named(task['metric']).title} on {name}"
        for model in models
        for name, task in model["tasks"].items()
    }


def table(result: Mapping[str, Any]) -> str:
    """Plain text for a terminal: the rows, then what to make of them."""
    names = [model["name"] for model in result["models"]]
    rows = [("", names), *table_rows(result)]
    left = max(len(title) for title, _ in rows)
    widths = [max(len(values[n]) for _, values in rows) for n in range(len(names))]
    lines = [
        "  ".join([title.ljust(left), *(v.ljust(w) for v, w in zip(values, widths, strict=True))])
        for title, values in rows
    ]
    return "\n".join([*(line.rstrip() for line in lines), "", *remarks(result)])


def markdown(result: Mapping[str, Any]) -> str:
    """The same as a Markdown table."""
    names = [model["name"] for model in result["models"]]
    lines = [f"| | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    lines += [f"| {title.strip()} | {' | '.join(values)} |" for title, values in table_rows(result)]
    return "\n".join([*lines, "", *remarks(result)])


def remarks(result: Mapping[str, Any]) -> list[str]:
    """What the figures were taken on, and why sharing makes no model faster."""
    workload, machine = result["workload"], result["machine"]
    scores = next((m["scores"] for m in result["models"] if m["scores"]), None)
    lines = [
        f"Speed on {workload['texts']} texts of uneven length ({workload['tokens']:,} tokens), "
        f"float32, {machine['threads']} threads, medians of {workload['rounds']} rounds, the "
        "models in turn."
    ]
    if scores is not None:
        lines.append(
            f"Words: {scores['masked_tokens']:,} masked tokens, 15 % of {workload['source']}."
        )
    for model in result["models"]:
        layers = model["layers"]
        if layers["stored"] < layers["applied"]:
            lines.append(
                f"{model['name']} stores {layers['stored']} layer(s) and computes "
                f"{layers['applied']}: sharing saves memory, every application is as much work "
                "as a layer of its own."
            )
    return lines


def _bytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"


def _with_share(text: str, model: Mapping[str, Any], name: str) -> str:
    share = model["relative"][name]
    return text if share == 1 else f"{text} ({share:.0%})"


def _with_speed(text: str, model: Mapping[str, Any], name: str) -> str:
    ratio = model["relative"][name]
    return text if ratio == 1 else f"{text} ({ratio:.2f} x)"


def task_score(model: Mapping[str, Any], name: str) -> str:
    """The score of a model on a task, and its share of the first model's."""
    task = model["tasks"].get(name)
    if task is None:
        return UNKNOWN
    share = model["relative"].get(f"task {name}")
    shown = score_named(task["metric"]).show(task["score"])
    return shown + (f" ({share:.1%})" if share not in (None, 1) else "")


def _score(model: Mapping[str, Any], name: str) -> str:
    value = (model["scores"] or {}).get(name)
    if value is None:
        return UNKNOWN
    share = model["relative"].get(name)
    return f"{value:.1%}" + (f" ({share:.0%})" if share not in (None, 1) else "")
