"""Every error minilm raises on purpose.

    MinilmError
     |- ConfigError         a value in config.json, or an argument of a configuration
     |- InputError          an argument of a call (also a ValueError)
     |- CheckpointError     a weights file, or weights that do not fit the model
     |- TokenizerFileError  tokenizer.json, vocab.txt or spiece.model
     |- HubError            a download
     |- DataError           a text file, a token store or a data set
     |- TrainingError       a training run: its settings, its snapshots, its numbers
     |- DependencyError     an optional package that is not installed

Catch `MinilmError` to catch them all. Each message says what is wrong, where (file, tensor or
argument), what was expected and what to do next.
"""


class MinilmError(Exception):
    """Base class of all errors raised by minilm."""


class ConfigError(MinilmError):
    """A configuration value is missing, of the wrong type, out of range or unsupported."""


class InputError(MinilmError, ValueError):
    """An argument of a call has the wrong shape, dtype or value."""


class CheckpointError(MinilmError):
    """A weights file is damaged, incomplete, unsafe, or does not fit the model."""


class TokenizerFileError(MinilmError):
    """A tokenizer file is missing, damaged or unsupported."""


class HubError(MinilmError):
    """A file could not be fetched from the hub."""


class DependencyError(MinilmError, ImportError):
    """An optional dependency is needed for this call and is not installed."""


class DataError(MinilmError):
    """A text file, a token store or a data set is missing, damaged or does not fit."""


class TrainingError(MinilmError):
    """A run cannot start, go on or be trusted: settings, snapshots, numbers that are not finite."""
