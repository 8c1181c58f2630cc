"""How well the cosines of sentence vectors agree with people's judgements of similarity."""

from __future__ import annotations

from collections.abc import Sequence

from minilm.errors import InputError
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
    """Correlations of cosines with scores, without any training.

    Args:
        encoder: of the texts.
        first, second: (N,) the texts of N pairs, N at least 2.
        gold: (N,) how similar people find them, on any scale.
        progress: show a progress bar on stderr.

    Returns:
        "spearman" (of ranks, what STS-B is judged by) and "pearson", each -1 to 1; nan where a
        correlation does not exist, as when all scores are equal.

    Raises:
        InputError: the numbers of texts and scores differ, or there are fewer than two pairs.

    References: Cer et al. 2017, "SemEval-2017 Task 1", section 6; Reimers and Gurevych 2019,
        section 4.1.
    """
    if not len(first) == len(second) == len(gold):
        raise InputError(
            f"There are {len(first)} and {len(second)} texts and {len(gold)} scores: expected one "
            "of each for every pair."
        )
    texts = list(dict.fromkeys([*first, *second]))  # many occur in several pairs
    vectors = encoder.encode(texts, progress=progress)
    row = {text: number for number, text in enumerate(texts)}
    cosines = pairwise_cosine_similarity(
        vectors[[row[text] for text in first]], vectors[[row[text] for text in second]]
    ).numpy()
    return {"spearman": spearman(gold, cosines), "pearson": pearson(gold, cosines)}
