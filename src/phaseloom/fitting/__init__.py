"""One loop for physics and networks: it yields epochs and leaves the rest to its caller."""

__all__ = [
    "checkpoint",
    "device",
    "distributed",
    "loop",
    "optimizers",
    "outcome",
    "rate_advice",
    "rates",
    "schedule",
    "updates",
    "verdict",
]
