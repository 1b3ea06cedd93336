"""Command lines for the next steps with a store."""

from __future__ import annotations

import shlex
from urllib.parse import urlparse

from src.arguments import command
from src.config import TrackingConfig


def ui_command(tracking: TrackingConfig) -> str:
    """The command that opens the MLflow UI on a store, or the address of its server."""
    if tracking.uri and urlparse(tracking.uri).scheme in ("http", "https"):
        return tracking.uri
    return command_line("ui", tracking)


def command_line(module: str, tracking: TrackingConfig, *arguments: str) -> str:
    """The command line of a command with arguments, and with the keys of a store that is not the default one."""
    default = TrackingConfig()
    keys = {"tracking.uri": tracking.uri} if tracking.uri else {"tracking.folder": tracking.folder}
    if module == "compare":  # the other commands search all experiments
        keys["tracking.experiment"] = tracking.experiment
    given = {"tracking.folder": default.folder, "tracking.experiment": default.experiment}
    at = [f"{key}={value}" for key, value in keys.items() if value != given.get(key)]
    return shlex.join([*command(module), *arguments, *at])


def next_commands(tracking: TrackingConfig, run_id: str) -> dict[str, str]:
    """What can be done with a finished run, and the command for it."""
    example = ("question=Who wrote it?", "context=It was written by Ada.")
    return {
        "ask it": command_line("predict", tracking, f"run={run_id[:8]}", *example),
        "compare runs": command_line("compare", tracking),
        "see all runs": ui_command(tracking),
    }
