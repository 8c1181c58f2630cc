"""Settings of a student: its shape, and where its weights come from."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, get_args

from minilm.errors import InputError, argument, setting
from minilm.recipes.settings import TextRecipe, option

if TYPE_CHECKING:
    from minilm.models.pretrained import PretrainedModel

Architecture = Literal["distilbert", "albert", "bert"]

# field -> field of the student's configuration
SHAPE = {
    "hidden_size": "hidden_size",
    "heads": "num_attention_heads",
    "intermediate_size": "intermediate_size",
    "embedding_size": "embedding_size",
    "inner_layers": "inner_group_num",
    "groups": "num_hidden_groups",
}
OF_ALBERT = ("embedding_size", "inner_layers", "groups")
# what a checkpoint settles
OF_START = (
    "student",
    "layers",
    "start",
    *SHAPE,
    "from_scratch",
    "fold_token_types",
    "copy_mlm_transform",
)


@dataclass(frozen=True, kw_only=True)
class StudentRecipe(TextRecipe):
    """The fields that say which student is trained; see `minilm.init_student`.

    `layers` is either the number of applications of layers (for ALBERT, of groups of layers:
    `num_hidden_layers` in its config.json) or the teacher's layers that the student is made of.

    Raises:
        InputError: settings that contradict each other, or would have no effect.
    """

    student: Architecture = option(
        "distilbert",
        "Architecture of the student. An albert shares its layers and factorises its embeddings.",
        str,
        choices=get_args(Architecture),
        group="model",
    )
    layers: str | int | Sequence[int] | None = option(
        None,
        "Number of layers of the student; for ALBERT, how often its --inner-layers are applied. Or "
        "teacher layers to initialise the student from: every_other, published (0,2,4,7,9,11), or "
        "a list such as 0,5,11 (a single one as 5,). Default: every_other; for ALBERT as many "
        "applications as the teacher has layers.",
        list,
        choices=("N",),
        group="model",
    )
    start: str | Sequence[int] | None = option(
        None,
        "Teacher layers that the student's own layers are initialised from: interval (at equal "
        "distances, first and last included), average (the mean of all layers that a shared layer "
        "stands for), random (none), or a list such as 0,6,11. Default: average where layers are "
        "shared, else interval.",
        list,
        group="model",
    )
    hidden_size: int | None = option(
        None,
        "Hidden size of the student. Default: the teacher's; with another one the layers are "
        "initialised at random.",
        low=1,
        group="model",
    )
    heads: int | None = option(
        None,
        "Number of attention heads of a layer. Default: the teacher's; with another hidden size, "
        "heads of the same width.",
        low=1,
        group="model",
    )
    intermediate_size: int | None = option(
        None,
        "Inner width of the feed-forward blocks; narrower ones start from the teacher's strongest "
        "neurons. Default: the teacher's, in proportion to the hidden size.",
        low=1,
        group="model",
    )
    embedding_size: int | None = option(
        None,
        "ALBERT: width of the factorised embeddings, which are initialised from the teacher's by a "
        "truncated singular value decomposition. Default: 128, or that of an ALBERT teacher.",
        low=2,
        group="model",
    )
    inner_layers: int | None = option(
        None,
        "ALBERT: number of different layers in the sequence that is applied repeatedly "
        "(inner_group_num). Default: 1.",
        low=1,
        group="model",
    )
    groups: int | None = option(
        None,
        "ALBERT: number of groups of layers (num_hidden_groups), over which the applications are "
        "spread evenly; as many as applications = nothing is shared. Default: 1.",
        low=1,
        group="model",
    )
    student_checkpoint: str | os.PathLike[str] | None = option(
        None,
        "Checkpoint of a student to continue with, which also sets architecture and sizes and "
        "keeps its heads. Default: a new student is made from the teacher.",
        str,
        flags="--from",
        metavar="MODEL",
        group="model",
    )
    from_scratch: bool = option(
        False,
        "Initialise the student with random weights instead of the teacher's; the shape "
        "stays the same.",
        bool,
        group="model",
    )
    fold_token_types: bool = option(
        True,
        "For a DistilBERT student, which has no token types: add the teacher's embedding of "
        "token type 0 to the student's position embeddings, or drop it.",
        bool,
        flags="--fold-token-types/--drop-token-types",
        group="model",
    )
    copy_mlm_transform: bool = option(
        True,
        "Initialise the dense layer and norm of the student's masked-LM head from the "
        "teacher's, or at random.",
        bool,
        flags="--copy-mlm-transform/--fresh-mlm-transform",
        group="model",
    )
    freeze_positions: bool | None = option(
        None,
        "Keep the student's position embeddings fixed, or train them. Default: fixed where a "
        "DistilBERT has its teacher's, as the released one; with --from-scratch they are always "
        "trained.",
        bool,
        flags="--freeze-positions/--train-positions",
        group="model",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.student not in get_args(Architecture):
            raise InputError(
                f"{argument('student')} is {self.student!r}: expected one of "
                f"{', '.join(get_args(Architecture))}."
            )
        defaults = {field.name: field.default for field in fields(self)}
        checks: list[tuple[bool, Sequence[str], str]] = [
            (
                self.student_checkpoint is not None,
                OF_START,
                f"{setting('student_checkpoint', option='--from')} brings a student with its own "
                "shape and weights",
            ),
            (self.student != "albert", OF_ALBERT, "it applies to ALBERT students only"),
            (self.from_scratch, ("start",), f"{setting('from_scratch', True)} takes no weights"),
        ]
        for applies, names, why in checks:
            given = [name for name in names if getattr(self, name) != defaults[name]]
            if applies and given:
                raise InputError(f"{argument(given[0])} has no effect: {why}.")

    def build_student(
        self, teacher: PretrainedModel, say: Callable[[str], None] = lambda _: None
    ) -> tuple[PretrainedModel, dict[str, Any]]:
        """The student, and what its weights are made from.

        Args:
            teacher: its teacher.
            say: receives a message that lists what was taken from the teacher.

        Raises:
            MinilmError: settings do not fit together; the message names them.
        """
        if self.student_checkpoint is not None:
            student, start = self._loaded(self.student_checkpoint)
            frozen = bool(self.freeze_positions)
        else:
            student, start = self._made(teacher)
            own = student.student_report is not None and not student.student_report.retained_energy
            usual = self.student == "distilbert" and own
            frozen = usual if self.freeze_positions is None else self.freeze_positions
            if student.student_report is not None:
                say(str(student.student_report))
            frozen = frozen and not self.from_scratch
        student.base.embeddings.position.weight.requires_grad_(not frozen)
        return student, start

    def _made(self, teacher: PretrainedModel) -> tuple[PretrainedModel, dict[str, Any]]:
        from minilm.compression.students import init_student
        from minilm.models.encoder import EncoderModel

        shape = {theirs: getattr(self, ours) for ours, theirs in SHAPE.items()}
        layers: Any = self.layers
        if isinstance(layers, int):
            shape["num_hidden_layers"], layers = layers, None
        start: Any = self.start
        student = init_student(
            teacher,
            layers,
            student=self.student,
            start=start,
            fold_token_types=self.fold_token_types,
            copy_mlm_transform=self.copy_mlm_transform,
            **{name: value for name, value in shape.items() if value is not None},
        )
        if self.from_scratch:
            headless = isinstance(student, EncoderModel)
            parts = {"add_pooling_layer": student.base.pooler is not None} if headless else {}
            student = type(student)(student.config, **parts).to(student.device, student.dtype)
            return student, {"from_scratch": True, "seed": self.seed}
        report = student.student_report
        assert report is not None
        one_each = all(len(numbers) == 1 for numbers in report.layers)
        found: dict[str, Any] = {
            "layers": [n[0] for n in report.layers] if one_each else list(map(list, report.layers)),
            "fold_token_types": self.fold_token_types,
            "copy_mlm_transform": self.copy_mlm_transform,
        }
        return student, {**found, "seed": self.seed} if report.fresh else found

    def _loaded(self, source: str | os.PathLike[str]) -> tuple[PretrainedModel, dict[str, Any]]:
        from minilm.checkpoints.hub import resolve
        from minilm.data.token_store import TokenStore
        from minilm.loader import find_class, load, load_masked_lm
        from minilm.models.encoder import EncoderModel
        from minilm.models.tasks import ForMaskedLM, ForPreTraining
        from minilm.recipes.identity import loaded_start
        from minilm.tokenization.tokenizer import Tokenizer

        directory = resolve(source)
        TokenStore.open(self.corpus).check_tokenizer(Tokenizer.from_pretrained(directory))
        as_saved = issubclass(find_class(directory), (EncoderModel, ForMaskedLM, ForPreTraining))
        student = load(directory) if as_saved else load_masked_lm(directory)
        return student, loaded_start(student, self.seed)
