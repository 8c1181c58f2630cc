"""Pages in a real browser, and the exported model in Node.

They need Chromium from the system's packages, Node, and the packages of examples/browser (`npm
install` there); what is missing is named and its tests are skipped.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from click.testing import CliRunner

import minilm
from chromium import CHROMIUM, Page
from minilm.cli import main
from minilm.compare.page import page

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "examples" / "browser"
MODEL = ROOT / "weights" / "sentence-mini"
TEXTS = ["A hole in the tube lets the air out.", "Shares fell, and interest rates rose sharply."]
INSTALLED = (EXAMPLE / "node_modules" / "@huggingface" / "transformers").exists()

needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="Chromium is not installed (apt-get install chromium)"
)
needs_packages = pytest.mark.skipif(
    not INSTALLED, reason="the packages of examples/browser are not installed (npm install)"
)
needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="Node is not installed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped sentence model as `minilm export` writes it."""
    folder = tmp_path_factory.mktemp("site") / "models" / "sentence-mini"
    folder.parent.mkdir()
    done = CliRunner().invoke(main, ["export", str(MODEL), str(folder)])
    assert done.exit_code == 0, done.output
    return folder


@pytest.fixture(scope="module")
def expected() -> np.ndarray:
    """The vectors of `TEXTS` that minilm makes."""
    vectors = minilm.Encoder.from_pretrained(MODEL).encode(TEXTS)
    assert isinstance(vectors, np.ndarray)
    return vectors


# --- Node ---


@needs_node
@needs_packages
@pytest.mark.parametrize(("options", "least"), [([], 0.9999), (["--q8"], 0.98)], ids=["32", "8"])
def test_vectors_in_node_are_those_of_minilm(
    folder: Path, expected: np.ndarray, options: list[str], least: float
) -> None:
    done = embed(folder, *options, *TEXTS)
    assert done.returncode == 0, done.stderr
    vectors = np.array([json.loads(line) for line in done.stdout.splitlines()])
    assert vectors.shape == expected.shape
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    cosines = vectors @ expected.T
    assert np.diag(cosines).min() >= least
    assert max(cosines[0, 1], cosines[1, 0]) < 0.5  # texts in the wrong order would be seen


@needs_node
@needs_packages
def test_long_texts_are_cut_as_minilm_cuts_them(folder: Path) -> None:
    encoder = minilm.Encoder.from_pretrained(MODEL)
    text = "The train was late, and nobody knew why. " * 60
    with pytest.warns(UserWarning, match="1 text"):
        vector = encoder.encode(text)
    done = embed(folder, text)
    assert done.returncode == 0, done.stderr
    assert float(np.array(json.loads(done.stdout)) @ vector) >= 0.9999


@needs_node
@needs_packages
def test_mistakes_in_node_are_one_line(tmp_path: Path) -> None:
    missing = embed(tmp_path / "missing", "a text")
    assert missing.returncode == 1
    assert missing.stderr == (
        "error: missing is no exported model. Make it: minilm export MODEL missing\n"
    )
    usage = embed(tmp_path)
    assert usage.returncode == 2
    assert usage.stderr == "usage: node embed.mjs FOLDER [--q8] TEXT...\n"


