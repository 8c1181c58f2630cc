"""Compare minilm with transformers on the weights of a checkpoint directory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from minilm.checkpoints.config_file import read_config
from minilm.checkpoints.hub import resolve
from minilm.checkpoints.names import ARCHITECTURES, architecture_of
from minilm.checkpoints.weights import open_weights
from minilm.config import EncoderConfig
from minilm.errors import CheckpointError, DependencyError, InputError
from minilm.files.progress import DELAY, is_watched
from minilm.loader import CLASSES, STEMS, missing_tensors, stored_heads
from minilm.models.pretrained import PretrainedModel
from minilm.parity.comparison import Tolerances, compare_rows
from minilm.parity.inputs import MASKS, ragged_inputs
from minilm.parity.observation import Observation, run_reference
from minilm.parity.report import ParityReport


def reference_model(directory: Path, class_name: str, dtype: torch.dtype) -> Any:
    """Let transformers load a checkpoint directory.

    Args:
        directory: config.json and safetensors; pickles are never read.
        class_name: the name of the class, the same in minilm and transformers.
        dtype: the dtype of the parameters.

    Returns:
        The transformers model, in eval mode, with eager attention.

    Raises:
        DependencyError: transformers 5 is not installed.
        CheckpointError: transformers cannot load the directory.
    """
    transformers = _transformers()
    with _quiet(transformers):
        try:
            model = getattr(transformers, class_name).from_pretrained(
                directory,
                dtype=dtype,
                attn_implementation="eager",
                local_files_only=True,
                use_safetensors=True,
            )
        except Exception as problem:  # the other library may raise anything
            reason = " ".join(str(problem).split())[:300]
            raise CheckpointError(
                f"{directory}: transformers {transformers.__version__} cannot load this as "
                f"{class_name}: {reason}. There is nothing to compare with; minilm verify --as "
                "NAME compares with published values without transformers."
            ) from problem
    return model.eval()


def verify(
    path: str | os.PathLike[str],
    *,
    class_name: str | None = None,
    tolerance: float | None = None,
    seed: int = 0,
    progress: bool = False,
) -> ParityReport:
    """Compare minilm with transformers on the weights of a checkpoint.

    Both libraries read the same files. The base model and every stored head are compared, including
    those that config.json does not mention, in float32 and float64, with every kind of mask, in
    padded, packed and explicit calls. One model is in memory at a time. In float32, three times the
    rounding error of transformers is allowed if that exceeds the tolerance.

    Args:
        path: a checkpoint directory, or a hub name.
        class_name: compare this class only.
        tolerance: the largest |difference| allowed in float32, whatever the rounding error; None =
            1e-5 for states and 2e-5 for logits.
        seed: seed of the random inputs.
        progress: show a progress bar on stderr if it takes longer than two seconds.

    Returns:
        The report; `report.passed` is the verdict.

    Raises:
        DependencyError: transformers 5 is not installed.
        CheckpointError, ConfigError, HubError: the checkpoint cannot be loaded.
        InputError: `class_name` is unknown.
    """
    transformers = _transformers()
    directory = resolve(path)
    classes = stored_classes(directory) if class_name is None else [_class(class_name)]
    against = f"transformers {transformers.__version__} with eager attention"
    report = ParityReport(str(directory), against)
    given = None if tolerance is None else Tolerances(*[tolerance] * 4)
    steps = len(classes) * 2 * 2 * len(MASKS)
    hidden = not (progress and is_watched())
    with tqdm(total=steps, delay=DELAY, desc="verify", disable=hidden) as bar:
        for cls in classes:
            config, skipped = _what_to_skip(cls, directory)
            report.notes += [f"{cls.__name__}: no {name} stored, not compared" for name in skipped]
            batches = [ragged_inputs(config, m, seed=seed, labels_for=cls) for m in MASKS]
            exact: list[Observation] = []
            for dtype in (torch.float64, torch.float32):
                theirs = reference_model(directory, cls.__name__, dtype)
                expected = []
                for inputs in batches:
                    expected.append(run_reference(theirs, inputs))
                    bar.update()
                del theirs
                ours = cls.from_pretrained(directory, dtype=dtype, new_parts="allow")
                for i, (inputs, seen) in enumerate(zip(batches, expected, strict=True)):
                    if dtype == torch.float64:
                        rows = compare_rows(ours, seen, inputs)
                    elif given is None:
                        rows = compare_rows(ours, seen, inputs, exact=exact[i])
                    else:
                        rows = compare_rows(ours, seen, inputs, tolerances=given)
                    report.rows += [row for row in rows if row.module not in skipped]
                    bar.update()
                del ours
                exact = expected
    return report


def stored_classes(directory: Path) -> list[type[PretrainedModel]]:
    """The base model and a class for every head whose tensors a checkpoint holds.

    Raises:
        CheckpointError: the architecture cannot be determined.
    """
    data = read_config(directory)
    with open_weights(directory) as weights:
        model_type = data.get("model_type", architecture_of(weights.tensors))
        if not isinstance(model_type, str) or model_type not in ARCHITECTURES:
            raise CheckpointError(
                f"{directory / 'config.json'}: model_type is {model_type!r}: expected one of "
                f"{', '.join(ARCHITECTURES)}."
            )
        own = {ARCHITECTURES[model_type].to_local(name) or "" for name in weights.tensors}
    heads = ["Model", *stored_heads(own)]
    kinds = ("ForSequenceClassification", "ForTokenClassification", "ForMultipleChoice")
    named = [kind for kind in kinds if data.get("architectures") == [f"{STEMS[model_type]}{kind}"]]
    if named and heads[-1] in kinds:
        heads[-1] = named[0]
    return [CLASSES[f"{STEMS[model_type]}{head}"] for head in heads]


def _class(name: str) -> type[PretrainedModel]:
    if name not in CLASSES:
        raise InputError(f"class {name!r} is unknown: expected one of {', '.join(CLASSES)}.")
    return CLASSES[name]


def _what_to_skip(cls: type[PretrainedModel], directory: Path) -> tuple[EncoderConfig, list[str]]:
    """The configuration, and the parts that are not stored, which both sides would draw at random.

    Raises:
        CheckpointError: the head to compare is not stored.
    """
    model = cls.from_pretrained(directory, dtype="auto", new_parts="allow")
    missing = missing_tensors(model)
    if model is model.base and missing:
        return model.config, ["pooler_output"]
    if missing:
        raise CheckpointError(
            f"{directory}: no {', '.join(missing)} stored, so {cls.__name__} would be compared "
            "with random weights. Leave the class out to compare everything that is stored."
        )
    return model.config, []


def _transformers() -> Any:
    try:
        import transformers
    except ImportError:
        raise DependencyError(
            "Comparing with transformers needs transformers: pip install 'transformers>=5'. To "
            "compare with published values without it: minilm verify PATH --as NAME."
        ) from None
    if int(transformers.__version__.split(".")[0]) < 5:
        raise DependencyError(
            f"transformers {transformers.__version__} is installed, but minilm is compared with "
            "version 5: pip install 'transformers>=5'."
        )
    return transformers


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Keep another library's progress bars and messages off the terminal."""
    logging = transformers.utils.logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
