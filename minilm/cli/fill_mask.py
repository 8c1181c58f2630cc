"""`minilm fill-mask`: the words that a masked language model predicts."""

from __future__ import annotations

import json
from typing import Any

import click
import torch

from minilm.checkpoints.hub import resolve
from minilm.cli.help import Command
from minilm.cli.model_options import loading, model_options
from minilm.errors import InputError
from minilm.loader import check_vocabulary, load_masked_lm
from minilm.models.tasks import ForMaskedLM
from minilm.tokenization.tokenizer import Tokenizer


@torch.inference_mode()
def fill_mask(
    model: ForMaskedLM, tokenizer: Tokenizer, text: str, top: int
) -> list[list[dict[str, Any]]]:
    """The likeliest tokens for every mask of a text, each mask separately.

    Returns:
        For each mask, in the order of the text, `top` dictionaries: "token", "id", "probability"
        and "text", in which only this mask is filled.

    Raises:
        InputError: the text has no mask token, or the tokenizer has more tokens than the model.
    """
    check_vocabulary(model.config, tokenizer)
    batch = tokenizer(text)
    ids = batch["input_ids"][0]  # (S,)
    masks = (ids == tokenizer.mask_token_id).nonzero()[:, 0]  # (M,)
    if not len(masks):
        raise InputError(
            f"There is nothing to fill in: put {tokenizer.mask_token} into the text, once or more."
        )
    logits = model(**batch.to(model.device)).logits.float().cpu()
    best = logits[0, masks].softmax(-1).topk(min(top, logits.shape[-1]))  # (M, top)
    frame = (tokenizer.cls_token_id, tokenizer.sep_token_id)  # stay out of "text", masks stay in
    filled = []
    for mask, probabilities, tokens in zip(masks, best.values, best.indices, strict=True):
        candidates = []
        for probability, token in zip(probabilities.tolist(), tokens.tolist(), strict=True):
            completed = ids.clone()
            completed[mask] = token
            inner = [i for i in completed.tolist() if i not in frame]
            candidates.append(
                {
                    "token": tokenizer.id_to_token(token),
                    "id": token,
                    "probability": probability,
                    "text": tokenizer.decode(inner, skip_special_tokens=False),
                }
            )
        filled.append(candidates)
    return filled


@click.command(cls=Command)
@click.argument("model")
@click.argument("text")
@click.option(
    "--top",
    default=5,
    show_default=True,
    type=click.IntRange(min=1),
    help="Number of candidates for each mask.",
)
@model_options()
@click.option("--json", "as_json", is_flag=True, help="Print JSON: one list for each mask.")
def command(model: str, text: str, top: int, as_json: bool, **options: Any) -> None:
    """Predict the masked words of TEXT, which contains the model's mask token once or more.

    \b
    Example:
      minilm fill-mask bert-mini "She studied at the [MASK] of Oxford." --top 2
        0.62...  university      she studied at the university of oxford.
        0.13...  church          she studied at the church of oxford.
    """
    directory = resolve(model)
    network = load_masked_lm(directory, **loading(options))
    filled = fill_mask(network, Tokenizer.from_pretrained(directory), text, top)
    if as_json:
        click.echo(json.dumps(filled, indent=2, ensure_ascii=False))
        return
    for number, candidates in enumerate(filled, 1):
        if len(filled) > 1:
            click.echo(f"mask {number}")
        for candidate in candidates:
            click.echo(
                f"{candidate['probability']:.4f}  {candidate['token']:<16}{candidate['text']}"
            )
