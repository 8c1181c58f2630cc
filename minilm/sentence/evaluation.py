"""Correlation of the cosines of sentence vectors with human judgements of similarity."""

from __future__ import annotations

from collections.abc import Sequence

from minilm.errors import InputError
from minilm.files.progress import counted
from minilm.metrics.correlation import pearson, spearman
from minilm.sentence.encoder import SentenceEncoder
from minilm.sentence.similarity import pairwise_cosine_similarity


def similarity_scores(
    encoder: SentenceEncoder,
    first: Sequence[str],
    second: Sequence[str],
    gold: Sequence[float],
    *,
    progress: bool = False,
) -> dict[str, float]:
    """Correlations of cosines with scores, without training.

    Args:
        encoder: encodes the texts.
        first, second: (N,) the texts of N pairs, N at least 2.
        gold: (N,) human similarity scores, on any scale.
        progress: show a progress bar on stderr.

    Returns:
        "spearman" (rank correlation, the usual score of STS-B) and "pearson", each from -1 to 1;
        nan if the correlation is undefined, as when all scores are equal.

    Raises:
        InputError: the numbers of texts and scores differ, or there are fewer than two pairs.

    References: Cer et al. 2017, "SemEval-2017 Task 1", section 6; Reimers and Gurevych 2019,
        section 4.1.
    """
    if not len(first) == len(second) == len(gold):
        raise InputError(
            f"There are {len(first)} and {counted(len(second), 'text')} and "
            f"{counted(len(gold), 'score')}: expected one of each for every pair."
        )
    texts = list(dict.fromkeys([*first, *second]))  # many occur in several pairs
    vectors = encoder.encode(texts, progress=progress)
    row = {text: number for number, text in enumerate(texts)}
    cosines = pairwise_cosine_similarity(
        vectors[[row[text] for text in first]], vectors[[row[text] for text in second]]
    ).numpy()
    return {"spearman": spearman(gold, cosines), "pearson": pearson(gold, cosines)}
