"""A sweeper that carries out the protocol of docs/protocol.md: `hydra/sweeper=settle`.

Hydra looks for plug-ins only in packages of this name.
"""

from __future__ import annotations

from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class SettleSweeper(Sweeper):
    """Makes the runs that the protocol requests, which depend on the results of earlier runs."""

    def __init__(self, arms: list[str] | None, params: DictConfig) -> None:
        pass  # `src.settling` reads them from the configuration, before the first run

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config = config
        self.launcher: Launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        from src.sweep import settle

        assert self.config is not None
        settle(self.launcher, self.config, arguments)
