"""Exported runs: a file with everything that a comparison needs, which is read without a store.

It is a zip. `runs.json` holds the runs with their parameters, tags, inputs, times and small files, `curves/RUN.parquet`
every value of every metric, `questions/RUN.parquet` the scores by question, and `texts/DIGEST.parquet` the questions
with their titles, passages and answers, once for all runs that were scored on them. Other tools can read it. Each run
is read when it is needed, and the file contains no code.

The file may come from an untrusted source. Parts are read under names that this module chooses, and nothing is unpacked
to disk. Sizes are limited before anything is read: a part by the size that the zip declares, at which reading stops; a
table by the rows and the size that its footer declares. Dictionary encoding, which could unpack to more, is refused.
"""

from __future__ import annotations

import functools
import json
import re
import zipfile
import zlib
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from src.config import UserError, one_line
from src.metrics import RENAMED
from src.runs.records import Input, Record, Selection, Status, to_read

FORMAT, VERSION = "tuneoff runs", 2  # 1 has no test sets
HEAD = "runs.json"
# The small artifacts that are exported: those needed to repeat a run, and its result.
FILES = ("config.yaml", "environment.txt", "result.json", "command.txt")
SHARED = ("title", "question", "context", "answers")  # columns that runs on the same questions share
TEXTS = (*SHARED, "predicted")  # columns of text, which may be left out
LARGEST_PART = 256_000_000  # bytes
MOST_ROWS = 20_000_000  # of a table; also the limit for the values of a column, of which lists have more
PLAIN = {"PLAIN", "RLE", "BIT_PACKED"}  # Parquet encodings that never unpack to more than the declared size


def curves_part(run_id: str) -> str:
    return f"curves/{run_id}.parquet"


def questions_part(run_id: str) -> str:
    return f"questions/{run_id}.parquet"


def texts_part(digest: str) -> str:
    return f"texts/{digest}.parquet"


