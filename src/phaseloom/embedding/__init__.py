"""4D-STEM autoencoders: patterns encoded into a few latents, and what can be seen in these.

In reading order: `networks`; `losses`, `objective`, `block_split`, `train` and `evaluate` for training;
`embeddings` for the latents of a scan; `latents` and `figures` for their analysis. Public names are imported
on first use.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
