"""The public names, each stated once: read by type checkers, and by `__init__.py` to import
each name on its first use."""

from .blocks.kernels import attention as attention
from .compression.growth import deepen as deepen
from .compression.quantisation import quantize as quantize
from .compression.sharing import (
    share as share,
    unshare as unshare,
)
from .compression.students import init_student as init_student
from .compression.warm_start import (
    head_start as head_start,
    warm_start as warm_start,
)
from .config import (
    AlbertConfig as AlbertConfig,
    BertConfig as BertConfig,
    DistilBertConfig as DistilBertConfig,
)
from .costs.counting import cost as cost
from .data.token_store import TokenStore as TokenStore
from .data.tokenize import (
    tokenize_corpus as tokenize_corpus,
    tokenize_texts as tokenize_texts,
)
from .data.word_vectors import count_word_vectors as count_word_vectors
from .errors import (
    CheckpointError as CheckpointError,
    ConfigError as ConfigError,
    DataError as DataError,
    DependencyError as DependencyError,
    ExportError as ExportError,
    HubError as HubError,
    InputError as InputError,
    MinilmError as MinilmError,
    TokenizerFileError as TokenizerFileError,
    TrainingError as TrainingError,
)
from .export.folder import (
    ExportReport as ExportReport,
    export_onnx as export_onnx,
)
from .learners.tasks import SoftTargets as SoftTargets
from .loader import load as load
from .losses.distillation import (
    DistillationLoss as DistillationLoss,
    DistillationTerms as DistillationTerms,
    distillation_terms as distillation_terms,
)
from .models.albert import (
    AlbertForMaskedLM as AlbertForMaskedLM,
    AlbertForMultipleChoice as AlbertForMultipleChoice,
    AlbertForPreTraining as AlbertForPreTraining,
    AlbertForQuestionAnswering as AlbertForQuestionAnswering,
    AlbertForSequenceClassification as AlbertForSequenceClassification,
    AlbertForTokenClassification as AlbertForTokenClassification,
    AlbertModel as AlbertModel,
)
from .models.bert import (
    BertForMaskedLM as BertForMaskedLM,
    BertForMultipleChoice as BertForMultipleChoice,
    BertForNextSentencePrediction as BertForNextSentencePrediction,
    BertForPreTraining as BertForPreTraining,
    BertForQuestionAnswering as BertForQuestionAnswering,
    BertForSequenceClassification as BertForSequenceClassification,
    BertForTokenClassification as BertForTokenClassification,
    BertModel as BertModel,
)
from .models.distilbert import (
    DistilBertForMaskedLM as DistilBertForMaskedLM,
    DistilBertForMultipleChoice as DistilBertForMultipleChoice,
    DistilBertForQuestionAnswering as DistilBertForQuestionAnswering,
    DistilBertForSequenceClassification as DistilBertForSequenceClassification,
    DistilBertForTokenClassification as DistilBertForTokenClassification,
    DistilBertModel as DistilBertModel,
)
from .models.early_exit import (
    EarlyExit as EarlyExit,
    ExitHeads as ExitHeads,
    ExitRule as ExitRule,
)
from .pages.attention import (
    AttentionMaps as AttentionMaps,
    attention_maps as attention_maps,
    attention_page as attention_page,
)
from .pages.entities import entities_page as entities_page
from .recipes.corpus import CorpusSettings as CorpusSettings
from .recipes.distillation import DistillationRecipe as DistillationRecipe
from .recipes.finetuning import (
    FinetuningSettings as FinetuningSettings,
    finetune as finetune,
)
from .recipes.pretraining import PretrainingRecipe as PretrainingRecipe
from .sentence.bulk import encode_file as encode_file
from .sentence.encoded import EncodedTexts as EncodedTexts
from .sentence.encoder import (
    Encoder as Encoder,
    SentenceEncoder as SentenceEncoder,
)
from .tasks.bulk import predict_file as predict_file
from .tasks.prediction import Predictor as Predictor
from .tokenization.batch import Batch as Batch
from .tokenization.tokenizer import Tokenizer as Tokenizer
from .tokenization.training import train_tokenizer as train_tokenizer
from .training.lamb import Lamb as Lamb
from .training.muon import Muon as Muon
from .training.observers import Observer as Observer
from .training.optimiser import parameter_groups as parameter_groups
from .training.settings import TrainingSettings as TrainingSettings
from .training.tensorboard import TensorBoard as TensorBoard

__version__: str
