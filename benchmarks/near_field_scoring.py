"""How near a reconstruction of simulated holograms is to the truth; numpy and SciPy alone."""

import numpy as np
from scipy import ndimage, optimize

__all__ = ["find_lit", "score_object"]


def find_lit(coverage: np.ndarray) -> np.ndarray:
    """Where an object has light enough to be compared."""
    return coverage > 0.15 * np.percentile(coverage[coverage > 0], 95)


def score_object(image: np.ndarray, places: np.ndarray, truth: dict, lit: np.ndarray) -> dict[str, float]:
    """Compare a complex object with the truth of `benchmarks.near_field_scans`.

    What data cannot determine is taken out: an affine error of the positions (which the image shares), a
    factor, and a ramp of the phase. The truth is blurred to the pixels of the image.

    Args:
        image: ``(y, x)``, complex.
        places: of the patterns on the image, pixels, ``(n, 2)``.
        truth: of the simulation.
        lit: ``(y, x)``, where the image is compared.

    Returns:
        ``correlation`` of the transmissions less their means, modulus of the complex one; ``phase``, that
        of the phases; ``low`` and ``high``, the first for details above and below 12 pixels; ``places``,
        rms error of positions after the affine fit, pixels of the image; ``scale``, of the affine map over
        that stated.
    """
    design = np.column_stack([places, np.ones(len(places))])
    affine = np.linalg.lstsq(design, truth["positions"], rcond=None)[0]
    off = design @ affine - truth["positions"]
    matrix, offset = affine[:2].T, affine[2]
    length = np.sqrt(abs(np.linalg.det(matrix)))
    at = (np.indices(image.shape).reshape(2, -1).T @ matrix.T + offset) / truth["pixel"]
    wide = 0.5 * length / truth["pixel"] / 1.2
    parts = [ndimage.gaussian_filter(part, wide) for part in (truth["object"].real, truth["object"].imag)]
    known = sum(
        unit * ndimage.map_coordinates(part, at.T, order=3, mode="nearest").reshape(image.shape)
        for unit, part in zip((1, 1j), parts, strict=True)
    )
    inside = lit & ndimage.binary_erosion(lit, iterations=2)
    y, x = (np.indices(image.shape) - np.array(image.shape)[:, None, None] / 2) / max(image.shape)

    def ramped(slopes):
        return image * np.exp(1j * (slopes[0] * y + slopes[1] * x))

    def loss(slopes):
        a, b = ramped(slopes)[inside], known[inside]
        return -abs(np.vdot(a, b)) / np.linalg.norm(a) / np.linalg.norm(b)

    grid = np.linspace(-12, 12, 13)
    start = min(((s, t) for s in grid for t in grid), key=loss)
    slopes = optimize.minimize(loss, start, method="Nelder-Mead").x
    out = ramped(slopes)
    factor = np.vdot(out[inside], known[inside]) / np.vdot(out[inside], out[inside])
    out = out * factor

    def correlate(a, b):
        a, b = a[inside] - a[inside].mean(), b[inside] - b[inside].mean()
        return float(abs(np.vdot(a, b)) / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-30))

    def smooth(a):
        weight = ndimage.gaussian_filter(inside.astype(float), 4)
        parts = [ndimage.gaussian_filter(np.where(inside, p, 0), 4) for p in (a.real, a.imag)]
        return (parts[0] + 1j * parts[1]) / np.maximum(weight, 1e-6)

    slow, known_slow = smooth(out), smooth(known)
    phases = [np.angle(a * np.exp(-1j * np.angle(known[inside].mean()))) for a in (out, known)]
    return {
        "correlation": correlate(out, known),
        "phase": correlate(*phases),
        "low": correlate(slow, known_slow),
        "high": correlate(out - slow, known - known_slow),
        "places": float(np.sqrt((off**2).sum(1).mean()) / length),
    }
