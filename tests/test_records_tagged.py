"""Tagged words, utterances, tag schemes, and questions about paragraphs."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from minilm.data.records.base import Records, Skips
from minilm.data.records.conll import read_conll
from minilm.data.records.squad import read_squad
from minilm.data.records.tag_schemes import Scheme, are_entities, scheme_of, to_bioes, to_iob2
from minilm.data.records.utterances import read_utterances
from minilm.errors import DataError, InputError


def write(directory: Path, name: str, text: str) -> Path:
    path = directory / name
    path.write_bytes(text.encode())
    return path


def failure(path: Path, read: Callable[..., Records], **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        read(path, **options)
    message = str(caught.value)
    assert message.startswith(str(path))
    return message.removeprefix(str(path))


def sentences(path: Path, **options: Any) -> list[list[tuple[str, str]]]:
    records = read_conll(path, **options)
    return [list(zip(row["tokens"], row["tags"], strict=True)) for row in records]


TWO = [[("Jo", "B-PER"), ("ran", "O")], [("#", "O"), ("No", "O")]]


@pytest.mark.parametrize(
    "text",
    [
        "Jo\tB-PER\nran\tO\n\n#\tO\nNo\tO\n",
        "Jo\tB-PER\r\nran\tO\r\n\r\n#\tO\r\nNo\tO",
        "\ufeff\n\nJo B-PER\nran   O \n\t\n \n# O\nNo O\n\n\n",
        "-DOCSTART- -X-\n\nJo B-PER\nran O\n\n-DOCSTART- -X-\n\n# O\nNo O\n",
        "-DOCSTART-\nJo B-PER\nran O\n-DOCSTART-\n# O\nNo O\n",
        "# sent_id = 1\n# text = Jo ran\nJo\tB-PER\nran\tO\n\n# No 2\n#\tO\nNo\tO\n",
        "# sent one\nJo B-PER\nran O\n\n#\n# two three\n# O\nNo O\n",
    ],
)
def test_conll(tmp_path: Path, text: str) -> None:
    assert sentences(write(tmp_path, "a.conll", text)) == TWO


def test_columns_of_conll(tmp_path: Path) -> None:
    path = write(tmp_path, "a.conll", "1 Jo NNP B-NP B-PER\n2 ran VBD B-VP O\n")
    assert sentences(path, token_column=2) == [[("Jo", "B-PER"), ("ran", "O")]]
    assert sentences(path, token_column=-4, tag_column=3) == [[("Jo", "NNP"), ("ran", "VBD")]]
    records = read_conll(path, token_column=2, tagged=False)
    assert list(records) == [{"tokens": ["Jo", "ran"]}]
    path = write(tmp_path, "b.conll", "Jo\nran\n\nNo\n")
    assert list(read_conll(path, tagged=False)) == [{"tokens": ["Jo", "ran"]}, {"tokens": ["No"]}]
    path = write(tmp_path, "c.conll", "New York\tB-LOC\nis\tO\n")
    assert sentences(path) == [[("New York", "B-LOC"), ("is", "O")]]
    path = write(tmp_path, "d.conll", "#\tO\n#\tO\n")
    assert sentences(path) == [[("#", "O"), ("#", "O")]]
    path = write(tmp_path, "e.conll", "a\u00a0b O\nc\u2028d O\n")
    assert sentences(path) == [[("a\u00a0b", "O"), ("c\u2028d", "O")]]


def test_a_sentence_is_where_its_first_word_is(tmp_path: Path) -> None:
    records = read_conll(write(tmp_path, "a.conll", "\n# x y z\nJo O\nran O\n\n\nNo O\n"))
    assert [records.where(i).rpartition(", ")[2] for i in range(2)] == ["line 3", "line 7"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a O\nb\n", ", line 2: expected 2 columns, found 1. Is a blank line missing"),
        ("a O\n# c d\n", ", line 2: expected 2 columns, found 3."),
        ("a O\n\nb X O\n", ", line 3: expected 2 columns, found 3."),
        ("a\tO\nb\tO\t\n", ", line 2: expected 2 columns, found 3."),
        ("a\tO\n\tO\n", ", line 2: the word in column 1 is empty."),
        ("a\tO\nb\t \n", ", line 2: the tag in column 2 is empty."),
    ],
)
def test_bad_lines_of_conll(tmp_path: Path, text: str, message: str) -> None:
    assert message in failure(write(tmp_path, "a.conll", text), read_conll)


def test_a_bad_line_costs_its_sentence(tmp_path: Path) -> None:
    skips = Skips("skip")
    path = write(tmp_path, "a.conll", "a O\n\nb O\nc\nd\n# e f\n\n# e f\ng O\n")
    assert sentences(path, skips=skips) == [[("a", "O")], [("g", "O")]]
    assert (skips.count, skips.total) == (1, 3)
    assert ", line 4: expected 2 columns, found 1." in skips.first[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"token_column": 3}, "line 1: token_column=3, but there are 2 columns. They count from 1"),
        ({"token_column": 0}, "token_column=0, but"),
        ({"tag_column": -3}, "tag_column=-3, but there are 2 columns"),
        (
            {"tag_column": 1},
            "words and tags both in column 1 of 2. Name another column (tag_column=...), or",
        ),
    ],
)
def test_columns_that_cannot_be(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        read_conll(write(tmp_path, "a.conll", "a O\n"), **options)
    assert message in str(caught.value)


def test_a_file_without_tags_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="both in column 1 of 1.*use tagged=False"):
        read_conll(write(tmp_path, "a.conll", "a\nb\n"))


visible = st.characters(exclude_categories=["Cs", "Zs", "Zl", "Zp", "Cc"])
words = st.text(visible, min_size=1, max_size=6).filter(
    lambda word: word.strip() and word[0] not in "#-\ufeff"
)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.tuples(words, words), min_size=1, max_size=4), min_size=1, max_size=4),
    st.sampled_from([" ", "\t", "   "]),
)
def test_what_is_written_as_conll_is_read(
    tmp_path_factory: pytest.TempPathFactory, rows: list[list[tuple[str, str]]], blank: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "round.conll"
    text = "\n".join("".join(f"{word}{blank}{tag}\n" for word, tag in row) for row in rows)
    path.write_bytes(text.encode())
    assert sentences(path) == rows


def utterances(directory: Path, words: str, tags: str, intents: str) -> Path:
    for name, text in (("seq.in", words), ("seq.out", tags), ("label", intents)):
        write(directory, name, text)
    return directory


def test_utterances(tmp_path: Path) -> None:
    utterances(
        tmp_path, "fly to Rome\n\nhi  you \n", "O O B-to\n\nO O \n", "flight#fare\n\ngreet\n"
    )
    records = read_utterances(tmp_path)
    assert list(records) == [
        {"tokens": ["fly", "to", "Rome"], "tags": ["O", "O", "B-to"], "intent": "flight#fare"},
        {"tokens": ["hi", "you"], "tags": ["O", "O"], "intent": "greet"},
    ]
    assert records.where(1) == f"{tmp_path}, line 3"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (("a\nb", "O\nO\n", "x"), ": different numbers of lines (seq.in 2, seq.out 2, label 1)."),
        (("a b\n", "O\n", "x\n"), ", line 1: words in seq.in: 2, tags in seq.out: 1."),
        (("a\n\n", "O\n\n", "x\ny\n"), ", line 2: no words in seq.in."),
        (("a\nb\n", "O\nO\n", "x\n \n"), ", line 2: no intent in label."),
        (("", "", ""), ": no record in it"),
    ],
)
def test_bad_utterances(tmp_path: Path, files: tuple[str, str, str], message: str) -> None:
    assert failure(utterances(tmp_path, *files), read_utterances).startswith(message)


def test_a_missing_file_of_utterances(tmp_path: Path) -> None:
    utterances(tmp_path, "a", "O", "x")
    (tmp_path / "label").unlink()
    with pytest.raises(DataError, match=r"label does not exist"):
        read_utterances(tmp_path)


@pytest.mark.parametrize(
    ("tags", "scheme"),
    [
        ([], "IOB2"),
        ([["O", "O"]], "IOB2"),
        ([["B-X", "I-X", "O"]], "IOB2"),
        ([["I-X", "I-X", "O"]], "IOB1"),
        ([["O", "I-X", "B-X"]], "IOB1"),
        ([["B-X", "I-Y"]], "IOB2"),  # a B that follows nothing
        ([["I-X", "I-Y"], ["O"]], "IOB1"),
        ([["I-X"], ["B-X"]], "IOB2"),  # stray I
        ([["B-X", "B-X"]], "IOB2"),
        ([["B-X", "O"], ["S-X"]], "BIOES"),
        ([["B-X", "E-X"]], "BIOES"),
    ],
)
def test_scheme_of(tags: list[list[str]], scheme: Scheme) -> None:
    assert scheme_of(tags) == scheme


@pytest.mark.parametrize(
    ("scheme", "tags", "iob2"),
    [
        ("IOB1", "I-X I-X B-X O I-Y I-X", "B-X I-X B-X O B-Y B-X"),
        ("IOB2", "B-X I-X B-X O B-a-b I-a-b", "B-X I-X B-X O B-a-b I-a-b"),
        ("IOB2", "I-X I-Y O I-Y", "B-X B-Y O B-Y"),
        ("BIOES", "B-X I-X E-X S-X O B-Y E-Y S-Y", "B-X I-X I-X B-X O B-Y I-Y B-Y"),
        ("BIOES", "S-X I-X E-Y I-Y", "B-X B-X B-Y B-Y"),
    ],
)
def test_to_iob2(scheme: Scheme, tags: str, iob2: str) -> None:
    assert to_iob2(tags.split(), scheme) == iob2.split()


def test_to_bioes() -> None:
    tags = ["B-X", "I-X", "I-X", "B-X", "O", "B-Y", "I-Y", "B-Y", "I-X"]
    assert to_bioes(tags) == ["B-X", "I-X", "E-X", "S-X", "O", "B-Y", "E-Y", "S-Y", "S-X"]


entities = st.lists(st.tuples(st.sampled_from(["", "X", "Y", "a-b"]), st.integers(1, 3)))


@given(entities)
def test_all_schemes_say_the_same(spans: list[tuple[str, int]]) -> None:
    iob1: list[str] = []
    iob2: list[str] = []
    for kind, length in spans:
        if not kind:
            iob1, iob2 = [*iob1, "O"], [*iob2, "O"]
            continue
        rest = [f"I-{kind}"] * (length - 1)
        follows_its_kind = bool(iob1) and iob1[-1][1:] == f"-{kind}"
        iob1 += [f"{'B' if follows_its_kind else 'I'}-{kind}", *rest]
        iob2 += [f"B-{kind}", *rest]
    bioes = to_bioes(iob2)
    assert to_iob2(iob1, "IOB1") == iob2
    assert to_iob2(iob2, "IOB2") == iob2
    assert to_iob2(bioes, "BIOES") == iob2
    if set(iob2) != {"O"} and iob2:
        assert [scheme_of([tags]) for tags in (iob1, iob2, bioes)] == ["IOB1", "IOB2", "BIOES"]


@pytest.mark.parametrize(
    ("scheme", "tags", "iob2"),
    [
        ("IOB2", "B I B O B", "B I B O B"),
        ("IOB1", "I I B O I", "B I B O B"),
        ("BIOES", "B I E O S S", "B I I O B B"),
        ("BIOES", "B-X I-X L-X O U-X L U", "B-X I-X I-X O B-X B B"),
        ("BIOES", "B-X M-X E-X S-X", "B-X I-X I-X B-X"),
        ("IOB2", "b-per i-per o i-Per", "B-per I-per O B-Per"),
        ("IOB2", "B_PER I_PER O I_a-b", "B-PER I-PER O B-a-b"),
        ("IOB2", "I-X I I-X", "B-X B B-X"),
    ],
)
def test_other_spellings(scheme: Scheme, tags: str, iob2: str) -> None:
    assert scheme_of([tags.split(), ["O", "B", "I"]]) in (scheme, "IOB2")
    assert to_iob2(tags.split(), scheme) == iob2.split()
    assert are_entities(tags.split())


@pytest.mark.parametrize(
    "tags", ["", "O", "PER O", "NN VB", "0 3 7", "O S M", "E O", "I YOU O", "B_PER X_Y"]
)
def test_tags_that_mark_no_entities(tags: str) -> None:
    assert not are_entities(tags.split())


@pytest.mark.parametrize("tag", ["X-LOC", "B-", "", "PER", "BI", "-LOC", "I LOC", 3])
def test_no_tags(tag: Any) -> None:
    with pytest.raises(InputError, match="is not a tag. Expected O, or B, I, E or S"):
        to_iob2([tag], "IOB2")
    with pytest.raises(InputError, match="is not a tag"):
        to_bioes([tag])
    with pytest.raises(InputError, match=r"sequence 1, tag 2: .* is not a tag"):
        scheme_of([["O"], ["O", "E-X", tag]])


def test_tags_that_do_not_fit() -> None:
    with pytest.raises(InputError, match="'B-a,B-b' is several tags"):
        scheme_of([["B-a,B-b"]])
    assert scheme_of([["B-a,b"]]) == "IOB2"
    with pytest.raises(InputError, match="'S-X' is not of IOB1 but of BIOES"):
        to_iob2(["S-X"], "IOB1")
    with pytest.raises(InputError, match="scheme must be one of IOB1, IOB2, BIOES, not 'BIO'"):
        to_iob2(["O"], "BIO")  # type: ignore[arg-type]


CONTEXT = "The Seine flows through Paris. Paris is old; the Eiffel Tower is not."


def question(**changes: Any) -> dict[str, Any]:
    found = {
        "id": "q1",
        "question": "What flows?",
        "answers": [{"text": "The Seine", "answer_start": 0}, {"text": "Seine", "answer_start": 4}],
    }
    return {key: value for key, value in (found | changes).items() if value is not None}


def squad(directory: Path, *questions: Any) -> Path:
    paragraphs = [{"context": CONTEXT, "qas": list(questions)}]
    text = json.dumps({"version": "v2.0", "data": [{"title": "Paris", "paragraphs": paragraphs}]})
    return write(directory, "a.json", text)


def answer(text: Any, start: Any) -> dict[str, Any]:
    return question(answers=[{"text": text, "answer_start": start}])


def test_squad(tmp_path: Path) -> None:
    impossible = question(id=2, answers=[], is_impossible=True, plausible_answers=[{}])
    records = read_squad(squad(tmp_path, question(is_impossible=False), impossible))
    assert records[0] == question() | {"title": "Paris", "context": CONTEXT, "is_impossible": False}
    assert (records[1]["id"], records[1]["answers"]) == ("2", [])
    assert records[1]["is_impossible"] is True
    assert records.where(1) == f"{tmp_path / 'a.json'}, question '2'"


def test_squad_without_answers_or_title(tmp_path: Path) -> None:
    path = squad(tmp_path, question(answers=None), question(id="q2", answers=[]))
    expected = {"id": "q1", "title": "Paris", "question": "What flows?", "context": CONTEXT}
    assert list(read_squad(path, labelled=False)) == [expected, expected | {"id": "q2"}]
    path = write(
        tmp_path, "b.json", json.dumps({"data": [{"paragraphs": [{"context": "x y", "qas": [
            question(answers=[{"text": "y", "answer_start": 2}])]}]}]})
    )  # fmt: skip
    assert read_squad(path)[0]["title"] == ""


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (question(id=None), ".qas[1]: no key 'id'."),
        (question(id=[1]), ".qas[1]: 'id' is [1], expected str or int."),
        (question(id=True), "'id' is True, expected str or int."),
        (7, ".qas[1]: no JSON object with a key 'id'."),
        (question(question=None), ", question 'q1': no key 'question'."),
        (question(answers=None), "'q1': no key 'answers'. For a file without answers use label"),
        (question(answers={}), "'answers' is {}, expected list."),
        (question(answers=[]), "no answers, but is_impossible is not true."),
        (question(is_impossible=True), "is_impossible, but it has answers."),
        (question(is_impossible="no"), "'is_impossible' is 'no', expected bool."),
        (question(id="q0"), "question 'q0': an earlier question has the same id."),
        (question(answers=[3]), "no JSON object with a key 'text'."),
        (question(answers=[{"text": "Paris"}]), "no key 'answer_start'."),
        (answer("", 0), "an answer is empty."),
        (answer("Seine", 4.0), "'answer_start' is 4.0, expected int."),
        (
            answer("Seine", 5),
            "the answer 'Seine' is not at character 5 of the context, where it reads 'eine '. "
            "It occurs once, at 4; repair_offsets=True moves it there.",
        ),
        (answer("not.", -4), "is not at character -4 of the context, where it reads ''. It occurs"),
        (answer("Paris", 25), "It occurs at 24, 31; choose one."),
        (answer("e", 0), "It occurs at 2, 5, 8, 32"),
        (answer("London", 4), "It does not occur in the context at all."),
        (answer("Seine", 10**30), "where it reads ''. It occurs once"),
    ],
)
def test_bad_questions(tmp_path: Path, wrong: Any, message: str) -> None:
    if "at 2, 5, 8, 32" in message:
        places = [i for i, letter in enumerate(CONTEXT) if letter == "e"][:5]
        message = f"It occurs at {', '.join(map(str, places))} and more; choose one."
    path = squad(tmp_path, question(id="q0"), wrong)
    assert message in failure(path, read_squad)
    skips = Skips("skip")
    assert [record["id"] for record in read_squad(path, skips=skips)] == ["q0"]
    assert (skips.count, skips.total, skips.repaired) == (1, 2, 0)


def test_offsets_are_repaired_where_that_is_clear(tmp_path: Path) -> None:
    wrong = answer("Seine", 7)
    wrong["answers"].append({"text": "The Seine", "answer_start": 0})
    unclear = answer("Paris", 0) | {"id": "q2"}
    path = squad(tmp_path, wrong, unclear, question(id="q3"))
    skips = Skips("skip")
    records = read_squad(path, repair_offsets=True, skips=skips)
    assert [row["answer_start"] for row in records[0]["answers"]] == [4, 0]
    assert [record["id"] for record in records] == ["q1", "q3"]
    assert (skips.count, skips.repaired) == (1, 1)
    assert skips.summary().endswith("choose one. (1 repaired)")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], ", the file: no JSON object with a key 'data'. Is it a file of SQuAD?"),
        ({"train": []}, ", the file: no key 'data'."),
        ({"data": {}}, ", the file: 'data' is {}, expected list."),
        ({"data": [{"title": 3}]}, ", data[0]: 'title' is 3, expected str."),
        ({"data": [{"title": "t"}]}, ", data[0]: no key 'paragraphs'."),
        ({"data": [{"paragraphs": [{"qas": []}]}]}, ", data[0].paragraphs[0]: no key 'context'."),
        ({"data": [{"paragraphs": [{"context": ""}]}]}, "paragraphs[0]: no key 'qas'."),
        ({"data": [{"paragraphs": [{"context": "", "qas": []}]}, 1]}, ", data[1]: no JSON object"),
    ],
)
def test_files_that_are_no_squad(tmp_path: Path, value: Any, message: str) -> None:
    path = write(tmp_path, "a.json", json.dumps(value))
    assert message in failure(path, read_squad, skips=Skips("skip"))


def test_squad_that_is_no_json(tmp_path: Path) -> None:
    path = write(tmp_path, "a.json", '{"data":\n [1,\n]}')
    assert failure(path, read_squad).startswith(": Expecting value at line 3, character 1.")
    path = write(tmp_path, "a.json", '{"data": [], "data": []}')
    assert "the key 'data' occurs 2 times" in failure(path, read_squad)
