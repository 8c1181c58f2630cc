"""Early exit: a text leaves the layers as soon as its answer is clear.

Every application of a layer but the last is followed by its own classifier, which reads the pooled
first token, as the model's classifier does. So exit k answers as the model would with only its
first k applications and that classifier on top. With shared layers all depths have the same
weights, and an exit costs one small matrix.

A batch goes through the layers together. After each application the texts whose answer is clear
leave it, and the others are repacked, so that nothing is computed for those that have left. A
text's answer does not depend on the rest of its batch, up to the rounding of matrix products (a
confidence that is equal to the threshold within rounding may fall on either side).

References: Zhou et al. 2020, "BERT Loses Patience: Fast and Robust Inference with Early Exit", for
the classifiers, their loss and patience, there for single texts; Schwartz et al. 2020, "The Right
Tool for the Job: Matching Model and Instance Complexities", and Xin et al. 2020, "DeeBERT", for
exit by confidence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn

from minilm.blocks import kernels
from minilm.config import EncoderConfig
from minilm.errors import CheckpointError, InputError, argument
from minilm.files.progress import counted
from minilm.files.safetensors_file import SafetensorsFile, write_tensors
from minilm.losses.precision import at_least_float32
from minilm.losses.soft_targets import Kind
from minilm.models.encoder import EncoderModel
from minilm.models.pretrained import PretrainedModel
from minilm.models.tasks import ForSequenceClassification
from minilm.outputs import EncoderOutput, ModelOutput

_KINDS: dict[str | None, Kind] = {
    "regression": "value",
    "multi_label_classification": "independent",
}


@dataclass(frozen=True)
class ExitRule:
    """When a text leaves the layers. Exactly one of the first three attributes must be given.

    Attributes:
        threshold: leave at the first exit whose answer has a probability above this, from 0 to 1:
            that of the likeliest class, or with several labels that of the least certain decision.
            At 1 no text leaves early. Numbers (regression) have no probability.
        patience: leave when this many exits in a row, at least 1, have each given the same answer
            as the exit before: the same class, the same labels (at a probability of one half), or a
            number that differs by less than `tolerance`. The earliest exit is the one after
            1 + patience applications.
        depth: leave after this many applications, at least 1, whatever the answer. This is the
            model cut at that depth, for comparison.
        tolerance: the difference for `patience` with numbers; in the units of the labels.

    Raises:
        InputError: none or several of the three are given, or a value is out of range.

    References: for patience, Zhou et al. 2020, section 3.2.
    """

    threshold: float | None = None
    patience: int | None = None
    depth: int | None = None
    tolerance: float | None = None

    def __post_init__(self) -> None:
        given = {"threshold": self.threshold, "patience": self.patience, "depth": self.depth}
        if sum(value is not None for value in given.values()) != 1:
            raise InputError(f"{self}: expected exactly one of {', '.join(given)}.")
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise InputError(
                f"{argument('exit_threshold')} is {self.threshold}: expected a probability, from 0 "
                "to 1."
            )
        for name in ("patience", "depth"):
            value = given[name]
            if value is not None and (not isinstance(value, int) or value < 1):
                raise InputError(
                    f"{argument(f'exit_{name}')} is {value!r}: expected a whole number from 1."
                )
        if self.tolerance is not None and not self.tolerance > 0:
            raise InputError(
                f"{argument('exit_tolerance')} is {self.tolerance}: expected a number above 0."
            )

    def check(self, kind: Kind) -> None:
        """Raise InputError unless the rule can judge answers of this kind."""
        if kind == "value" and self.threshold is not None:
            raise InputError(
                "A number has no probability to compare with "
                f"{argument('exit_threshold')}: give {argument('exit_patience')} and "
                f"{argument('exit_tolerance')}."
            )
        if kind == "value" and self.patience is not None and self.tolerance is None:
            raise InputError(
                f"{argument('exit_patience')} compares numbers: give "
                f"{argument('exit_tolerance')}, too, the difference below which two numbers count "
                "as the same answer, in the units of the labels."
            )
        if kind != "value" and self.tolerance is not None:
            raise InputError(
                f"{argument('exit_tolerance')} is for models that predict a number: leave it out."
            )


def answer_kind(config: EncoderConfig) -> Kind:
    """The kind of a sequence classifier's answers: a class, several labels, or a number."""
    if config.problem_type is None and config.num_labels == 1:
        return "value"
    return _KINDS.get(config.problem_type, "classes")


