/** The page: reads the sentences, makes their vectors, and sorts them by the words that are typed. */
import * as transformers from "@huggingface/transformers";

import { loadEncoder, product, WEIGHTS } from "./encoder.mjs";

const { env } = transformers;
const here = new URL(".", import.meta.url);
env.allowRemoteModels = false; // everything comes from the server of this page
env.allowLocalModels = true;
env.localModelPath = here.pathname;
env.useBrowserCache = false; // a model that is exported again is read again
env.useWasmCache = false;
env.backends.onnx.wasm.wasmPaths = new URL("node_modules/onnxruntime-web/dist/", here).href;

// index.html?model=NAME reads models/NAME
const address = new URLSearchParams(location.search);
const folder = `models/${address.get("model") ?? "sentence-mini"}`;

const place = (id) => document.getElementById(id);
const status = place("status");

/** A JSON file of the model's folder, null where there is none. */
async function readJson(name) {
  const answer = await fetch(new URL(`${folder}/${name}`, here));
  return answer.ok ? answer.json() : null;
}

function show(text, wrong = false) {
  status.textContent = text;
  status.className = wrong ? "wrong" : "";
}

/** The milliseconds that a call takes, and its result. */
async function timed(call) {
  const start = performance.now();
  const result = await call();
  return [performance.now() - start, result];
}

const chosen = () => document.querySelector("[name=weights]:checked").value;
let encode; // of the chosen weights
let sentences = []; // { text, vector }
const spent = {}; // milliseconds: to load the model, for each sentence

async function load() {
  show(`Loading ${folder}/onnx/${WEIGHTS[chosen()]} …`);
  [spent.load, encode] = await timed(() =>
    loadEncoder(transformers, folder, { readJson, weights: chosen(), device: "wasm" }));
  await encode("The first call prepares the kernels, so it is not timed.");
}

async function read() {
  const texts = place("sentences").value.split("\n").map((line) => line.trim()).filter(Boolean);
  show(`Reading ${texts.length} sentences …`);
  const [took, vectors] = await timed(async () => {
    const found = [];
    for (const text of texts) found.push(await encode(text));
    return found;
  });
  sentences = texts.map((text, n) => ({ text, vector: vectors[n] }));
  spent.each = took / Math.max(texts.length, 1);
}

async function search() {
  const [took, vector] = await timed(() => encode(place("query").value));
  const found = sentences
    .map(({ text, vector: other }) => ({ text, score: product(vector, other) }))
    .sort((a, b) => b.score - a.score);
  place("results").replaceChildren(...found.map(line));
  show(
    `Loaded in ${(spent.load / 1000).toFixed(1)} s. Time per text: ${spent.each.toFixed(1)} ms ` +
      `(mean of ${sentences.length} sentences), ${took.toFixed(1)} ms for your words.`);
  status.dataset.ready = chosen();
}

function line({ text, score }) {
  const item = document.createElement("li");
  const [words, number, track, bar] = ["span", "span", "div", "i"].map((name) =>
    document.createElement(name));
  words.textContent = text;
  number.textContent = (Math.round(100 * score) / 100 + 0).toFixed(2); // + 0: no "-0.00"
  number.title = "cosine with your words";
  bar.style.width = `${Math.max(0, 100 * score).toFixed(1)}%`;
  track.append(bar);
  item.append(words, number, track);
  return item;
}

// One after the other: a model runs one text at a time.
let work = Promise.resolve();
function then(...steps) {
  work = work
    .then(async () => { for (const step of steps) await step(); })
    .catch((problem) => show(problem.message, true));
}

let typing;
place("query").addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(() => then(search), 150); // when the typing pauses
});
place("search").addEventListener("submit", (event) => event.preventDefault());
place("weights").addEventListener("change", () => then(load, read, search));
place("sentences").addEventListener("change", () => then(read, search));

// index.html?query=WORDS&weights=fp32 begins with these
if (address.has("query")) place("query").value = address.get("query");
const wanted = document.querySelector(`[name=weights][value="${address.get("weights")}"]`);
if (wanted) wanted.checked = true;
then(load, read, search);
