"""The figures of every step of a search, a labelling or a training, for trackers and callbacks."""

from icm_fast.tracking.run import Part, RunTracking, Tracking, TrackLike, part_of, tracked
from icm_fast.tracking.step import Step, StepCallback, Tracker
from icm_fast.tracking.trackers import TRACKERS

__all__ = [
    "TRACKERS",
    "Part",
    "RunTracking",
    "Step",
    "StepCallback",
    "TrackLike",
    "Tracker",
    "Tracking",
    "part_of",
    "tracked",
]
