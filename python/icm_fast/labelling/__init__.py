"""Labelling tables of any size: cores are searched, all other rows are predicted after them."""

from icm_fast.labelling.api import label
from icm_fast.labelling.config import LabelConfig
from icm_fast.labelling.export import export_labelling
from icm_fast.labelling.run import Labelling, label_rows
from icm_fast.labelling.tables import open_table
from icm_fast.labelling.task import LabelTask

__all__ = [
    "LabelConfig",
    "LabelTask",
    "Labelling",
    "export_labelling",
    "label",
    "label_rows",
    "open_table",
]
