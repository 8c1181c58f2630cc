"""Special tokens, wherever the files of a model name them: the same ids as transformers."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
import transformers
from hypothesis import given, settings, strategies as st
from tokenizers import Tokenizer as Backend, models

from minilm import Tokenizer, TokenizerFileError
from tokenizer_files import NORMAL, PIECES, SPECIAL, description, spiece, write_json

CONFIG, MAP = "tokenizer_config.json", "special_tokens_map.json"
KNOWN = ["[E1]", "<e2>"]  # in every vocabulary below
NEW = ["[NEW]", "<new>", "two words"]  # in none
TEXT = "a the [E1] test<e2>a [NEW]the <new> two words[E1]two test."

WORDS = [*SPECIAL, *"abcdehinorstw12[]<>.", "the", "test", "two", "##1", "##2", "##w", "##e", "##n"]

ADDED_PIECES = [(word, -20.0, NORMAL) for word in KNOWN]

LAYOUTS = {
    "vocab.txt": transformers.BertTokenizer,
    "spiece.model": transformers.AlbertTokenizer,
    "tokenizer.json": transformers.PreTrainedTokenizerFast,
}


def write_vocabulary(directory: Path, layout: str) -> None:
    path = directory / layout
    if layout == "vocab.txt":
        path.write_text("\n".join([*WORDS, *KNOWN]) + "\n", encoding="utf-8")
    elif layout == "spiece.model":
        path.write_bytes(spiece([*PIECES, *ADDED_PIECES], compiled=None))
    else:
        content = description()
        vocabulary = {word: index for index, word in enumerate([*WORDS, *KNOWN])}
        content["model"]["vocab"] = vocabulary
        content["normalizer"] = {"type": "Lowercase"}
        flags = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False}
        content["added_tokens"] = [
            {"id": vocabulary[word], "content": word, "special": True, **flags} for word in SPECIAL
        ]
        cls, sep = vocabulary["[CLS]"], vocabulary["[SEP]"]
        content["post_processor"] = {
            "type": "BertProcessing",
            "cls": ["[CLS]", cls],
            "sep": ["[SEP]", sep],
        }
        write_json(path, content)


def as_object(token: str, **flags: bool) -> dict[str, Any]:
    plain = dict.fromkeys(("lstrip", "rstrip", "single_word", "normalized"), False)
    return {"content": token, **plain, **flags}


def marked(content: Any) -> Any:
    """Token objects as transformers 5 writes them; it fails on those of transformers 4 in lists."""
    if isinstance(content, list):
        return [marked(item) for item in content]
    if isinstance(content, dict):
        mark = {"__type": "AddedToken"} if "content" in content else {}
        return {key: marked(value) for key, value in content.items()} | mark
    return content


def pair(layout: str, files: dict[str, dict[str, Any]]) -> tuple[Tokenizer, Any]:
    """The tokenizers of minilm and transformers for the same files."""
    with tempfile.TemporaryDirectory() as ours, tempfile.TemporaryDirectory() as theirs:
        for directory in (Path(ours), Path(theirs)):
            write_vocabulary(directory, layout)
        for name, content in files.items():
            write_json(Path(ours) / name, content)
            if name == MAP:  # objects that stand alone in the map are understood without a mark
                content = {k: v if "content" in v else marked(v) for k, v in content.items()}
            elif name == CONFIG and "added_tokens_decoder" in content:
                decoder = {"added_tokens_decoder": content["added_tokens_decoder"]}
                content = marked(content) | decoder
            else:
                content = marked(content)
            write_json(Path(theirs) / name, content)
        if layout == "spiece.model":  # AlbertTokenizer takes the pieces from there as well
            pieces = [(piece, score) for piece, score, _ in [*PIECES, *ADDED_PIECES]]
            Backend(models.Unigram(pieces, unk_id=1)).save(str(Path(theirs) / "tokenizer.json"))
        return Tokenizer.from_pretrained(ours), LAYOUTS[layout].from_pretrained(theirs)


def check_same(ours: Tokenizer, theirs: Any) -> None:
    assert ours(TEXT)["input_ids"].tolist() == [theirs(TEXT)["input_ids"]]
    assert ours(TEXT, "[E1]<new>")["input_ids"].tolist() == [theirs(TEXT, "[E1]<new>")["input_ids"]]
    for token in (*KNOWN, *NEW, *theirs.all_special_tokens):
        expected = theirs.get_vocab().get(token)
        assert ours.token_to_id(token) == expected, token
    assert len(ours) == len(theirs)


token = st.sampled_from([*KNOWN, *NEW])
entry = st.one_of(token, token.map(as_object), token.map(lambda t: as_object(t, lstrip=True)))
entries = st.lists(entry, max_size=3, unique_by=lambda e: e if isinstance(e, str) else e["content"])
named = st.dictionaries(st.sampled_from(["one", "two_token", "three"]), entry, max_size=2)
alone = st.dictionaries(
    st.sampled_from(["bos_token", "speaker_token", "x_token"]), token, max_size=2
)


@st.composite
def cases(draw: st.DrawFn) -> dict[str, dict[str, Any]]:
    """Files that name special tokens in any of the places, alone and together."""
    config: dict[str, Any] = draw(alone)
    token_map: dict[str, Any] = {}
    if draw(st.booleans()):
        form = draw(st.sampled_from(["additional_special_tokens", "extra_special_tokens"]))
        config[form] = draw(named if form[0] == "e" and draw(st.booleans()) else entries)
    if draw(st.booleans()):
        token_map = draw(alone.map(lambda m: {k: as_object(v) for k, v in m.items()}) | alone)
        if draw(st.booleans()):
            token_map["additional_special_tokens"] = draw(entries)
        elif not isinstance(config.get("extra_special_tokens"), dict):
            token_map["extra_special_tokens"] = draw(entries)
    return {CONFIG: config, MAP: token_map}


@pytest.mark.parametrize("layout", LAYOUTS)
@settings(max_examples=60, deadline=None)
@given(files=cases())
def test_any_combination_of_files(layout: str, files: dict[str, dict[str, Any]]) -> None:
    check_same(*pair(layout, files))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("file", [CONFIG, MAP])
@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("additional_special_tokens", "list"),
        ("additional_special_tokens", "objects"),
        ("extra_special_tokens", "list"),
        ("extra_special_tokens", "objects"),
        ("extra_special_tokens", "object"),
    ],
)
def test_each_place_alone(layout: str, name: str, file: str, form: str) -> None:
    tokens = ["[E1]", "<new>", "[NEW]"]
    content: Any = {
        "list": tokens,
        "objects": [as_object(token) for token in tokens],
        "object": {f"role{index}": token for index, token in enumerate(tokens)},
    }[form]
    ours, theirs = pair(layout, {file: {name: content}})
    check_same(ours, theirs)
    assert {"[E1]", "<new>", "[NEW]"} <= set(ours.all_special_tokens)
    assert ours.tokenize("a[E1]a").count("[E1]") == 1
    ids = ours("a [E1] <new> a")["input_ids"][0]
    assert ours.decode(ids) == "a a"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_flags_of_objects(layout: str) -> None:
    tokens = [as_object("[E1]", lstrip=True, rstrip=True), as_object("<e2>", single_word=True)]
    for file in (CONFIG, MAP):
        ours, theirs = pair(layout, {file: {"extra_special_tokens": tokens}})
        text = "the [E1] test <e2> a<e2>b a"
        expected = theirs(text, return_offsets_mapping=True)
        assert ours(text)["input_ids"].tolist() == [expected["input_ids"]]
        assert ours(text, return_offsets=True).offsets == [list(expected["offset_mapping"])]


@pytest.mark.parametrize(
    ("layout", "role"),
    # other layouts fix the template: tokenizer.json has it, AlbertTokenizer says [CLS] and [SEP]
    [("vocab.txt", "cls"), ("vocab.txt", "sep")]
    + [(layout, role) for layout in LAYOUTS for role in ("pad", "mask")],
)
@pytest.mark.parametrize("token", ["[E1]", "<new>"])
@pytest.mark.parametrize("file", [CONFIG, MAP])
def test_roles_are_read_and_appended(layout: str, role: str, token: str, file: str) -> None:
    files = {file: {f"{role}_token": token, "extra_special_tokens": ["[NEW]"]}}
    ours, theirs = pair(layout, files)
    check_same(ours, theirs)
    assert getattr(ours, f"{role}_token") == token
    assert getattr(ours, f"{role}_token_id") == getattr(theirs, f"{role}_token_id")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_added_tokens_and_special_ones_together(layout: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_vocabulary(Path(folder), layout)
        size = Tokenizer.from_pretrained(folder).vocab_size
    added = {"two words": size + 1, "[NEW]": size}
    for content in ({"extra_special_tokens": ["<new>", "[NEW]"]}, {"mask_token": "[NEW]"}):
        for file in (CONFIG, MAP):
            ours, theirs = pair(layout, {"added_tokens.json": added, file: content})
            check_same(ours, theirs)
            assert "[NEW]" in ours.all_special_tokens
            assert "two words" not in ours.all_special_tokens
            assert ours.decode([ours.token_to_id("[NEW]") or 0]) == ""

    decoder = {
        str(size + 1): as_object("[NEW]", special=True),
        str(size): as_object("<new>", special=False, lstrip=True),
    }
    content = {"added_tokens_decoder": decoder, "additional_special_tokens": ["[E1]", "<new>"]}
    ignored = {"extra_special_tokens": ["two words"], "bos_token": "<e2>"}
    ours, theirs = pair(layout, {CONFIG: content, MAP: ignored})
    check_same(ours, theirs)
    assert ours.token_to_id("two words") is None
    assert {"[E1]", "<new>", "[NEW]"} <= set(ours.all_special_tokens)


def test_the_map_comes_before_the_settings() -> None:
    """Unless the settings have added_tokens_decoder, which makes them complete."""
    token_map = {"mask_token": "the"}
    ours, theirs = pair("vocab.txt", {CONFIG: {"mask_token": "test"}, MAP: token_map})
    assert ours.mask_token == theirs.mask_token == "the"
    content = {"mask_token": "test", "added_tokens_decoder": {"0": as_object("[PAD]")}}
    ours, theirs = pair("vocab.txt", {CONFIG: content, MAP: token_map})
    assert ours.mask_token == theirs.mask_token == "test"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_saved_and_read_again(tmp_path: Path, layout: str) -> None:
    files = {CONFIG: {"extra_special_tokens": ["[E1]", "<new>"], "speaker_token": "[NEW]"}}
    ours, _ = pair(layout, files)
    ours.save_pretrained(tmp_path)
    again = Tokenizer.from_pretrained(tmp_path)
    assert again.all_special_tokens == ours.all_special_tokens
    assert again.get_vocab() == ours.get_vocab()
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for tokenizer in (again, theirs):
        ids = tokenizer([TEXT], padding=True, return_tensors="pt")["input_ids"]
        assert ids.tolist() == ours(TEXT)["input_ids"].tolist()


@pytest.mark.parametrize("file", [CONFIG, MAP])
@pytest.mark.parametrize(
    "content",
    [
        {"extra_special_tokens": "[E1]"},
        {"additional_special_tokens": 3},
        {"extra_special_tokens": ["[E1]", None]},
        {"extra_special_tokens": [{"lstrip": True}]},
        {"extra_special_tokens": {"one": ["[E1]"]}},
        {"additional_special_tokens": [{"content": "[E1]", "lstrip": "no"}]},
        {"extra_special_tokens": [""]},
        {"bos_token": 7},
    ],
)
def test_malformed_names(tmp_path: Path, file: str, content: dict[str, Any]) -> None:
    write_vocabulary(tmp_path, "vocab.txt")
    write_json(tmp_path / file, content)
    with pytest.raises(TokenizerFileError, match=rf"{file}.*{next(iter(content))}"):
        Tokenizer.from_pretrained(tmp_path)


def test_an_unknown_token_must_be_in_the_vocabulary(tmp_path: Path) -> None:
    """The model gives it to unknown words: to append one would not help."""
    for layout in LAYOUTS:
        write_vocabulary(tmp_path, layout)
        write_json(tmp_path / CONFIG, {"unk_token": "<nothing>"})
        with pytest.raises(TokenizerFileError, match=r"unk token \(<nothing>\)"):
            Tokenizer.from_pretrained(tmp_path)
        (tmp_path / layout).unlink()


def test_half_a_surrogate_pair_is_refused(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS), encoding="utf-8")
    (tmp_path / CONFIG).write_text('{"cls_token": "\\ud800"}')
    with pytest.raises(TokenizerFileError, match=r"cls_token has half a surrogate pair.*ud800"):
        Tokenizer.from_pretrained(tmp_path)
