"""Sentence vectors over HTTP: `minilm.Encoder` behind FastAPI and uvicorn.

    pip install -e '.[serve]'
    MINILM_MODEL=weights/sentence-mini uvicorn --app-dir examples/serve service:app
    curl localhost:8000/embed -H 'content-type: application/json' -d '{"texts": ["a flat tyre"]}'

By default, uvicorn accepts connections from this machine only. A public service needs keys, rate
limits and TLS in front of it. /docs describes the service and lets you try it.
"""

import os
from threading import Lock
from typing import Annotated

from fastapi import FastAPI
from pydantic import BaseModel, Field, StringConstraints

import minilm

encoder = minilm.Encoder.from_pretrained(os.environ["MINILM_MODEL"])
in_turn = Lock()  # one request computes at a time; its texts share the processor's cores
app = FastAPI(title="Sentence vectors", version=minilm.__version__)

Text = Annotated[str, StringConstraints(max_length=20_000)]


class Texts(BaseModel):
    """What is to be encoded: up to 256 texts; tokens beyond the model's length are cut off."""

    texts: list[Text] = Field(max_length=256)


class Vectors(BaseModel):
    """A vector of length 1 for each text, in the order of the texts."""

    vectors: list[list[float]]


@app.post("/embed")
def embed(request: Texts) -> Vectors:
    """Turns texts into vectors; the product of two of them is the cosine of their texts."""
    with in_turn:
        return Vectors(vectors=encoder.encode(request.texts).tolist())
