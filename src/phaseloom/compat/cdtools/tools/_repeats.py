"""Reconstructions made comparable, and sets of them, with CDTools' conventions."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from phaseloom.compat.cdtools.tools import image_processing, interactions
from phaseloom.compat.cdtools.tools._frequencies import calc_frc, calc_generalized_frc
from phaseloom.compat.cdtools.tools._shared import alike, middle, plain
from phaseloom.errors import BadInput
from phaseloom.metrics import mixed_states as states
from phaseloom.metrics import standardise_pair as halves

__all__ = [
    "remove_amplitude_exponent",
    "remove_phase_ramp",
    "standardize",
    "standardize_reconstruction_pair",
    "standardize_reconstruction_set",
    "synthesize_reconstructions",
]

Everything = np.s_[:, :]


def standardize(probe: Any, obj: Any, obj_slice: Any = None, correct_ramp: bool = False) -> tuple[Any, Any]:
    """Probe and object with what cannot be known chosen: the first mode has a mean intensity of one.

    The object takes the scale and, with ``correct_ramp``, the ramp that centres the far field of the first
    mode; each mode and the object in ``obj_slice`` (default: its middle quarter) sum to a positive number.
    """
    modes, field = np.atleast_3d(plain(probe).T).T, plain(obj)
    scale = np.sqrt(np.mean(np.abs(modes[0]) ** 2))
    modes, field = modes / scale, field * scale
    if correct_ramp:
        y, x = _far_centre(modes[0])
        field, modes = halves.traded(field, modes, slope=(-2 * np.pi * y, -2 * np.pi * x))
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
    """Mean of repeated reconstructions: standardised, moved onto those before to 1/50 pixel, averaged.

    Args:
        probes: ``(y, x)`` or ``(mode, y, x)`` each.
        objects: ``(y, x)`` each; cut to the smallest.
        use_probe: find the shifts from the (first mode of the) probes.
        obj_slice: where objects are compared; default: their middle quarter.
        correct_ramp: as in `standardize`.

    Returns:
        Mean probe, mean object and the list of moved objects. Repeats that disagree are not left out:
        `phaseloom.metrics.ensembles.synthesise` does that.
    """
    y, x = np.min([obj.shape for obj in objects], axis=0)
    cut = middle((y, x)) if obj_slice is None else obj_slice
    light: list[torch.Tensor] = []
    fields: list[torch.Tensor] = []
    for probe, obj in zip(probes, objects, strict=True):
        each = standardize(plain(probe), plain(obj)[:y, :x], cut, correct_ramp)
        wave, field = (torch.from_numpy(np.asarray(part)) for part in each)
        if fields:
            pair = (_first(sum(light)), _first(wave)) if use_probe else (sum(fields)[cut], field[cut])  # type: ignore[index]
            step = image_processing.find_shift(*pair, resolution=50)
            field = image_processing.sinc_subpixel_shift(field, step)
            wave = image_processing.sinc_subpixel_shift(wave, step)
        light.append(wave)
        fields.append(field)
    means = (torch.stack(light).mean(0), torch.stack(fields).mean(0))
    probe, obj = alike(means[0], probes[0]), alike(means[1], objects[0])
    return probe, obj, [alike(field, objects[0]) for field in fields]


def remove_phase_ramp(im: Any, window: Any, probe: Any = None) -> Any:
    """An object without the ramp that its window holds most of, and its probe, if given, with that ramp.

    The ramp is found wherever it is; CDTools looks near none and can stop at a lesser one.
    """
    field = plain(im)
    slope = halves.phase_slope(field[window])
    field, light = halves.traded(field, _light(probe), slope=slope)
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

    Args:
        im: ``(y, x)``.
        window: slices of it.
        probe: ``(..., y, x)``, or none.
        weights: of the shots, ``(shot, ...)``, or none; needs ``translations`` and ``basis``.
        translations: ``(shot, 3)`` metres.
        basis: of the object.

    Returns:
        The object alone, or a tuple of those given: object, probe, weights.
    """
    field = plain(im)
    rate = halves.growth(field[window])
    field, light = halves.traded(field, _light(probe), rate=rate)
    kept = [alike(field, im)]
    if probe is not None:
        kept.append(alike(light, probe))
    if weights is not None:
        kept.append(alike(_weighed(plain(weights), rate, translations, basis), weights))
    return kept[0] if len(kept) == 1 else tuple(kept)


