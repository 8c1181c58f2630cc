"""The class of every command: options in groups, --config, and hints for options of other programs.

A command is made with `@click.command(cls=Command)`. The group of an option that comes from a
settings dataclass is a part of its field (`minilm.recipes.settings.option`); that of an option
written by hand stands in `GROUP_OF`, so that it is the same in all commands.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click

# groups in the order of the help, and their titles
GROUPS: Mapping[str, str] = {
    "model": "Model",
    "data": "Data",
    "loss": "Loss",
    "optimisation": "Optimisation",
    "evaluation": "Evaluation",
    "run": "Run",
    "output": "Output",
    "general": "General",
}
_PARAMETERS: Mapping[str, tuple[str, ...]] = {
    "model": (
        *("task", "model", "models", "teacher", "layers", "class_name", "name", "pooling"),
        *("no_normalize", "max_length", "prompt", "prompt_name", "num_layers", "out_of_scope"),
        *("min_confidence", "threshold", "null_threshold", "exit_threshold", "exit_patience"),
        *("exit_tolerance", "windows", "doc_stride", "max_query", "n_best", "max_answer"),
        *("hidden_size", "vocab_size", "head", "kind", "cased", "character_coverage", "sharing"),
        *("from_pickle", "from_tensorflow", "dtype", "no_int8"),
    ),
    "data": (
        *("train", "dev", "hold_out", "unlabelled", "format", "form", "text_column", "pair_column"),
        *("label_column", "no_header", "delimiter", "quoting", "escape", "token_column"),
        *("tag_column", "encoding", "on_bad_record", "repair_offsets", "text_key", "errors"),
        *("document_per_line", "path", "pair", "queries", "text", "tasks", "max_tokens", "texts"),
        *("data", "documents", "length", "batch", "workload", "tables", "variants", "files"),
        *("axes", "model_of_tokenizer"),
    ),
    "loss": ("temperature", "soft_weight", "label_weight"),
    "optimisation": ("optimiser", "seeds"),
    "evaluation": (
        *("tune_thresholds", "confusion", "tolerance", "against", "rounds", "batches", "alone"),
        *("training_batches", "bucketed", "thresholds", "patience", "depths", "no_memory"),
        *("memory", "memory_tokens", "clock", "precisions", "verify", "original", "seed"),
    ),
    "run": (
        *("threads", "device", "precision", "allow_changes", "clean", "dry_run", "workers"),
        *("batch_size", "tokens_per_batch", "restart", "shard_tokens", "index", "rebuild"),
        *("shard", "part_rows"),
    ),
    "output": (
        *("output", "output_format", "tensorboard", "as_json", "as_markdown", "html", "svg", "top"),
    ),
    "general": ("config", "help"),
}  # fmt: skip
# parameter of an option that is written by hand -> its group
GROUP_OF: Mapping[str, str] = {
    name: group for group, names in _PARAMETERS.items() for name in names
}
# options of other programs -> what does the same here, if the command has it
ELSEWHERE: Mapping[str, str] = {
    "--lr": "--learning-rate",
    "--num-train-epochs": "--epochs",
    "--num-epochs": "--epochs",
    "--max-steps": "--steps",
    "--max-seq-length": "--max-length",
    "--max-seq-len": "--max-length",
    "--per-device-train-batch-size": "--batch-size",
    "--train-batch-size": "--batch-size",
    "--warmup-steps": "--warmup",
    "--warmup-ratio": "--warmup",
    "--warmup-proportion": "--warmup",
    "--lr-scheduler-type": "--schedule",
    "--lr-scheduler": "--schedule",
    "--optim": "--optimiser",
    "--optimizer": "--optimiser",
    "--adam-epsilon": "--epsilon",
    "--adam-betas": "--betas",
    "--fp16": "--precision",
    "--bf16": "--precision",
    "--mlm-probability": "--mask-probability",
    "--output-dir": "--output",
    "--out-dir": "--output",
    "--out": "--output",
    "--train-file": "--train",
    "--train-data": "--train",
    "--validation-file": "--dev",
    "--valid": "--dev",
    "--eval-file": "--dev",
    "--test-size": "--hold-out",
    "--model-name-or-path": "--model",
    "--model-name": "--model",
    "--task-name": "--task",
    "--early-stopping-patience": "--patience",
    "--metric-for-best-model": "--select",
    "--eval-steps": "--evaluate-every",
    "--save-steps": "--snapshot-every",
    "--save-total-limit": "--keep-snapshots",
    "--logging-steps": "--log-every",
    "--overwrite-output-dir": "--allow-changes",
    "--gpu": "--device",
    "--cuda": "--device",
    "--num-threads": "--threads",
    "--alpha-ce": "--kl",
    "--alpha-mlm": "--mlm",
    "--alpha-cos": "--cosine",
    "--alpha-mse": "--mse",
}


class GroupedOption(click.Option):
    """An option that knows its group.

    Args:
        *arguments: arguments of `click.Option`.
        group: a key of `GROUPS`; None = the one in `GROUP_OF`.
        **options: options of `click.Option`.
    """

    def __init__(self, *arguments: Any, group: str | None = None, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.group = group


def group_of(option: click.Option) -> str | None:
    """The group of an option, a key of `GROUPS`; None if it has none."""
    return getattr(option, "group", None) or GROUP_OF.get(option.name or "")


class Command(click.Command):
    """A command with --config, whose help shows the options in groups."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.params.append(
            click.Option(
                ["--config"],
                metavar="FILE",
                is_eager=True,
                expose_value=False,
                callback=_read_config,
                help="TOML file with values of this command's options, such as learning-rate = "
                "1e-4; or the run/settings.json of a training run, to use its settings again. "
                "Options on the command line take precedence. Default: none.",
            )
        )

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes one section for each group."""
        sections: dict[str, list[tuple[str, str]]] = {group: [] for group in GROUPS}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None and isinstance(parameter, click.Option):
                names, text = record  # a bounded number says its bounds at the end of the text
                row = (names.replace(" RANGE", ""), text)
                sections[group_of(parameter) or "general"].append(row)
        for group, records in sections.items():
            if records:
                with formatter.section(f"{GROUPS[group]} options"):
                    formatter.write_dl(records)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Reads the arguments; for an option of another program the error names this one's."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as problem:
            same = ELSEWHERE.get(problem.option_name.replace("_", "-"))
            if same is None or same not in _names(self.params):
                raise
            raise click.NoSuchOption(
                problem.option_name,
                f"No such option '{problem.option_name}'. Here it is called {same}.",
                ctx=ctx,
            ) from problem


def _names(parameters: Sequence[click.Parameter]) -> set[str]:
    return {name for each in parameters for name in (*each.opts, *each.secondary_opts)}


def _read_config(ctx: click.Context, _: click.Parameter, value: str | None) -> None:
    if value is not None and not ctx.resilient_parsing:
        from minilm.cli.config_file import option_values

        name = ctx.command_path.partition(" ")[2] or ctx.command_path
        found = option_values(value, ctx.command, name)
        ctx.default_map = {**(ctx.default_map or {}), **found}
