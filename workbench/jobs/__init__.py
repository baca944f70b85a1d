"""Long work: a Job with progress and cancel, and Latest for controls that move faster than the answer."""

from .beat import beat, heard
from .job import Cancelled, Job
from .latest import Latest
from .memory import available, peak, require

__all__ = ["Cancelled", "Job", "Latest", "available", "beat", "heard", "peak", "require"]