def confidence(kind: Kind, logits: Tensor) -> Tensor:
    """The probability of the answer that the logits give.

    Args:
        kind: "classes" or "independent".
        logits: (N, C).

    Returns:
        (N,) of at least float32: the probability of the likeliest class, or of the least certain
        of C decisions about labels.
    """
    logits = at_least_float32(logits)
    if kind == "classes":
        return logits.softmax(dim=-1).amax(dim=-1)
    return logits.abs().sigmoid().amin(dim=-1)


def same_answer(kind: Kind, one: Tensor, other: Tensor, tolerance: float | None = None) -> Tensor:
    """Whether two exits give the same answer.

    Args:
        kind: the kind of answer.
        one, other: (N, C) logits.
        tolerance: numbers that differ by less count as the same.

    Returns:
        (N,) bool.
    """
    if kind == "classes":
        return one.argmax(dim=-1) == other.argmax(dim=-1)
    if kind == "independent":
        return ((one > 0) == (other > 0)).all(dim=-1)
    assert tolerance is not None
    return ((one - other).abs() < tolerance).all(dim=-1)


class ExitHeads(nn.Module):
    """The classifiers of early exit, one after every application of a layer but the last.

    Each is a linear layer H -> C on the pooled first token; the pooler is the model's own, shared
    by all depths, as in the reference.

    Args:
        model: a sequence classifier that applies at least two layers. Its weights are not copied;
            the classifiers are initialised as its own was.

    Attributes:
        classifiers: the k-th, counted from 0, follows k + 1 applications.

    Raises:
        InputError: the model has another head, or applies a single layer.

    References: Zhou et al. 2020, section 3.1.
    """

    def __init__(self, model: PretrainedModel) -> None:
        super().__init__()
        if not isinstance(model, ForSequenceClassification):
            raise InputError(
                f"{type(model).__name__} cannot exit early: a sequence classifier is expected, for "
                "classification, multi-label or regression."
            )
        applications = len(list(model.base.virtual_layers()))
        if applications < 2:
            raise InputError("The model has one layer: there is no exit before the last one.")
        self.classifiers = nn.ModuleList(
            model.new_linear(model.config.num_labels) for _ in range(applications - 1)
        )
        # with a quantised model, they have the dtype of its float parts
        dtype = model.dtype if model.dtype.is_floating_point else torch.float32
        self.to(device=model.device, dtype=dtype)

    def forward(self, pooled: Tensor, applications: int) -> Tensor:
        """The answer after this many applications, from the pooled first tokens.

        Args:
            pooled: (N, H).
            applications: from 1 to one less than the model has.

        Returns:
            Logits (N, C).
        """
        logits: Tensor = self.classifiers[applications - 1](pooled)
        return logits

    def write(self, path: Path) -> None:
        """Writes the file in place; `replace_files` makes this atomic."""
        write_tensors(path, self.state_dict())

    @classmethod
    def read(cls, path: Path, model: PretrainedModel) -> Self:
        """Reads the classifiers that were trained with a model.

        Args:
            path: a file written by `write`.
            model: the model that they belong to; they get its dtype and device.

        Raises:
            CheckpointError: the file is damaged or does not fit the model; the message names the
                tensor.
            InputError: as for the class.
        """
        heads = cls(model).eval()
        wanted = heads.state_dict()
        with SafetensorsFile(path) as file:
            for name in sorted(wanted.keys() | file.tensors.keys()):
                if name not in file.tensors:
                    raise CheckpointError(
                        f"{path} lacks {name}: a model that applies "
                        f"{len(heads.classifiers) + 1} layers has "
                        f"{counted(len(heads.classifiers), 'exit')}. {_AGAIN}"
                    )
                if name not in wanted:
                    raise CheckpointError(
                        f"{path} has {name!r:.200}, but a model that applies "
                        f"{len(heads.classifiers) + 1} layers has "
                        f"{counted(len(heads.classifiers), 'exit')}. {_AGAIN}"
                    )
                info, shape = file.tensors[name], tuple(wanted[name].shape)
                if info.shape != shape or not info.dtype.is_floating_point:
                    raise CheckpointError(
                        f"{path}: {name} has shape {info.shape} and dtype {info.dtype}, expected "
                        f"{shape} and floats. {_AGAIN}"
                    )
                values = file.read(name)
                if not bool(values.isfinite().all()):
                    raise CheckpointError(f"{path}: {name} has numbers that are not finite.")
                wanted[name].copy_(values)
        return heads


