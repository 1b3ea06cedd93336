"""Turn finished runs into an answer: which method, how sure, at what cost.

    python -m src.compare                                    # the newest sweep
    python -m src.compare sweep=NAME                         # or 'sweep=[NAME,NAME]': several sweeps as one
    python -m src.compare 'runs=[RUN,RUN,...]'               # a run: the beginning of its id, its name, or best
    python -m src.compare where="params.model.name = 'minilm'"
    python -m src.compare from=FILE                          # exported runs (python -m src.runs), without a store

The table and the verdict are shown, and written with a page of figures (report.html), Markdown and CSV under
mlruns/reports/, and to the sweep's parent run in MLflow. More:

    by=[method.peft.r]           tells arms apart by a parameter, beside the method
    baseline=full                the method that the others are compared with, each within its model and data set
    formats=[html,md,csv]        also png and svg, a file a figure (pip install kaleido; it drives a Chrome)
    examples=12                  questions that the page shows for each method; with 0 it holds no text of the data set
    output=FOLDER                instead of mlruns/reports/...
    tracking.folder= tracking.uri= tracking.experiment=      the store, as for src.train
"""

from __future__ import annotations

import sys
from pathlib import Path

from src.compose import explain, key_values, listed
from src.config import TrackingConfig, UserError, nearest
from src.console import begin

KEYS = (
    "from",
    "sweep",
    "runs",
    "where",
    "by",
    "baseline",
    "formats",
    "examples",
    "output",
    "tracking.folder",
    "tracking.uri",
    "tracking.experiment",
)


def main() -> None:
    """The command line: KEY=VALUE, where a value may hold any character."""
    begin()
    try:
        given = key_values(sys.argv[1:], KEYS, str(__doc__))
        lists = {key: listed(key, given[key]) for key in ("sweep", "runs", "by", "formats") if key in given}
        from src.report.page import EXAMPLES
        from src.reporting import DEFAULT_FORMATS, FORMATS, report

        formats = lists.get("formats", list(DEFAULT_FORMATS))
        for form in formats:
            if form not in FORMATS:
                raise UserError(f"formats={form} is none{nearest(form, FORMATS)}; there are: {', '.join(FORMATS)}.")
        examples = given.get("examples", str(EXAMPLES))
        if not examples.isdecimal():
            raise UserError(f"examples={examples} is no number of questions; give 0 or more.")
        tracking = TrackingConfig(
            folder=given.get("tracking.folder", "mlruns"),
            uri=given.get("tracking.uri"),
            experiment=given.get("tracking.experiment", "tuneoff"),
        )
        report(
            tracking,
            lists.get("sweep", []),
            lists.get("runs", []),
            given.get("where"),
            lists.get("by", []),
            given.get("baseline", "full"),
            formats,
            Path(given["output"]) if "output" in given else None,
            int(examples),
            Path(given["from"]) if "from" in given else None,
        )
    except (UserError, OSError) as error:
        print(f"Error: {explain(error)}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
