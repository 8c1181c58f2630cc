"""The tokenizer: WordPiece (BERT, DistilBERT) and unigram (ALBERT).

The work is done by the Rust library `tokenizers`; this module lets it read every layout of model
directory (see `minilm.tokenization.files`) and return batches that a model accepts as they are.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, TypeAlias, overload

import numpy as np
from torch import Tensor

from minilm.errors import CheckpointError, InputError, MinilmError, TokenizerFileError
from minilm.files.arrays import Integers
from minilm.files.atomic import replace_files
from minilm.files.json_file import json_bytes
from minilm.files.progress import counted
from minilm.tokenization.arguments import (
    Texts,
    check_unicode,
    one_name,
    refuse_unknown,
    text_list,
    word_lists,
)
from minilm.tokenization.batch import (
    Batch as Batch,
    Padding,
    Row,
    TensorType,
    columns,
    convert,
    pad_features,
    padded,
    padding_strategy,
)
from minilm.tokenization.files import complete, guarded, read_tokenizer
from minilm.tokenization.template import (
    Assembled,
    Truncation,
    assemble,
    kept_lengths,
    learn_template,
    num_special,
    truncation_strategy,
)

if TYPE_CHECKING:
    import tokenizers

Layout: TypeAlias = Literal["padded", "packed"]
Token: TypeAlias = "str | tokenizers.AddedToken"


class Pieces(NamedTuple):
    """The tokens of a text, without special tokens.

    ids: (n,) int64.
    offsets: (n, 2) int64, start and end of each token in characters of the text.
    """

    ids: Integers
    offsets: Integers


class Joined(NamedTuple):
    """Pieces with special tokens around them.

    ids: (T,) int64.
    type_ids: (T,) int64 token types.
    starts: the positions at which the pieces of the first and of the second text begin.
    """

    ids: Integers
    type_ids: Integers
    starts: tuple[int, int]


class Tokenizer:
    """Converts texts to ids, and ids to text.

    Usually made by `from_pretrained`. The constructor takes any tokenizer of the tokenizers
    library, for vocabularies with rules of their own (such as reaction SMILES, which BERT's
    splitting at punctuation would break up). Encoding changes no state, so threads may share a
    tokenizer as long as none of them adds tokens.

    Args:
        backend: the tokenizer to wrap; it is changed in place as by `from_pretrained`: special
            tokens are recognised in text, the template is `[CLS] A [SEP] B [SEP]` if it has none,
            and its own truncation and padding are off.
        special_tokens: role ("cls", "sep", "pad", "unk", "mask") to token; not needed for the
            customary spellings ([CLS] [SEP] [PAD] [UNK] [MASK], <pad> <unk>).
        model_max_length: maximum input length of the model in tokens.
        source: the origin of the backend, for messages.

    Attributes:
        model_max_length: maximum input length in tokens according to the files, or None. Texts are
            truncated to it only with `truncation=True`.
        vocab_size: the largest id plus one: the number of rows of an embedding table.
            `len(tokenizer)` is the same number.
        backend: the wrapped tokenizer.
        name_or_path: the first argument of `from_pretrained`, or "".
        model_input_names, padding_side, truncation_side, pad_token_type_id, is_fast: for code
            written for transformers.

    Raises:
        TokenizerFileError: the vocabulary lacks a special token, or the backend does not work.

    Example:
        >>> from tokenizers import Tokenizer as Backend, models, pre_tokenizers
        >>> words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "small", "model"]
        >>> ids = {word: i for i, word in enumerate(words)}
        >>> backend = Backend(models.WordPiece(ids, unk_token="[UNK]"))
        >>> backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        >>> tokenizer = Tokenizer(backend)
        >>> batch = tokenizer(["a small model", "a [MASK]"])
        >>> batch["input_ids"].tolist()
        [[2, 5, 6, 7, 3], [2, 5, 4, 3, 0]]
    """

    padding_side: ClassVar[str] = "right"
    truncation_side: ClassVar[str] = "right"
    pad_token_type_id: ClassVar[int] = 0
    is_fast: ClassVar[bool] = True

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        *,
        special_tokens: Mapping[str, str] | None = None,
        model_max_length: int | None = None,
        source: str = "backend",
    ) -> None:
        self._special_tokens = complete(backend, special_tokens or {}, source)
        self._template = learn_template(backend, 1, source)
        self._pair_template = learn_template(backend, 2, source)
        self._source = source
        self.backend = backend
        self.model_max_length = model_max_length
        self.name_or_path = ""
        self.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
        self._read_vocabulary()

    def _read_vocabulary(self) -> None:
        self._vocabulary = self.backend.get_vocab(with_added_tokens=True)
        self.vocab_size = max(self._vocabulary.values()) + 1

    @classmethod
    def from_pretrained(
        cls,
        path_or_repo: str | os.PathLike[str],
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
    ) -> Tokenizer:
        """Reads the tokenizer of a model directory, or of a repository on the hub.

        It reads the first of these files that exists: `tokenizer.json`; `vocab.txt` (WordPiece,
        BERT's basic tokenizer; `do_lower_case`, `strip_accents` and `tokenize_chinese_chars` of
        tokenizer_config.json apply, and override a BERT-style tokenizer.json too); `spiece.model`
        (ALBERT; `do_lower_case` and `keep_accents` apply; needs the extra `sentencepiece`). A
        vocab.txt without `do_lower_case` is cased if single capital letters are among its tokens.

        Special tokens are those of tokenizer_config.json (`cls_token` and the like,
        `extra_special_tokens`, `additional_special_tokens`, `added_tokens_decoder`), or else of
        special_tokens_map.json and added_tokens.json; those that are not in the vocabulary are
        appended to it, in the order of transformers.

        Args:
            path_or_repo: a local directory (read without any network), or a hub name.
            revision: branch, tag or commit of the repository.
            token: hub token, for private repositories.
            cache_dir: folder for downloads.
            local_files_only: use only the cache.

        Raises:
            TokenizerFileError: a file is missing, damaged or not supported.
            HubError: a download failed.
            DependencyError: the file is spiece.model and the package `protobuf` is not installed.
        """
        from minilm.checkpoints.hub import resolve

        directory = resolve(
            path_or_repo,
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            weights=False,
        )
        parts = read_tokenizer(directory)
        tokenizer = cls(
            parts.backend,
            special_tokens=parts.special_tokens,
            model_max_length=parts.model_max_length,
            source=parts.source,
        )
        tokenizer.name_or_path = os.fspath(path_or_repo)
        return tokenizer

    def __repr__(self) -> str:
        return f"Tokenizer({self.vocab_size} tokens from {self._source})"

    def __len__(self) -> int:
        return self.vocab_size

    @property
    def cls_token(self) -> str:
        """The token before the first text."""
        return self._special_tokens["cls"]

    @property
    def sep_token(self) -> str:
        """The token after each text."""
        return self._special_tokens["sep"]

    @property
    def pad_token(self) -> str:
        """The token that pads short rows."""
        return self._special_tokens["pad"]

    @property
    def unk_token(self) -> str:
        """The token for text that the vocabulary cannot spell."""
        return self._special_tokens["unk"]

    @property
    def mask_token(self) -> str:
        """The mask token. Raises TokenizerFileError if the vocabulary has none."""
        if "mask" not in self._special_tokens:
            raise TokenizerFileError(
                f"{self._source}: the vocabulary has no mask token. If it has one under another "
                "name, set mask_token in tokenizer_config.json."
            )
        return self._special_tokens["mask"]

    @property
    def cls_token_id(self) -> int:
        """The id of `cls_token`."""
        return self._vocabulary[self.cls_token]

    @property
    def sep_token_id(self) -> int:
        """The id of `sep_token`."""
        return self._vocabulary[self.sep_token]

    @property
    def pad_token_id(self) -> int:
        """The id of `pad_token`."""
        return self._vocabulary[self.pad_token]

    @property
    def unk_token_id(self) -> int:
        """The id of `unk_token`."""
        return self._vocabulary[self.unk_token]

    @property
    def mask_token_id(self) -> int:
        """The id of the mask token. Raises TokenizerFileError if the vocabulary has none."""
        return self._vocabulary[self.mask_token]

    @property
    def all_special_ids(self) -> list[int]:
        """The ids of all special tokens, in order: those with a role and those that were added."""
        added = self.backend.get_added_tokens_decoder().items()
        return sorted(index for index, token in added if token.special)

    @property
    def all_special_tokens(self) -> list[str]:
        """The tokens of `all_special_ids`."""
        return self.convert_ids_to_tokens(self.all_special_ids)

    @property
    def special_tokens_map(self) -> dict[str, str]:
        """The special tokens that have a role: "cls_token" to "[CLS]", and so on."""
        return {f"{role}_token": token for role, token in self._special_tokens.items()}

    def __call__(
        self,
        texts: Texts | None = None,
        pairs: Texts | None = None,
        *,
        max_length: int | None = None,
        layout: Layout = "padded",
        return_offsets: bool = False,
        padding: bool | str | None = None,
        truncation: bool | str | None = None,
        add_special_tokens: bool = True,
        is_split_into_words: bool = False,
        pad_to_multiple_of: int | None = None,
        return_tensors: TensorType = "pt",
        return_attention_mask: bool | None = None,
        return_token_type_ids: bool | None = None,
        return_special_tokens_mask: bool = False,
        return_offsets_mapping: bool = False,
        **other: Any,
    ) -> Batch:
        """Encodes texts, or pairs of texts.

        Args:
            texts: one text or several; one text gives a batch of one. transformers' name, `text`,
                is accepted too.
            pairs: the second text of each pair; `text_pair` is accepted too.
            max_length: maximum length in tokens, special tokens included; None = no truncation (a
                model refuses input that is too long for it). Of a pair, the longer text is cut
                first.
            layout: "padded", rows padded on the right to the longest, or "packed", all tokens one
                after another without padding.
            return_offsets: also return `batch.offsets` and `batch.word_ids`; a little slower.
            padding: True or "longest", the default for tensors and arrays; "max_length"; False,
                the default for lists.
            truncation: True or "longest_first", to `max_length` or else `model_max_length`;
                "only_first" or "only_second" cuts only that text of each pair; False = no
                truncation. By default texts are truncated if `max_length` is given.
            add_special_tokens: put [CLS] and [SEP] around the texts.
            is_split_into_words: each text is a list of words; also returns offsets and word_ids.
            pad_to_multiple_of: round the padded length up to a multiple of this.
            return_tensors: "pt" for tensors, "np" for arrays, None for lists, which is the default
                of transformers: without padding, and one text without the batch dimension.
            return_attention_mask, return_token_type_ids: False leaves the entry out.
            return_special_tokens_mask: add `special_tokens_mask` (B, S), 1 at special tokens and
                padding.
            return_offsets_mapping: add `offset_mapping` (B, S, 2), the offsets as an entry.

        Returns:
            A `Batch`; `batch.truncated` says which texts were cut.

        Raises:
            InputError: there are no texts, a text is not a string or not valid Unicode, the
                numbers of texts and pairs differ, max_length has no room for the special tokens,
                or an argument of transformers is not supported.
        """
        if "text" in other or "text_pair" in other:
            texts, pairs = one_name("texts", texts, other), one_name("pairs", pairs, other)
        refuse_unknown(other)
        if layout not in ("padded", "packed"):
            raise InputError(f'layout must be "padded" or "packed", not {layout!r}.')
        if return_tensors not in ("pt", "np", None):
            raise InputError(f'return_tensors must be "pt", "np" or None, not {return_tensors!r}.')
        if layout == "packed" and (
            return_attention_mask or padding or pad_to_multiple_of is not None
        ):
            raise InputError(
                'layout="packed" has lengths instead of padding and attention_mask; leave out '
                "padding, pad_to_multiple_of and return_attention_mask."
            )
        read = word_lists if is_split_into_words else text_list
        firsts, single = read("texts", texts)
        seconds = None if pairs is None else read("pairs", pairs)[0]
        if seconds is not None and len(seconds) != len(firsts):
            raise InputError(
                f"{counted(len(firsts), 'text')}, but {counted(len(seconds), 'pair')}; give one "
                "for each."
            )

        strategy, limit = self._limit(truncation, max_length)
        options = _Options(
            offsets=return_offsets or return_offsets_mapping or is_split_into_words,
            special_tokens=add_special_tokens,
            words=is_split_into_words,
        )
        rows: Sequence[Row]
        truncated: list[int] = []
        if limit is not None:
            rows, truncated = self._encode_truncated(firsts, seconds, limit, strategy, options)
        elif seconds is not None:
            rows = self._encode(list(zip(firsts, seconds, strict=True)), options)
        else:
            rows = self._encode(firsts, options)

        asked = {
            "attention_mask": layout == "padded" and return_attention_mask is not False,
            "lengths": layout == "packed",
            "token_type_ids": return_token_type_ids is not False,
            "special_tokens_mask": return_special_tokens_mask,
            "offset_mapping": return_offsets_mapping,
        }
        lengths, entries = columns(rows, asked)
        width = 0
        if layout == "padded":
            if padding is None:
                padding = return_tensors is not None
            how = self._padding(padding, max_length, pad_to_multiple_of)
            entries = padded(entries, lengths, how, self._fill())
            width = 0 if isinstance(entries["input_ids"], list) else entries["input_ids"].shape[1]
        entries = {name: convert(name, value, return_tensors) for name, value in entries.items()}
        if return_tensors is None and single and layout == "padded":
            entries = {name: value[0] for name, value in entries.items()}
        return Batch(entries, rows, truncated, options.offsets, width)

    def encode(self, text: Texts, text_pair: Texts | None = None, **options: Any) -> Any:
        """Encodes a text or pair to a list of ids.

        Args:
            text: the text.
            text_pair: the second text of a pair.
            **options: as for calling the tokenizer; `return_tensors="pt"` gives a (1, S) tensor.
        """
        return self(text, text_pair, **{"return_tensors": None, **options})["input_ids"]

    def pad(
        self,
        encoded_inputs: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        padding: bool | str = True,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        *,
        return_attention_mask: bool | None = None,
        return_tensors: TensorType = "pt",
        **other: Any,
    ) -> Batch:
        """Pads encoded texts; transformers' data collators call it.

        Args:
            encoded_inputs: one mapping for each text, or one mapping to lists; values are lists,
                arrays or tensors. Entries other than `input_ids`, `attention_mask`,
                `token_type_ids` and `special_tokens_mask`, such as labels, are not padded.
            padding, max_length, pad_to_multiple_of, return_tensors: as for calling the tokenizer.
            return_attention_mask: False leaves the mask out; otherwise it is made if absent.

        Raises:
            InputError: input_ids are missing, entries differ in length, or a text is longer than
                `max_length`.
        """
        refuse_unknown(other)
        return pad_features(
            encoded_inputs,
            self._padding(padding, max_length, pad_to_multiple_of),
            self._fill(),
            with_mask=return_attention_mask is not False,
            tensor_type=return_tensors,
        )

    def add_tokens(self, new_tokens: Token | Sequence[Token], special_tokens: bool = False) -> int:
        """Adds tokens that are never split; new ones get the next ids.

        A model needs a row for each: `model.resize_token_embeddings(len(tokenizer))`.

        Args:
            new_tokens: strings, or `tokenizers.AddedToken` with flags.
            special_tokens: whether they are special: never normalised, and left out by `decode`.

        Returns:
            How many of them were not in the vocabulary.

        Raises:
            InputError: a token is empty, or not a string.
        """
        tokens = [new_tokens] if not isinstance(new_tokens, list | tuple) else list(new_tokens)
        for index, token in enumerate(tokens):
            content = getattr(token, "content", token)
            if not isinstance(content, str) or not content:
                raise InputError(f"new_tokens[{index}] must be a string, not {token!r:.60}.")
            check_unicode(index, content)
        before = len(self._vocabulary)
        with guarded(MinilmError, "add_tokens"):
            add = self.backend.add_special_tokens if special_tokens else self.backend.add_tokens
            add(tokens)
        self._read_vocabulary()
        return len(self._vocabulary) - before

    def add_special_tokens(
        self, special_tokens_dict: Mapping[str, Token | Sequence[Token]], **other: Any
    ) -> int:
        """Adds special tokens by their names.

        Args:
            special_tokens_dict: "mask_token" or "pad_token" to the token for this role;
                "extra_special_tokens" (or "additional_special_tokens") to a list of other tokens.

        Returns:
            How many of them were not in the vocabulary.

        Raises:
            InputError: the role is another one, which only the tokenizer's files can set.
        """
        refuse_unknown(other)
        added = 0
        for name, tokens in special_tokens_dict.items():
            role = name.removesuffix("_token")
            if name not in ("extra_special_tokens", "additional_special_tokens"):
                content = str(getattr(tokens, "content", tokens))
                if role not in ("mask", "pad") and self._special_tokens.get(role) != content:
                    raise InputError(
                        f"{name} cannot become {content!r}: only mask_token, pad_token and "
                        "extra_special_tokens can be added to a tokenizer. Name the others in "
                        "tokenizer_config.json, or as Tokenizer(backend, special_tokens=...)."
                    )
                self._special_tokens[role] = content
            added += self.add_tokens(tokens, special_tokens=True)
        return added

    def get_vocab(self) -> dict[str, int]:
        """Every token with its id, added tokens included."""
        return dict(self._vocabulary)

    def pieces(self, texts: str | Sequence[str]) -> list[Pieces]:
        """The tokens of texts without special tokens, for callers that cut windows themselves.

        Raises:
            InputError: as for calling the tokenizer.
        """
        encodings = self._encode(text_list("texts", texts)[0], _Options(special_tokens=False))
        return [
            Pieces(np.array(text.ids, np.int64), np.array(text.offsets, np.int64).reshape(-1, 2))
            for text in encodings
        ]

    def join(self, first: Integers, second: Integers | None = None) -> Joined:
        """Puts pieces into the template of a text or pair.

        Args:
            first: (n,) ids without special tokens.
            second: (m,) ids of the other text of a pair.
        """
        template = self._template if second is None else self._pair_template
        parts = (first, second)
        ids: list[Integers] = []
        types: list[Integers] = []
        starts = [0, 0]
        for slot in template:
            part = np.array([slot.token_id]) if slot.sequence is None else parts[slot.sequence]
            assert part is not None
            if slot.sequence is not None:
                starts[slot.sequence] = sum(map(len, ids))
            ids.append(part)
            types.append(np.full(len(part), slot.type_id))
        return Joined(np.concatenate(ids), np.concatenate(types), (starts[0], starts[1]))

    def num_special_tokens(self, pair: bool = False) -> int:
        """The number of special tokens that `join` adds to a text, or to a pair."""
        return num_special(self._pair_template if pair else self._template)

    num_special_tokens_to_add = num_special_tokens

    def tokenize(self, text: str) -> list[str]:
        """The tokens of one text, without the special tokens of the template."""
        encodings = self._encode(text_list("text", text)[0], _Options(special_tokens=False))
        return encodings[0].tokens

    @overload
    def convert_tokens_to_ids(self, tokens: str) -> int: ...  # type: ignore[overload-overlap]
    @overload
    def convert_tokens_to_ids(self, tokens: Iterable[str]) -> list[int]: ...
    def convert_tokens_to_ids(self, tokens: str | Iterable[str]) -> int | list[int]:
        """The ids of tokens, or of one; unknown tokens get the id of the unknown token."""
        if isinstance(tokens, str):
            return self._vocabulary.get(tokens, self.unk_token_id)
        return [self._vocabulary.get(token, self.unk_token_id) for token in tokens]

    @overload
    def convert_ids_to_tokens(self, ids: int, skip_special_tokens: bool = False) -> str: ...
    @overload
    def convert_ids_to_tokens(
        self, ids: Iterable[int] | Tensor, skip_special_tokens: bool = False
    ) -> list[str]: ...
    def convert_ids_to_tokens(
        self, ids: int | Iterable[int] | Tensor, skip_special_tokens: bool = False
    ) -> str | list[str]:
        """The tokens with these ids, or with one.

        Raises:
            InputError: no token has the id.
        """
        if isinstance(ids, int):
            return self.id_to_token(ids)
        special = set(self.all_special_ids) if skip_special_tokens else ()
        return [self.id_to_token(int(index)) for index in ids if int(index) not in special]

    def get_special_tokens_mask(
        self,
        token_ids_0: Iterable[int],
        token_ids_1: None = None,
        already_has_special_tokens: bool = False,
    ) -> list[int]:
        """1 for each id of a special token, 0 for the others; data collators call it.

        Raises:
            InputError: `already_has_special_tokens` is not True.
        """
        if not already_has_special_tokens or token_ids_1 is not None:
            raise InputError(
                "get_special_tokens_mask takes one row of ids with already_has_special_tokens=True;"
                " for texts, call tokenizer(..., return_special_tokens_mask=True)."
            )
        special = set(self.all_special_ids)
        return [int(int(index) in special) for index in token_ids_0]

    def token_to_id(self, token: str) -> int | None:
        """The id of a token, or None if it is not in the vocabulary."""
        return self._vocabulary.get(token)

    def id_to_token(self, index: int) -> str:
        """The token with this id.

        Raises:
            InputError: no token has this id.
        """
        token = self.backend.id_to_token(index) if 0 <= index < self.vocab_size else None
        if token is None:
            raise InputError(
                f"No token has the id {index}; ids go from 0 to {self.vocab_size - 1}."
            )
        return token

    def decode(
        self, ids: int | Iterable[int] | Tensor, skip_special_tokens: bool = True, **other: Any
    ) -> str:
        """The text of one sequence of ids, as far as the vocabulary preserves case and spacing.

        Args:
            ids: one-dimensional ids, or a single id.
            skip_special_tokens: leave out [CLS], [SEP], [PAD] and the like.
                Differs from Hugging Face, whose default is False.

        Raises:
            InputError: an id is outside the vocabulary (such as -100 in labels), or `ids` has more
                than one dimension.
        """
        refuse_unknown(other)
        if isinstance(ids, Tensor):
            if ids.dim() > 1:
                raise InputError(
                    f"ids has the shape {tuple(ids.shape)}; decode takes one dimension, "
                    "batch_decode several sequences."
                )
            ids = ids.tolist()
        numbers = [ids] if isinstance(ids, int | np.integer) else list(ids)
        for position, number in enumerate(numbers):
            if not isinstance(number, int | np.integer) or not 0 <= number < self.vocab_size:
                raise InputError(
                    f"ids[{position}] is {number!r}; decode takes one sequence of ids from 0 to "
                    f"{self.vocab_size - 1}."
                )
        with guarded(MinilmError, "decode"):
            return self.backend.decode(numbers, skip_special_tokens=skip_special_tokens)

    def batch_decode(
        self,
        sequences: Iterable[Iterable[int] | Tensor],
        skip_special_tokens: bool = True,
        **other: Any,
    ) -> list[str]:
        """The text of each sequence of ids; see `decode`."""
        return [self.decode(ids, skip_special_tokens, **other) for ids in sequences]

    def save_pretrained(self, directory: str | os.PathLike[str]) -> None:
        """Writes tokenizer.json and tokenizer_config.json.

        Both this class and transformers' AutoTokenizer read them back and give the same ids.

        Raises:
            CheckpointError: the directory cannot be written.
        """
        settings: dict[str, object] = {**self.special_tokens_map}
        # the class of transformers that takes tokenizer.json as it is
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
        settings["model_input_names"] = self.model_input_names
        if self.model_max_length is not None:
            settings["model_max_length"] = self.model_max_length
        with guarded(MinilmError, "save_pretrained"):
            description = self.backend.to_str().encode()
        target = Path(directory)
        try:
            target.mkdir(parents=True, exist_ok=True)
        except OSError as problem:
            raise CheckpointError(f"{target} cannot be made: {problem.strerror}.") from problem
        replace_files(
            {
                target / "tokenizer.json": lambda path: path.write_bytes(description),
                target / "tokenizer_config.json": lambda path: path.write_bytes(
                    json_bytes(settings)
                ),
            }
        )

    def _limit(
        self, truncation: bool | str | None, max_length: int | None
    ) -> tuple[Truncation, int | None]:
        """The truncation strategy and the length in tokens; None = no truncation."""
        if truncation is None:
            return "longest_first", max_length
        strategy = truncation_strategy(truncation)
        if strategy == "do_not_truncate":
            return strategy, None
        limit = self.model_max_length if max_length is None else max_length
        if limit is None:
            raise InputError(
                f"truncation={truncation!r} needs max_length: this tokenizer has no "
                "model_max_length."
            )
        return strategy, limit

    def _padding(
        self, padding: bool | str, max_length: int | None, multiple: int | None
    ) -> Padding:
        strategy = padding_strategy(padding)
        if strategy == "do_not_pad":
            return Padding(False)
        if strategy == "longest":
            return Padding(True, None, multiple)
        length = self.model_max_length if max_length is None else max_length
        if length is None:
            raise InputError(
                'padding="max_length" needs max_length: this tokenizer has no model_max_length.'
            )
        return Padding(True, length, multiple)

    def _fill(self) -> dict[str, int]:
        """The padding value of each entry whose padding is not 0."""
        return {"input_ids": self.pad_token_id, "special_tokens_mask": 1}

    def _encode(self, inputs: Sequence[Any], options: _Options) -> list[tokenizers.Encoding]:
        """Encodes whole texts or pairs; an error names the first one that fails."""
        encode = self.backend.encode_batch if options.offsets else self.backend.encode_batch_fast
        how = {"add_special_tokens": options.special_tokens, "is_pretokenized": options.words}
        try:
            with guarded(MinilmError, "texts"):
                return encode(inputs, **how)
        except MinilmError:
            for index, text in enumerate(inputs):
                check_unicode(index, text)
                with guarded(MinilmError, f"text {index} ({text!r:.60})"):
                    encode([text], **how)
            raise

    def _encode_truncated(
        self,
        firsts: Sequence[Any],
        seconds: Sequence[Any] | None,
        max_length: int,
        strategy: Truncation,
        options: _Options,
    ) -> tuple[list[Assembled], list[int]]:
        """Encodes texts without special tokens and puts the tokens that fit into the template.

        The Rust library can truncate too, but that needs a change of state that other threads see,
        and it keeps every combination of the pieces it cuts off: for a pair of long texts that
        takes minutes and gigabytes.

        Returns:
            The rows, and the indices of those that were cut.
        """
        template = self._template if seconds is None else self._pair_template
        if not options.special_tokens:
            template = [slot for slot in template if slot.sequence is not None]
        n_special = num_special(template)
        room = max_length - n_special
        if room < 0:
            raise InputError(
                f"max_length is {max_length}, but the special tokens alone need {n_special}."
            )
        if seconds is None and strategy == "only_second":
            raise InputError('truncation="only_second" needs pairs.')
        bare = replace(options, special_tokens=False)
        parts = [self._encode(firsts, bare)]
        if seconds is not None:
            parts.append(self._encode(seconds, bare))

        rows, truncated = [], []
        for index, texts in enumerate(zip(*parts, strict=True)):
            lengths = [len(text) for text in texts]
            keep = kept_lengths(lengths, room, strategy, index)
            if keep != lengths:
                truncated.append(index)
            rows.append(assemble(template, texts, keep, options.offsets))
        return rows, truncated


@dataclass(frozen=True)
class _Options:
    """Options of encoding.

    Attributes:
        offsets: whether to keep the offsets of tokens in the text.
        special_tokens: whether to put special tokens around each text.
        words: whether each text is a list of words.
    """

    offsets: bool = True
    special_tokens: bool = True
    words: bool = False
