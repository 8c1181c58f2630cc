"""Quantisation after training: 8-bit weights and inputs, float32 between the products."""

from __future__ import annotations

from typing import TypeVar

from minilm.errors import InputError
from minilm.models.int8 import is_int8, to_int8
from minilm.models.pretrained import PretrainedModel

Model = TypeVar("Model", bound=PretrainedModel)


def quantize(model: Model) -> Model:
    """Make an 8-bit copy of a trained model, for inference on a CPU.

    Every linear layer and embedding table becomes int8, with a scale for each output or row. Inputs
    of linear layers are quantised to 8 bits with a scale for each token (7 bits on processors
    without VNNI instructions, where sums of 8-bit products saturate). Everything between the
    products stays float32. No calibration is needed.

    The copy is of the same class and is called, hooked, saved and loaded in the same way:
    `save_pretrained` writes int8, a quarter of the size, and `from_pretrained` restores the same
    bits. In packed calls, into which `layout = "auto"` turns padded ones, the result of a text does
    not depend on the other texts of its batch, to the bit, for a fixed number of threads.

    Args:
        model: a model in float32 (others are converted to float32), which is not changed. The
            layers that an ALBERT shares are quantised and stored once.

    Returns:
        The copy, in eval mode. It cannot be trained.

    Raises:
        InputError: the model is quantised already.

    Example:
        >>> model = minilm.BertModel.from_pretrained("sentence-transformers/all-MiniLM-L6-v2")
        >>> small = minilm.quantize(model)
        >>> small.save_pretrained("all-MiniLM-L6-v2-int8")

    References: Zafrir et al. 2019, "Q8BERT"; Yao et al. 2022, "ZeroQuant".
    """
    if is_int8(model):
        raise InputError("The model is quantised already.")
    return to_int8(model)
