"""Reads a sentencepiece model file (ALBERT's spiece.model) without the sentencepiece library.

Such a file is one protocol buffer. The few fields that a unigram tokenizer needs are declared here,
in code, so only the package `protobuf` is needed: no compiler, no generated files.

References:
    Field numbers: sentencepiece_model.proto of google/sentencepiece.
"""

import functools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minilm.errors import DependencyError, TokenizerFileError

# values of sentencepiece's two enumerations
_UNIGRAM = 1
_UNKNOWN, _CONTROL = 2, 3

# message -> (field, number in the file, type, default); the type may be a message of this table
_SCHEMA: dict[str, list[tuple[str, int, str, str | None]]] = {
    "Piece": [("piece", 1, "bytes", None), ("score", 2, "float", None), ("type", 3, "int32", "1")],
    "Trainer": [("model_type", 3, "int32", str(_UNIGRAM)), ("vocab_size", 4, "int32", None)],
    "Normalizer": [
        ("precompiled_charsmap", 2, "bytes", None),
        ("add_dummy_prefix", 3, "bool", "true"),
        ("remove_extra_whitespaces", 4, "bool", "true"),
        ("escape_whitespaces", 5, "bool", "true"),
    ],
    "Model": [
        ("pieces", 1, "Piece", None),
        ("trainer_spec", 2, "Trainer", None),
        ("normalizer_spec", 3, "Normalizer", None),
    ],
}


@dataclass(frozen=True)
class SentencePieceModel:
    """The part of a sentencepiece file that a unigram tokenizer needs.

    Attributes:
        pieces: (piece, log probability) in id order.
        unk_id: the id of the unknown piece.
        special_pieces: the unknown piece and the control pieces, such as `[CLS]`, which never
            result from segmenting text.
        charsmap: the compiled character normalisation, empty if the model has none.
    """

    pieces: list[tuple[str, float]]
    unk_id: int
    special_pieces: list[str]
    charsmap: bytes


def read_sentencepiece(path: Path, data: bytes) -> SentencePieceModel:
    """Reads the bytes of a unigram sentencepiece model.

    Args:
        path: the file, for messages.
        data: its content.

    Raises:
        DependencyError: the package `protobuf` is not installed.
        TokenizerFileError: the file is damaged, cut short, or not a unigram model of ALBERT's kind.
    """
    message_class = _message_class()
    from google.protobuf.message import DecodeError

    try:
        model = message_class.FromString(data)
    except DecodeError as problem:
        raise TokenizerFileError(
            f"{path} is damaged or not a sentencepiece model: {problem}. Download it again."
        ) from problem
    _check_kind(path, model)

    pieces = [(_text(path, i, entry.piece), entry.score) for i, entry in enumerate(model.pieces)]
    _check_pieces(path, pieces)
    unknown = [i for i, entry in enumerate(model.pieces) if entry.type == _UNKNOWN]
    if len(unknown) != 1:
        raise TokenizerFileError(f"{path}: expected one unknown piece, found {len(unknown)}.")
    return SentencePieceModel(
        pieces=pieces,
        unk_id=unknown[0],
        special_pieces=[
            piece
            for (piece, _), entry in zip(pieces, model.pieces, strict=True)
            if entry.type in (_UNKNOWN, _CONTROL)
        ],
        charsmap=model.normalizer_spec.precompiled_charsmap,
    )


def _check_kind(path: Path, model: Any) -> None:
    if not model.pieces:
        raise TokenizerFileError(f"{path} is not a sentencepiece model: it has no pieces.")
    # pieces come first in the file: a file cut between two of them would still parse
    stated = model.trainer_spec.vocab_size
    if not model.HasField("normalizer_spec") or stated not in (0, len(model.pieces)):
        raise TokenizerFileError(
            f"{path} is cut short: it has {len(model.pieces)} pieces"
            f"{f' of {stated}' if stated else ''} and "
            f"{'a' if model.HasField('normalizer_spec') else 'no'} normalizer. Download it again."
        )
    if model.trainer_spec.model_type != _UNIGRAM:
        raise TokenizerFileError(
            f"{path}: model_type is {model.trainer_spec.model_type}, expected {_UNIGRAM}: unigram, "
            "the kind that ALBERT uses."
        )
    for field in ("add_dummy_prefix", "remove_extra_whitespaces", "escape_whitespaces"):
        if not getattr(model.normalizer_spec, field):
            raise TokenizerFileError(
                f"{path}: normalizer_spec.{field} is false; ALBERT's tokenizer needs true."
            )


def _check_pieces(path: Path, pieces: list[tuple[str, float]]) -> None:
    seen: set[str] = set()
    for i, (piece, score) in enumerate(pieces):
        if not piece or piece in seen:
            raise TokenizerFileError(f"{path}: piece {i} ({piece!r}) is empty or a duplicate.")
        if not math.isfinite(score):
            raise TokenizerFileError(f"{path}: the score of piece {i} ({piece!r}) is {score}.")
        seen.add(piece)


def _text(path: Path, index: int, piece: bytes) -> str:
    try:
        return piece.decode("utf-8")
    except UnicodeDecodeError as problem:
        raise TokenizerFileError(f"{path}: piece {index} is not UTF-8: {problem}.") from problem


@functools.cache
def _message_class() -> Any:
    """The protobuf class of `_SCHEMA`'s Model, in a separate descriptor pool."""
    try:
        from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
    except ImportError as problem:
        raise DependencyError(
            "Reading spiece.model needs the package protobuf: pip install 'minilm[sentencepiece]'"
        ) from problem

    field_type = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="minilm/sentencepiece.proto", package="minilm", syntax="proto2"
    )
    for message_name, fields in _SCHEMA.items():
        message = file.message_type.add(name=message_name)
        for name, number, kind, default in fields:
            field = message.field.add(name=name, number=number, label=field_type.LABEL_OPTIONAL)
            if name == "pieces":
                field.label = field_type.LABEL_REPEATED
            if kind in _SCHEMA:
                field.type, field.type_name = field_type.TYPE_MESSAGE, f".minilm.{kind}"
            else:
                field.type = getattr(field_type, f"TYPE_{kind.upper()}")
            if default is not None:
                field.default_value = default
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("minilm.Model"))
