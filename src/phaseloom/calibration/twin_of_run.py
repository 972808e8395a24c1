"""Which twin a reconstruction shows, by its phase and the dark field.

The direct image knows matter that scatters weakly. On two particles of gold its phase was dark where the dark
field was bright; that of a short reconstruction, which knows strong matter too, was not.
"""

import math

import numpy as np
from jaxtyping import Float

from phaseloom.data.scan import Scan4D
from phaseloom.direct.survey import DiskSurvey, survey_disk
from phaseloom.direct.twin import TwinEvidence, compare_with_dark_field, measure_dark_field
from phaseloom.errors import BadInput
from phaseloom.metrics.phase import find_lit, remove_ramp
from phaseloom.ptycho.model import Ptychography

__all__ = ["judge_twin_of_run"]


def judge_twin_of_run(
    scan: Scan4D,
    model: Ptychography,
    /,
    *,
    semiangle: float,
    survey: DiskSurvey | None = None,
    positions: Float[np.ndarray, "pattern 2"] | None = None,
) -> TwinEvidence:
    """What the phase of a reconstruction and the dark field say of its sign.

    Args:
        scan: of electrons, as the model has it; read twice, or once with its survey.
        model: as it stands.
        semiangle: radian, for the number of details that the object has.
        survey: of the detector.
        positions: of the scan's patterns on the object, angstrom; default: those of the model.
    """
    phase, lit = _get_phase(model)
    detail = (scan.geometry.wavelength / (2 * semiangle)) ** 2
    cells = max(1.0, lit.sum() * math.prod(model.scan.canvas.pixel) / detail)
    inside = phase[lit]
    skewness = float((inside**3).mean() / max((inside**2).mean(), 1e-30) ** 1.5) / math.sqrt(6 / cells)
    if scan.grid is None:
        return TwinEvidence(skewness, None)
    try:
        dark = measure_dark_field(scan, survey or survey_disk(scan))
    except BadInput:  # no disk
        dark = None
    if dark is None:
        return TwinEvidence(skewness, None)
    places = model.scan.angstrom() if positions is None else positions
    seen = _blur_by_beam(model, phase, places).reshape(dark.shape)
    return TwinEvidence(skewness, compare_with_dark_field(seen, dark))


def _get_phase(model: Ptychography) -> tuple[Float[np.ndarray, "y x"], np.ndarray]:
    """The phase of all slices, of several states their mean, zero on average; and where there was light."""
    wave = model.object.transmission().detach().cpu().numpy()
    phase = np.angle(wave).sum(1).mean(0)
    lit = find_lit(model.coverage())
    return np.where(lit, remove_ramp(phase, lit), 0.0), lit


def _blur_by_beam(
    model: Ptychography, phase: Float[np.ndarray, "y x"], places: Float[np.ndarray, "pattern 2"]
) -> Float[np.ndarray, " pattern"]:
    """The mean of a phase under the beam at each position."""
    from scipy.ndimage import map_coordinates

    beam = model.probe.modes().detach().abs().square().sum(0).cpu().numpy()
    mean = _correlate(phase, beam / beam.sum())
    room = model.scan.canvas
    index = (places - np.asarray(room.origin)) / np.asarray(room.pixel)
    return map_coordinates(mean, index.T, order=1, mode="nearest")


def _correlate(image: Float[np.ndarray, "y x"], window: Float[np.ndarray, "v u"]) -> np.ndarray:
    """``sum_d window[d] image[i + d - size // 2]``, dark outside; `scipy.signal` takes long to import."""
    room = [n + m - 1 for n, m in zip(image.shape, window.shape, strict=True)]
    whole = np.fft.irfft2(np.fft.rfft2(image, room) * np.fft.rfft2(window[::-1, ::-1], room), room)
    top, left = ((m - 1) // 2 for m in window.shape)
    return whole[top : top + image.shape[0], left : left + image.shape[1]]
