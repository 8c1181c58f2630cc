"""transformers' own tests of what all of its models must do, on the three architectures.

They are in the source package of transformers, which is not part of this repository:

    pip download transformers==5.23.0 --no-binary transformers --no-deps && tar xf transformers-*.gz
    pip install parameterized
    export TRANSFORMERS_TESTS=transformers-5.23.0/tests
    pytest -c /dev/null tests/clients/common_model_tests.py

With COMMON_TESTS_ON=transformers the same runs on the models of transformers. Below stands what
these tests take for granted of a class of transformers and what a model does not need; and what
fails on purpose, with the reason.
"""

from __future__ import annotations

import importlib
import os
import sys
import types
import unittest
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import minilm

WHERE = "TRANSFORMERS_TESTS"
if WHERE not in os.environ:
    pytest.skip(
        f"{WHERE} does not say where the tests of transformers are", allow_module_level=True
    )

ON_TRANSFORMERS = os.environ.get("COMMON_TESTS_ON") == "transformers"
pytestmark = pytest.mark.filterwarnings("ignore")


def common() -> Any:
    """The module of the tests, without those of exporters and of generation beside it."""
    package = types.ModuleType("common_tests")
    package.__path__ = [str(Path(os.environ[WHERE]).resolve())]
    sys.modules["common_tests"] = package
    for name, wanted in (
        ("exporters.test_export", "ExportTesterMixin"),
        ("generation.test_utils", "GenerationTesterMixin"),
    ):
        folder, _, _ = name.partition(".")
        sys.modules[f"common_tests.{folder}"] = types.ModuleType(folder)
        stand_in = types.ModuleType(name)
        setattr(stand_in, wanted, type(wanted, (), {}))
        sys.modules[f"common_tests.{name}"] = stand_in
    return importlib.import_module("common_tests.test_modeling_common")


COMMON = common()
# pytest would collect the mixin again as a name of this module
MIXIN = COMMON.ModelTesterMixin


class Conventions:
    """Names that transformers' tests ask every model class for."""

    base_model_prefix = "encoder"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = False
    _supports_attention_backend = _can_compile_fullgraph = False
    _keep_in_fp32_modules = _keep_in_fp32_modules_strict = frozenset()
    _tied_weights_keys = all_tied_weights_keys = types.MappingProxyType({})
    _keys_to_ignore_on_load_missing = _keys_to_ignore_on_save = None
    _no_split_modules = None
    _can_record_outputs = None
    _tp_plan = types.MappingProxyType({})

    @classmethod
    def can_generate(cls) -> bool:
        return False

    @classmethod
    def _from_config(cls, config: Any, **_: Any) -> Any:
        return cls(config)

    @property
    def is_activation_checkpointing(self) -> bool:
        return self.base.gradient_checkpointing

    def activation_checkpointing_enable(self, **options: Any) -> None:
        self.gradient_checkpointing_enable(**options)

    def activation_checkpointing_disable(self) -> None:
        self.gradient_checkpointing_disable()

    def init_weights(self) -> None:
        self._initialise(self)


def with_conventions(name: str) -> Any:
    """A class of that name: ours with the conventions, or that of transformers."""
    if ON_TRANSFORMERS:
        return getattr(transformers, name)
    ours = getattr(minilm, name)
    return type(name, (Conventions, ours), {"__module__": ours.__module__})


class SmallModel:
    """A small configuration and a batch with a random mask, as each model's own tests make them."""

    batch_size, seq_length, is_training = 13, 7, True
    hidden_size, num_hidden_layers, num_attention_heads = 32, 2, 4
    num_choices, num_labels, vocab_size = 4, 3, 99

    def __init__(self, stem: str) -> None:
        self.stem = stem

    def get_config(self) -> Any:
        values: dict[str, Any] = {
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads,
            "intermediate_size": 37,
            "max_position_embeddings": 512,
        }
        if self.stem == "Albert":
            values |= {"embedding_size": 16, "num_hidden_groups": 1}
        if self.stem == "DistilBert" and ON_TRANSFORMERS:
            values["hidden_dim"] = values.pop("intermediate_size")
        return getattr(transformers if ON_TRANSFORMERS else minilm, f"{self.stem}Config")(**values)

    def prepare_config_and_inputs_for_common(self) -> tuple[Any, dict[str, torch.Tensor]]:
        shape = (self.batch_size, self.seq_length)
        inputs = {
            "input_ids": COMMON.ids_tensor(shape, self.vocab_size),
            "attention_mask": COMMON.random_attention_mask(shape),
        }
        if self.stem != "DistilBert":
            inputs["token_type_ids"] = COMMON.ids_tensor(shape, 2)
        return self.get_config(), inputs


class WithPretraining:
    """Labels of the pretraining heads, which the common tests leave to each model's own."""

    def _prepare_for_class(self, inputs: Any, model_class: Any, return_labels: bool = False) -> Any:
        prepared = super()._prepare_for_class(inputs, model_class, return_labels=return_labels)  # type: ignore[misc]
        if return_labels and model_class.__name__.endswith("ForPreTraining"):
            tester = self.model_tester  # type: ignore[attr-defined]
            pair = "sentence_order_label" if tester.stem == "Albert" else "next_sentence_label"
            prepared["labels"] = torch.zeros(
                (tester.batch_size, tester.seq_length), dtype=torch.long
            )
            prepared[pair] = torch.zeros(tester.batch_size, dtype=torch.long)
        return prepared


HEADS = (
    "Model",
    "ForMaskedLM",
    "ForMultipleChoice",
    "ForQuestionAnswering",
    "ForSequenceClassification",
    "ForTokenClassification",
)


def cases(stem: str, *more: str) -> type:
    """The tests of one architecture."""
    models = tuple(with_conventions(stem + head) for head in (*HEADS, *more))
    body = {
        "all_model_classes": models,
        "setUp": lambda self: setattr(self, "model_tester", SmallModel(stem)),
        "__module__": __name__,
    }
    return type(f"{stem}ModelTest", (WithPretraining, MIXIN, unittest.TestCase), body)


BertModelTest = cases("Bert", "ForPreTraining")
DistilBertModelTest = cases("DistilBert")
AlbertModelTest = cases("Albert", "ForPreTraining")
