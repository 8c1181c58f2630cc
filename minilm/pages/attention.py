"""Attention maps of a text, for each head of each layer."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from minilm.errors import InputError
from minilm.files.arrays import Floats
from minilm.models.pretrained import PretrainedModel
from minilm.pages.frame import framed
from minilm.tokenization.tokenizer import Tokenizer

LEVELS = 255  # weights from 0 to 1 are stored in one byte, in this many steps


@dataclass(frozen=True)
class AttentionMaps:
    """The attention of a model over a text.

    Attributes:
        tokens: S tokens, special tokens included.
        weights: (L, A, S, S) float32, attention from the token of the third axis to that of the
            fourth, in each head of each application of a layer; the sum over the fourth is 1.
    """

    tokens: tuple[str, ...]
    weights: Floats


@torch.inference_mode()
def attention_maps(
    model: PretrainedModel,
    tokenizer: Tokenizer,
    text: str,
    pair: str | None = None,
    *,
    max_length: int | None = None,
) -> AttentionMaps:
    """Runs a model on a text, or a pair of texts, and returns its attention.

    Args:
        model: a model of any class; only its encoder is run.
        tokenizer: the model's tokenizer.
        text: the text.
        pair: a second text.
        max_length: length at which texts are cut, in tokens; None = the model's maximum.

    Raises:
        InputError: max_length is below 3, or more than the model has positions for.
    """
    limit = model.config.max_position_embeddings
    if max_length is not None and not 3 <= max_length <= limit:
        raise InputError(f"max_length is {max_length}: the model reads 3 to {limit} tokens.")
    length = max_length or limit
    batch = tokenizer(text, pair, truncation=True, max_length=length).to(model.device)
    output = model.eval().base(**batch, output_attentions=True)
    ids: list[int] = batch["input_ids"][0].tolist()
    weights = torch.cat(output.attentions).float().cpu().numpy()
    return AttentionMaps(tuple(tokenizer.id_to_token(each) for each in ids), weights)


def attention_page(title: str, maps: AttentionMaps, *, note: str = "") -> str:
    """An HTML page that shows the maps.

    It shows the tokens, shaded by the attention of the token under the pointer to each of them;
    the map of the chosen layer and head; and small maps of all heads, to choose from.

    Args:
        title: title of the page.
        maps: the attention maps of a text.
        note: a line under the title.
    """
    layers, heads, length, _ = maps.weights.shape
    data: dict[str, Any] = {
        "tokens": maps.tokens,
        "layers": layers,
        "heads": heads,
        "length": length,
        "weights": base64.b64encode(
            np.rint(maps.weights * LEVELS).astype(np.uint8).tobytes()
        ).decode(),
    }
    content = json.dumps(data, ensure_ascii=False).replace("<", "\\u003c")
    body = (
        f"{_BODY}\n<script type='application/json' id='data'>{content}</script>\n"
        f"<script>{_SCRIPT}</script>"
    )
    return framed(title, body, style=_STYLE, note=note)


_STYLE = """
.controls { display: flex; flex-wrap: wrap; gap: .5rem 1.25rem; margin: 1rem 0 .5rem;
  align-items: center; }
select { font: inherit; padding: .15rem .4rem; color: inherit; background: var(--paper);
  border: 1px solid var(--line); border-radius: 4px; }
#tokens { display: flex; flex-wrap: wrap; gap: .3rem; margin: .5rem 0; }
#tokens button { font: inherit; font-size: .95rem; color: inherit; padding: .1rem .4rem;
  border: 1px solid var(--line); border-radius: 4px; cursor: pointer;
  background: color-mix(in srgb, var(--heat) calc(var(--share, 0) * 100%), var(--paper)); }
#tokens button.strong { color: var(--paper); }
#tokens button[aria-pressed="true"] { outline: 2px solid var(--heat); outline-offset: 1px; }
canvas { display: block; max-width: 100%; image-rendering: pixelated; cursor: crosshair;
  border: 1px solid var(--line); }
