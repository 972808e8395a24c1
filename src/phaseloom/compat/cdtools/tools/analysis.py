"""CDTools' ``tools.analysis``: quality of reconstructions, in its bins and conventions.

Arrays give arrays, tensors give tensors. What `phaseloom.metrics` computes are values without gradients.
"""

import warnings
from typing import Any

import numpy as np
import torch
from scipy.special import xlogy
from torch import Tensor

from phaseloom.compat.cdtools.tools._frequencies import (
    calc_consistency_prtf,
    calc_deconvolved_cross_correlation,
    calc_frc,
    calc_generalized_frc,
)
from phaseloom.compat.cdtools.tools._repeats import (
    remove_amplitude_exponent,
    remove_phase_ramp,
    standardize,
    standardize_reconstruction_pair,
    standardize_reconstruction_set,
    synthesize_reconstructions,
)
from phaseloom.compat.cdtools.tools._shared import alike, missing, plain, steps_of, tensor
from phaseloom.compat.cdtools.tools.initializers import exit_wave_geometry
from phaseloom.errors import BadInput
from phaseloom.metrics import mixed_states as states
from phaseloom.metrics import spectral

__all__ = [
    "calc_consistency_prtf",
    "calc_deconvolved_cross_correlation",
    "calc_fidelity",
    "calc_frc",
    "calc_generalized_frc",
    "calc_generalized_rms_error",
    "calc_mode_power_fractions",
    "calc_rms_error",
    "calc_spectral_info",
    "calc_vn_entropy",
    "orthogonalize_probes",
    "product_svd",
    "remove_amplitude_exponent",
    "remove_phase_ramp",
    "standardize",
    "standardize_reconstruction_pair",
    "standardize_reconstruction_set",
    "synthesize_reconstructions",
]

__getattr__ = missing("analysis", __all__)


def product_svd(A: Any, B: Any) -> tuple[Any, Any, Any]:
    """Singular values ``u, s, vh`` of a product of two matrices that is never formed."""
    u, s, vh = (alike(part, A, B) for part in states.product_svd(plain(A), plain(B)))
    return u, s, vh


def orthogonalize_probes(
    probes: Any, weight_matrix: Any = None, n_probe_dims: int = 2, return_reexpressed_weights: bool = False
) -> Any:
    """Orthogonal modes of ``weight_matrix @ probes`` (or of the probes), strongest first, power in the modes.

    Args:
        probes: ``(mode, ...)`` with ``n_probe_dims`` axes of pixels.
        weight_matrix: ``(row, mode)``.
        n_probe_dims: axes of a probe.
        return_reexpressed_weights: also give the weights that make the old light of the new modes; their
            columns are orthonormal.

    Returns:
        Modes, fewer where there are fewer rows; phases of modes are not determined.
    """
    modes = plain(probes)
    if modes.ndim != n_probe_dims + 1:
        raise BadInput("orthogonalize_probes.probes", modes.shape, f"must have 1 + {n_probe_dims} axes")
    count, shape = len(modes), modes.shape[1:]
    weights = np.eye(count, dtype=modes.dtype) if weight_matrix is None else plain(weight_matrix)
    u, s, vh = states.product_svd(weights, modes.reshape(count, -1))
    new = alike((s[:, None] * vh).reshape(-1, *shape), probes, weight_matrix)
    return (new, alike(u, probes, weight_matrix)) if return_reexpressed_weights else new


def calc_vn_entropy(matrix: Any) -> Any:
    """Entropy in nat of a density matrix, or of each of a stack, whatever their traces.

    CDTools takes the trace out too late for a single matrix, and has NaN where rounding makes an eigenvalue
    negative.
    """
    values = np.linalg.eigvalsh(plain(matrix)).clip(min=0)
    share = values / values.sum(-1, keepdims=True)
    return -xlogy(share, share).sum(-1)


def calc_mode_power_fractions(
    probes: Any, weight_matrix: Any = None, n_probe_dims: int = 2, assume_preorthogonalized: bool = False
) -> Any:
    """Share of each orthogonal mode in the power, largest first; or of each mode (row) as it is given."""
    modes, weights = plain(probes), None if weight_matrix is None else plain(weight_matrix)
    stack = modes.reshape(len(modes), 1, -1)
    if modes.ndim != n_probe_dims + 1:
        raise BadInput("calc_mode_power_fractions.probes", modes.shape, f"must have 1 + {n_probe_dims} axes")
    if not assume_preorthogonalized:
        return alike(states.power_fractions(stack, weights), probes)
    light = stack if weights is None else np.tensordot(weights, stack, 1)
    power = np.sum(np.abs(light) ** 2, (1, 2))
    return alike(power / power.sum(), probes)


