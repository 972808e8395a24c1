"""Search over the parameters of a run."""
