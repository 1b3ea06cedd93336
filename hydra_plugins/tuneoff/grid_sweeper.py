"""A grid sweeper for methods that know different keys: `hydra/sweeper=grid`, the default.

Hydra looks for plug-ins only in packages of this name.
"""

from __future__ import annotations

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.types import Override

from src.grid import grid


class GridSweeper(BasicSweeper):
    """Hydra's basic sweeper, but each run is made once and without the keys that its method does not know."""

    def split_arguments(  # type: ignore[override]  # Hydra's is static, and called on the instance
        self, overrides: list[Override], max_batch_size: int | None
    ) -> list[list[list[str]]]:
        assert self.hydra_context is not None and self.config is not None
        loader, config = self.hydra_context.config_loader, self.config
        jobs = grid([overrides], lambda chosen: loader.load_sweep_config(config, list(chosen))).jobs
        return list(self.split_overrides_to_chunks(jobs, max_batch_size))
