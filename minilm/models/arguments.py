"""What transformers' arguments for loading and saving are called here, or what to use instead."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from minilm.errors import InputError

# another word for an argument of from_pretrained
RENAMED = {
    "torch_dtype": "dtype",
    "ignore_mismatched_sizes": "ignore_mismatched_heads",
    "use_auth_token": "token",
    "device_map": "device",
}

Words = Mapping[str, tuple[tuple[Any, ...], str]]

# word -> the values that mean what minilm does anyway (none given: all), and advice for the others
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
    """Take the arguments of transformers that change nothing out of `given`.

    Raises:
        InputError: one that would change something; says what to use instead.
    """
    for word in words.keys() & given.keys():
        harmless, advice = words[word]
        value = given.pop(word)
        if harmless and value not in harmless:
            raise InputError(f"{function} does not take {word}={value!r}: {advice}.")


def rename_words(ours: dict[str, Any], given: dict[str, Any]) -> None:
    """Move the arguments of from_pretrained that are in `given` by transformers' words.

    Args:
        ours: by minilm's words; where they go.
        given: where they are taken out.

    Raises:
        InputError: one is given by both words, or a model would be split over devices.
    """
    for word in RENAMED.keys() & given.keys():
        name, value = RENAMED[word], given.pop(word)
        if word == "device_map" and value is not None:
            value = _one_device(value)
        if ours[name] not in (None, False, value):
            raise InputError(f"{word} is another word for {name} here; give one of them.")
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
            f"device_map is {device_map!r}: a model is on one device here. Give device=, such as "
            "'cpu' or 'cuda:0'."
        ) from None
