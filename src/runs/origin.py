"""Reproduces a run: `python -m src.train from_run=ID`, or from_run=FILE with the config.yaml of a run.

The configuration of that run replaces conf/config.yaml, so that any value can still be overridden. Differences in data,
code, packages and hardware, which may change the result, are reported.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from src.compose import Primary
from src.config import SETTINGS, Config, TrackingConfig, UserError
from src.metrics import Place, shown
from src.runs.provenance import environment, git_commit
from src.runs.results import resolve_run
from src.runs.store import Store, connect

NAME = "from_run"  # the name of the configuration that is written
# The packages that may affect a result. That of the data's reader is not among them, since the data are compared.
PACKAGES = ("torch", "transformers", "tokenizers", "peft", "accelerate", "numpy")


def begin_from(arguments: Sequence[str], folder: Path) -> tuple[Primary, list[str]]:
    """Write the configuration that `from_run=` names, as the one that Hydra begins with.

    Args:
        arguments: of the command line; those of `tracking.` name the store that holds the run.
        folder: to write to.

    Returns:
        The configuration, and the arguments with the run's full id.

    Raises:
        UserError: no such run, or not a configuration.
    """
    given = {key: value.strip("'\"") for key, _, value in (argument.partition("=") for argument in arguments)}
    source = given["from_run"]
    if Path(source).suffix in (".yaml", ".yml"):
        origin = source
        if not Path(source).is_file():
            raise UserError(f"from_run={source} does not exist; name the config.yaml of a run.")
        text: str | None = Path(source).read_text(encoding="utf-8")
    else:
        places = {key: given[f"tracking.{key}"] for key in ("folder", "uri") if f"tracking.{key}" in given}
        store = connect(TrackingConfig(**places), create=False)
        run, note = resolve_run(store.everywhere(), source, "from_run")
        origin = run.id
        text = store.text(origin, "config.yaml")
        if note:
            print(note)
    if text is None:
        raise UserError(f"from_run={source}: the run {origin} stored no configuration; choose a FINISHED run.")
    values = read_config(text, f"from_run={source}")
    values["model"]["trust_remote_code"] = False  # only the command line may allow it
    shared = yaml.safe_load((SETTINGS / "conf" / "config.yaml").read_text(encoding="utf-8"))
    groups = [*shared["hydra"]["searchpath"], f"file://{SETTINGS / 'conf'}"]
    primary = {
        # `hydra` and `tracking` belong to the command, not to the run, and are those of every run.
        "defaults": ["schema", "_self_", *(d for d in shared["defaults"] if next(iter(d)).startswith("override "))],
        **values,
        "tracking": shared["tracking"],
        "rerun": False,
        "from_run": origin,
        "hydra": shared["hydra"] | {"searchpath": groups},
    }
    (folder / f"{NAME}.yaml").write_text(yaml.safe_dump(primary, sort_keys=False), encoding="utf-8")
    rest = [argument for argument in arguments if not argument.startswith("from_run=")]
    return Primary(str(folder), NAME), [*rest, f"from_run={origin}"]


def read_config(text: str, source: str) -> dict[str, Any]:
    """The sections of a stored configuration, as plain values; reading them runs no code.

    Args:
        text: of a run's `config.yaml`.
        source: what the user calls it, for messages.

    Raises:
        UserError: it is not the configuration of a run.
    """
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"{source} is not valid YAML ({str(error).splitlines()[0]}).") from None
    sections = {f.name for f in dataclasses.fields(Config)} - {"tracking", "sweep", "rerun", "from_run"}
    if not isinstance(values, dict) or not sections <= values.keys():
        raise UserError(f"{source} is not the config.yaml of a run: it needs {', '.join(sorted(sections))}.")
    if "${" in text:
        raise UserError(f"{source} holds an interpolation (${{...}}), which no run stores; it was tampered with.")
    return {name: values[name] for name in sorted(sections)}


def differences(store: Store, origin: str, digests: Mapping[str, str], hardware: str) -> list[str] | None:
    """The differences that may change the result of a reproduction, one sentence each; None where they are unknown.

    Args:
        store: that holds the run.
        origin: the id of the run.
        digests: of the data of the reproduction, by context (train, validation).
        hardware: that it runs on, as in the tag `hardware`.
    """
    if Path(origin).is_file():
        return None  # a configuration does not describe data and code
    run = store.record(origin)
    then = {context: digest for context, (digest, _) in run.inputs.items()}
    tags = run.tags
    sentences = [
        f"The {context} data differ: digest {then.get(context)} then, {digest} now."
        for context, digest in digests.items()
        if then.get(context) != digest
    ]
    pairs = {"The code": (tags.get("git_commit", "unknown"), git_commit())}
    pairs["The hardware"] = (tags.get("hardware", "unknown"), hardware)
    before, now = _versions(store.text(origin, "environment.txt") or ""), _versions(environment())
    pairs |= {name: (before.get(name, "unknown"), now.get(name, "none")) for name in PACKAGES}
    return sentences + [f"{what} differs: {a} then, {b} now." for what, (a, b) in pairs.items() if a != b]


def scores(store: Store, origin: str) -> str:
    """The scores of the original run, as `EM 22.0, F1 28.4`; empty if they are unknown."""
    if Path(origin).is_file():
        return ""
    metrics = store.record(origin).metrics
    return ", ".join(entry.named(metrics[entry.key]) for entry in shown(Place.CARD, metrics))


def _versions(text: str) -> dict[str, str]:
    pairs = [line.partition("==") for line in text.splitlines() if "==" in line]
    return {name.lower(): version for name, _, version in pairs}
