"""transformers' own tests of what all of its models must do, on the three architectures.

They are in the source package of transformers, which is not part of this repository:

    pip download transformers==5.23.0 --no-binary transformers --no-deps && tar xf transformers-*.gz
    pip install parameterized
    export TRANSFORMERS_TESTS=transformers-5.23.0/tests
    pytest -c /dev/null tests/clients/common_model_tests.py

With COMMON_TESTS_ON=transformers the same runs on the models of transformers. Below stands what
these tests take for granted of a class of transformers and a model does not need, and which of them
are left out because the difference is meant, each with its reason (`pytest -rs` prints them).
"""

from __future__ import annotations

import dataclasses
import functools
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


DIFFERENT = {
    "test_from_pretrained_no_checkpoint": "a model from a state dict is Model(config) and "
    "load_state_dict",
    "test_gradient_checkpointing_backward_compatibility": "no option of the configuration",
    "test_gradient_checkpointing_enable_disable": "no layer class of transformers; see "
    "test_trainer.py",
    "test_peft_gradient_checkpointing_enable_disable": "the same",
    "test_training_gradient_checkpointing": "the same",
    "test_training_gradient_checkpointing_use_reentrant_false": "the same",
    "test_training_gradient_checkpointing_use_reentrant_true": "the older kind is refused",
    "test_enable_input_require_grads": "the kind of checkpointing here needs no such input",
    "test_enable_input_require_grads_with_gradient_checkpointing": "the same",
    "test_can_load_ignoring_mismatched_shapes": "a CheckpointError and a load report, no "
    "RuntimeError and no line in transformers' log",
    "test_cannot_load_with_meta_device_context_manager": "refused too, by an InputError",
    "test_load_with_mismatched_shapes": "hands a configuration of ours to transformers' AutoModel",
    "test_model_get_set_embeddings": "the output layer is the table of words itself, tied, and no "
    "linear layer",
    "test_model_weights_reload_no_missing_tied_weights": "a file without the weights is an error",
    "test_resize_tokens_embeddings": "new rows are drawn like fresh ones, not around the mean",
    "test_load_save_without_tied_weights": "word vectors and output layer are always tied",
    "test_resize_embeddings_untied": "the same",
    "test_resize_embeddings_untied_no_reinit_on_post_init": "the same",
    "test_config_attn_implementation_setter": "minilm.attention chooses the execution",
    "test_can_set_attention_dynamically": "the same",
    "test_can_set_attention_dynamically_composite_model": "the same",
}
DIFFERENT_IN_DISTILBERT = {
    "test_batching_equivalence": "sets layer_norm_eps, which is 1e-12 by definition",
}


class ConfigConventions:
    """Names that transformers' tests ask every configuration for."""

    sub_configs = types.MappingProxyType({})
    base_model_tp_plan = None

    def to_diff_dict(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}  # type: ignore[arg-type]


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
    def _can_set_experts_implementation(cls) -> bool:
        return False

    @classmethod
    def from_pretrained(
        cls, *arguments: Any, output_loading_info: bool = False, **more: Any
    ) -> Any:
        model = super().from_pretrained(*arguments, **more)  # type: ignore[misc]
        if not output_loading_info:
            return model
        return model, {"missing_keys": {entry.own for entry in model.load_report.missing}}

    @classmethod
    def _from_config(cls, config: Any, **_: Any) -> Any:
        return cls(config)

    def init_weights(self) -> None:
        self._initialise(self)


def with_conventions(name: str) -> Any:
    """A class of that name: ours with the conventions, or that of transformers."""
    if ON_TRANSFORMERS:
        return getattr(transformers, name)
    ours = getattr(minilm, name)
    body = {"__module__": ours.__module__, "config_class": config_class(ours.config_class)}
    return type(name, (Conventions, ours), body)


@functools.cache
def config_class(ours: type) -> Any:
    """A configuration with the conventions."""
    return type(ours.__name__, (ConfigConventions, ours), {"__module__": ours.__module__})


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
        if ON_TRANSFORMERS:
            return getattr(transformers, f"{self.stem}Config")(**values)
        return config_class(getattr(minilm, f"{self.stem}Config"))(**values)

    def prepare_config_and_inputs_for_common(self) -> tuple[Any, dict[str, torch.Tensor]]:
        shape = (self.batch_size, self.seq_length)
        inputs = {
            "input_ids": COMMON.ids_tensor(shape, self.vocab_size),
            "attention_mask": COMMON.random_attention_mask(shape),
        }
        if self.stem != "DistilBert":
            inputs["token_type_ids"] = COMMON.ids_tensor(shape, 2)
        return self.get_config(), inputs


class WithLabels:
    """Labels of the pretraining heads, which the common tests leave to each model's own.

    No label under the padding: transformers trains on it there, here it is an error.
    """

    def _prepare_for_class(self, inputs: Any, model_class: Any, return_labels: bool = False) -> Any:
        prepared = super()._prepare_for_class(inputs, model_class, return_labels=return_labels)  # type: ignore[misc]
        if return_labels and model_class.__name__.endswith("ForPreTraining"):
            tester = self.model_tester  # type: ignore[attr-defined]
            pair = "sentence_order_label" if tester.stem == "Albert" else "next_sentence_label"
            prepared["labels"] = torch.zeros(
                (tester.batch_size, tester.seq_length), dtype=torch.long
            )
            prepared[pair] = torch.zeros(tester.batch_size, dtype=torch.long)
        labels = prepared.get("labels")
        if labels is not None and labels.shape == prepared["attention_mask"].shape:
            prepared["labels"] = labels.masked_fill(prepared["attention_mask"] == 0, -100)
        return prepared


HEADS = (
    "Model",
    "ForMaskedLM",
    "ForMultipleChoice",
    "ForQuestionAnswering",
    "ForSequenceClassification",
    "ForTokenClassification",
)


def left_out(reason: str) -> Any:
    """In place of a test."""
    return lambda self: self.skipTest(f"different on purpose: {reason}")


def cases(stem: str, *more: str) -> type:
    """The tests of one architecture."""
    models = tuple(with_conventions(stem + head) for head in (*HEADS, *more))
    different = DIFFERENT | (DIFFERENT_IN_DISTILBERT if stem == "DistilBert" else {})
    body: dict[str, Any] = {
        **({} if ON_TRANSFORMERS else {name: left_out(why) for name, why in different.items()}),
        "all_model_classes": models,
        "setUp": lambda self: setattr(self, "model_tester", SmallModel(stem)),
        "__module__": __name__,
    }
    return type(f"{stem}ModelTest", (WithLabels, MIXIN, unittest.TestCase), body)


BertModelTest = cases("Bert", "ForPreTraining")
DistilBertModelTest = cases("DistilBert")
AlbertModelTest = cases("Albert", "ForPreTraining")
