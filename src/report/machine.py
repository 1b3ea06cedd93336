"""A comparison for programs: verdict.json and verdict.csv. docs/verdict.md describes the fields."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict
from typing import Any

from src.csv_text import csv_text
from src.harmless import json_text
from src.metrics import Place, shown
from src.report.arms import Arm
from src.report.comparison import Comparison, Contrast
from src.report.fairness import comparable
from src.report.findings import f1_of
from src.report.prices import price_of_a_run, price_of_tuning
from src.report.scored import Scored
from src.report.statistics import Difference
from src.report.verdict import protocol, recommendation

FORMAT, VERSION = "tuneoff verdict", 1
# The columns of verdict.csv, each with the place of its value in a contrast of verdict.json.
COLUMNS = {
    "method": ("method", "name"),
    "baseline": ("baseline", "name"),
    **{key: ("method", key) for key in ("f1", "f1_deviation")},
    **{f"baseline_{key}": ("baseline", key) for key in ("f1", "f1_deviation")},
    **{key: ("f1", key) for key in ("difference", "low", "high", "p_no_difference", "adjusted_p_no_difference")},
    **{key: ("f1", key) for key in ("p_inferior", "adjusted_p_inferior", "minimum_detectable_effect", "bound")},
    **{key: ("", key) for key in ("margin", "decision", "scored_on", "cross_fitted")},
    **{key: ("counts", key) for key in ("questions", "passages", "articles")},
    "seeds": ("method", "seeds"),
    "baseline_seeds": ("baseline", "seeds"),
    "run_ids": ("method", "run_ids"),
    "baseline_run_ids": ("baseline", "run_ids"),
}


def as_dict(comparison: Comparison, made: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a comparison into numbers, strings, lists and dictionaries, as verdict.json holds them.

    Args:
        comparison: to convert.
        made: when the verdict was made, and by which versions.
    """
    advice = recommendation(comparison)
    return _plain(
        {
            "format": FORMAT,
            "version": VERSION,
            "title": comparison.title,
            "commands": [command for command in comparison.commands if command],
            **made,
            "commits": sorted(
                {run.tags.get("git_commit", "") for arm in comparison.arms for run in arm.best.runs} - {""}
            ),
            "margin": comparison.margin,
            "margin_named_afterwards": comparison.margin_afterwards,
            "protocol": protocol(comparison),
            "recommendation": {"headline": advice.headline, "next_command": advice.next_command},
            "schedule": _schedule(comparison),
            "spent": [asdict(spent) for spent in comparison.spent] or None,
            "methods": [_method(arm, comparison) for arm in comparison.arms],
            "without_result": dict(comparison.empty),
            "contrasts": [_contrast(contrast, comparison) for contrast in comparison.contrasts],
            "warnings": [{"code": warning.code, "text": warning.text} for warning in comparison.warnings],
        }
    )


def as_json(content: Mapping[str, Any]) -> str:
    """The text of verdict.json."""
    return json_text(content, indent=2, allow_nan=False) + "\n"


def as_csv(content: Mapping[str, Any]) -> str:
    """The text of verdict.csv, one row for each contrast.

    Args:
        content: the result of `as_dict`.
    """
    rows: list[Iterable[Any]] = [COLUMNS]
    for contrast in content["contrasts"]:
        parts = ((contrast[part] or {}).get(key) if part else contrast[key] for part, key in COLUMNS.values())
        rows.append([" ".join(part) if isinstance(part, list) else part for part in parts])
    return csv_text(rows)


def _schedule(comparison: Comparison) -> dict[str, Any] | None:
    """The plan of a settled sweep; None where the runs do not belong to one."""
    schedule = comparison.schedule
    if schedule is None:
        return None
    return {
        "protocol": str(schedule),
        "budget": schedule.budget,
        "choosing_seeds": list(schedule.choosing_seeds),
        "verdict_seeds": list(schedule.verdict_seeds),
        "looks": list(schedule.looks),
        "looks_planned": schedule.shares,
        "comparisons": schedule.comparisons,
        "reachable_margin": schedule.reachable,
        "left_out": dict(schedule.out),
    }