#said { min-height: 1.6em; }
"""

_BODY = """
<noscript><p>This page needs JavaScript, which your browser has turned off.</p></noscript>
<div class="controls">
<label>Layer <select id="layer"></select></label>
<label>Head <select id="head"></select></label>
<label>Show <select id="way"><option value="from">what a token takes from the others</option>
<option value="to">what the others take from a token</option></select></label>
</div>
<h2>Tokens</h2>
<p class="note">Point at a token, or choose one with the Tab key. The strongest colour stands for
the largest weight shown; a token's own weight is in its tooltip.</p>
<div id="tokens"></div>
<h2>This layer and head</h2>
<p id="said" class="note" aria-live="polite"></p>
<canvas id="map" aria-label="Attention map of the chosen layer and head"></canvas>
<h2>All layers and heads</h2>
<p class="note">A row for each layer, a column for each head. Click on a map to choose it.</p>
<canvas id="all" aria-label="Attention maps of all layers and heads"></canvas>
"""

_SCRIPT = """
const data = JSON.parse(document.getElementById('data').textContent);
const bytes = Uint8Array.from(atob(data.weights), c => c.charCodeAt(0));
const S = data.length, A = data.heads, L = data.layers, get = id => document.getElementById(id);
const layer = get('layer'), head = get('head'), way = get('way'), all = get('all'), map = get('map');
let chosen = Math.min(1, S - 1);
const share = (l, a, i, j) => bytes[((l * A + a) * S + i) * S + j] / 255;
function weight(i, j) {
  const l = +layer.value;
  if (head.value !== 'mean') return share(l, +head.value, i, j);
  let sum = 0;
  for (let a = 0; a < A; a++) sum += share(l, a, i, j);
  return sum / A;
}
function option(select, value, text) {
  const made = document.createElement('option');
  made.value = value; made.textContent = text; select.append(made);
}
for (let l = 0; l < L; l++) option(layer, l, l + 1);
option(head, 'mean', 'mean of all');
for (let a = 0; a < A; a++) option(head, a, a + 1);
const buttons = data.tokens.map((token, i) => {
  const made = document.createElement('button');
  made.type = 'button'; made.textContent = token;
  for (const name of ['mouseenter', 'focus', 'click'])
    made.addEventListener(name, () => { chosen = i; shade(); });
  get('tokens').append(made);
  return made;
});
const percent = x => (100 * x).toFixed(1) + ' %';
const place = i => data.tokens[i] + ' (' + (i + 1) + ')';
function shade() {
  const taken = j => way.value === 'from' ? weight(chosen, j) : weight(j, chosen);
  const most = Math.max(...buttons.map((_, j) => taken(j))) || 1;
  buttons.forEach((button, j) => {
    const w = taken(j);
    button.style.setProperty('--share', (w / most).toFixed(3));
    button.classList.toggle('strong', w / most > 0.55);
    button.setAttribute('aria-pressed', j === chosen);
    button.title = percent(w);
  });
}
function colours() {
  const style = getComputedStyle(document.documentElement);
  return ['--paper', '--heat'].map(name => {
    const hex = style.getPropertyValue(name).trim().slice(1);
    return [0, 2, 4].map(n => parseInt(hex.slice(n, n + 2), 16));
  });
}
function paint(image, width, x, y, size, value, [low, high]) {
  for (let i = 0; i < size * S; i++) for (let j = 0; j < size * S; j++) {
    const w = value(Math.floor(i / size), Math.floor(j / size));
    const at = ((y + i) * width + x + j) * 4;
    for (let c = 0; c < 3; c++) image.data[at + c] = low[c] + (high[c] - low[c]) * w;
    image.data[at + 3] = 255;
  }
}
const scale = Math.max(1, Math.floor(480 / S)), gap = 3, small = Math.max(1, Math.floor(48 / S));
function drawMap() {
  const size = scale * S;
  map.width = map.height = size;
  const pen = map.getContext('2d'), image = pen.createImageData(size, size);
  let most = 0;
  for (let i = 0; i < S; i++) for (let j = 0; j < S; j++) most = Math.max(most, weight(i, j));
  paint(image, size, 0, 0, scale, (i, j) => weight(i, j) / (most || 1), colours());
  pen.putImageData(image, 0, 0);
}
function drawAll() {
  const step = small * S + gap;
  all.width = A * step; all.height = L * step;
  const pen = all.getContext('2d'), image = pen.createImageData(all.width, all.height);
  const both = colours();
  for (let l = 0; l < L; l++) for (let a = 0; a < A; a++)
    paint(image, all.width, a * step, l * step, small, (i, j) => share(l, a, i, j), both);
  pen.putImageData(image, 0, 0);
}
function cell(canvas, event, step) {
  const box = canvas.getBoundingClientRect(), ratio = canvas.width / box.width;
  return [event.clientY - box.top, event.clientX - box.left].map(p => Math.floor(p * ratio / step));
}
map.addEventListener('mousemove', event => {
  const [i, j] = cell(map, event, scale);
  if (i < 0 || j < 0 || i >= S || j >= S) return;
  get('said').textContent = place(i) + ' takes ' + percent(weight(i, j)) + ' from ' + place(j);
});
all.addEventListener('click', event => {
  const [l, a] = cell(all, event, small * S + gap);
  if (l < 0 || a < 0 || l >= L || a >= A) return;
  layer.value = l; head.value = a; update();
});
function update() {
  drawMap(); shade();
  get('said').textContent = 'Point at the map: rows take from columns.';
}
for (const select of [layer, head, way]) select.addEventListener('change', update);
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => { drawAll(); drawMap(); });
drawAll(); update();
"""  # noqa: E501
