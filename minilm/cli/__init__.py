"""The command `minilm`.

Results go to stdout, messages and progress to stderr. Exit codes: 0 = done, 1 = a check failed
(`minilm verify`), 2 = wrong usage or an error that the message explains, 130 = interrupted.

Commands are imported when they run, and only then: `minilm --help` loads neither torch nor them.
"""

from __future__ import annotations

import difflib
import importlib
import os
import sys
import warnings
from collections.abc import Mapping, MutableMapping
from typing import TYPE_CHECKING, Any

import click

import minilm
from minilm.errors import MinilmError, command_line

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

# OpenMP's threads spin while they wait for each other. On a machine with other work, the one that
# is waited for may not be running: the others then spin away the time that it needs. A passive
# thread sleeps instead. Nothing else changes: no result depends on it.
SETTINGS = {"OMP_WAIT_POLICY": "PASSIVE"}
# whoever has set one of these has decided; the second are the libraries' own words for it
DECIDED = ("OMP_WAIT_POLICY", "KMP_BLOCKTIME", "GOMP_SPINCOUNT")


def prepare_environment(environment: MutableMapping[str, str] | None = None) -> bool:
    """Lets threads sleep while they wait, unless the user has decided otherwise.

    Child processes inherit it, those of workers and of `torchrun -m minilm.cli` among them.

    Args:
        environment: the environment to change; None = that of this process.

    Returns:
        Whether the settings will have an effect: False if torch, and with it OpenMP, is imported
        already, or the user has set one of `DECIDED`.
    """
    environment = os.environ if environment is None else environment
    if "torch" in sys.modules or any(name in environment for name in DECIDED):
        return False
    environment.update(SETTINGS)
    return True


prepare_environment()  # before any command imports torch

# command -> its module, and the name of the click command in it unless that is `command`; and its
# line in --help
COMMANDS: Mapping[str, tuple[str, str]] = {
    "verify": ("minilm.cli.verify", "Compare a checkpoint's outputs with Hugging Face's."),
    "inspect": ("minilm.cli.inspect", "Show what a checkpoint is made of."),
    "cost": ("minilm.cli.cost", "Count parameters, operations and memory from a config."),
    "fill-mask": ("minilm.cli.fill_mask", "Predict the masked words of a text."),
    "encode": ("minilm.cli.encode", "Turn a file of texts into a file of vectors."),
    "search": ("minilm.cli.search", "Find the texts that are closest in meaning to a query."),
    "attention": ("minilm.cli.attention", "Show the attention of a model on a text as a page."),
    "convert": ("minilm.cli.convert", "Rewrite a checkpoint as safetensors."),
    "export": ("minilm.cli.export", "Write ONNX files for other engines and the browser."),
    "train-tokenizer": ("minilm.cli.train_tokenizer", "Learn a vocabulary from text."),
    "tokenize": ("minilm.cli.tokenize", "Turn text files into a store of tokens to train on."),
    "pretrain": ("minilm.cli.pretrain", "Train a model to predict masked tokens."),
    "distill": ("minilm.cli.distill", "Train a small student on a teacher's predictions."),
    "ablate": ("minilm.cli.ablate", "Distil with single settings changed, and compare."),
    "distill-sentences": (
        "minilm.cli.distill_sentences",
        "Distil a small sentence encoder from a large one.",
    ),
    "finetune": ("minilm.cli.finetune", "Train a model for a task on labelled data."),
    "evaluate": ("minilm.cli.evaluate", "Score a fine-tuned model."),
    "evaluate-similarity": (
        "minilm.cli.evaluate_similarity",
        "Score sentence vectors on pairs of texts.",
    ),
    "predict": ("minilm.cli.predict", "Predict for every record of a file."),
    "classify": ("minilm.cli.predict:classify", "Classify texts."),
    "tag": ("minilm.cli.predict:tag", "Find the entities in texts."),
    "answer": ("minilm.cli.predict:answer", "Answer a question from a text."),
    "parts": (
        "minilm.cli.parts",
        "Check that vectors or predictions are complete.",
    ),
    "compare": ("minilm.cli.compare", "Compare checkpoints: size, speed, memory, scores."),
    "plot": ("minilm.cli.plot", "Draw the curves of training runs, or compare layers."),
    "bench": ("minilm.cli.bench", "Measure speed and memory, side by side with other engines."),
}
# the sections of --help; a command that stands in none is shown under the last title
SECTIONS: Mapping[str, tuple[str, ...]] = {
    "Load and check a model": ("verify", "inspect", "cost"),
    "Use a model": (
        *("classify", "tag", "answer", "predict", "fill-mask", "encode", "search", "attention"),
    ),
    "Prepare text": ("train-tokenizer", "tokenize"),
    "Train": ("pretrain", "distill", "distill-sentences", "finetune", "ablate"),
    "Measure": ("evaluate", "evaluate-similarity", "compare", "plot", "bench"),
    "Convert and export": ("convert", "export", "parts"),
}  # fmt: skip
OTHERS = "Other commands"


