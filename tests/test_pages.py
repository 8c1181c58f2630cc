"""Pages of entities and of attention: right numbers, nothing of the text becomes HTML."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

import minilm
from minilm.cli import main
from minilm.errors import InputError
from minilm.pages.attention import attention_maps, attention_page
from minilm.pages.entities import entities_page
from saved import save_tiny
from task_data import save_start

NASTY = '</script><script>alert(1)</script> <b>"it\'s" & co'
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


class Tags(HTMLParser):
    """The tags of a page, and the addresses that it would load."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [str(value) for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.text += data


def data_of(page: str) -> dict[str, object]:
    found = re.search(r"id='data'>(.*?)</script>", page, re.DOTALL)
    assert found is not None
    values = json.loads(found[1])
    assert isinstance(values, dict)
    return values


# --- attention ---


@pytest.mark.parametrize("class_name", ["BertForMaskedLM", "DistilBertModel", "AlbertModel"])
def test_the_page_holds_the_models_attention(class_name: str, tmp_path: Path) -> None:
    save_tiny(tmp_path / "model", class_name)
    page = tmp_path / "page.html"
    result = run("attention", tmp_path / "model", "word3 word4 word5", "-o", page)
    assert result.exit_code == 0, result.output
    model = minilm.load(tmp_path / "model")
    tokenizer = minilm.Tokenizer.from_pretrained(tmp_path / "model")
    with torch.no_grad():
        output = model(**tokenizer("word3 word4 word5"), output_attentions=True)
    expected = torch.cat(output.attentions).numpy()  # (L, A, S, S)
    found = data_of(page.read_text())
    assert found["tokens"] == ["[CLS]", "word3", "word4", "word5", "[SEP]"]
    assert (found["layers"], found["heads"], found["length"]) == expected.shape[:3]
    weights = np.frombuffer(base64.b64decode(str(found["weights"])), np.uint8)
    assert weights.reshape(expected.shape) / 255 == pytest.approx(expected, abs=0.5 / 255 + 1e-6)
    assert f"{len(expected)} layers" in result.stdout

    printed = json.loads(run("attention", tmp_path / "model", "word3 word4 word5", "--json").stdout)
    assert np.array(printed["attention"]) == pytest.approx(expected, abs=1e-6)
    assert np.array(printed["attention"]).sum(-1) == pytest.approx(1, abs=1e-5)


def test_a_text_is_cut_and_a_pair_is_read(tmp_path: Path) -> None:
    save_tiny(tmp_path)
    model, tokenizer = minilm.load(tmp_path), minilm.Tokenizer.from_pretrained(tmp_path)
    maps = attention_maps(model, tokenizer, "word1 " * 50, max_length=7)
    assert len(maps.tokens) == maps.weights.shape[-1] == 7
    maps = attention_maps(model, tokenizer, "word1", "word2 word3")
    assert maps.tokens == ("[CLS]", "word1", "[SEP]", "word2", "word3", "[SEP]")
    with pytest.raises(InputError, match="reads 3 to 20 tokens"):
        attention_maps(model, tokenizer, "word1", max_length=21)


def test_nothing_of_the_text_becomes_part_of_the_page(tmp_path: Path) -> None:
    save_tiny(tmp_path)
    maps = attention_maps(
        minilm.load(tmp_path), minilm.Tokenizer.from_pretrained(tmp_path), "word1"
    )
    maps = type(maps)(("[CLS]", NASTY, "[SEP]"), maps.weights)
    page = attention_page(NASTY, maps, note=NASTY)
    found = Tags(page)
    assert found.tags.count("script") == 2
    assert "b" not in found.tags
    assert found.addresses == []
    assert "http" not in page
    tokens = data_of(page)["tokens"]
    assert isinstance(tokens, list)
    assert tokens[1] == NASTY


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_a_browser_shows_it(tmp_path: Path) -> None:
    save_tiny(tmp_path / "model")
    page = tmp_path / "page.html"
    assert run("attention", tmp_path / "model", "word3 word4", "-o", page).exit_code == 0
    done = subprocess.run(
        [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom",
         f"--user-data-dir={tmp_path / 'profile'}", page.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    buttons = re.findall(r"<button[^>]*>", done.stdout)
    assert len(buttons) == 4
    shares = [float(found) for each in buttons for found in re.findall(r"--share: ([0-9.]+)", each)]
    percents = [float(found) for each in buttons for found in re.findall(r'"([0-9.]+) %', each)]
    assert max(shares) == 1
    assert len(percents) == 4
    assert sum(percents) == pytest.approx(100, abs=1)


# --- entities ---


def entity(text: str, part: str, kind: str) -> dict[str, object]:
    start = text.index(part)
    return {
        "type": kind,
        "text": part,
        "start": start,
        "end": start + len(part),
        "confidence": 0.875,
    }


def test_entities_are_marked_where_they_are() -> None:
    text = f"Ada met Bob {NASTY}"
    found = {"entities": [entity(text, "Bob", "PER"), entity(text, "Ada", "<i>")]}
    page = entities_page("Entities", [(text, found), ("", {"error": "blank"})])
    seen = Tags(page)
    assert seen.tags.count("mark") == 2 + 2  # in the text, and in the key
    assert {"i", "b", "script"}.isdisjoint(seen.tags)
    assert seen.addresses == []
    assert f"Ada<i> met BobPER {NASTY}" in seen.text
    assert "confidence 88%" in page
    assert seen.tags.count("article") == 2


def test_overlapping_entities_and_plain_tags() -> None:
    text = "New York City"
    both = {"entities": [entity(text, "New York", "LOC"), entity(text, "York City", "LOC")]}
    assert text in Tags(entities_page("E", [(text, both)])).text.replace("LOC", "")
    tags = {"tokens": ["the", "cat"], "tags": ["DET", "NOUN"]}
    assert "theDET catNOUN" in Tags(entities_page("E", [("the cat", tags)])).text


def test_tag_writes_a_page_beside_its_output(tmp_path: Path) -> None:
    labels = {"id2label": {0: "O", 1: "B-LOC", 2: "I-LOC"}}
    save_start(tmp_path / "tags", head="ForTokenClassification", **labels)
    page = tmp_path / "page.html"
    plain = run("tag", tmp_path / "tags", "red in rome", "it is")
    assert plain.exit_code == 0, plain.output
    both = run("tag", tmp_path / "tags", "red in rome", "it is", "--html", page)
    assert both.exit_code == 0, both.output
    assert both.stdout == plain.stdout
    seen = Tags(page.read_text())
    assert seen.tags.count("article") == 2
    assert seen.text.count("LOC") == len(plain.stdout.splitlines()) + 1
