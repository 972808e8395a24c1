"""CDTools' ``tools.analysis``: quality of reconstructions, in its bins and conventions.

Arrays give arrays, tensors give tensors. What `phaseloom.metrics` computes are values without gradients.
Images are ``(y, x)``, modes ``(mode, y, x)``, bases ``(xyz, 2)`` with the step between rows first.
"""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from scipy.special import xlogy
from torch import Tensor

from phaseloom.compat.cdtools.tools import image_processing, interactions
from phaseloom.compat.cdtools.tools._shared import alike, middle, missing, steps_of, tensor, to_numpy
from phaseloom.compat.cdtools.tools.initializers import exit_wave_geometry
from phaseloom.errors import BadInput
from phaseloom.metrics import mixed_states, spectral, standardise_pair

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

EVERYTHING = np.s_[:, :]
OPTICS = ("wavelength", "obj_basis", "probe_basis")
Curve = tuple[Any, Any, Any]
"""Lower edges of bands, values (NaN in an empty band), threshold."""


def product_svd(A: Any, B: Any) -> tuple[Any, Any, Any]:
    """Singular values ``u, s, vh`` of a product of two matrices that is never formed."""
    u, s, vh = (alike(part, A, B) for part in mixed_states.product_svd(to_numpy(A), to_numpy(B)))
    return u, s, vh


def orthogonalize_probes(
    probes: Any, weight_matrix: Any = None, n_probe_dims: int = 2, return_reexpressed_weights: bool = False
) -> Any:
    """Orthogonal modes of ``weight_matrix @ probes`` (or of the probes), strongest first, power in the modes.

    ``return_reexpressed_weights`` also gives the weights, of orthonormal columns, that make the old light of
    the new modes. There are fewer modes where there are fewer rows; phases of modes are not determined.
    """
    modes = to_numpy(probes)
    if modes.ndim != n_probe_dims + 1:
        raise BadInput("orthogonalize_probes.probes", modes.shape, f"must have 1 + {n_probe_dims} axes")
    count = len(modes)
    shape = modes.shape[1:]
    weights = np.eye(count, dtype=modes.dtype) if weight_matrix is None else to_numpy(weight_matrix)
    u, s, vh = mixed_states.product_svd(weights, modes.reshape(count, -1))
    new = alike((s[:, None] * vh).reshape(-1, *shape), probes, weight_matrix)
    return (new, alike(u, probes, weight_matrix)) if return_reexpressed_weights else new


def calc_vn_entropy(matrix: Any) -> Any:
    """Entropy in nat of a density matrix, or of each of a stack, whatever their traces.

    CDTools takes the trace out too late for a single matrix, and has NaN where rounding makes an eigenvalue
    negative.
    """
    values = np.linalg.eigvalsh(to_numpy(matrix)).clip(min=0)
    share = values / values.sum(-1, keepdims=True)
    return -xlogy(share, share).sum(-1)


def calc_mode_power_fractions(
    probes: Any, weight_matrix: Any = None, n_probe_dims: int = 2, assume_preorthogonalized: bool = False
) -> Any:
    """Share of each orthogonal mode in the power, largest first; or of each mode (row) as it is given."""
    modes = to_numpy(probes)
    weights = None if weight_matrix is None else to_numpy(weight_matrix)
    stack = modes.reshape(len(modes), 1, -1)
    if modes.ndim != n_probe_dims + 1:
        raise BadInput("calc_mode_power_fractions.probes", modes.shape, f"must have 1 + {n_probe_dims} axes")
    if not assume_preorthogonalized:
        return alike(mixed_states.power_fractions(stack, weights), probes)
    light = stack if weights is None else np.tensordot(weights, stack, 1)
    power = np.sum(np.abs(light) ** 2, (1, 2))
    return alike(power / power.sum(), probes)


