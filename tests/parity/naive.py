"""A second, naive simulator of ptychography in numpy: sums instead of fast transforms, one step a line.

Written from the conventions alone and sharing no code with the package:

* wavelength ``h c / sqrt(E (2 m c^2 + E))``; lengths in angstrom;
* pupil ``exp(-i chi)``, ``chi = pi wavelength C10 q^2 + pi wavelength^3 C30 q^4 / 2``, inside the aperture;
* a slice multiplies by ``exp(i phase)``; between slices ``exp(i dz (sqrt(k^2 - (2 pi q)^2) - k))``;
* a position is the object pixel under the window's middle ``N // 2``; what is left after rounding moves
  the probe by ``exp(-2 pi i f s)``;
* patterns are sums over modes of unitary transforms, zero frequency at ``N // 2``.
"""

import numpy as np


def wavelength(energy):
    h, m, e, c = 6.62607015e-34, 9.1093837015e-31, 1.602176634e-19, 299792458.0
    momentum = np.sqrt((energy * e) ** 2 + 2 * energy * e * m * c**2) / c
    return h / momentum * 1e10


def orders(n):
    """Frequencies in cycles per window, in the order of a file: the middle is zero."""
    return np.arange(n) - n // 2


def transform(n, sign):
    """Unitary matrix between a window and its spectrum, zero in the middle of both."""
    return np.exp(sign * 2j * np.pi * np.outer(orders(n), orders(n)) / n) / np.sqrt(n)


def spectrum(wave):
    return transform(wave.shape[0], -1) @ wave @ transform(wave.shape[1], -1).T


def window(spectrum_):
    return transform(spectrum_.shape[0], +1) @ spectrum_ @ transform(spectrum_.shape[1], +1).T


def probe(shape, pixel, wavelength_, semiangle, *, c10=0.0, c30=0.0):
    """A focused probe of unit power."""
    qy, qx = (orders(n)[:, None] / (n * d) for n, d in zip(shape, pixel, strict=True))
    q = np.sqrt(qy**2 + qx.T**2)
    chi = np.pi * wavelength_ * c10 * q**2 + np.pi * wavelength_**3 * c30 * q**4 / 2
    wave = window(np.where(wavelength_ * q <= semiangle, np.exp(-1j * chi), 0))
    return wave / np.linalg.norm(wave)


def pattern(modes, phases, position, pixel, wavelength_, gap):
    """Expected counts of one position, centred as in a file."""
    height, width = modes.shape[1:]
    middle = np.rint(position).astype(int)
    down, right = position - middle
    fy, fx = orders(height)[:, None] / height, orders(width)[None] / width
    k = 2 * np.pi / wavelength_
    q2 = (2 * np.pi) ** 2 * ((fy / pixel[0]) ** 2 + (fx / pixel[1]) ** 2)
    flight = np.exp(1j * gap * (np.sqrt(k**2 - q2) - k))
    top, left = middle[0] - height // 2, middle[1] - width // 2
    total = np.zeros((height, width))
    for mode in modes:
        seen = spectrum(mode) * np.exp(-2j * np.pi * (fy * down + fx * right))
        for number, phase in enumerate(phases):
            if number > 0:
                seen = seen * flight
            wave = window(seen) * np.exp(1j * phase[top : top + height, left : left + width])
            seen = spectrum(wave)
        total += abs(seen) ** 2
    return total