_AGAIN = "It was saved with another model: take both from one run of minilm finetune --exits."


class ExitOutput(ModelOutput):
    """The output of `EarlyExit`.

    Attributes:
        logits: (B, C), those of the exit that each sequence took.
        applications: (B,) int64, the number of layer applications each went through.
    """

    logits: Tensor
    applications: Tensor


class _Exiting:
    """A classifier with exits, called like the classifier itself; the base of the two below.

    Args:
        model: a sequence classifier.
        heads: its exits, trained with it.
    """

    def __init__(self, model: PretrainedModel, heads: ExitHeads) -> None:
        assert isinstance(model, ForSequenceClassification)  # ExitHeads takes no other model
        self.model = model
        self.heads = heads

    @property
    def applications(self) -> int:
        """The number of layer applications of a text that does not leave early."""
        return len(self.heads.classifiers) + 1

    @property
    def base(self) -> EncoderModel:
        """The encoder."""
        return self.model.base

    @property
    def config(self) -> EncoderConfig:
        """The model's configuration."""
        return self.model.config

    @property
    def device(self) -> torch.device:
        """The model's device."""
        return self.model.device

    def answer(self, first: Tensor, applications: int) -> Tensor:
        """The (N, C) logits of an exit, from the (N, H) states of first tokens."""
        pooler = self.base.pooler
        pooled = {} if pooler is None else {"pooler_output": pooler(first)}
        encoded = EncoderOutput(last_hidden_state=first, **pooled)
        logits: Tensor = self.heads(self.model.dropout(self.model.pool(encoded)), applications)
        return logits

    def last_answer(self, encoded: EncoderOutput) -> Tensor:
        """The (N, C) logits of the model's own classifier, as in its forward."""
        logits: Tensor = self.model.classifier(self.model.dropout(self.model.pool(encoded)))
        return logits


class EveryExit(_Exiting):
    """The answers of all exits, for training and for comparing depths.

    Args:
        model: a sequence classifier.
        heads: its exits.
    """

    def __call__(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        *,
        lengths: Tensor | Sequence[int] | None = None,
    ) -> ExitOutput:
        """Computes the answers of all exits for each sequence.

        Args:
            input_ids, attention_mask, token_type_ids, lengths: as for the model.

        Returns:
            logits (B, L, C) after 1 to L applications, with the model's own answer last;
            applications (B,), all equal to L.
        """
        found: list[Tensor] = []

        def after(first: Tensor) -> None:
            found.append(self.answer(first, len(found) + 1))

        encoded = self.base(
            input_ids, attention_mask, token_type_ids, lengths=lengths, reads="first", after=after
        )
        logits = torch.stack([*found, self.last_answer(encoded)], dim=1)  # (B, L, C)
        applications = torch.full(logits.shape[:1], logits.shape[1], device=logits.device)
        return ExitOutput(logits=logits, applications=applications)


