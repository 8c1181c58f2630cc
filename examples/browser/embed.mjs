/**
 * Sentence vectors in Node: node embed.mjs FOLDER [--q8] TEXT...
 *
 * FOLDER is what `minilm export` wrote; --q8 runs the file with 8-bit weights. Prints a JSON array
 * of numbers for each text, one a line.
 */
import { readFile } from "node:fs/promises";
import path from "node:path";

import * as transformers from "@huggingface/transformers";

import { loadEncoder } from "./encoder.mjs";

const words = process.argv.slice(2);
const weights = words.includes("--q8") ? "q8" : "fp32";
const [folder, ...texts] = words.filter((word) => word !== "--q8");
if (texts.length === 0) {
  console.error("usage: node embed.mjs FOLDER [--q8] TEXT...");
  process.exit(2);
}

const { dir, base } = path.parse(path.resolve(folder));
transformers.env.allowRemoteModels = false; // read the folder and nothing else
transformers.env.localModelPath = dir;

/** A JSON file of the folder, null where there is none. */
async function readJson(name) {
  try {
    return JSON.parse(await readFile(path.join(folder, name), "utf8"));
  } catch (problem) {
    if (problem.code === "ENOENT") return null;
    throw problem;
  }
}

try {
  const encode = await loadEncoder(transformers, base, { readJson, weights, device: "cpu" });
  for (const text of texts) console.log(JSON.stringify(Array.from(await encode(text))));
} catch (problem) {
  console.error(`error: ${problem.message}`);
  process.exitCode = 1;
}
