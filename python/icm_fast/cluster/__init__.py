"""Work on many processes and machines, through Ray: models that its workers hold."""

from icm_fast.cluster.runtime import RayRequest, on_ray

__all__ = ["RayRequest", "on_ray"]
