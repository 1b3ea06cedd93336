"""Whether the hub of models and data sets can be reached."""

from __future__ import annotations

import functools
import os
import re
from pathlib import Path

from huggingface_hub import constants, is_offline_mode
from huggingface_hub.utils import get_session

from src.config import one_line

HUB_NAME = r"[\w.-]+(/[\w.-]+)?"
HUB_SECONDS = 5  # the timeout of the hub, unless HF_HUB_ETAG_TIMEOUT sets another


def hub_problem(place: str) -> str | None:
    """The reason why the hub cannot be asked for a model or data set; None if it can, or for a local folder.

    The hub is tried once in a process, for a few seconds. Its own client would try for three quarters of a minute for
    each file before it uses its cache.

    Args:
        place: a name on the hub, or a path.
    """
    if re.fullmatch(HUB_NAME, place) is None or Path(place).is_dir():
        return None
    return _ask_hub()


@functools.cache
def _ask_hub() -> str | None:
    """The reason why the hub does not answer; None if it answers, even with an error."""
    if is_offline_mode():
        return "HF_HUB_OFFLINE is set"
    seconds = constants.HF_HUB_ETAG_TIMEOUT if "HF_HUB_ETAG_TIMEOUT" in os.environ else HUB_SECONDS
    try:
        get_session().head(constants.ENDPOINT, timeout=seconds)
    except Exception as error:  # the types depend on the HTTP library of the installed huggingface_hub
        return f"{constants.ENDPOINT} does not answer ({type(error).__name__}: {one_line(error)})"
    return None
