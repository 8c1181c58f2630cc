"""Published outputs of public checkpoints, to verify minilm without transformers.

    report = verify_as("path/to/weights", "distilbert-base-uncased")

Others have run these checkpoints and published the outputs in integration tests, model cards and
documentation. The numbers below are theirs; each case names its source. A checkpoint that
reproduces them is the one it claims to be, and minilm computes it as they did.

Sources:

- transformers: tests/models/{albert,bert,distilbert} of huggingface/transformers.
- bumblebee: test/bumblebee/text/{albert,bert,distilbert}_test.exs of elixir-nx/bumblebee, an
  independent implementation, asserted there against the same weights.
- model card: the fill-mask examples of the hub repository; made in 2020, so they agree to about
  four digits.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor
from tqdm.auto import tqdm

from minilm.checkpoints.hub import resolve
from minilm.errors import CheckpointError, InputError
from minilm.files.progress import DELAY, counted, is_watched
from minilm.loader import CLASSES, missing_tensors
from minilm.parity import ParityReport, Row, max_difference, stored_classes

Rows = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One published slice of one output.

    Attributes:
        model: the class to load.
        output: the field of its output.
        title: the input in words, or what is special about it.
        ids: token ids; one row, or one row for each choice.
        expected: the numbers, one row for each token of `tokens`, or a single row.
        tokens: which tokens of the sequence; None for an output without tokens, or with one number
            per token.
        columns: which columns of the output.
        mask, types: attention mask and token types, like `ids`; None = all 1, all 0.
        probabilities: apply a softmax over all columns first.
        tolerance: the largest |difference| allowed.
        source: where the numbers were published.
    """

    model: str
    output: str
    title: str
    ids: Rows
    expected: tuple[tuple[float, ...], ...]
    tokens: tuple[int, ...] | None
    columns: tuple[int, ...]
    mask: Rows | None = None
    types: Rows | None = None
    probabilities: bool = False
    tolerance: float = 1e-4
    source: str


INNER = (1, 2, 3)  # most tests compare rows and columns 1:4
LEADING = (0, 1, 2)
TRANSFORMERS = "transformers"
BUMBLEBEE = "bumblebee"
CARD = "model card"


def _ids(*rows: str) -> Rows:
    return tuple(tuple(int(number) for number in row.split()) for row in rows)


UNATTENDED_FIRST = _ids("0 345 232 328 740 140 1695 69 6078 1588 2")
CAPITAL = _ids("101 1996 3007 1997 2605 2003 103 1012 102")
DOG = _ids("101 7592 1010 2026 3899 2003 10140 102")
QUESTION = _ids("101 2627 1108 3104 1124 15703 136 102 3104 1124 15703 1108 170 3505 16797 102")
HELLO = _ids("101 7592 1045 1005 1049 1037 103 2944 1012 102")
MAN = _ids("101 1996 2158 2499 2004 1037 103 1012 102")
WOMAN = _ids("101 1996 2450 2499 2004 1037 103 1012 102")


def _base(model: str, *expected: tuple[float, ...]) -> Case:
    """transformers' integration test: column 0 is unattended."""
    return Case(
        model=model,
        output="last_hidden_state",
        title="column 0 unattended",
        ids=UNATTENDED_FIRST,
        mask=((0,) + (1,) * 10,),
        tokens=INNER,
        columns=INNER,
        expected=expected,
        source=TRANSFORMERS,
    )


def _per_token(
    model: str, output: str, title: str, ids: Rows, *expected: tuple[float, ...]
) -> Case:
    """bumblebee's tests of hidden states and token logits."""
    return Case(
        model=model,
        output=output,
        title=title,
        ids=ids,
        tokens=INNER,
        columns=tuple(range(1, 4)) if len(expected[0]) == 3 else (0, 1),
        expected=expected,
        source=BUMBLEBEE,
    )


def _numbers(
    model: str,
    output: str,
    title: str,
    ids: Rows,
    columns: tuple[int, ...],
    expected: tuple[float, ...],
    types: Rows | None = None,
    mask: Rows | None = None,
) -> Case:
    """bumblebee's tests of outputs with one row: classes, or a number for each token."""
    return Case(
        model=model,
        output=output,
        title=title,
        ids=ids,
        types=types,
        mask=mask,
        tokens=None,
        columns=columns,
        expected=(expected,),
        source=BUMBLEBEE,
    )


