"""Speed of encoding, side by side with other engines on the same texts.

The workload is the *standard draw*: 512 texts whose lengths follow a log-normal distribution (mean
of log 3.3, sigma 0.9, cut to 6..512 tokens), in batches of 32. In arrival order a batch padded to
its longest text has 4.46 positions for every token; sorted by length, 1.61. Rates count real tokens
only: padding is what an engine does, not what the user has.

What keeps the comparison fair:

- Every contender holds the same weights (`check_agreement` compares their outputs first with what
  minilm computes in float32, formula by formula, and with what a model would compute that reads
  padding) and gives the last hidden states of every token to the caller. ONNX Runtime's 8-bit file
  must multiply integers wherever it multiplies by a weight.
- Batches are made before the clock starts, in the form each contender takes. "minilm" gets exactly
  what transformers gets, padded ids and a mask, and returns padded states; "minilm-packed" gets the
  packed form that the tokenizer makes on request, and returns packed states.
- Contenders take turns batch by batch, in one process with one number of threads; a result is the
  median over rounds, so that a disturbance hits all of them and counts for little. The quartiles of
  the rounds, and what other processes used of the machine meanwhile, are part of every result.
- Encoding runs in eval mode without gradients, each library's recommended way
  (`torch.inference_mode`). Forward and backward runs in train mode with the configuration's
  dropout, on padded input.
- ONNX Runtime and OpenVINO run the file that torch's exporter makes of minilm's model, with
  attention as one operator, and have torch's number of threads.
- "transformers" is the library as it comes (scaled-dot-product attention), "transformers-eager" its
  spelled-out attention.
- Peak memory is measured in a process that runs one contender and nothing else.

Random ids and weights serve as well as real ones: the arithmetic does not depend on them.
"""
