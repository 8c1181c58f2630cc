"""Names that transformers' arguments for loading and saving have here, or what to use instead."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from minilm.errors import InputError

# transformers' other names for arguments of from_pretrained
RENAMED = {
    "torch_dtype": "dtype",
    "ignore_mismatched_sizes": "ignore_mismatched_heads",
    "use_auth_token": "token",
    "device_map": "device",
}

Words = Mapping[str, tuple[tuple[Any, ...], str]]

# name -> the values that change nothing here (empty: all), and advice for the others
LOADING: Words = {
    "attn_implementation": (
        (None, "sdpa"),
        'load without it and call the model inside `with minilm.attention("explicit")`',
    ),
    "return_dict": ((None, True), "pass it to the call of the model"),
    "output_loading_info": ((False,), "read load_report of the loaded model"),
    "trust_remote_code": ((None, False), "no code of a checkpoint is ever run here"),
    "use_safetensors": ((None, True), "convert pickles once with `minilm convert --from-pickle`"),
    "state_dict": ((None,), "load the model, then call its load_state_dict"),
    "quantization_config": ((None,), "quantise the loaded model"),
    "variant": ((None,), "give a directory with the one model.safetensors that you mean"),
    "force_download": ((False,), "give another cache_dir"),
    "low_cpu_mem_usage": ((), ""),
}
SAVING: Words = {
    "safe_serialization": ((None, True), "pickles are not written; use torch.save for one"),
    "push_to_hub": ((False,), "save, then upload the directory with `hf upload`"),
    "variant": ((None,), "save to a directory of its own"),
    "max_shard_size": ((), ""),  # there is one file, whatever its size
    "save_function": ((), ""),
}


def check_words(function: str, given: dict[str, Any], words: Words) -> None:
    """Remove the arguments of transformers that change nothing from `given`.

    Raises:
        InputError: an argument that would change something; the message says what to use instead.
    """
    for word in words.keys() & given.keys():
        harmless, advice = words[word]
        value = given.pop(word)
        if harmless and value not in harmless:
            raise InputError(f"{function} does not take {word}={value!r}: {advice}.")


def rename_words(ours: dict[str, Any], given: dict[str, Any]) -> None:
    """Move arguments of from_pretrained that have transformers' names from `given` to `ours`.

    Args:
        ours: arguments by minilm's names; changed in place.
        given: arguments by transformers' names; changed in place.

    Raises:
        InputError: one is given by both names, or a model would be split over devices.
    """
    for word in RENAMED.keys() & given.keys():
        name, value = RENAMED[word], given.pop(word)
        if word == "device_map" and value is not None:
            value = _one_device(value)
        if ours[name] not in (None, False, value):
            raise InputError(f"{word} is another name for {name} here; give only one of them.")
        ours[name] = value


def _one_device(device_map: Any) -> torch.device:
    """The device that a device_map means."""
    place = device_map
    if isinstance(device_map, Mapping) and list(device_map) == [""]:
        place = device_map[""]
    try:
        return torch.device(place)
    except (RuntimeError, TypeError):
        raise InputError(
            f"device_map is {device_map!r}, but a model is on a single device here. Give device=, "
            "such as 'cpu' or 'cuda:0'."
        ) from None