def _leading(model: str, output: str, *expected: tuple[float, ...]) -> Case:
    """transformers' TensorFlow tests on the ids 0 to 5."""
    return Case(
        model=model,
        output=output,
        title="ids 0 to 5",
        ids=_ids("0 1 2 3 4 5"),
        tokens=LEADING,
        columns=LEADING,
        expected=expected,
        source=TRANSFORMERS,
    )


def _filled(model: str, title: str, ids: Rows, mask_id: int, scores: Mapping[int, float]) -> Case:
    """The probabilities of the best tokens for the mask in a sentence."""
    return Case(
        model=model,
        output="logits",
        title=title,
        ids=ids,
        tokens=(ids[0].index(mask_id),),
        columns=tuple(scores),
        expected=(tuple(scores.values()),),
        probabilities=True,
        source=CARD,
    )


def _sentiment(title: str, ids: Rows, column: int, score: float) -> Case:
    return Case(
        model="DistilBertForSequenceClassification",
        output="logits",
        title=title,
        ids=ids,
        tokens=None,
        columns=(column,),
        expected=((score,),),
        probabilities=True,
        source="the sentiment-analysis example in the documentation of transformers",
    )


# checkpoint, by the last part of its hub name -> its published outputs
REFERENCES: Mapping[str, tuple[Case, ...]] = {
    # google-bert/bert-base-uncased
    "bert-base-uncased": (
        _base(
            "BertModel",
            (0.4249, 0.1008, 0.7531),
            (0.3771, 0.1188, 0.7467),
            (0.4152, 0.1098, 0.7108),
        ),
        _per_token(
            "BertForMaskedLM",
            "logits",
            "The capital of France is [MASK].",
            CAPITAL,
            (-14.7240, -14.2120, -14.6434),
            (-10.3125, -9.7459, -9.9923),
            (-15.1105, -14.8048, -14.9276),
        ),
        _filled(
            "BertForMaskedLM",
            "Hello I'm a [MASK] model.",
            HELLO,
            103,
            {
                4827: 0.1073106899857521,
                2535: 0.08774490654468536,
                2047: 0.05338378623127937,
                3565: 0.04667217284440994,
                2986: 0.027095865458250046,
            },
        ),
        _filled(
            "BertForMaskedLM",
            "The man worked as a [MASK].",
            MAN,
            103,
            {
                10533: 0.09747550636529922,
                15610: 0.0523831807076931,
                13362: 0.04962705448269844,
                15893: 0.03788609802722931,
                18968: 0.037680890411138535,
            },
        ),
        _filled(
            "BertForMaskedLM",
            "The woman worked as a [MASK].",
            WOMAN,
            103,
            {
                6821: 0.21981462836265564,
                13877: 0.1597415804862976,
                10850: 0.1154729500412941,
                19215: 0.037968918681144714,
                5660: 0.03042375110089779,
            },
        ),
        _numbers(
            "BertForPreTraining",
            "seq_relationship_logits",
            "next sentence",
            _ids(
                "101 1999 3304 10733 2003 2366 4895 14540 6610 2094 1012 102 "
                "2059 1996 8013 20323 2009 2478 9292 1998 5442 1012 102"
            ),
            (0, 1),
            (6.1459, -5.7820),
            types=((0,) * 12 + (1,) * 11,),
        ),
    ),
    # distilbert/distilbert-base-uncased
    "distilbert-base-uncased": (
        _base(
            "DistilBertModel",
            (-0.1639, 0.3299, 0.1648),
            (-0.1746, 0.3289, 0.1710),
            (-0.1884, 0.3357, 0.1810),
        ),
        _leading(
            "DistilBertModel",
            "last_hidden_state",
            (0.19261885, -0.13732955, 0.4119799),
            (0.22150156, -0.07422661, 0.39037204),
            (0.22756018, -0.0896414, 0.3701467),
        ),
        _per_token(
            "DistilBertModel",
            "last_hidden_state",
            "Hello, my dog is cute",
            DOG,
            (0.1483, 0.3433, -0.5248),
            (0.5309, 0.3716, 0.0803),
            (0.3805, 0.5581, -0.4261),
        ),
        _per_token(
            "DistilBertForMaskedLM",
            "logits",
            "The capital of France is [MASK].",
            CAPITAL,
            (-14.1975, -13.9020, -13.9615),
            (-8.8192, -8.5549, -8.3866),
            (-13.4315, -13.2120, -13.3121),
        ),
        _filled(
            "DistilBertForMaskedLM",
            "Hello I'm a [MASK] model.",
            HELLO,
            103,
            {
                2535: 0.05292855575680733,
                4827: 0.03968575969338417,
                2449: 0.034743521362543106,
                2944: 0.03462274372577667,
                11643: 0.018145186826586723,
            },
        ),
        _filled(
            "DistilBertForMaskedLM",
            "The White man worked as a [MASK].",
            _ids("101 1996 2317 2158 2499 2004 1037 103 1012 102"),
            103,
            {
                20987: 0.1235365942120552,
                10533: 0.10142576694488525,
                7500: 0.04985016956925392,
                18594: 0.03932540491223335,
                14998: 0.03351764753460884,
            },
        ),
        _filled(
            "DistilBertForMaskedLM",
            "The Black woman worked as a [MASK].",
            _ids("101 1996 2304 2450 2499 2004 1037 103 1012 102"),
            103,
            {
                13877: 0.13283951580524445,
                6821: 0.12586183845996857,
                10850: 0.11708822101354599,
                19215: 0.11499975621700287,
                22583: 0.04722772538661957,
            },
        ),
    ),
    # albert/albert-base-v2
    "albert-base-v2": (
        _base(
            "AlbertModel",
            (-0.6513, 1.5035, -0.2766),
            (-0.6515, 1.5046, -0.2780),
            (-0.6512, 1.5049, -0.2784),
        ),
        _leading(
            "AlbertForMaskedLM",
            "logits",
            (4.595668, 0.74462754, -1.818147),
            (4.5954347, 0.7454184, -1.8188258),
            (4.5954905, 0.7448235, -1.8182316),
        ),
        _per_token(
            "AlbertForMaskedLM",
            "logits",
            "a sentence in BERT's ids",
            CAPITAL,
            (1.0450, -2.2835, -3.8152),
            (1.0635, -2.3124, -3.8890),
            (1.2576, -2.4207, -3.9500),
        ),
        _filled(
            "AlbertForMaskedLM",
            "Hello I'm a [MASK] model.",
            _ids("2 10975 31 22 79 21 4 1061 9 3"),
            4,
            {
                12807: 0.05816134437918663,
                23089: 0.03748830780386925,
                1061: 0.033725276589393616,
                8014: 0.017313428223133087,
                29104: 0.014405295252799988,
            },
        ),
    ),
    # lysandre/tiny-bert-random
    "tiny-bert-random": (
        _leading(
            "BertForMaskedLM",
            "logits",
            (-0.05243197, -0.04498899, 0.05512108),
            (-0.07444685, -0.01064632, 0.04352357),
            (-0.05020351, 0.05530146, 0.00700043),
        ),
    ),
    # textattack/bert-base-uncased-yelp-polarity
    "bert-base-uncased-yelp-polarity": (
        _numbers(
            "BertForSequenceClassification",
            "logits",
            "Hello, my dog is cute [...]",
            _ids("101 7592 1010 2026 3899 2003 10140 2002 7317 4747 102"),
            (0, 1),
            (-1.3199, 1.5447),
        ),
    ),
    # dbmdz/bert-large-cased-finetuned-conll03-english
    "bert-large-cased-finetuned-conll03-english": (
        _per_token(
            "BertForTokenClassification",
            "logits",
            "HuggingFace is based in Paris and New York",
            _ids("101 20164 10932 2271 7954 1110 1359 1107 2123 1105 1203 1365 102"),
            (-3.1215, -0.4028, -3.3213),
            (-2.4627, 0.0613, -3.2501),
            (-3.1475, -0.7705, -2.8248),
        ),
    ),
    # deepset/bert-base-cased-squad2
    "bert-base-cased-squad2": (
        _numbers(
            "BertForQuestionAnswering",
            "start_logits",
            "Who was Jim Henson?",
            QUESTION,
            INNER,
            (-6.9344, -6.9556, -2.8814),
            types=((0,) * 8 + (1,) * 8,),
        ),
        _numbers(
            "BertForQuestionAnswering",
            "end_logits",
            "Who was Jim Henson?",
            QUESTION,
            INNER,
            (-7.3395, -7.9609, -7.4926),
            types=((0,) * 8 + (1,) * 8,),
        ),
    ),
    # nightingal3/bert-finetuned-wsc
    "bert-finetuned-wsc": (
        _numbers(
            "BertForMultipleChoice",
            "logits",
            "In Italy, pizza is eaten [...]",
            _ids(
                "101 1999 3304 10733 2003 8828 102 2478 9292 1998 5442 1012 102 0",
                "101 1999 3304 10733 2003 8828 102 2096 2218 1999 1996 2192 1012 102",
            ),
            (0, 1),
            (0.3749, -3.9458),
            types=((0,) * 7 + (1,) * 6 + (0,), (0,) * 7 + (1,) * 7),
            mask=((1,) * 13 + (0,), (1,) * 14),
        ),
    ),
    # joeddav/distilbert-base-uncased-go-emotions-student
    "distilbert-base-uncased-go-emotions-student": (
        _numbers(
            "DistilBertForSequenceClassification",
            "logits",
            "I feel lucky to be here.",
            _ids("101 1045 2514 5341 2000 2022 2182 1012 102"),
            (1, 2, 3, 4),
            (-0.2951, -1.8836, -1.9071, 1.2820),
        ),
    ),
    # Davlan/distilbert-base-multilingual-cased-ner-hrl
    "distilbert-base-multilingual-cased-ner-hrl": (
        _per_token(
            "DistilBertForTokenClassification",
            "logits",
            "a sentence of eleven tokens",
            _ids("101 11590 11324 10124 14290 10111 146 12962 10106 11193 102"),
            (-3.9901, -4.0522, -2.4171),
            (-4.0584, -4.2153, -2.4035),
            (-3.9693, -4.0597, -2.2356),
        ),
    ),
    # distilbert/distilbert-base-cased-distilled-squad
    "distilbert-base-cased-distilled-squad": (
        _numbers(
            "DistilBertForQuestionAnswering",
            "start_logits",
            "Who was Jim Henson?",
            QUESTION,
            INNER,
            (-5.1663, -6.8352, -3.5082),
        ),
        _numbers(
            "DistilBertForQuestionAnswering",
            "end_logits",
            "Who was Jim Henson?",
            QUESTION,
            INNER,
            (-4.5860, -6.7391, -6.8987),
        ),
    ),
    # distilbert/distilbert-base-uncased-finetuned-sst-2-english
    "distilbert-base-uncased-finetuned-sst-2-english": (
        _sentiment(
            "We are very happy to show you the [UNK] Transformers library.",
            _ids("101 2057 2024 2200 3407 2000 2265 2017 1996 100 19081 3075 1012 102"),
            1,
            0.9997795224189758,
        ),
        _sentiment(
            "We hope you don't hate it.",
            _ids("101 2057 3246 2017 2123 1005 1056 5223 2009 1012 102"),
            0,
            0.5308612585067749,
        ),
    ),
    # textattack/albert-base-v2-imdb
    "albert-base-v2-imdb": (
        _numbers(
            "AlbertForSequenceClassification",
            "logits",
            "a sentence in BERT's ids",
            CAPITAL,
            (0, 1),
            (0.4954, 0.1815),
        ),
    ),
    # twmkn9/albert-base-v2-squad2
    "albert-base-v2-squad2": (
        _numbers(
            "AlbertForQuestionAnswering",
            "start_logits",
            "a sentence in BERT's ids",
            CAPITAL,
            INNER,
            (-0.2464, -0.1028, -0.2076),
        ),
        _numbers(
            "AlbertForQuestionAnswering",
            "end_logits",
            "a sentence in BERT's ids",
            CAPITAL,
            INNER,
            (-1.3742, -1.3609, -1.3454),
        ),
    ),
    # vumichien/tiny-albert
    "tiny-albert": (
        _per_token(
            "AlbertForTokenClassification",
            "logits",
            "a sentence in BERT's ids",
            CAPITAL,
            (0.1364, -0.0437),
            (0.0360, -0.0786),
            (-0.1296, 0.0436),
        ),
    ),
    # sentence-transformers/all-MiniLM-L6-v2
    "all-MiniLM-L6-v2": (
        Case(
            model="BertModel",
            output="last_hidden_state",
            title="This framework generates embeddings for each input sentence",
            ids=_ids("101 2023 7705 19421 7861 8270 4667 2015 2005 2169 7953 6251 102"),
            tokens=INNER,
            columns=INNER,
            expected=(
                (-0.042131, -0.245246, -0.069092),
                (-0.280454, -0.419841, 0.126817),
                (0.014557, -0.946790, 0.291416),
            ),
            tolerance=1e-5,
            source="transformers 5.23.0: BertModel.from_pretrained(DIR, dtype=torch.float64, "
            "attn_implementation='eager')(ids).last_hidden_state[0, 1:4, 1:4]",
        ),
    ),
}


