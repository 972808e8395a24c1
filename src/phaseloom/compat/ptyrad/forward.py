"""``ptyrad.forward`` of PtyRAD's tutorial: from windows, probes and propagators to patterns."""

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from phaseloom.physics.detect import intensity
from phaseloom.physics.fourier import shift_to_centre
from phaseloom.physics.propagate import far_field, multislice

__all__ = ["multislice_forward_model_vec_all"]


def multislice_forward_model_vec_all(
    object_patches: Float[Tensor, "b omode slice y x 2"],
    probes: Complex[Tensor, "b pmode y x"],
    propagators: Complex[Tensor, "#b y x"],
    omode_occu: Float[Tensor, " omode"],
) -> Float[Tensor, "b y x"]:
    """Expected patterns of mixed-state multislice, zero frequency in the middle.

    The sum over modes of probe and object of ``|F[exit wave]|^2``, weighted by the occupancies of the
    object's, with a unitary transform: the sum of a pattern is the power of the probe. After the last slice
    nothing propagates.

    Args:
        object_patches: amplitude and phase (radian) of the windows.
        probes: modes at each position.
        propagators: kernels from slice to slice, zero frequency in the corner; one for all positions, or one
            for each.
        omode_occu: share of each object mode.

    Example:
        >>> flat = torch.stack([torch.ones(1, 1, 2, 4, 4), torch.zeros(1, 1, 2, 4, 4)], -1)
        >>> probe = torch.ones(1, 1, 4, 4, dtype=torch.complex64)
        >>> pattern = multislice_forward_model_vec_all(flat, probe, probe[0], torch.ones(1))
        >>> pattern[0, 2, 2].item(), pattern.sum().item()
        (16.0, 16.0)
    """
    amplitude, phase = object_patches.unbind(-1)
    slices = torch.polar(amplitude, phase)
    kernel = propagators[:, None, None]  # an axis for the modes of the object, and one for those of the probe
    exit_waves = multislice(probes[:, None], slices, [kernel] * (slices.shape[2] - 1))
    return shift_to_centre(intensity(far_field(exit_waves), omode_occu))