def embed(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["node", str(EXAMPLE / "embed.mjs"), str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


# --- the browser ---


@pytest.fixture(scope="module")
def site(folder: Path) -> Iterator[str]:
    """The address of a server of the example's folder, with the exported model in it."""
    place = folder.parent.parent
    for path in EXAMPLE.iterdir():
        if path.name != "models" and not (place / path.name).exists():
            (place / path.name).symlink_to(path)
    handler = partial(Quiet, directory=str(place))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None: ...


READY = "document.getElementById('status')?.dataset.ready"
STATUS = "document.getElementById('status').textContent"
FIRST = "document.querySelector('#results li span').textContent"


@needs_chromium
@needs_packages
def test_the_page_sorts_sentences_by_meaning(site: str, expected: np.ndarray) -> None:
    encoder = minilm.Encoder.from_pretrained(MODEL)
    with Page() as browser:
        browser.look(1280, dark=False)
        browser.open(f"{site}/index.html?query=my+bike+has+a+puncture")
        assert browser.wait(READY) == "q8"
        assert browser.value("document.querySelectorAll('#results li').length") == 20
        assert browser.value(FIRST) == "The tyre of my bicycle is flat."
        told = browser.value(STATUS)
        assert "Time per text: " in told
        each = float(told.partition("Time per text: ")[2].split(" ms")[0])
        assert 0 < each < 60_000

        # with 32 bits, the cosines are minilm's own
        browser.value("document.querySelector('[value=fp32]').click()")
        browser.wait(f"{READY} === 'fp32'")
        shown = browser.value(
            "[...document.querySelectorAll('#results li')].map((item) =>"
            " [...item.querySelectorAll('span')].map((span) => span.textContent))"
        )
        words = encoder.encode("my bike has a puncture")
        sentences = encoder.encode([sentence for sentence, _ in shown])
        np.testing.assert_allclose([float(n) for _, n in shown], sentences @ words, atol=0.0051)

        # what is typed counts
        browser.value(
            "(() => { const field = document.getElementById('query');"
            " field.value = 'an illness'; field.dispatchEvent(new Event('input')); })()"
        )
        browser.wait(f"{FIRST} !== 'The tyre of my bicycle is flat.'")
        own = encoder.encode("an illness") @ sentences.T
        assert browser.value(FIRST) == shown[int(own.argmax())][0]

        for width, dark in ((400, False), (1280, True)):
            browser.look(width, dark=dark)
            assert browser.value("document.documentElement.scrollWidth <= innerWidth")
        assert browser.problems == []
        hosts = {urlsplit(address).netloc for address in browser.requested if ":/" in address}
        assert hosts == {urlsplit(site).netloc}  # no CDN, no hub


@needs_chromium
@needs_packages
def test_the_page_says_how_a_missing_model_is_made(site: str) -> None:
    with Page() as browser:
        browser.open(f"{site}/index.html?model=other")
        browser.wait("document.getElementById('status')?.className === 'wrong'")
        told = browser.value(STATUS)
        assert (
            told == "models/other is no exported model. Make it: minilm export MODEL models/other"
        )


@needs_chromium
def test_the_page_of_a_comparison_fits_phones_and_screens(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text(page(invented_comparison()))
    with Page() as browser:
        for width in (400, 1280):
            backgrounds = set()
            for dark in (False, True):
                browser.look(width, dark=dark)
                browser.open(path.as_uri())
                browser.wait("document.readyState === 'complete'")
                assert browser.value("document.documentElement.scrollWidth <= innerWidth")
                sizes = browser.value(
                    "[...document.querySelectorAll('.plot text')].map((text) =>"
                    " text.getBoundingClientRect()).map((box) => [box.height, box.right])"
                )
                assert min(height for height, _ in sizes) > 9  # can be read
                assert max(right for _, right in sizes) < width
                # labels cover neither a dot nor each other
                assert browser.value(OVERLAPPING) == []
                backgrounds.add(browser.value("getComputedStyle(document.body).backgroundColor"))
                taken = tmp_path / f"{width}-{dark}.png"
                browser.picture(taken)
                assert taken.stat().st_size > 10_000
            assert len(backgrounds) == 2
        assert browser.problems == []


OVERLAPPING = """
(() => {
  const box = (part) => part.getBoundingClientRect();
  const names = [...document.querySelectorAll('.plot .name')];
  const found = [];
  for (const name of names)
    for (const other of [...names, ...document.querySelectorAll('.plot circle')]) {
      const [a, b] = [box(name), box(other)];
      if (other !== name && a.left < b.right && b.left < a.right && a.top + 3 < b.bottom &&
          b.top < a.bottom - 3)
        found.push(name.textContent);
    }
  return found;
})()
"""


def invented_comparison() -> dict[str, object]:
    """A result of `compare` with long names and scores close to each other."""
    figures = {
        "bert-base-uncased": (110e6, 0.348, 900.0),
        "distilbert-base-uncased": (66e6, 0.345, 1800.0),
        "a-student-with-a-rather-long-name": (30e6, 0.346, 2400.0),
        "albert-base-v2": (12e6, 0.266, 950.0),
    }
    models = []
    for name, (parameters, accuracy, speed) in figures.items():
        times = [1 / speed, 1.1 / speed, 0.9 / speed]
        models.append(
            {
                "name": name,
                "class": "BertForMaskedLM",
                "dtype": "float32",
                "card": {"compression": "half of the layers, distilled"},
                "architecture": "12 layers, 768 wide, 12 heads",
                "layers": {"stored": 12, "applied": 12},
                "components": {
                    "embeddings": parameters // 3, "layers": parameters // 2,
                    "pooler": 0, "heads": parameters // 6,
                },
                "parameters": parameters,
                "file_bytes": 4 * parameters,
                "flops_per_token": 2 * parameters,
                "one_text_seconds": 1 / speed,
                "tokens_per_second": speed,
                "rounds": {
                    "one_text_seconds": times, "tokens_per_second": [1 / t for t in times],
                },
                "scores": {
                    "masked_accuracy": accuracy, "masked_tokens": 5735,
                    "sentence_order_accuracy": None, "pairs": 0,
                },
                "tasks": {},
            }
        )  # fmt: skip
    return {
        "machine": {
            "date": "2026-01-31", "processor": "Some Processor 9000 with a Long Name @ 3.00GHz",
            "instructions": "AVX2", "threads": 2, "minilm": "0.1.0", "torch": "2.13.0+cpu",
            "python": "3.11.2",
        },
        "workload": {"texts": 512, "tokens": 19093, "one_text_tokens": 32, "rounds": 3,
                     "source": "Python's help topics"},
        "models": models,
    }  # fmt: skip
