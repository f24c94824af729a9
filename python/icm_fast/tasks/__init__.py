"""Tasks by name: each loads a data set and, separately, the gold labels."""

from icm_fast.tasks.movie_sentiment import crowd_labels
from icm_fast.tasks.registry import TASKS, load_task
from icm_fast.tasks.source import TaskSource

__all__ = ["TASKS", "TaskSource", "crowd_labels", "load_task"]