def _method(arm: Arm, comparison: Comparison, of: Collection[str] = ()) -> dict[str, Any]:
    """An arm at its best setting, with the runs that its score is computed from.

    Args:
        arm: the arm.
        comparison: that it is part of.
        of: seeds to use; all if it is empty.
    """
    scores, best = comparison.scored[arm.name], arm.best
    if of and scores is not None:
        scores = scores.of(of)
    seeds = sorted(best.seeds) if scores is None else list(scores.seeds)
    return {
        "name": arm.name,
        "labels": dict(arm.labels),
        "settings": {
            "learning_rate": best.rate,
            "epochs": best.epochs,
            **{key: best.runs[0].params.get(key) for key in comparison.varied},
        },
        "settings_tried": arm.settings,
        "f1": f1_of(arm, comparison) if scores is None else scores.level("f1"),
        "f1_deviation": None if scores is None else scores.std("f1"),
        "exact_match": None if scores is None else scores.level("exact_match"),
        "seeds": seeds,
        "seeds_chosen_on": scores is not None and scores.on_choosing_seeds,
        "run_ids": [run.id for run in best.runs if run.seed in seeds],
        "costs": {entry.key: best.average(entry.key) for entry in shown(Place.VERDICT, best.runs[0].metrics)},
        "price_of_a_run": price_of_a_run(arm),
        "price_of_tuning": price_of_tuning(arm),
    }


def _contrast(contrast: Contrast, comparison: Comparison) -> dict[str, Any]:
    arm, base, basis, (seeds, base_seeds) = contrast.arm, contrast.base, contrast.basis, contrast.seeds
    method, baseline = (_method(*each) for each in ((arm, comparison, seeds), (base, comparison, base_seeds)))
    ratios = {
        key: value / other
        for key, value in method["costs"].items()
        if value is not None and (other := baseline["costs"].get(key)) and comparable(key, arm, base)
    }
    scores = comparison.scored[arm.name]
    return {
        "method": method,
        "baseline": baseline,
        "decision": None if contrast.decision is None else contrast.decision.value,
        "margin": comparison.margin,
        "why_not": contrast.why_not or None,
        "f1": _difference(contrast.differences.get("f1")),
        "exact_match": _difference(contrast.differences.get("exact_match")),
        "counts": None
        if basis is None
        else {
            "questions": basis.questions,
            "passages": basis.passages,
            "articles": basis.articles,
            "unit": basis.unit,
            "seeds": list(basis.seeds),
        },
        "chosen_on": _chosen_on(arm, scores),
        "scored_on": None if basis is None else basis.split,
        "cross_fitted": basis is not None and basis.cross_fitted,
        "look": None if contrast.look is None else asdict(contrast.look),
        "cost_ratios": ratios,
    }


def _chosen_on(arm: Arm, scores: Scored | None) -> str | None:
    """The questions that the setting was chosen on; None where only one setting was run."""
    if not arm.was_chosen:
        return None
    return "the other half of the validation set" if scores is not None and scores.cross_fitted else "validation"


def _difference(difference: Difference | None) -> dict[str, float] | None:
    """The values of a difference; None where there is none."""
    if difference is None:
        return None
    return {
        "difference": difference.mean,
        "low": difference.low,
        "high": difference.high,
        "p_no_difference": difference.p,
        "adjusted_p_no_difference": difference.adjusted_p,
        "p_inferior": difference.p_inferior,
        "adjusted_p_inferior": difference.adjusted_p_inferior,
        "minimum_detectable_effect": difference.minimum_detectable,
        "bound": difference.bound,
        "standard_error": difference.standard_error,
    }


def _plain(value: Any) -> Any:
    """The value with null in place of numbers that are not finite, which JSON cannot express."""
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
