"""Exercise 5: sentence-order pairs.

BERT was also trained to say whether a second segment follows the first or comes from another
document ("next sentence"). That is easy: the topic gives it away. ALBERT is asked something harder:
both segments are from one document and next to each other, and half of the pairs are swapped. Are
they in their order?

From consecutive sentences of one document a pair is made like this:

- cut them at a random place into A and B, at least one sentence each,
- with probability 1/2 swap the two segments: what was B comes first; within a segment the
  sentences stay in their order,
- write [CLS] first segment [SEP] second segment [SEP],
- token type 0 for [CLS], the segment that comes first and its [SEP]; token type 1 for the rest:
  token types say where a segment stands, not which it was,
- label 0 = in order, 1 = swapped.

Fill in `sentence_order_pair` and run the check: `python examples/exercises/5_sentence_order.py`

In the library: `SegmentPairs` in minilm/data/segment_pairs.py makes all pairs of a corpus at once.
References: Lan et al. 2020, section 3.1; create_pretraining_data.py of google-research/albert.
"""

import random

from checking import WrongAnswer, require, run

CLS, SEP = 2, 3


def sentence_order_pair(
    sentences: list[list[int]], draw: random.Random
) -> tuple[list[int], list[int], int]:
    """A pair of segments, in order or swapped.

    Args:
        sentences: the token ids of at least two consecutive sentences.
        draw: the source of randomness: `draw.randint(1, 3)` is 1, 2 or 3, `draw.random()` a number
            from 0 to 1.

    Returns:
        The token ids with [CLS] and [SEP] (2 and 3), the token type of each, and the label.
    """
    raise NotImplementedError("Write the body of sentence_order_pair(): about seven lines.")


def check(sentence_order_pair):
    """Makes 400 pairs of one document and looks at each of them, then at all."""
    sentences = [[10, 11, 12], [20, 21], [30, 31, 32, 33], [40]]
    labels, cuts = [], []
    copy = [list(sentence) for sentence in sentences]
    for seed in range(400):
        answer = sentence_order_pair(sentences, random.Random(seed))
        require(
            isinstance(answer, tuple) and len(answer) == 3,
            "sentence_order_pair returns three things: ids, token types, label.",
        )
        require(sentences == copy, "The sentences of the document were changed in place.")
        ids, types, label = answer
        first, second = _segments(list(map(int, ids)))
        cut, swapped = _place(first, second, sentences)
        require(label in (0, 1), f"The label is {label!r}, expected 0 or 1.")
        require(
            label == swapped,
            "The label is the wrong way round: 0 = in order, 1 = swapped.",
        )
        _check_types(list(map(int, types)), first, second, swapped)
        labels.append(label)
        cuts.append(cut)
    share = sum(labels) / len(labels)
    require(share > 0, "No pair is swapped. Half of them are to be.")
    require(share < 1, "All pairs are swapped. Half of them are to be.")
    require(0.4 < share < 0.6, f"{share:.0%} of the pairs are swapped, expected 50 %.")
    missing = sorted({1, 2, 3} - set(cuts))
    require(
        not missing,
        f"No segment A has {', '.join(map(str, missing))} sentence(s). Any cut that leaves B at "
        "least one sentence must be possible.",
    )
    two = sentence_order_pair([[10], [20]], random.Random(0))
    require(len(two[0]) == 5, "Two sentences of one token make a pair of five: CLS 10 SEP 20 SEP.")


def _segments(ids: list[int]) -> tuple[list[int], list[int]]:
    require(bool(ids) and ids[0] == CLS, "The pair does not begin with [CLS].")
    require(
        ids.count(SEP) == 2 and ids[-1] == SEP,
        f"Expected one [SEP] after each segment, found {ids.count(SEP)} in {ids}.",
    )
    middle = ids.index(SEP)
    first, second = ids[1:middle], ids[middle + 1 : -1]
    require(bool(first and second), "A segment is empty: cut after at least one sentence.")
    return first, second


def _joined(sentences: list[list[int]]) -> list[int]:
    return [token for sentence in sentences for token in sentence]


def _place(first: list[int], second: list[int], sentences: list[list[int]]) -> tuple[int, int]:
    """How many sentences A has, and whether the segments are swapped."""
    for cut in range(1, len(sentences)):
        a, b = _joined(sentences[:cut]), _joined(sentences[cut:])
        if (first, second) == (a, b):
            return cut, 0
        if (first, second) == (b, a):
            return cut, 1
        backwards = _joined(sentences[cut:][::-1]), _joined(sentences[:cut][::-1])
        if (first, second) == backwards:
            raise WrongAnswer(
                "The sentences were reversed. Only the two segments change places; within a "
                "segment the sentences stay in their order."
            )
        if (first, second) in ((a[::-1], b[::-1]), (b[::-1], a[::-1])):
            raise WrongAnswer("The tokens were reversed. Only the two segments change places.")
    whole = _joined(sentences)
    if whole in (first + second, second + first):
        raise WrongAnswer("The cut goes through a sentence. Cut between sentences.")
    if set(first) & set(second):
        raise WrongAnswer("The two segments have sentences in common.")
    if len(first) + len(second) < len(whole):
        raise WrongAnswer("Sentences are missing: A and B together are all sentences.")
    raise WrongAnswer(f"The segments {first} and {second} are no cut of {sentences}.")


def _check_types(types: list[int], first: list[int], second: list[int], swapped: int) -> None:
    place = [0] * (len(first) + 2) + [1] * (len(second) + 1)
    require(
        len(types) == len(place),
        f"There are {len(types)} token types for {len(place)} tokens.",
    )
    require(
        not (swapped and types[1:] == [1 - kind for kind in place][1:]),
        "The token types moved with the segments when they were swapped: that tells the model the "
        "answer. What stands first has type 0.",
    )
    require(
        types != [0] * (len(first) + 1) + [1] * (len(second) + 2),
        "The first [SEP] has token type 1. It belongs to the first segment: type 0.",
    )
    require(types[-1] == 1, "The last [SEP] belongs to the second segment: type 1.")
    require(types == place, f"The token types are {types}, expected {place}.")


if __name__ == "__main__":
    run(check, sentence_order_pair)
