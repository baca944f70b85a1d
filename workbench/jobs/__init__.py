"""Long work: a Job with progress and cancel, and Latest for controls that move faster than the answer."""

from .ahead import ahead
from .beat import Listener, beat, heard
from .cell import in_cell
from .job import Cancelled, Job
from .latest import Latest
from .memory import available, peak, require, trim

__all__ = [
    "Cancelled",
    "Job",
    "Latest",
    "Listener",
    "ahead",
    "available",
    "beat",
    "heard",
    "in_cell",
    "peak",
    "require",
    "trim",
]
