"""Random shapes that are the same in every run, and models in double precision."""

import torch
from hypothesis import settings

settings.register_profile("laws", derandomize=True, max_examples=25, deadline=None, database=None)
settings.load_profile("laws")


def in_double(model, real=torch.float64):
    """The model in double precision, or ``real``; ``Module.double`` leaves complex tensors as they are."""
    for tensor in [*model.parameters(), *model.buffers()]:
        if tensor.is_complex() or tensor.is_floating_point():
            tensor.data = tensor.to(real.to_complex() if tensor.is_complex() else real)
    return model
