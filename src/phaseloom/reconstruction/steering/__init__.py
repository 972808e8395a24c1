"""Commands to a reconstruction under way, what they may change, and branches of a run."""
