"""DistilBERT, ALBERT and BERT from scratch: exact, fast, complete and readable."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# where each public name lives; imported on first use, so that `import minilm` costs nothing
_HOMES = {
    "minilm.config": ("AlbertConfig", "BertConfig", "DistilBertConfig"),
    "minilm.costs": ("cost",),
    "minilm.data.token_store": ("TokenStore",),
    "minilm.data.tokenize": ("tokenize_corpus",),
    "minilm.data.word_vectors": ("count_word_vectors",),
    "minilm.encoder": ("Encoder",),
    "minilm.errors": (
        "CheckpointError",
        "ConfigError",
        "DataError",
        "DependencyError",
        "HubError",
        "InputError",
        "MinilmError",
        "TokenizerFileError",
        "TrainingError",
    ),
    "minilm.growth": ("deepen",),
    "minilm.loader": ("load",),
    "minilm.models.albert": (
        "AlbertForMaskedLM",
        "AlbertForMultipleChoice",
        "AlbertForPreTraining",
        "AlbertForQuestionAnswering",
        "AlbertForSequenceClassification",
        "AlbertForTokenClassification",
        "AlbertModel",
    ),
    "minilm.models.bert": (
        "BertForMaskedLM",
        "BertForMultipleChoice",
        "BertForPreTraining",
        "BertForQuestionAnswering",
        "BertForSequenceClassification",
        "BertForTokenClassification",
        "BertModel",
    ),
    "minilm.models.distilbert": (
        "DistilBertForMaskedLM",
        "DistilBertForMultipleChoice",
        "DistilBertForQuestionAnswering",
        "DistilBertForSequenceClassification",
        "DistilBertForTokenClassification",
        "DistilBertModel",
    ),
    "minilm.objectives.distillation": (
        "DistillationLoss",
        "DistillationTerms",
        "distillation_terms",
    ),
    "minilm.recipes.corpus": ("CorpusSettings",),
    "minilm.sharing": ("share", "unshare"),
    "minilm.starts": ("head_start",),
    "minilm.students": ("init_student",),
    "minilm.tasks.finetuning": ("FinetuningSettings", "finetune"),
    "minilm.tasks.learning": ("SoftTargets",),
    "minilm.tasks.prediction": ("Predictor",),
    "minilm.tokenization": ("Batch", "Tokenizer"),
    "minilm.tokenizer_training": ("train_tokenizer",),
    "minilm.training.lamb": ("Lamb",),
    "minilm.training.optimiser": ("parameter_groups",),
    "minilm.training.settings": ("TrainingSettings",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = sorted([*_HOME_OF, "__version__"])


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'minilm' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__


if TYPE_CHECKING:
    from minilm.config import (
        AlbertConfig as AlbertConfig,
        BertConfig as BertConfig,
        DistilBertConfig as DistilBertConfig,
    )
    from minilm.costs import (
        cost as cost,
    )
    from minilm.data.token_store import (
        TokenStore as TokenStore,
    )
    from minilm.data.tokenize import (
        tokenize_corpus as tokenize_corpus,
    )
    from minilm.data.word_vectors import (
        count_word_vectors as count_word_vectors,
    )
    from minilm.encoder import (
        Encoder as Encoder,
    )
    from minilm.errors import (
        CheckpointError as CheckpointError,
        ConfigError as ConfigError,
        DataError as DataError,
        DependencyError as DependencyError,
        HubError as HubError,
        InputError as InputError,
        MinilmError as MinilmError,
        TokenizerFileError as TokenizerFileError,
        TrainingError as TrainingError,
    )
    from minilm.growth import (
        deepen as deepen,
    )
    from minilm.loader import (
        load as load,
    )
    from minilm.models.albert import (
        AlbertForMaskedLM as AlbertForMaskedLM,
        AlbertForMultipleChoice as AlbertForMultipleChoice,
        AlbertForPreTraining as AlbertForPreTraining,
        AlbertForQuestionAnswering as AlbertForQuestionAnswering,
        AlbertForSequenceClassification as AlbertForSequenceClassification,
        AlbertForTokenClassification as AlbertForTokenClassification,
        AlbertModel as AlbertModel,
    )
    from minilm.models.bert import (
        BertForMaskedLM as BertForMaskedLM,
        BertForMultipleChoice as BertForMultipleChoice,
        BertForPreTraining as BertForPreTraining,
        BertForQuestionAnswering as BertForQuestionAnswering,
        BertForSequenceClassification as BertForSequenceClassification,
        BertForTokenClassification as BertForTokenClassification,
        BertModel as BertModel,
    )
    from minilm.models.distilbert import (
        DistilBertForMaskedLM as DistilBertForMaskedLM,
        DistilBertForMultipleChoice as DistilBertForMultipleChoice,
        DistilBertForQuestionAnswering as DistilBertForQuestionAnswering,
        DistilBertForSequenceClassification as DistilBertForSequenceClassification,
        DistilBertForTokenClassification as DistilBertForTokenClassification,
        DistilBertModel as DistilBertModel,
    )
    from minilm.objectives.distillation import (
        DistillationLoss as DistillationLoss,
        DistillationTerms as DistillationTerms,
        distillation_terms as distillation_terms,
    )
    from minilm.recipes.corpus import (
        CorpusSettings as CorpusSettings,
    )
    from minilm.sharing import (
        share as share,
        unshare as unshare,
    )
    from minilm.starts import (
        head_start as head_start,
    )
    from minilm.students import (
        init_student as init_student,
    )
    from minilm.tasks.finetuning import (
        FinetuningSettings as FinetuningSettings,
        finetune as finetune,
    )
    from minilm.tasks.learning import (
        SoftTargets as SoftTargets,
    )
    from minilm.tasks.prediction import (
        Predictor as Predictor,
    )
    from minilm.tokenization import (
        Batch as Batch,
        Tokenizer as Tokenizer,
    )
    from minilm.tokenizer_training import (
        train_tokenizer as train_tokenizer,
    )
    from minilm.training.lamb import (
        Lamb as Lamb,
    )
    from minilm.training.optimiser import (
        parameter_groups as parameter_groups,
    )
    from minilm.training.settings import (
        TrainingSettings as TrainingSettings,
    )
