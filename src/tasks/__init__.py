"""The tasks: ways in which a model answers questions. `model.task` in the YAML file of a model chooses one.

A task is a folder here and an entry in `TASKS`. It implements the interface of `src.tasks.base`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from src.config import ModelConfig

if TYPE_CHECKING:  # it imports torch
    from src.tasks.base import Task

# The module that defines each task as `TASK`. It imports torch, so it is imported when it is used.
TASKS = {"extractive": "src.tasks.extractive.task", "generative": "src.tasks.generative.task"}


def task_of(model: ModelConfig) -> Task:
    """The task of a model."""
    task: Task = import_module(TASKS[model.task]).TASK
    return task
