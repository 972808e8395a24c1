"""How near a phase image and a geometry are to the truth of a simulated scan; numpy and SciPy alone.

What the data cannot determine is taken out: a joint shift of image and positions, a constant and a
ramp of the phase, an affine error of the positions (which the image is then allowed to have too), and
one twin, which is named in the result. Positions of the opposite sense, ``-matrix``, give the same
patterns with the object inverted and its phase of the opposite sign (and C10 too).
"""

import numpy as np
from scipy import ndimage, spatial

__all__ = ["blur_to_resolution", "fit_affine", "fit_scan_matrix", "geometry_matrix", "score_geometry"]
__all__ += ["score_image"]

MAX_SHIFT = 2.0  # of a resolution length wavelength / (2 semiangle): what image and positions may disagree by
EDGE_IN_STEPS = 2.0  # pixels nearer to the hull of the scan than this are left out


def fit_affine(places, true_places):
    """``(matrix, offset)`` with ``true = places @ matrix.T + offset`` in least squares."""
    design = np.column_stack([places, np.ones(len(places))])
    solution = np.linalg.lstsq(design, true_places, rcond=None)[0]
    return solution[:2].T, solution[2]


def blur_to_resolution(phase, pixel, limit):
    """The image without frequencies above ``limit`` in cycles per angstrom; what remains is not damped."""
    ky = np.fft.fftfreq(phase.shape[0], pixel)[:, None]
    kx = np.fft.fftfreq(phase.shape[1], pixel)[None, :]
    keep = np.hypot(ky, kx) <= limit
    return np.fft.ifft2(np.fft.fft2(phase) * keep).real


def score_image(image, truth, *, places=None, affine=None, limit=None, search_shift=True):
    """Compare a phase image in radian with the truth.

    Args:
        image: ``(y, x)``; sum the slices first.
        truth: the arrays of a ``-truth.npz``.
        places: where each pattern lies on the image in pixels ``(row, column)``, in the order of the
            scan, ``(pattern, 2)`` or ``(slow, fast, 2)``. For an image with a pixel for each position
            these are its indices.
        affine: ``(matrix, offset)`` from pixels of the image to angstrom of the truth, instead of
            ``places``.
        limit: finest frequency that is compared, cycles per angstrom; ``2 semiangle / wavelength`` by
            default. Programs are compared at the same limit only; an image with coarse pixels cannot
            hold all of it.
        search_shift: allow a joint shift of at most two resolution lengths.

    Returns:
        ``correlation`` (Pearson, constant and ramp removed; its sign as found), ``fine`` (after
        removing what is slower than three steps or 3 angstrom, whichever is longer), ``factor`` (slope
        of the image over the truth), ``error`` (rms difference over rms truth), ``scaled`` (the same
        after the best factor), ``twin`` (``none``, or ``conjugate`` where the sign of the phase is the
        opposite), ``mirrored`` (whether ``places`` mirror the specimen), ``shift`` in angstrom,
        ``positions`` (rms distance in angstrom of places after the affine fit, or None), ``pixels``
        (how many were compared).
    """
    image = np.asarray(image, float)
    true_places = np.asarray(truth["positions"], float).reshape(-1, 2)
    off = None
    if affine is None:
        places = np.asarray(places, float).reshape(-1, 2)
        affine = fit_affine(places, true_places)
        off = float(np.sqrt(((places @ affine[0].T + affine[1] - true_places) ** 2).sum(1).mean()))
    matrix, offset = np.asarray(affine[0], float), np.asarray(affine[1], float)
    pixel = float(truth["pixel"])
    semiangle = float(truth["semiangle"])
    wavelength = float(truth["wavelength"])
    if limit is None:
        limit = 2 * semiangle / wavelength
    known = blur_to_resolution(np.asarray(truth["phase"], float), pixel, limit)
    step = float(truth["true_step"])
    indices = np.indices(image.shape).reshape(2, -1).T
    at = indices @ matrix.T + offset
    mask = inside_scan(at, true_places, EDGE_IN_STEPS * step).reshape(image.shape)
    if mask.sum() < 16:
        raise ValueError(f"image: only {mask.sum()} pixels lie inside the scan: check places or affine")
    # An image finer than the data can hold is cut at the same frequency as the truth.
    length = float(np.sqrt(abs(np.linalg.det(matrix))))
    if length < 0.5 / limit:
        image = cut_image(image, matrix, limit)
    shift = np.zeros(2)
    if search_shift:
        shift = find_shift(image, known, pixel, at, mask, most=MAX_SHIFT * wavelength / (2 * semiangle))
    target = sample(known, pixel, at + shift).reshape(image.shape)
    found = remove_plane(image, mask)
    wanted = remove_plane(target, mask)
    period = max(3.0, 3 * step) / length
    correlation = correlate(found, wanted)
    slope = float(found @ wanted / (wanted @ wanted))
    best = float(found @ wanted / (found @ found)) if found.any() else 0.0
    size = np.linalg.norm(wanted)
    return {
        "correlation": correlation,
        "fine": correlate(high_pass(image, mask, period), high_pass(target, mask, period)),
        "factor": slope,
        "error": float(np.linalg.norm(found - wanted) / size),
        "scaled": float(np.linalg.norm(best * found - wanted) / size),
        "twin": "conjugate" if correlation < 0 else "none",
        "mirrored": bool(np.linalg.det(matrix) < 0),
        "shift": shift.tolist(),
        "positions": off,
        "pixels": int(mask.sum()),
    }


