"""Exports selected runs of a store to one file, which src.runs.archive reads."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import pandas as pd

from src.config import UserError
from src.runs.archive import (
    FILES,
    FORMAT,
    HEAD,
    SHARED,
    TEXTS,
    VERSION,
    curves_part,
    questions_part,
    texts_part,
)
from src.runs.records import Record, Selection
from src.runs.store import Store

FIRST_DAY = (1980, 1, 1, 0, 0, 0)  # the earliest date in a zip: with it, the same runs give the same file


def export_runs(store: Store, selection: Selection, to: Path, texts: bool = True) -> tuple[int, int]:
    """Export the runs of a selection, and the parent runs of their sweeps.

    Args:
        store: that holds the runs.
        selection: the runs; a comparison from the file compares these by default.
        to: the file, which must not exist.
        texts: false leaves out titles, questions, passages, answers and predictions; the scores by question stay, with
            hashes of article and passage.

    Returns:
        The numbers of runs and of parent runs.

    Raises:
        UserError: the file exists already, its folder does not, or a run's scores are damaged.
    """
    if to.exists():
        raise UserError(f"{to} exists already; give another name, or delete it.")
    if not to.parent.is_dir():
        raise UserError(f"{to.parent} is not a folder; make it, or export to another place.")
    wanted = {*selection.parents, *(sweep for record in selection.results for sweep in record.sweeps)}
    parents = [record for record in store.sweeps() if record.id in wanted][::-1]
    unfinished = to.with_name(f".{to.name}.{os.getpid()}")
    try:
        with zipfile.ZipFile(unfinished, "w") as zip:
            rows = [_write_run(zip, store, record, texts) for record in (*parents, *selection.results)]
            chosen = {
                "title": selection.title,
                "runs": [record.id for record in selection.results],
                "parents": selection.parents,
                "commands": selection.commands,
            }
            head = {"format": FORMAT, "version": VERSION, "texts": texts, "selection": chosen, "runs": rows}
            _write(zip, HEAD, json.dumps(head, ensure_ascii=False, indent=1).encode(), zipfile.ZIP_DEFLATED)
        unfinished.replace(to)
    finally:
        unfinished.unlink(missing_ok=True)
    return len(selection.results), len(parents)


def _write_run(zip: zipfile.ZipFile, store: Store, record: Record, texts: bool) -> dict[str, Any]:
    """Write the tables of a run; returns its entry of `runs.json`."""
    curves = [store.points(record.id, key).assign(key=key) for key in record.metrics]
    empty = pd.DataFrame({"key": pd.Series(dtype="str"), "step": 0, "timestamp": 0, "value": 0.0})
    _write(zip, curves_part(record.id), _parquet(pd.concat(curves, ignore_index=True) if curves else empty))
    try:
        questions = record.questions(split=None)
    except UserError as error:
        raise UserError(f"{error}; leave this run out (runs=, where=).") from error
    columns, digest = None, None
    if questions is not None:
        questions = questions.reset_index()
        left_out = set() if texts else set(TEXTS)
        columns = [str(column) for column in questions if column not in left_out]
        apart = [column for column in columns if column in SHARED]
        _write(zip, questions_part(record.id), _parquet(questions[[c for c in columns if c not in SHARED]]))
        if apart:
            shared = _parquet(questions[apart])
            digest = hashlib.sha256(shared).hexdigest()[:16]
            if texts_part(digest) not in zip.namelist():
                _write(zip, texts_part(digest), shared)
    read = {name: store.text(record.id, name) for name in FILES}
    return {
        "id": record.id,
        "name": record.name,
        "status": record.status.name,
        "started": record.started,
        "ended": record.ended,
        "params": record.params,
        "tags": record.tags,
        "inputs": record.inputs,
        "files": {name: text for name, text in read.items() if text is not None},
        "columns": columns,
        "texts": digest,
    }


def _parquet(table: pd.DataFrame) -> bytes:
    """A table as Parquet without dictionary encoding, so that the sizes in the footer are reliable."""
    file = BytesIO()
    table.to_parquet(file, compression="zstd", index=False, use_dictionary=False)
    return file.getvalue()


def _write(zip: zipfile.ZipFile, name: str, content: bytes, packed: int = zipfile.ZIP_STORED) -> None:
    info = zipfile.ZipInfo(name, FIRST_DAY)
    info.compress_type = packed
    info.external_attr = 0o644 << 16
    zip.writestr(info, content)