def calc_rms_error(
    field_1: Any, field_2: Any, align_phases: bool = True, normalize: bool = False, dims: int = 2
) -> Tensor:
    """Root of the mean square difference of two waves, over the last axes, up to a constant phase.

    With ``normalize`` divided by that of the first. Leading axes are broadcast; gradients flow.
    """
    one = tensor(field_1)
    two = tensor(field_2)
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
    and has 1e-8 or NaN for equal mixed_states.
    """
    one, two = (to_numpy(_flat(tensor(fields).detach(), dims)) for fields in (fields_1, fields_2))
    lead = np.broadcast_shapes(one.shape[:-2], two.shape[:-2])
    first, second = (np.broadcast_to(part, (*lead, *part.shape[-2:])) for part in (one, two))
    found = np.empty(lead)
    for index in np.ndindex(lead):
        fixed = first[index][:, None]
        moving = second[index][:, None]
        size = 1.0 if normalize else np.sqrt(np.sum(np.abs(fixed) ** 2) / fixed.shape[-1])
        found[index] = size * mixed_states.generalised_rms_error(moving, fixed)
    return torch.as_tensor(found, device=tensor(fields_1).device)


def calc_spectral_info(dataset: Any, nbins: int = 50) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Counts that a scan puts into one window of the object: pattern, lower edges of bands, mean in each.

    `phaseloom.metrics.spectral.scan_spectrum` of a dataset. Positions on a line enclose no area: the mean
    pattern is used then, with a warning.
    """
    geometry = dataset.detector_geometry
    total = to_numpy(dataset.patterns.sum(0))
    basis = exit_wave_geometry(geometry["basis"], total.shape, dataset.wavelength, geometry["distance"])
    mask = np.ones(total.shape, bool) if dataset.mask is None else to_numpy(dataset.mask).astype(bool)
    corner = np.fft.ifftshift(total)
    trusted = np.fft.ifftshift(mask)
    places = to_numpy(dataset.translations)[:, :2]
    pixel = steps_of(basis)
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


