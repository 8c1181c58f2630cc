"""Vectors with Ray Data, on one machine or a cluster: each worker holds one encoder.

pip install "ray[data]"; python examples/engines/ray_data.py MODEL TEXTS.parquet OUTPUT
The column "text" becomes the column "vector"; all others are kept.
"""

import sys

import ray

import minilm


class Encode:
    def __init__(self, model):
        self.encoder = minilm.Encoder.from_pretrained(model)

    def __call__(self, batch):
        return {**batch, "vector": self.encoder.encode(batch["text"].tolist())}


if __name__ == "__main__":
    model, texts, output = sys.argv[1:]
    workers = ray.data.ActorPoolStrategy(min_size=1, max_size=64)
    rows = ray.data.read_parquet(texts)
    rows = rows.map_batches(Encode, fn_constructor_args=[model], batch_size=4096, compute=workers)
    rows.write_parquet(output)