class SuggestingGroup(click.Group):
    """A group that suggests a command for a misspelt one."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as problem:
            near = difflib.get_close_matches(args[0], self.list_commands(ctx), n=3)
            if near and ctx.command is self:
                hint = f"{problem.message} Did you mean {' or '.join(near)}?"
                raise click.UsageError(hint, ctx) from problem
            raise


class LazyGroup(SuggestingGroup):
    """A group whose commands come from `COMMANDS`, and where errors become exit codes."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module), name or "command")
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        placed = {name for names in SECTIONS.values() for name in names}
        others = tuple(name for name in COMMANDS if name not in placed)
        width = max(map(len, COMMANDS))  # one width for all sections
        for title, names in {**SECTIONS, OTHERS: others}.items():
            rows = [(f"{n:<{width}}", COMMANDS[n][1]) for n in names if n in COMMANDS]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Names of commands, without loading them as click would for their help."""
        from click.shell_completion import CompletionItem

        found = [
            CompletionItem(name, help=line)
            for name, (_, line) in COMMANDS.items()
            if name.startswith(incomplete)
        ]
        return [*found, *click.Command.shell_complete(self, ctx, incomplete)]

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        if command is not None:  # from now on, advice is given in this command's words
            ctx.with_resource(command_line(_options_of(command)))
        return name, command, rest

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with warnings.catch_warnings():
                warnings.showwarning = _show_warning
                return super().invoke(ctx)
        except MinilmError as error:
            click.echo(f"error: {error}", err=True)
            ctx.exit(2)
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            ctx.exit(130)


def _options_of(command: click.Command) -> set[str]:
    """The options of a command, or of all commands of a group."""
    if isinstance(command, click.Group):
        return {name for one in command.commands.values() for name in _options_of(one)}
    return {name for option in command.params for name in (*option.opts, *option.secondary_opts)}


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    click.echo(f"warning: {message}", err=True)


_EPILOG = """\b
Every command explains its options and shows an example: minilm COMMAND --help.
Every command reads values of its options from a TOML file: --config FILE.toml.
Results go to standard output, messages and progress to standard error.

\b
Shell completion of commands and options; put the line into the shell's start-up file:
  bash:  eval "$(_MINILM_COMPLETE=bash_source minilm)"
  zsh:   eval "$(_MINILM_COMPLETE=zsh_source minilm)"
  fish:  _MINILM_COMPLETE=fish_source minilm | source
"""


@click.group(
    cls=LazyGroup, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(minilm.__version__, prog_name="minilm")
def main() -> None:
    """DistilBERT, ALBERT and BERT: load, check, use, train and measure models.

    MODEL is always one of three: a directory in Hugging Face's layout, which is read without any
    network; the short name of a model that comes with this repository (bert-mini,
    distilbert-mini, albert-3x2-mini, albert-mini, albert-1x12-mini, sentence-mini); or the name of
    a repository on the Hugging Face hub, such as distilbert/distilbert-base-uncased.

    \b
    Example:
      minilm fill-mask bert-mini "She studied at the [MASK] of Oxford." --top 2
    """