def verify_as(
    path: str | os.PathLike[str],
    name: str,
    *,
    tolerance: float | None = None,
    progress: bool = False,
) -> ParityReport:
    """Compare a checkpoint's outputs with published ones.

    Args:
        path: a checkpoint directory, or a hub name.
        name: a key of `REFERENCES`; "owner/name" means the same as "name".
        tolerance: the largest |difference| allowed, instead of each case's own.
        progress: show a progress bar on stderr if it takes longer than two seconds.

    Returns:
        The report, one row per case; `report.passed` is the verdict.

    Raises:
        InputError: there are no published values for `name`.
        CheckpointError, ConfigError, HubError: the checkpoint cannot be loaded, or it has another
            architecture or size than `name`.

    Example:
        >>> verify_as("weights/distilbert-base-uncased", "distilbert-base-uncased").passed
        True
    """
    key = name.rpartition("/")[2]
    if key not in REFERENCES:
        raise InputError(f"No values are known for {name!r}. Known: {', '.join(REFERENCES)}.")
    directory = resolve(path)
    cases = REFERENCES[key]
    sources = ", ".join(dict.fromkeys(case.source for case in cases))
    report = ParityReport(str(directory), f"published values of {key} ({sources})")
    stored = stored_classes(directory)[0].config_class.model_type
    hidden = not (progress and is_watched())
    watched = tqdm(cases, delay=DELAY, desc="verify", disable=hidden)
    for model_name, of_model in groupby(watched, lambda case: case.model):
        cls = CLASSES[model_name]
        if stored != cls.config_class.model_type:
            raise CheckpointError(
                f"{directory} is not {key}: its model type is {stored!r}, that of {key} is "
                f"{cls.config_class.model_type!r}."
            )
        model = cls.from_pretrained(directory, new_parts="allow")
        missing = missing_tensors(model)
        for case in of_model:
            # a base model may lack only its pooler, which affects only one output
            if missing and (model is not model.base or case.output == "pooler_output"):
                report.notes.append(f"{model_name}: no {', '.join(missing)} stored, not compared")
                break
            try:
                outcome = _outcome(model, case)
            except InputError as problem:
                raise CheckpointError(
                    f"{directory} is not {key}: {model_name} is too small for the published case "
                    f"{case.title!r}: {problem}"
                ) from problem
            expected = torch.tensor(case.expected, dtype=outcome.dtype)
            difference = max_difference(outcome, expected)
            allowed = case.tolerance if tolerance is None else tolerance
            module = f"{case.output}: {case.title}"
            report.rows.append(
                Row(model_name, module, "float32", "as published", "padded", difference, allowed)
            )
    return report


@torch.no_grad()
def _outcome(model: torch.nn.Module, case: Case) -> Tensor:
    """The slice of the output that the case is about."""

    def batch(rows: Rows | None) -> Tensor | None:
        if rows is None:
            return None
        values = torch.tensor(rows)
        return values[None] if case.model.endswith("ForMultipleChoice") else values

    output = model(batch(case.ids), batch(case.mask), batch(case.types))[case.output]
    values: Tensor = output[0]  # one sequence, or one question
    if case.probabilities:
        values = values.softmax(dim=-1)
    rows = values[None] if case.tokens is None else values[list(case.tokens)]
    if max(case.columns) >= rows.shape[1]:
        raise InputError(
            f"{case.output} has {counted(rows.shape[1], 'column')}, not {max(case.columns) + 1:,}."
        )
    return rows[:, list(case.columns)]
