"""How far a recovered phase and recovered positions are from the truth, with numpy alone.

Runs in the environment of every program that races. What ptychography cannot determine is taken out
before: a joint shift, a constant and a ramp of the phase, a common offset of the positions. The error
of images is the same number as that of ``phaseloom.metrics.phase.phase_error``.
"""

import numpy as np

__all__ = ["correlate_objects", "image_error", "phases", "positions_error", "score"]

MIRRORED = 16


def phases(transmission):
    """Phase of each slice of a complex object, cut opposite to its mean phase."""
    values = np.asarray(transmission)
    mean = np.angle(values.sum((-2, -1), keepdims=True, dtype=np.complex128))
    return np.angle(values * np.exp(-1j * mean)) + mean


def score(phase, positions, truth, true_positions):
    """All numbers of one state of a reconstruction.

    Arguments: recovered ``phase (slice, y, x)`` in radian and ``positions (pattern, 2)``, where the
    windows' centres lie on it in pixels; the same of the truth. The scan's bounding box is compared,
    8 pixels at its edges left out. Returns ``error`` (of the summed phase, relative to its contrast),
    ``scaled`` (after the best factor), ``rmse`` (radian), ``slices`` (mean error of single slices, or
    None) and ``positions`` (rms distance in pixels).
    """
    offset = np.round((positions - true_positions).mean(0)).astype(int)
    low = np.ceil(true_positions.min(0)).astype(int)
    high = np.floor(true_positions.max(0)).astype(int) + 1
    found, known = _box(phase, low + offset, high + offset), _box(truth, low, high)
    whole = image_error(found.sum(0), known.sum(0))
    one_by_one = len(found) == len(known) > 1
    return {
        **whole,
        "slices": _mean_error(found, known) if one_by_one else None,
        "positions": positions_error(positions, true_positions),
    }


def positions_error(positions, truth):
    """Root mean square distance in pixels, the mean offset removed."""
    off = positions - truth
    return float(np.sqrt(((off - off.mean(0)) ** 2).sum(1).mean()))


def image_error(found, known, max_shift=6, margin=8):
    """Error of an image ``(y, x)`` against another: relative, with the best factor, and in radian."""
    found = _flat(np.asarray(found, float))
    known = np.asarray(known, float)
    found = _moved(found, _shift(found, _flat(known), max_shift))
    inner = (slice(margin, -margin), slice(margin, -margin))
    found, known = _flat(found[inner]), _flat(known[inner])
    size, factor = np.linalg.norm(known), np.vdot(found, known) / max(np.vdot(found, found), 1e-30)
    off = np.linalg.norm(found - known)
    return {
        "error": float(off / size),
        "scaled": float(np.linalg.norm(factor * found - known) / size),
        "rmse": float(off / np.sqrt(known.size)),
    }


def correlate_objects(found, offset, truth, field, *, most, size):
    """Correlation of complex objects after a shift, a constant and a ramp of the phase.

    Arguments: the recovered object and the ``offset`` of its pixels against those of the truth; the truth
    and its ``field``, first corner and the corner behind the last, which is compared; the largest further
    shift in pixels; the size of the transform in which the ramp is looked for.
    """
    low, high = field
    wanted = truth[low[0] : high[0], low[1] : high[1]]
    best = 0.0
    moves = range(-most, most + 1)
    for move in np.array(np.meshgrid(moves, moves)).reshape(2, -1).T:
        top, left = low + offset + move
        cut = found[top : top + wanted.shape[0], left : left + wanted.shape[1]]
        if min(top, left) < 0 or cut.shape != wanted.shape:
            continue
        spectrum = np.abs(np.fft.fft2(cut * wanted.conj(), (size, size))).max()
        best = max(best, float(spectrum / np.sqrt((abs(cut) ** 2).sum() * (abs(wanted) ** 2).sum())))
    return best


def _box(stack, low, high):
    """Part of a stack; what lies outside of it is zero."""
    room = np.maximum(0, np.maximum(-low, high - stack.shape[-2:])).max()
    wide = np.pad(stack, ((0, 0), (room, room), (room, room)))
    low, high = low + room, high + room
    return wide[:, low[0] : high[0], low[1] : high[1]]


def _mean_error(found, known):
    pairs = zip(found, known, strict=True)
    return float(np.mean([image_error(one, other)["error"] for one, other in pairs]))


def _flat(image):
    """Without the plane that fits best."""
    y, x = np.indices(image.shape, dtype=float)
    plane = np.stack([np.ones(image.size), y.ravel(), x.ravel()], 1)
    fit = np.linalg.lstsq(plane, image.ravel(), rcond=None)[0]
    return image - (plane @ fit).reshape(image.shape)


def _moved(image, shift):
    """Image moved by a sub-pixel shift, its edges mirrored."""
    wide = np.pad(image, MIRRORED, mode="reflect")
    y, x = (np.exp(-2j * np.pi * np.fft.fftfreq(n) * s) for n, s in zip(wide.shape, shift, strict=True))
    moved = np.fft.ifft2(np.fft.fft2(wide) * (y[:, None] * x)).real
    return moved[MIRRORED:-MIRRORED, MIRRORED:-MIRRORED]


def _shift(image, reference, most):
    """Shift that lays an image on a reference: peak of the windowed cross-correlation, to 0.01 pixel."""
    window = np.outer(*(np.hanning(n) for n in image.shape))
    spectrum = np.fft.fft2((reference - reference.mean()) * window)
    spectrum = spectrum * np.fft.fft2((image - image.mean()) * window).conj()
    lags = [np.fft.fftfreq(n) * n for n in image.shape]
    height = np.fft.ifft2(spectrum).real
    near = np.logical_and.outer(*(np.abs(lag) <= most for lag in lags))
    best = np.unravel_index(np.argmax(np.where(near, height, -np.inf)), height.shape)
    place = [float(lag[i]) for lag, i in zip(lags, best, strict=True)]
    for reach in (1.0, 0.1):
        fine = [centre + np.linspace(-reach, reach, 21) for centre in place]
        waves = (
            np.exp(2j * np.pi * np.outer(f, np.fft.fftfreq(n)))
            for f, n in zip(fine, image.shape, strict=True)
        )
        rows, columns = waves
        height = (rows @ spectrum @ columns.T).real
        best = np.unravel_index(np.argmax(height), height.shape)
        place = [round(float(f[i]), 4) for f, i in zip(fine, best, strict=True)]
    return place
