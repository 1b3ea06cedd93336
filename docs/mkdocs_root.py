"""A hook of MkDocs: the site has the same folders as the repository, so that a link works in both.

MkDocs refuses a `docs_dir` that holds mkdocs.yml, because it would copy the site into itself. That cannot happen here,
since `exclude_docs` leaves the site out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any


def on_config(config: Any) -> None:
    """Let MkDocs read the pages from the folder of mkdocs.yml."""
    config.docs_dir = str(Path(config.config_file_path).parent)
