"""Pretraining of a fresh model, or from a checkpoint: what `minilm pretrain` runs."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

from minilm.errors import InputError
from minilm.recipes.settings import TextRecipe, option, other_default
from minilm.training.settings import Schedule

if TYPE_CHECKING:
    from minilm.compression.growth import NewLayers
    from minilm.models.pretrained import PretrainedModel
    from minilm.recipes.runs import Run

Architecture = Literal["bert", "distilbert", "albert"]
Objective = Literal["mlm", "mlm+sop", "mlm+nsp"]
SEGMENTS: dict[str, Any] = {
    "mlm": "single",
    "mlm+sop": "sentence_order",
    "mlm+nsp": "next_sentence",
}
SHARING = ("all", "attention", "feed_forward", "none")
# settings of a fresh model, which a checkpoint has settled
ALBERT_SHAPE = ("embedding_size", "sharing", "feed_forward_dropout")
PAIRS = ("sop_mode", "pair_weight", "short_sequences")
SHAPE = (
    "model",
    "hidden_size",
    "heads",
    "intermediate_size",
    "positions",
    "dropout",
    "head_start",
    *ALBERT_SHAPE,
)


@dataclass(frozen=True, kw_only=True)
class PretrainingRecipe(TextRecipe):
    """Pretraining as BERT and ALBERT did it, with steps that a small machine can take.

    The fields are the options of `minilm pretrain`, whose help explains each of them; `start` is
    `--from`.

    Raises:
        InputError: settings that contradict each other, or would have no effect.

    Example:
        >>> recipe = PretrainingRecipe(corpus="store", layers=4, hidden_size=256, heads=4, epochs=1)
        >>> recipe.train("bert-small")

    References: Devlin et al. 2019, appendix A.2; Lan et al. 2020, section 4.1.
    """

    command: ClassVar[str] = "pretrain"

    objective: Objective = option(
        "mlm",
        "Pretraining objective: masked language modelling alone (mlm), with sentence-order "
        "prediction (mlm+sop, ALBERT) or with next-sentence prediction (mlm+nsp, BERT).",
        str,
        choices=get_args(Objective),
        group="loss",
    )
    model: Architecture = option(
        "bert",
        "Architecture of a fresh model; with --from, the checkpoint sets it.",
        str,
        choices=get_args(Architecture),
        group="model",
    )
    layers: int | None = option(
        None,
        "Number of layers. Default: 12. With --from: layers are added to those of the checkpoint "
        "until there are this many (progressive stacking).",
        low=1,
        group="model",
    )
    new_layers: NewLayers = option(
        "repeat",
        "What layers that --layers adds to those of --from start as: copies of these, put on top "
        "(repeat), or layers spread between these that change nothing at first, so that the deeper "
        "model starts with the score of the checkpoint (identity).",
        str,
        choices=("repeat", "identity"),
        group="model",
    )
    hidden_size: int = option(
        768, "Hidden size: the width of the token states.", low=1, group="model"
    )
    heads: int = option(12, "Number of attention heads of a layer.", low=1, group="model")
    intermediate_size: int | None = option(
        None,
        "Inner width of the feed-forward blocks. Default: 4 times the hidden size.",
        low=1,
        group="model",
    )
    positions: int = option(
        512,
        "Number of position embeddings: the longest sequence, in tokens, that the model can read.",
        low=3,
        group="model",
    )
    dropout: float | None = option(
        None,
        "Dropout of hidden states and attention probabilities. Default: 0.1; for ALBERT 0, "
        "as in its version 2.",
        float,
        low=0,
        high=1,
        group="model",
    )
    embedding_size: int = option(
        128, "ALBERT: width of the factorised word embeddings.", low=1, group="model"
    )
    sharing: str | int = option(
        "all",
        "ALBERT: parameters that all layers share: all of them, those of attention, those of "
        "the feed-forward blocks, or none; with a number N, groups of N successive layers share "
        "all their parameters.",
        str,
        choices=(*SHARING, "N"),
        group="model",
    )
    feed_forward_dropout: bool = option(
        False,
        "ALBERT: also apply dropout to the output of the feed-forward block, as Google's "
        "code does.",
        bool,
        group="model",
    )
    head_start: bool = option(
        False,
        "Warm-start a fresh model from statistics of the corpus: word vectors as embeddings, "
        "word frequencies as output bias, and some attention heads that look at neighbouring "
        "tokens. This avoids the plateau of the first thousands of steps.",
        bool,
        flags="--head-start --warm-start",
        group="model",
    )
    start: str | os.PathLike[str] | None = option(
        None,
        "Checkpoint to start from, which also sets architecture and sizes. Default: a fresh model.",
        str,
        flags="--from",
        metavar="MODEL",
        group="model",
    )
    sop_mode: Literal["pure", "google"] = option(
        "pure",
        "How segment pairs are built for mlm+sop: as the paper describes (pure), or as Google's "
        "released code does, which pairs leftover segments with random ones (google).",
        str,
        choices=("pure", "google"),
        group="data",
    )
    pair_weight: float = option(
        1.0,
        "Weight of the sentence-order or next-sentence loss, with mlm+sop or mlm+nsp; the "
        "masked-LM loss has the weight 1.",
        float,
        above=0,
        group="loss",
    )
    short_sequences: float = option(
        0.1,
        "Fraction of documents whose pairs are cut to a shorter length than --max-length, "
        "drawn at random.",
        float,
        low=0,
        high=1,
        group="data",
    )
    learning_rate: float = other_default(TextRecipe, "learning_rate", 1e-4)
    schedule: Schedule = other_default(TextRecipe, "schedule", "polynomial")
    warmup: float = other_default(TextRecipe, "warmup", 0.01)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.objective not in SEGMENTS:
            raise InputError(
                f"objective is {self.objective!r}: expected one of {', '.join(SEGMENTS)}."
            )
        defaults = {field.name: field.default for field in fields(self)}
        grows = self.start is not None and self.layers is not None
        for names, why in useless(self.objective, self.model, self.start is not None, grows):
            if found := [name for name in names if getattr(self, name) != defaults[name]]:
                raise InputError(f"{found[0]} has no effect: {why}.")
        if self.objective != "mlm" and self.start is None and self.model == "distilbert":
            raise InputError(
                f"DistilBERT has no head for pairs: use 'mlm' instead of {self.objective!r}."
            )

    def _build(self, output: str | os.PathLike[str] | None, say: Callable[[str], None]) -> Run:
        from minilm.compression.growth import deepen
        from minilm.models.tasks import ForMaskedLM, ForPreTraining
        from minilm.recipes.corpus import warm_start_inputs, with_warm_start
        from minilm.recipes.identity import loaded_start
        from minilm.recipes.runs import has_begun, masked_lm, pretraining

        tokenizer = None
        start: dict[str, Any]
        if self.start is None:
            model, start = self._fresh(), {"fresh": "all", "seed": self.seed}
        else:
            model, tokenizer = self._checkpoint(self.start)
            start = loaded_start(model, self.seed)
        corpus = replace(
            self.corpus_settings(model),
            segments=SEGMENTS[self.objective],
            pair_mode=self.sop_mode,
            short_probability=self.short_sequences,
        )
        if self.head_start:
            start["head_start"] = warm_start_inputs(corpus)
            if output is None or not has_begun(output):
                say("counting word vectors")
                with_warm_start(model, corpus)
        if self.start is not None and self.layers is not None:
            model = deepen(model, self.layers, new_layers=self.new_layers)
        self.checkpoint_gradients(model)
        if isinstance(model, ForMaskedLM):
            return masked_lm(model, corpus, tokenizer, start=start, say=say)
        assert isinstance(model, ForPreTraining)
        return pretraining(
            model, corpus, tokenizer, pair_weight=self.pair_weight, start=start, say=say
        )

    def _checkpoint(self, start: str | os.PathLike[str]) -> tuple[PretrainedModel, Any]:
        from minilm.checkpoints.hub import resolve
        from minilm.loader import load_masked_lm, load_pretraining
        from minilm.tokenization.tokenizer import Tokenizer

        directory = resolve(start)
        load = load_masked_lm if self.objective == "mlm" else load_pretraining
        return load(directory), Tokenizer.from_pretrained(directory)

    def _fresh(self) -> PretrainedModel:
        from minilm.config import AlbertConfig
        from minilm.data.token_store import TokenStore
        from minilm.loader import CLASSES, STEMS

        head = "ForMaskedLM" if self.objective == "mlm" else "ForPreTraining"
        cls = CLASSES[f"{STEMS[self.model]}{head}"]
        tokenizer = TokenStore.open(self.corpus).tokenizer()
        shape: dict[str, Any] = {
            "num_hidden_layers": self.layers or 12,
            "hidden_size": self.hidden_size,
            "num_attention_heads": self.heads,
            "intermediate_size": self.intermediate_size or 4 * self.hidden_size,
            "max_position_embeddings": self.positions,
        }
        if self.dropout is not None:
            shape["hidden_dropout_prob"] = shape["attention_probs_dropout_prob"] = self.dropout
        config = cls.config_class(
            **shape, vocab_size=tokenizer.vocab_size, pad_token_id=tokenizer.pad_token_id
        )
        if isinstance(config, AlbertConfig):
            config = config.replace(
                embedding_size=self.embedding_size,
                feed_forward_dropout=self.feed_forward_dropout,
            ).with_sharing(self.sharing)
        return cls(config)


def useless(
    objective: str, model: str, from_checkpoint: bool, grows: bool
) -> list[tuple[tuple[str, ...], str]]:
    """Settings that have no effect because of others, and why."""
    found: list[tuple[tuple[str, ...], str]] = []
    if not grows:
        found.append((("new_layers",), "only a checkpoint with a number of layers gets new ones"))
    if from_checkpoint:
        found.append((SHAPE, "the checkpoint sets the shape of the model"))
    if model != "albert":
        found.append((ALBERT_SHAPE, "only an ALBERT has it"))
    if objective == "mlm":
        found.append((PAIRS, "mlm reads no pairs of segments"))
    if objective == "mlm+nsp":
        found.append((("sop_mode",), "only mlm+sop has it"))
    return found