def calc_frc(  # noqa: PLR0917 -- CDTools' arguments
    im1: Any,
    im2: Any,
    basis: Any,
    im_slice: Any = None,
    nbins: int | None = None,
    snr: float = 1.0,
    limit: str = "side",
) -> Curve:
    """Complex Fourier ring correlation of two images in bands of equal width, and the threshold of an SNR.

    Default of ``nbins``: an eighth of the longer side; ``limit`` is ``side`` or ``corner`` of the Fourier
    plane.
    """
    cut = np.s_[:, :] if im_slice is None else im_slice
    pair = (to_numpy(im1)[cut], to_numpy(im2)[cut])
    parts = _bands(pair[0], basis, nbins or max(pair[0].shape) // 8, limit)
    return _curve(parts, spectral.band_correlation(*pair, parts), snr, im1, im2)


def calc_generalized_frc(  # noqa: PLR0917 -- CDTools' arguments
    fields_1: Any,
    fields_2: Any,
    basis: Any,
    im_slice: Any = None,
    nbins: int | None = None,
    snr: float = 1.0,
    limit: str = "side",
) -> Curve:
    """`calc_frc` of two sets of incoherent modes ``(mode, y, x)``: root of the fidelity in each band.

    The threshold is that of `calc_frc` (CDTools writes ``2 snr`` for ``2 sqrt(snr)`` here), the last band
    holds its upper edge, and ``nbins`` has the default a quarter of the longer side, which fails there.
    """
    cut = np.s_[..., :, :] if im_slice is None else im_slice
    pair = (to_numpy(fields_1)[cut], to_numpy(fields_2)[cut])
    parts = _bands(pair[0], basis, nbins or max(pair[0].shape[-2:]) // 4, limit)
    return _curve(parts, spectral.band_fidelity(*pair, parts), snr, fields_1, fields_2)


def calc_consistency_prtf(
    synth_obj: Any, objects: Sequence[Any], basis: Any, obj_slice: Any = None, nbins: int | None = None
) -> tuple[Any, Any]:
    """Lower edges of bands up to the corner, and the power of a mean object over that of each, averaged.

    A ratio of intensities; `phaseloom.metrics.ensembles.prtf` is the usual one, of magnitudes.
    """
    cut = middle(objects[0].shape) if obj_slice is None else obj_slice
    mean = to_numpy(synth_obj)[cut]
    parts = _bands(mean, basis, nbins or max(mean.shape) // 4, "corner")
    wanted, *single = (
        parts.total(np.abs(np.fft.fft2(image)) ** 2) for image in (mean, *(to_numpy(o)[cut] for o in objects))
    )
    lit = [np.where(power > 0, power, np.nan) for power in single]
    ratio = np.mean([wanted / power for power in lit], axis=0)
    return alike(parts.edges[:-1], objects[0]), alike(ratio, objects[0])


def calc_deconvolved_cross_correlation(im1: Any, im2: Any, im_slice: Any = None) -> Any:
    """Phase correlation, complex, zero shift in the corner: its peak moves the second onto the first.

    Of the middle quarter by default. Frequencies that one image lacks do not count; CDTools divides by zero
    there.
    """
    cut = middle(im1.shape) if im_slice is None else im_slice
    first, second = (torch.fft.fft2(tensor(im)[cut]) for im in (im1, im2))
    cross = first * second.conj()
    size = cross.abs()
    even = torch.where(size > 0, cross / torch.where(size > 0, size, 1), torch.zeros_like(cross))
    return alike(torch.fft.ifft2(even), im1, im2)


def _curve(parts: spectral.Bands, values: np.ndarray, snr: float, one: Any, two: Any) -> Curve:
    threshold = spectral.snr_threshold(parts.counts, snr)
    edges, found, limits = (alike(part, one, two) for part in (parts.edges[:-1], values, threshold))
    return edges, found, limits


def _bands(image: np.ndarray, basis: Any, count: int, limit: str) -> spectral.Bands:
    limit = str(limit).lower().strip()
    if limit not in ("side", "corner"):
        raise BadInput("calc_frc.limit", limit, "is not known: write side or corner")
    y, x = image.shape[-2:]
    return spectral.divide_bands((y, x), count=int(count), pixel=steps_of(basis), limit=limit)


def standardize(probe: Any, obj: Any, obj_slice: Any = None, correct_ramp: bool = False) -> tuple[Any, Any]:
    """Probe and object with what cannot be known chosen: the first mode has a mean intensity of one.

    The object takes the scale and, with ``correct_ramp``, the ramp that centres the far field of the first
    mode; each mode and the object in ``obj_slice`` (default: its middle quarter) sum to a positive number.
    """
    modes = np.atleast_3d(to_numpy(probe).T).T
    field = to_numpy(obj)
    scale = np.sqrt(np.mean(np.abs(modes[0]) ** 2))
    modes = modes / scale
    field = field * scale
    if correct_ramp:
        y, x = _far_centre(modes[0])
        field, modes = standardise_pair.trade_trends(field, modes, slope=(-2 * np.pi * y, -2 * np.pi * x))
    cut = middle(field.shape) if obj_slice is None else obj_slice
    field = field * np.exp(-1j * np.angle(field[cut].sum()))
    modes = modes * np.exp(-1j * np.angle(modes.sum((-2, -1), keepdims=True)))
    return alike(modes.reshape(probe.shape), probe), alike(field, obj)


def synthesize_reconstructions(
    probes: Sequence[Any],
    objects: Sequence[Any],
    use_probe: bool = False,
    obj_slice: Any = None,
    correct_ramp: bool = False,
) -> tuple[Any, Any, list[Any]]:
    """Mean probe, mean object and the list of moved objects of repeated reconstructions.

    Each is standardised and moved onto those before to 1/50 pixel, by its object in ``obj_slice`` (default:
    the middle quarter of the smallest) or, with ``use_probe``, its first mode. Repeats that disagree are not
    left out: `phaseloom.metrics.ensembles.synthesise` does that.
    """
    y, x = np.min([obj.shape for obj in objects], axis=0)
    cut = middle((y, x)) if obj_slice is None else obj_slice
    light: list[torch.Tensor] = []
    fields: list[torch.Tensor] = []
    for probe, obj in zip(probes, objects, strict=True):
        each = standardize(to_numpy(probe), to_numpy(obj)[:y, :x], cut, correct_ramp)
        wave, field = (torch.from_numpy(np.asarray(part)) for part in each)
        if fields:
            so_far = sum(light[1:], light[0])
            together = sum(fields[1:], fields[0])
            pair = (_first_mode(so_far), _first_mode(wave)) if use_probe else (together[cut], field[cut])
            step = image_processing.find_shift(*pair, resolution=50)
            field = image_processing.sinc_subpixel_shift(field, step)
            wave = image_processing.sinc_subpixel_shift(wave, step)
        light.append(wave)
        fields.append(field)
    means = (torch.stack(light).mean(0), torch.stack(fields).mean(0))
    probe = alike(means[0], probes[0])
    obj = alike(means[1], objects[0])
    return probe, obj, [alike(field, objects[0]) for field in fields]


def remove_phase_ramp(im: Any, window: Any, probe: Any = None) -> Any:
    """An object without the ramp that its window holds most of, and its probe, if given, with that ramp.

    The ramp is found wherever it is; CDTools looks near none and can stop at a lesser one.
    """
    field = to_numpy(im)
    slope = standardise_pair.find_phase_slope(field[window])
    field, light = standardise_pair.trade_trends(field, _probe_or_ones(probe), slope=slope)
    return alike(field, im) if probe is None else (alike(field, im), alike(light, probe))


def remove_amplitude_exponent(  # noqa: PLR0917 -- CDTools' arguments
    im: Any,
    window: Any,
    probe: Any = None,
    weights: Any = None,
    translations: Any = None,
    basis: Any = None,
) -> Any:
    """An object without the exponential growth of its modulus in a window; probe and weights take it.

    Returns the object alone, or a tuple of those given: object, probe, weights ``(shot, ...)``, which need
    ``translations`` ``(shot, 3)`` in metres and the object's ``basis``.
    """
    field = to_numpy(im)
    rate = standardise_pair.fit_growth(field[window])
    field, light = standardise_pair.trade_trends(field, _probe_or_ones(probe), rate=rate)
    kept = [alike(field, im)]
    if probe is not None:
        kept.append(alike(light, probe))
    if weights is not None:
        kept.append(alike(_rescale_weights(to_numpy(weights), rate, translations, basis), weights))
    return kept[0] if len(kept) == 1 else tuple(kept)


def standardize_reconstruction_set(  # noqa: PLR0917 -- CDTools' arguments
    half_1: Mapping[str, Any],
    half_2: Mapping[str, Any],
    full: Mapping[str, Any],
    correct_phase_offset: bool = True,
    correct_phase_ramp: bool = True,
    correct_amplitude_exponent: bool = False,
    window: Any = EVERYTHING,
    nbins: int = 50,
    frc_limit: str = "side",
) -> dict[str, Any]:
    """The results of two halves of the data and of all of it in one gauge, with FRC and SSNR of the halves.

    Results are what ``save_results`` gives. The halves are moved onto the full object to 0.01 pixel by their
    complex objects (`phaseloom.metrics.standardise_pair.standard_set`); CDTools compares moduli, to 0.1
    pixel, which finds nothing in a phase object. Translations stay as they were, as there.
    ``correct_amplitude_exponent`` fails there for want of a key. ``ssnr = 2 |frc| / (1 - |frc|)``, that of
    the full data.

    Raises:
        BadInput: a result lacks a key.
    """
    results = {"half_1": half_1, "half_2": half_2, "full": full}
    trends = {"ramp": correct_phase_ramp, "grown": correct_amplitude_exponent, "phase": correct_phase_offset}
    found, weights = _standardise(results, window, -1, **trends)
    frc = _correlate_halves(found, window, full, nbins, frc_limit)
    share = np.abs(frc["frc"]).clip(max=1)
    named = _name_parts(results, results, found.objects, found.probes, weights)
    named |= {key: _entry(results, "full", key) for key in OPTICS}
    return named | frc | {"ssnr": _ratio(2 * share, 1 - share)}


def standardize_reconstruction_pair(  # noqa: PLR0917 -- CDTools' arguments
    half_1: Mapping[str, Any],
    half_2: Mapping[str, Any],
    correct_phase_offset: bool = True,
    correct_phase_ramp: bool = True,
    correct_amplitude_exponent: bool = False,
    window: Any = EVERYTHING,
    nbins: int = 50,
    probe_nbins: int = 50,
    frc_limit: str = "side",
) -> dict[str, Any]:
    """The results of two scans of one scene in one gauge, with the FRC of objects and of probes.

    As `standardize_reconstruction_set`, with the second object moved onto the first and the second probe, by
    itself, onto the first probe. Weights take part in ``correct_amplitude_exponent``, and what was given is
    not changed; both are otherwise in CDTools. ``ssnr = |frc| / (1 - |frc|)``, that of either scan;
    ``probe_nmse`` is one minus the fidelity.
    """
    results = {"half_1": half_1, "half_2": half_2}
    trends = {"ramp": correct_phase_ramp, "grown": correct_amplitude_exponent, "phase": correct_phase_offset}
    found, weights = _standardise(results, window, 0, **trends)
    frc = _correlate_halves(found, window, half_1, nbins, frc_limit)
    first, second = (torch.as_tensor(probe) for probe in found.probes)
    step = image_processing.find_shift(_first_mode(first), _first_mode(second))
    probes = (found.probes[0], to_numpy(image_processing.sinc_subpixel_shift(second, step)))
    share = np.abs(frc["frc"]).clip(max=1)
    named = _name_parts(results, "12", found.objects, probes, weights)
    named |= {key: _entry(results, "half_1", key) for key in OPTICS}
    named |= (
        frc | {"ssnr": _ratio(share, 1 - share)} | _correlate_probes(*probes, half_1, probe_nbins, frc_limit)
    )
    named["probe_nmse"] = torch.tensor(1 - mixed_states.fidelity(probes[0], probes[1]))
    error = mixed_states.generalised_rms_error(probes[1], probes[0])
    return named | {"probe_nrms_error": torch.tensor(error)}


def _standardise(
    results: Mapping[str, Mapping[str, Any]], window: Any, reference: int, **trends: bool
) -> tuple[standardise_pair.StandardSet, list[Any]]:
    """Objects and probes in one gauge, and the weights that belong to them."""
    pairs = [(to_numpy(_entry(results, n, "obj")), to_numpy(_entry(results, n, "probe"))) for n in results]
    found = standardise_pair.standardise_set(pairs, reference=reference, window=window, **trends)
    weights = []
    for name, rate in zip(results, found.growths, strict=True):
        kept = _entry(results, name, "weights")
        if any(rate):
            places = (_entry(results, name, "translations"), _entry(results, name, "obj_basis"))
            kept = alike(_rescale_weights(to_numpy(kept), rate, *places), kept)
        weights.append(kept)
    return found, weights


def _name_parts(
    results: Mapping[str, Mapping[str, Any]], suffixes: Iterable[str], *parts: Sequence[Any]
) -> dict[str, Any]:
    """Objects, probes and weights of results, and what stays as it was, by CDTools' names."""
    named: dict[str, Any] = {}
    for name, suffix, obj, probe, weights in zip(results, suffixes, *parts, strict=True):
        named |= {f"obj_{suffix}": obj, f"probe_{suffix}": probe, f"weights_{suffix}": weights}
        named[f"translations_{suffix}"] = _entry(results, name, "translations")
        named[f"background_{suffix.removeprefix('half_')}"] = _entry(results, name, "background")
    return named


def _correlate_halves(
    found: standardise_pair.StandardSet, window: Any, result: Mapping[str, Any], nbins: int, limit: str
) -> dict[str, Any]:
    one, two = (image_processing.hann_window(found.objects[i][window]) for i in (0, 1))
    names = ("frc_freqs", "frc", "frc_threshold")
    return dict(zip(names, calc_frc(one, two, result["obj_basis"], nbins=nbins, limit=limit), strict=True))


def _correlate_probes(
    one: np.ndarray, two: np.ndarray, result: Mapping[str, Any], nbins: int, limit: str
) -> dict[str, Any]:
    stacks = [probe.reshape(-1, *probe.shape[-2:]) for probe in (one, two)]
    curve = calc_generalized_frc(stacks[0], stacks[1], result["probe_basis"], nbins=nbins, limit=limit)
    return dict(zip(("probe_freqs", "probe_frc", "probe_frc_threshold"), curve, strict=True))


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """A quotient that is infinite, without a word, where the divisor is zero."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return above / below


def _entry(results: Mapping[str, Mapping[str, Any]], name: str, key: str) -> Any:
    if key not in results[name]:
        raise BadInput(f"{name}[{key!r}]", None, "is missing: give what model.save_results() returns")
    return results[name][key]


def _rescale_weights(
    weights: np.ndarray, rate: tuple[float, float], translations: Any, basis: Any
) -> np.ndarray:
    """Weights of shots times the growth that their places have lost."""
    if translations is None or basis is None:
        raise BadInput("remove_amplitude_exponent.weights", None, "need translations and basis, too")
    places = to_numpy(
        interactions.translations_to_pixel(torch.as_tensor(basis), torch.as_tensor(translations))
    )
    gained = np.exp((places - places.min(0)) @ np.asarray(rate))
    return weights * gained.reshape(-1, *(1,) * (weights.ndim - 1))


def _probe_or_ones(probe: Any) -> np.ndarray:
    return np.ones((1, 1)) if probe is None else to_numpy(probe)


def _first_mode(modes: Any) -> Any:
    """The first mode of a stack, or the only wave."""
    return modes[0] if modes.ndim == 3 else modes


def _far_centre(mode: np.ndarray) -> tuple[float, float]:
    """Centre of mass of the far field, cycles per pixel (y, x)."""
    power = np.abs(np.fft.fftshift(np.fft.fft2(mode))) ** 2
    y, x = (
        float(power.sum(1 - axis) @ np.arange(n) / power.sum() - n // 2) / n
        for axis, n in enumerate(power.shape)
    )
    return y, x
