"""Labels of a finished run for others: tables, training data, the Hub, lm-evaluation-harness."""

from icm_fast.export.hub_push import push, write_hub_folder
from icm_fast.export.lm_eval import write_lm_eval_task
from icm_fast.export.tables import FORMATS, encode_run, export_run

__all__ = [
    "FORMATS",
    "encode_run",
    "export_run",
    "push",
    "write_hub_folder",
    "write_lm_eval_task",
]
