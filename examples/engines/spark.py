"""Vectors with Spark, on one machine or a cluster: each Python worker holds one encoder.

pip install pyspark pyarrow pandas; python examples/engines/spark.py MODEL TEXTS.parquet OUTPUT
The column "text" becomes the column "vector"; all others are kept. Spark needs Java 17 or later.
"""

import sys

from pyspark.ml.functions import predict_batch_udf
from pyspark.sql import SparkSession
from pyspark.sql.types import ArrayType, FloatType


def load():
    import torch

    import minilm

    torch.set_num_threads(1)  # there is a worker for each core
    encoder = minilm.Encoder.from_pretrained(model)
    return lambda texts: encoder.encode(texts.tolist())


if __name__ == "__main__":
    model, texts, output = sys.argv[1:]
    spark = SparkSession.builder.getOrCreate()
    encode = predict_batch_udf(load, return_type=ArrayType(FloatType()), batch_size=4096)
    spark.read.parquet(texts).withColumn("vector", encode("text")).write.parquet(output)
