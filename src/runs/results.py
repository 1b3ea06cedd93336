"""Selects the runs of a comparison from an MLflow store or a file of exported runs."""

from __future__ import annotations

from collections.abc import Sequence

from src.arguments import command
from src.config import TrackingConfig, UserError, nearest
from src.metrics import F1
from src.runs.records import Record, Selection, Source
from src.runs.store import connect

NAMED = 8  # runs that a message names


def select(
    tracking: TrackingConfig, sweeps: Sequence[str] = (), runs: Sequence[str] = (), where: str | None = None
) -> Selection:
    """`choose` from the store that `tracking` names, which must exist."""
    return choose(connect(tracking, create=False), sweeps, runs, where)


def choose(source: Source, sweeps: Sequence[str] = (), runs: Sequence[str] = (), where: str | None = None) -> Selection:
    """Select the runs of the given sweeps, the given runs, or those that meet a condition.

    If none of these is given, the selection is the one that a file was exported with, or the newest sweep of a store.

    Args:
        source: the store or file.
        sweeps: names of sweeps, or the first characters of their ids.
        runs: names or ids, as `resolve_run` takes them.
        where: a condition in MLflow's filter language, such as `params.model.name = 'minilm'`.

    Raises:
        UserError: there are no such runs, or more than one of the three ways was used.
    """
    if sum(map(bool, (sweeps, runs, where))) > 1:
        raise UserError("sweep=, runs= and where= each choose runs by themselves; give one of them.")
    if runs:
        everything = source.runs()
        resolved = [resolve_run(everything, text, "runs") for text in runs]
        once = {record.id: record for record, _ in resolved}
        chosen = sorted(once.values(), key=lambda record: record.started)
        title = f"{len(chosen)} chosen run{'s' if len(chosen) > 1 else ''}"
        return Selection(title, chosen, notes=[note for _, note in resolved if note])
    if where is not None:
        if not (chosen := _alone(source, where)):
            raise UserError(f"where={where}: no run meets it.")
        return Selection(where, chosen)
    if not sweeps and source.selection is not None:
        return source.selection
    parents = source.sweeps()
    if sweeps:
        return of_sweeps(source, [_sweep(parents, sweep) for sweep in sweeps])
    if parents:
        return of_sweeps(source, [_newest(source, parents)])
    if not (everything := _alone(source, "")):
        raise UserError(f"The experiment {source.name} holds no run; train some first ({' '.join(command('train'))}).")
    return Selection(f"all runs of {source.name}", everything)


def _newest(source: Source, parents: Sequence[Record]) -> Record:
    """The newest sweep with a finished run; the newest of all if there is no such sweep."""
    with_runs = (parent for parent in parents if any(record.finished for record in source.members(parent.id)))
    return next(with_runs, parents[0])


def _alone(source: Source, condition: str) -> list[Record]:
    """The runs that meet a condition, without parent runs, the oldest first."""
    return [record for record in source.runs(condition) if not record.is_sweep][::-1]


def _sweep(parents: Sequence[Record], text: str) -> Record:
    """The newest sweep whose name is `text` or whose id begins with it."""
    for parent in parents:
        if parent.name == text or parent.id.startswith(text):
            return parent
    names = ", ".join(sorted({parent.name for parent in parents}))
    raise UserError(f"sweep={text}: there is no such sweep; there are: {names or 'none'}.")


def resolve_run(records: Sequence[Record], text: str, key: str = "run") -> tuple[Record, str]:
    """Find the run that `text` refers to.

    Args:
        records: to search, including the parent runs of sweeps, the newest first.
        text: the beginning of a run's id; a run's name, which refers to the newest FINISHED run of that name; or
            `best`, the FINISHED run with the highest F1 on the validation questions of the newest sweep that has one
            (without sweeps, of all runs).
        key: of the command line, for messages.

    Returns:
        The run, and a note if several runs were possible, otherwise an empty text.

    Raises:
        UserError: there is no such run, several ids begin with the text, or no such run is finished.
    """
    runs = [record for record in records if not record.is_sweep]
    finished = [record for record in runs if record.finished]
    if text == "best":
        return _best([record for record in records if record.is_sweep], finished, key)
    begins = [record for record in runs if record.id.startswith(text)]
    if len(begins) == 1:
        return begins[0], ""
    if begins:
        listed = ", ".join(f"{record.id[:8]}... ({record.name})" for record in begins[:NAMED])
        raise UserError(f"{key}={text}: {len(begins)} runs have such an id ({listed}); give more of it.")
    named = [record for record in runs if record.name == text]
    complete = [record for record in named if record.finished]
    if len(complete) == 1:
        return complete[0], ""
    if complete:
        ids = f"{complete[0].id[:8]} (the others: {', '.join(record.id[:8] for record in complete[1:])})"
        return complete[0], f"{len(complete)} finished runs are called {text}; the newest one is taken, {ids}."
    if named:
        raise UserError(f"{key}={text}: that run is {named[0].status}; choose a FINISHED one.")
    names = list(dict.fromkeys(record.name for record in finished))
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    there_are = f"there are: {', '.join(names[:NAMED])}{more}" if names else "no run has finished yet"
    raise UserError(f"{key}={text}: no run has this name or such an id{nearest(text, names)}; {there_are}.")


def _best(parents: Sequence[Record], finished: Sequence[Record], key: str) -> tuple[Record, str]:
    """The finished run with the highest F1: of the newest sweep that has one, or of all runs without sweeps."""
    where = "the store"
    if parents:
        swept = {sweep for record in finished for sweep in record.sweeps}
        parent = next((parent for parent in parents if parent.id in swept), parents[0])
        where = f"the sweep {parent.name.removeprefix('sweep ')}"  # as unnamed ones begin
        finished = [record for record in finished if parent.id in record.sweeps]
    scored = [record for record in finished if F1 in record.metrics]
    if not scored:
        raise UserError(f"{key}=best: no run of {where} has finished yet.")
    best = max(scored, key=lambda record: record.metrics[F1])
    f1 = best.metrics[F1]
    return best, f"The best run of {where} is {best.name}, {best.id[:8]} (F1 {f1:.1f})."


def of_sweeps(source: Source, parents: Sequence[Record]) -> Selection:
    """The runs of some sweeps, each once."""
    members = {record.id: record for parent in parents for record in source.members(parent.id)}
    return Selection(
        " + ".join(parent.name for parent in parents),
        sorted(members.values(), key=lambda record: record.started),
        [parent.id for parent in parents],
        [parent.tags.get("command", "") for parent in parents],
    )