def standardize_reconstruction_set(  # noqa: PLR0917 -- CDTools' arguments
    half_1: Mapping[str, Any],
    half_2: Mapping[str, Any],
    full: Mapping[str, Any],
    correct_phase_offset: bool = True,
    correct_phase_ramp: bool = True,
    correct_amplitude_exponent: bool = False,
    window: Any = Everything,
    nbins: int = 50,
    frc_limit: str = "side",
) -> dict[str, Any]:
    """The results of two halves of the data and of all of it in one gauge, with FRC and SSNR of the halves.

    The halves are laid on the full object to 0.01 pixel by their complex objects (`halves.standard_set`);
    CDTools compares moduli, to 0.1 pixel, which finds nothing in a phase object. Translations stay as they
    were, as there. ``correct_amplitude_exponent`` fails there for want of a key.

    Args:
        half_1: what ``save_results`` gives: obj, probe, weights, translations, background, obj_basis, ...
        half_2: the other half.
        full: all data.
        correct_phase_offset: remove the constant phase.
        correct_phase_ramp: remove the ramp.
        correct_amplitude_exponent: remove the exponential growth.
        window: slices of the objects that are compared.
        nbins: bands of the correlation.
        frc_limit: ``"side"`` or ``"corner"``.

    Returns:
        Under CDTools' names. ``ssnr = 2 |frc| / (1 - |frc|)``, that of the full data.

    Raises:
        BadInput: a result lacks a key.
    """
    results = {"half_1": half_1, "half_2": half_2, "full": full}
    switches = {
        "ramp": correct_phase_ramp,
        "grown": correct_amplitude_exponent,
        "phase": correct_phase_offset,
    }
    found, weights = _standard(results, window, -1, switches)
    frc = _halves_frc(found, window, full, nbins, frc_limit)
    share = np.abs(frc["frc"]).clip(max=1)
    named: dict[str, Any] = {}
    for index, name in enumerate(results):
        named |= {f"obj_{name}": found.objects[index], f"probe_{name}": found.probes[index]}
        named |= {
            f"weights_{name}": weights[index],
            f"translations_{name}": _entry(results, name, "translations"),
        }
        named[f"background_{name.removeprefix('half_')}"] = _entry(results, name, "background")
    named |= {key: _entry(results, "full", key) for key in ("wavelength", "obj_basis", "probe_basis")}
    return named | frc | {"ssnr": _ratio(2 * share, 1 - share)}


def standardize_reconstruction_pair(  # noqa: PLR0917 -- CDTools' arguments
    half_1: Mapping[str, Any],
    half_2: Mapping[str, Any],
    correct_phase_offset: bool = True,
    correct_phase_ramp: bool = True,
    correct_amplitude_exponent: bool = False,
    window: Any = Everything,
    nbins: int = 50,
    probe_nbins: int = 50,
    frc_limit: str = "side",
) -> dict[str, Any]:
    """The results of two scans of one scene in one gauge, with the FRC of objects and of probes.

    As `standardize_reconstruction_set`, with the second object laid on the first and the second probe, by
    itself, on the first probe. Weights take part in ``correct_amplitude_exponent``, and what was given is not
    changed; both are otherwise in CDTools.

    Returns:
        Under CDTools' names. ``ssnr = |frc| / (1 - |frc|)``, that of either scan; ``probe_nmse`` is one minus
        the fidelity.
    """
    results = {"half_1": half_1, "half_2": half_2}
    switches = {
        "ramp": correct_phase_ramp,
        "grown": correct_amplitude_exponent,
        "phase": correct_phase_offset,
    }
    found, weights = _standard(results, window, 0, switches)
    frc = _halves_frc(found, window, half_1, nbins, frc_limit)
    first, second = (torch.as_tensor(probe) for probe in found.probes)
    step = image_processing.find_shift(_first(first), _first(second))
    probes = (found.probes[0], plain(image_processing.sinc_subpixel_shift(second, step)))
    share = np.abs(frc["frc"]).clip(max=1)
    named: dict[str, Any] = {}
    for index, name in enumerate(results):
        number = index + 1
        named |= {f"obj_{number}": found.objects[index], f"probe_{number}": probes[index]}
        named |= {f"weights_{number}": weights[index]}
        named |= {f"{key}_{number}": _entry(results, name, key) for key in ("translations", "background")}
    named |= {key: _entry(results, "half_1", key) for key in ("wavelength", "obj_basis", "probe_basis")}
    named |= frc | {"ssnr": _ratio(share, 1 - share)} | _probe_curve(*probes, half_1, probe_nbins, frc_limit)
    named["probe_nmse"] = torch.tensor(1 - states.fidelity(probes[0], probes[1]))
    error = states.generalised_rms_error(probes[1], probes[0])
    return named | {"probe_nrms_error": torch.tensor(error)}


def _standard(
    results: Mapping[str, Mapping[str, Any]], window: Any, reference: int, switches: Mapping[str, bool]
) -> tuple[halves.StandardSet, list[Any]]:
    """Objects and probes in one gauge, and the weights that belong to them."""
    pairs = [(plain(_entry(results, n, "obj")), plain(_entry(results, n, "probe"))) for n in results]
    found = halves.standard_set(pairs, reference=reference, window=window, **switches)
    weights = []
    for name, rate in zip(results, found.growths, strict=True):
        kept = _entry(results, name, "weights")
        if any(rate):
            places = (_entry(results, name, "translations"), _entry(results, name, "obj_basis"))
            kept = alike(_weighed(plain(kept), rate, *places), kept)
        weights.append(kept)
    return found, weights


def _halves_frc(
    found: halves.StandardSet, window: Any, result: Mapping[str, Any], nbins: int, limit: str
) -> dict[str, Any]:
    one, two = (image_processing.hann_window(found.objects[i][window]) for i in (0, 1))
    names = ("frc_freqs", "frc", "frc_threshold")
    return dict(zip(names, calc_frc(one, two, result["obj_basis"], nbins=nbins, limit=limit), strict=True))


def _probe_curve(
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


def _weighed(weights: np.ndarray, rate: tuple[float, float], translations: Any, basis: Any) -> np.ndarray:
    """Weights of shots times the growth that their places have lost."""
    if translations is None or basis is None:
        raise BadInput("remove_amplitude_exponent.weights", None, "need translations and basis, too")
    places = plain(interactions.translations_to_pixel(torch.as_tensor(basis), torch.as_tensor(translations)))
    gained = np.exp((places - places.min(0)) @ np.asarray(rate))
    return weights * gained.reshape(-1, *(1,) * (weights.ndim - 1))


def _light(probe: Any) -> np.ndarray:
    return np.ones((1, 1)) if probe is None else plain(probe)


def _first(modes: Any) -> Any:
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
