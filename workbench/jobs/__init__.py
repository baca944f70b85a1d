"""Long work: a Job with progress and cancel, and Latest for controls that move faster than the answer."""

from .job import Cancelled, Job
from .latest import Latest
from .memory import available, require

__all__ = ["Cancelled", "Job", "Latest", "available", "require"]