class Archive:
    """The runs of one exported file; like a store, it is a source of records."""

    def __init__(self, path: Path) -> None:
        """
        Args:
            path: of the file.

        Raises:
            UserError: it is missing, damaged, not an export of runs, or made by a newer version.
        """
        self.path = path
        if not path.is_file():
            raise UserError(f"{path} does not exist; give a file that python -m src.runs export has written.")
        try:
            self.zip = zipfile.ZipFile(path)
            self.zip.getinfo(HEAD)
        except (zipfile.BadZipFile, KeyError, ValueError):
            raise UserError(f"{path} is not an export of runs; python -m src.runs export TO writes one.") from None
        self.points_of = functools.cache(self._read_points)
        try:
            head = json.loads(self._part(HEAD))
            if not isinstance(head, dict) or head.get("format") != FORMAT:
                raise UserError(f"{path} is not an export of runs; python -m src.runs export TO writes one.")
            if int(head["version"]) > VERSION:
                raise UserError(
                    f"{path} was written by a newer version of tuneoff (format {int(head['version'])}, this one reads "
                    f"{VERSION}); update tuneoff."
                )
            self.rows = {_name(row["id"]): row for row in head["runs"]}
            self.records = {run_id: self._record(row) for run_id, row in self.rows.items()}
            chosen = head["selection"]
            self.selection = Selection(
                title=_texts([chosen["title"]])[0],
                results=[self.records[run_id] for run_id in chosen["runs"]],
                parents=[self.records[run_id].id for run_id in chosen["parents"]],
                commands=_texts(chosen["commands"]),
            )
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            reason = one_line(error, 150)
            raise UserError(f"{path} cannot be read ({reason}); it is damaged. Export the runs again.") from error

    @property
    def name(self) -> str:
        """The file's name."""
        return self.path.name

    def runs(self, condition: str = "") -> list[Record]:
        """All runs and parent runs, the newest first.

        Raises:
            UserError: a condition is given; only MLflow can evaluate conditions.
        """
        if condition:
            raise UserError(
                f"where={condition} needs a store, and {self.name} is a file: use where= when it is exported, or "
                "import it first (python -m src.runs import)."
            )
        return sorted(self.records.values(), key=lambda record: record.started, reverse=True)

    def sweeps(self) -> list[Record]:
        """The parent runs of all sweeps, the newest first."""
        return [record for record in self.runs() if record.is_sweep]

    def members(self, sweep: str) -> list[Record]:
        """The runs of a sweep, by the id of its parent run, the oldest first."""
        return [record for record in self.runs() if sweep in record.sweeps][::-1]

    def points(self, run_id: str, metric: str) -> pd.DataFrame:
        """Columns `step`, `timestamp` (milliseconds since 1970) and `value`: one metric of a run, sorted by step."""
        points = self.points_of(run_id)
        chosen = points[points["key"] == metric]
        return chosen[["step", "timestamp", "value"]].reset_index(drop=True)

    def questions(self, run_id: str, columns: Sequence[str] | None = None) -> pd.DataFrame | None:
        """The scores by question of a run, with the given columns as far as it has them; None if it kept no scores."""
        row = self.rows[run_id]
        if row["columns"] is None:
            return None
        known = to_read(row["columns"], columns)
        table = self._table(questions_part(run_id), [column for column in known if column not in SHARED])
        if shared := [column for column in known if column in SHARED]:
            texts = self._table(texts_part(_name(row["texts"])), shared)
            if len(texts) != len(table):
                raise ValueError(f"{self.path} has different numbers of texts and scores")
            table = pd.concat([table, texts], axis=1)
        return table[known]

    def files(self, run_id: str) -> dict[str, str]:
        """The texts of a run's small artifacts (FILES), by name."""
        return {name: text for name, text in self.rows[run_id]["files"].items() if name in FILES}

    def _record(self, row: dict[str, Any]) -> Record:
        """Convert a run of `runs.json` into a record, and check the type of every value."""
        run_id = row["id"]
        points = self.points_of(run_id)
        # MLflow has the same rule for the last value of a metric.
        last = points.sort_values(["step", "timestamp", "value"]).drop_duplicates("key", keep="last").set_index("key")
        _texts(row["files"].values())
        if row["columns"] is not None:
            _texts(row["columns"])
        return Record(
            id=run_id,
            name=_texts([row["name"]])[0],
            status=Status[row["status"]],
            started=_time(row["started"]),
            ended=None if row["ended"] is None else _time(row["ended"]),
            params=dict(zip(row["params"], _texts(row["params"].values()), strict=True)),
            metrics={key: float(last.loc[key, "value"]) for key in dict.fromkeys(points["key"])},
            tags=dict(zip(row["tags"], _texts(row["tags"].values()), strict=True)),
            inputs={context: Input(str(digest), int(rows)) for context, (digest, rows) in row["inputs"].items()},
            source=self,
        )

    def _read_points(self, run_id: str) -> pd.DataFrame:
        """Columns `key`, `step`, `timestamp` and `value`: every value of every metric of a run."""
        points = self._table(curves_part(run_id), ["key", "step", "timestamp", "value"])
        points = points.astype({"key": "str", "step": "int64", "timestamp": "int64", "value": "float64"})
        return points.assign(key=points["key"].replace(RENAMED))

    def _part(self, name: str) -> bytes:
        """The bytes of one part; ValueError where it is missing, damaged or too large."""
        try:
            info = self.zip.getinfo(name)
            if info.file_size > LARGEST_PART:
                raise ValueError(f"{name} is larger than {LARGEST_PART:,} bytes")
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError(f"{name} is packed in a way that no export uses")
            with self.zip.open(info) as file:
                return file.read(info.file_size + 1)  # given a size, it never unpacks more bytes at a time
        except KeyError:
            raise ValueError(f"{name} is missing") from None
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError) as error:  # RuntimeError: encrypted
            raise ValueError(f"{name}: {error}") from error

    def _table(self, name: str, columns: Sequence[str]) -> pd.DataFrame:
        """Columns of one part; ValueError where it is missing, damaged or too large."""
        try:
            file = pq.ParquetFile(BytesIO(self._part(name)))
            footer = file.metadata
            groups = [footer.row_group(i) for i in range(footer.num_row_groups)]
            encodings = {e for group in groups for i in range(group.num_columns) for e in group.column(i).encodings}
            size = sum(group.total_byte_size for group in groups)
            values = max((group.column(i).num_values for group in groups for i in range(group.num_columns)), default=0)
            if max(footer.num_rows, values) > MOST_ROWS or size > LARGEST_PART or not encodings <= PLAIN:
                raise ValueError(f"{name} would unpack to more than an export holds")
            table = file.read(columns=list(columns)).to_pandas()
        except (OSError, NotImplementedError, TypeError, KeyError, pa.ArrowException) as error:
            raise ValueError(f"{name}: {error}") from error
        if missing := set(columns) - set(table.columns):
            raise ValueError(f"{name} lacks {', '.join(sorted(missing))}")
        return table[list(columns)]


def _name(value: Any) -> str:
    """Check an id or digest, which becomes part of file names: it may hold only letters and digits."""
    if not isinstance(value, str) or not re.fullmatch(r"[0-9A-Za-z]{1,64}", value):
        raise ValueError(f"{str(value)[:80]!r} is not an id")
    return value


def _texts(values: Any) -> list[str]:
    """Check that each value is text; returns them as a list."""
    listed = list(values)
    for value in listed:
        if not isinstance(value, str):
            raise ValueError(f"{str(value)[:80]} should be text")
    return listed


def _time(value: Any) -> int:
    """Check a time in milliseconds since 1970."""
    if not isinstance(value, int) or not 0 <= value < 1 << 53:
        raise ValueError(f"{str(value)[:80]} is not a time")
    return value
