"""One loop for physics and networks: it yields epochs and leaves the rest to its caller."""

__all__ = [
    "checkpoint",
    "device",
    "learn",
    "loop",
    "optimizers",
    "rates",
    "schedule",
    "team",
    "verdict",
    "watch",
]