class EarlyExit(_Exiting):
    """A sequence classifier that every text leaves as soon as a rule is met. For inference.

    Args:
        model: a sequence classifier.
        heads: its exits, see `ExitHeads`.
        rule: when to leave.

    Raises:
        InputError: the rule does not suit the model's kind of answers.

    Example:
        >>> model = minilm.load("spam-filter")
        >>> heads = minilm.ExitHeads.read(Path("spam-filter/exits.safetensors"), model)
        >>> early = minilm.EarlyExit(model, heads, minilm.ExitRule(threshold=0.95))
        >>> early(**batch).applications
        tensor([3, 12, 2, 2])
    """

    def __init__(self, model: PretrainedModel, heads: ExitHeads, rule: ExitRule) -> None:
        super().__init__(model, heads)
        self.kind = answer_kind(model.config)
        rule.check(self.kind)
        self.rule = rule

    @torch.no_grad()
    def __call__(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        *,
        lengths: Tensor | Sequence[int] | None = None,
    ) -> ExitOutput:
        """Computes the answer for each sequence.

        Args:
            input_ids, attention_mask, token_type_ids, lengths: as for the model.

        Returns:
            logits (B, C) and applications (B,). If no text leaves early, the logits are those of
            the model, bit for bit.

        Raises:
            InputError: the model is in train mode, or the call is recorded (compile, export), so
                that the computation must not depend on values.
        """
        if self.model.training:
            raise InputError("Early exit is for inference: call model.eval() first.")
        if kernels.recording(input_ids):
            raise InputError(
                "Early exit cannot be recorded (compile, export, jit): which texts go on depends "
                "on their values."
            )
        leaving = _Leaving(self)
        encoded = self.base(
            input_ids,
            attention_mask,
            token_type_ids,
            lengths=lengths,
            reads="first",
            after=leaving,
        )
        return leaving.collect(self.last_answer(encoded))


class _Leaving:
    """One batch on its way: the sequences still in it, and the answers of those that left.

    Args:
        exits: the model and the rule.
    """

    def __init__(self, exits: EarlyExit) -> None:
        self._exits = exits
        self._rule = exits.rule
        self._applied = 0
        self._present: Tensor | None = None  # (N,) numbers of the sequences left; None = all
        self._before: Tensor | None = None  # (N, C) the answers of the previous exit
        self._agreed: Tensor | None = None  # (N,) how many times in a row they were the same
        self._left: list[tuple[Tensor, Tensor, int]] = []  # numbers, logits, applications

    def __call__(self, first: Tensor) -> Tensor | None:
        """See `AfterLayer` in `minilm.models.encoder`."""
        self._applied += 1
        if self._rule.depth is not None and self._rule.depth != self._applied:
            return None
        logits = self._exits.answer(first, self._applied)  # (N, C)
        clear = self._is_clear(logits)  # (N,)
        if not bool(clear.any()):
            return None
        gone, going_on = clear.nonzero()[:, 0], (~clear).nonzero()[:, 0]
        present = self._present
        if present is None:
            present = torch.arange(len(first), device=first.device)
        self._left.append((present[gone], logits[gone], self._applied))
        self._present = present[going_on]
        if self._before is not None and self._agreed is not None:
            self._before, self._agreed = self._before[going_on], self._agreed[going_on]
        return going_on

    def _is_clear(self, logits: Tensor) -> Tensor:
        """(N,) bool: whether the rule lets a sequence leave."""
        rule, kind = self._rule, self._exits.kind
        if rule.depth is not None:
            return torch.ones(len(logits), dtype=torch.bool, device=logits.device)
        if rule.threshold is not None:
            return confidence(kind, logits) > rule.threshold
        assert rule.patience is not None
        if self._before is None or self._agreed is None:
            self._agreed = torch.zeros(len(logits), dtype=torch.int64, device=logits.device)
        else:
            same = same_answer(kind, self._before, logits, rule.tolerance)
            self._agreed = torch.where(same, self._agreed + 1, 0)
        self._before = logits
        return self._agreed >= rule.patience

    def collect(self, last: Tensor) -> ExitOutput:
        """All answers in the order of the call; `last` are those of the sequences still left."""
        depth = self._exits.applications
        if self._present is None:
            applications = torch.full((len(last),), depth, device=last.device)
            return ExitOutput(logits=last, applications=applications)
        self._left.append((self._present, last, depth))
        numbers = torch.cat([numbers for numbers, _, _ in self._left])
        found = torch.cat([logits for _, logits, _ in self._left])
        counts = torch.cat([torch.full_like(numbers, count) for numbers, _, count in self._left])
        order = numbers.argsort()
        return ExitOutput(logits=found[order], applications=counts[order])