def inside_scan(at, true_places, edge):
    """Which points lie inside the hull of the scan, ``edge`` away from it."""
    hull = spatial.ConvexHull(true_places)
    return (at @ hull.equations[:, :2].T + hull.equations[:, 2] < -edge).all(1)


def cut_image(image, matrix, limit):
    """The image without frequencies above ``limit`` in cycles per angstrom of the truth."""
    wide = np.pad(image, 16, mode="reflect")
    lines = [np.fft.fftfreq(size) for size in wide.shape]
    frequencies = np.stack(np.meshgrid(*lines, indexing="ij"), -1) @ np.linalg.inv(matrix)
    keep = np.linalg.norm(frequencies, axis=-1) <= limit
    return np.fft.ifft2(np.fft.fft2(wide) * keep).real[16:-16, 16:-16]


def sample(image, pixel, at):
    """Cubic interpolation at places in angstrom; the image is periodic."""
    return ndimage.map_coordinates(image, (np.asarray(at) / pixel).T, order=3, mode="grid-wrap")


def find_shift(image, known, pixel, at, mask, *, most):
    """Joint shift of the places in angstrom with the largest modulus of the correlation."""
    found = remove_plane(image, mask)
    points = at[mask.ravel()]
    every = max(1, len(points) // 6000)
    points = points[::every]
    found = found[::every]
    coefficients = ndimage.spline_filter(known, order=3, mode="grid-wrap")

    def value(shift):
        place = ((points + shift) / pixel).T
        wanted = ndimage.map_coordinates(coefficients, place, order=3, mode="grid-wrap", prefilter=False)
        return abs(correlate(found, wanted - wanted.mean()))

    best = np.zeros(2)
    reach = most
    while reach > 0.02 * most:
        line = np.linspace(-reach, reach, 7)
        tries = [best + np.array([row, column]) for row in line for column in line]
        tries = [shift for shift in tries if np.abs(shift).max() <= most + 1e-9]
        best = max(tries, key=value)
        reach /= 3
    return best


def remove_plane(image, mask):
    """Values inside the mask without the plane that fits best."""
    rows, columns = np.nonzero(mask)
    values = image[mask]
    design = np.column_stack([np.ones(len(values)), rows, columns])
    return values - design @ np.linalg.lstsq(design, values, rcond=None)[0]


def high_pass(image, mask, period):
    """Values inside the mask; a wave of ``period`` pixels keeps half of its amplitude."""
    width = period * np.sqrt(np.log(2) / 2) / np.pi
    weight = ndimage.gaussian_filter(mask.astype(float), width)
    smooth = ndimage.gaussian_filter(np.where(mask, image, 0.0), width) / np.maximum(weight, 1e-9)
    return remove_plane(image - smooth, mask)


def correlate(one, other):
    """Pearson's correlation of values without their mean; 0 where one of them is constant."""
    one = one - one.mean()
    other = other - other.mean()
    size = np.linalg.norm(one) * np.linalg.norm(other)
    return float(one @ other / size) if size > 0 else 0.0


def fit_scan_matrix(truth):
    """The matrix from the nominal scan to where the beam really was, in the axes of recorded patterns.

    Unlike ``truth["matrix"]`` it includes the drift, of which a steady one shears, turns and stretches the
    scan: what a fit of rotation and step should find.
    """
    nominal = np.indices(np.shape(truth["positions"])[:2]).reshape(2, -1).T * float(truth["step"])
    map_, _ = fit_affine(nominal, np.asarray(truth["positions"], float).reshape(-1, 2))
    transpose, flip_rows, flip_columns = truth["orientation"]
    return geometry_matrix({"orientation": (transpose, flip_rows, flip_columns)}) @ map_


def geometry_matrix(found):
    """The 2 x 2 matrix from the nominal scan to the axes of recorded patterns.

    ``found`` has ``matrix``, or ``orientation (transpose, flip rows, flip columns)`` of the recorded
    patterns, ``rotation`` (radian, rows towards columns, before the orientation) and ``scale`` (true
    over nominal step), each of them optional.
    """
    if found.get("matrix") is not None:
        return np.asarray(found["matrix"], float)
    transpose, flip_rows, flip_columns = found.get("orientation", (False, False, False))
    angle = float(found.get("rotation", 0.0))
    turn = np.array([(np.cos(angle), -np.sin(angle)), (np.sin(angle), np.cos(angle))])
    swap = np.array([(0.0, 1), (1, 0)]) if transpose else np.eye(2)
    flips = np.diag([-1.0 if flip_rows else 1.0, -1.0 if flip_columns else 1.0])
    return float(found.get("scale", 1.0)) * flips @ swap @ turn


def score_geometry(found, truth):
    """Compare a calibration with the truth, a steady drift being part of the geometry (`fit_scan_matrix`).

    Args:
        found: as for `geometry_matrix`, and any of ``defocus``, ``C12``, ``phi12``, ``semiangle``,
            ``source_size``, ``scale`` in angstrom and radian.
        truth: the arrays of a ``-truth.npz``.

    Returns:
        ``handed`` (whether a transposed or singly flipped detector was found as such), ``twin``
        (``conjugate`` where positions have the opposite sense), ``rotation_deg`` (error, from -90 to 90
        after the twin is chosen), ``scale`` (relative error), ``defocus`` (error in angstrom, the twin's
        sign taken into account), ``C12`` (length of the error of the two-component astigmatism), and
        relative errors of other numbers; None where nothing was given.
    """
    true = fit_scan_matrix(truth)
    mine = geometry_matrix(found)
    handed = bool(np.linalg.det(mine) * np.linalg.det(true) > 0)
    between = mine @ np.linalg.inv(true)
    twin = bool(np.trace(between) < 0) if handed else False
    sign = -1 if twin else 1
    angle = sign * between
    rotation = np.arctan2(angle[1, 0] - angle[0, 1], angle[0, 0] + angle[1, 1])
    scores = {
        "handed": handed,
        "twin": "conjugate" if twin else "none",
        "rotation_deg": float(np.rad2deg(rotation)) if handed else None,
        "scale": float(np.sqrt(abs(np.linalg.det(between))) - 1),
        "defocus": None,
        "C12": None,
    }
    if found.get("defocus") is not None:
        scores["defocus"] = float(sign * found["defocus"] - truth["defocus"])
    if found.get("C12") is not None:
        lengths = (sign * found["C12"], float(truth["C12"]))
        azimuths = (found.get("phi12", 0.0), float(truth["phi12"]))
        vectors = [c * np.exp(2j * phi) for c, phi in zip(lengths, azimuths, strict=True)]
        scores["C12"] = float(abs(vectors[0] - vectors[1]))
    for name in ("semiangle", "source_size"):
        if found.get(name) is not None:
            scores[name] = float(found[name] / truth[name] - 1) if float(truth[name]) else None
    return scores
