/**
 * Sentence vectors from a folder that `minilm export` wrote. The same code runs in the browser and
 * in Node; how a file is read differs between the two, so the caller brings that along.
 */

/** The two ONNX files of a folder, by the names that transformers.js has for them. */
export const WEIGHTS = { fp32: "model.onnx", q8: "model_quantized.onnx" };

/**
 * Loads an exported model.
 *
 * @param {object} transformers the module "@huggingface/transformers"; its `env` must be set so that
 *   it finds the folder.
 * @param {string} folder path of the folder below `env.localModelPath`.
 * @param {object} options
 * @param {(name: string) => Promise<object | null>} options.readJson reads a JSON file of the
 *   folder; null where there is none.
 * @param {"fp32" | "q8"} options.weights which ONNX file to run.
 * @param {"wasm" | "cpu"} options.device WebAssembly in a browser, the processor in Node.
 * @returns {Promise<(text: string) => Promise<Float32Array>>} a function from a text to its vector,
 *   which has length 1, so that the product of two vectors is their cosine.
 * @throws {Error} where the folder does not exist or a file of it cannot be read.
 */
export async function loadEncoder(transformers, folder, { readJson, weights, device }) {
  if ((await readJson("config.json")) === null) {
    throw new Error(`${folder} is no exported model. Make it: minilm export MODEL ${folder}`);
  }
  // The files of sentence-transformers say how tokens become one vector and where texts are cut.
  const pooling = await readJson("1_Pooling/config.json");
  const settings = await readJson("sentence_bert_config.json");
  const tokenizer = await transformers.AutoTokenizer.from_pretrained(folder);
  const model = await transformers.AutoModel.from_pretrained(folder, { dtype: weights, device });
  const cut = {
    truncation: true,
    max_length: settings?.max_seq_length ?? model.config.max_position_embeddings,
  };

  // One text at a time: without padding, and with 8-bit weights no text changes another's numbers.
  return async (text) => {
    const { last_hidden_state: states } = await model(await tokenizer(text, cut)); // (1, S, H)
    const [, length, hidden] = states.dims;
    const tokens = pooling?.pooling_mode_cls_token ? 1 : length; // the first one, or the mean of all
    const sum = new Float64Array(hidden);
    states.data.subarray(0, tokens * hidden).forEach((value, n) => (sum[n % hidden] += value));
    const norm = Math.sqrt(product(sum, sum));
    return Float32Array.from(sum, (value) => value / norm);
  };
}

/** The product of two vectors: their cosine if both have length 1. */
export function product(a, b) {
  return a.reduce((sum, value, place) => sum + value * b[place], 0);
}