def calc_rms_error(
    field_1: Any, field_2: Any, align_phases: bool = True, normalize: bool = False, dims: int = 2
) -> Tensor:
    """Root of the mean square difference of two waves, over the last axes, up to a constant phase.

    With ``normalize`` divided by that of the first. Leading axes are broadcast; gradients flow.
    """
    one, two = tensor(field_1), tensor(field_2)
    axes = tuple(range(-dims, 0))
    if align_phases:
        overlap = (one * two.conj()).sum(axes, keepdim=True)
        two = two * torch.exp(1j * overlap.angle())
    square = (one - two).abs().square().mean(axes)
    return (square / one.abs().square().mean(axes) if normalize else square).sqrt()


def calc_fidelity(fields_1: Any, fields_2: Any, dims: int = 2) -> Tensor:
    """Squared trace norm of the overlaps of two sets of modes ``(..., mode, y, x)``; gradients flow.

    Not divided by the powers, as `phaseloom.metrics.mixed_states.fidelity` is: of equal states it is the
    square of their power.
    """
    one, two = (_flat(tensor(fields), dims) for fields in (fields_1, fields_2))
    return torch.linalg.svdvals(one @ two.mH).sum(-1).square()


def calc_generalized_rms_error(
    fields_1: Any, fields_2: Any, normalize: bool = False, dims: int = 2
) -> Tensor:
    """`calc_rms_error` of two mixed states ``(..., mode, y, x)``: the least over all mixings of modes.

    With ``normalize`` divided by the first. It is computed as that distance, where CDTools subtracts traces
    and has 1e-8 or NaN for equal states.
    """
    one, two = (plain(_flat(tensor(fields).detach(), dims)) for fields in (fields_1, fields_2))
    lead = np.broadcast_shapes(one.shape[:-2], two.shape[:-2])
    first, second = (np.broadcast_to(part, (*lead, *part.shape[-2:])) for part in (one, two))
    found = np.empty(lead)
    for index in np.ndindex(lead):
        fixed, moving = first[index][:, None], second[index][:, None]
        size = 1.0 if normalize else np.sqrt(np.sum(np.abs(fixed) ** 2) / fixed.shape[-1])
        found[index] = size * states.generalised_rms_error(moving, fixed)
    return torch.as_tensor(found, device=tensor(fields_1).device)


def calc_spectral_info(dataset: Any, nbins: int = 50) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Counts that a scan puts into one window of the object: pattern, lower edges of bands, mean in each.

    `phaseloom.metrics.spectral.scan_spectrum` of a dataset. Positions on a line enclose no area: the mean
    pattern is used then, with a warning.
    """
    geometry, total = dataset.detector_geometry, plain(dataset.patterns.sum(0))
    basis = exit_wave_geometry(geometry["basis"], total.shape, dataset.wavelength, geometry["distance"])
    mask = np.ones(total.shape, bool) if dataset.mask is None else plain(dataset.mask).astype(bool)
    corner, trusted = np.fft.ifftshift(total), np.fft.ifftshift(mask)
    places, pixel = plain(dataset.translations)[:, :2], steps_of(basis)
    try:
        found = spectral.scan_spectrum(corner, places, pixel=pixel, mask=trusted, count=nbins)
    except BadInput:
        warnings.warn("the positions enclose no area: the mean pattern is used", stacklevel=2)
        window = np.array(total.shape) * pixel * np.sqrt(len(dataset))
        square = np.array([[0, 0], [0, 1], [1, 0], [1, 1]]) * window
        found = spectral.scan_spectrum(corner, square, pixel=pixel, mask=trusted, count=nbins)
    return np.fft.fftshift(found.pattern), found.edges[:-1], found.value


def _flat(fields: Tensor, dims: int) -> Tensor:
    """Waves with their pixels in one axis."""
    return fields.reshape(*fields.shape[: fields.ndim - dims], -1)
