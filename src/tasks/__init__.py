"""The tasks: how a model answers a question. `model.task` of a model's YAML chooses one.

A task is a folder here, and a line in `TASKS`. What it must be able to do is said in `src.tasks.base`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from src.config import ModelConfig

if TYPE_CHECKING:  # it imports torch
    from src.tasks.base import Task

# The module of each, whose `TASK` is the task; imported when it is used, because it imports torch.
TASKS = {"extractive": "src.tasks.extractive.task", "generative": "src.tasks.generative.task"}


def task_of(model: ModelConfig) -> Task:
    """The task that a model is for."""
    task: Task = import_module(TASKS[model.task]).TASK
    return task
