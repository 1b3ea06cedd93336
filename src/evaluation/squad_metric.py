"""Exact match and F1 by SQuAD's official rules, as an `evaluate.Metric` that works without the hub.

The rules are those of the official evaluation script (https://rajpurkar.github.io/SQuAD-explorer/): lower case,
no ASCII punctuation, no English articles, single spaces; a question's score is its best over the human answers.
If an answer is empty after normalisation, and for unanswerable questions, the rule of v2.0 applies: F1 is 1 if both are
empty, else 0.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

import datasets
import evaluate

ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize(text: str) -> str:
    """Normalise an answer for comparison."""
    return " ".join(ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split())


def exact_match(prediction: str, answers: Sequence[str]) -> float:
    """1.0 if the prediction equals one of the answers, else 0.0; no answers: whether the prediction is empty."""
    return float(any(normalize(prediction) == normalize(answer) for answer in answers or [""]))


def f1(prediction: str, answers: Sequence[str]) -> float:
    """Best harmonic mean of word precision and recall over the answers, from 0.0 to 1.0."""
    return max(_f1(normalize(prediction).split(), normalize(answer).split()) for answer in answers or [""])


def _f1(predicted: list[str], gold: list[str]) -> float:
    if not predicted or not gold:
        return float(predicted == gold)
    common = sum((Counter(predicted) & Counter(gold)).values())
    if common == 0:
        return 0.0
    precision, recall = common / len(predicted), common / len(gold)
    return 2 * precision * recall / (precision + recall)


class SquadMetric(evaluate.Metric):
    """`compute(predictions=[{id, prediction_text}], references=[{id, answers}])` -> exact_match and f1, in percent."""

    def _info(self) -> evaluate.MetricInfo:
        answers = {
            "text": datasets.List(datasets.Value("string")),
            "answer_start": datasets.List(datasets.Value("int32")),
        }
        return evaluate.MetricInfo(
            description=__doc__ or "",
            citation="Rajpurkar et al. 2016, https://arxiv.org/abs/1606.05250",
            inputs_description="predictions: id, prediction_text; references: id, answers",
            features=datasets.Features(
                {
                    "predictions": {"id": datasets.Value("string"), "prediction_text": datasets.Value("string")},
                    "references": {"id": datasets.Value("string"), "answers": answers},
                }
            ),
        )

    def _compute(self, predictions: list[dict], references: list[dict]) -> dict[str, float]:
        given = {prediction["id"]: prediction["prediction_text"] for prediction in predictions}
        pairs = [(given.get(reference["id"], ""), reference["answers"]["text"]) for reference in references]
        return {
            "exact_match": 100 * sum(exact_match(*pair) for pair in pairs) / len(pairs),
            "f1": 100 * sum(f1(*pair) for pair in pairs) / len(pairs),
        }
