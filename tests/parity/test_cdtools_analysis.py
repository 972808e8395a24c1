"""Names of coherent diffraction mean what CDTools means by them; where they do not, it says why.

CDTools wants its own environment. Run with one that has it, and pytest and jaxtyping:
``PYTHONPATH=src <its python> -m pytest tests/parity/test_cdtools_analysis.py``.
"""

import numpy as np
import pytest
import torch

from phaseloom.metrics import ensembles as repeats
from phaseloom.metrics import mixed_states as states
from phaseloom.metrics import resolution

pytest.importorskip("cdtools")
analysis = pytest.importorskip("cdtools.tools.analysis")

SHAPE = (7, 5)


def draw(*shape, seed=0):
    random = np.random.default_rng(seed)
    return random.normal(size=shape) + 1j * random.normal(size=shape)


COUNTS = [(1, 1), (3, 3), (3, 2), (2, 5)]
"""Numbers of modes of two states."""


def pair(counts):
    one, two = counts
    return draw(one, *SHAPE, seed=sum(counts)), draw(two, *SHAPE, seed=50 + sum(counts))


def power(modes):
    return np.sum(np.abs(modes) ** 2)


@pytest.mark.parametrize("counts", COUNTS)
def test_fidelity_is_theirs_once_normalised(counts):
    """Theirs is not divided by the powers, so it is 1 only for states of trace one."""
    a, b = pair(counts)
    theirs = float(analysis.calc_fidelity(a, b)) / power(a) / power(b)
    assert states.fidelity(a, b) == pytest.approx(theirs, rel=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_rms_error_is_theirs(seed):
    image, truth = draw(*SHAPE, seed=seed), draw(*SHAPE, seed=seed + 50)
    theirs = float(analysis.calc_rms_error(truth, image, normalize=True))
    absolute = float(analysis.calc_rms_error(truth, image))
    ours = states.rms_error(image, truth)
    assert ours == pytest.approx(theirs, rel=1e-12)
    assert ours * np.sqrt(np.mean(np.abs(truth) ** 2)) == pytest.approx(absolute, rel=1e-12)


@pytest.mark.parametrize("counts", COUNTS)
def test_generalised_rms_error_is_theirs(counts):
    a, b = pair(counts)
    theirs = float(analysis.calc_generalized_rms_error(b, a, normalize=True))
    assert states.generalised_rms_error(a, b) == pytest.approx(theirs, rel=1e-12)


def test_theirs_loses_small_errors():
    """A difference of traces: what is left of equal states is the root of the rounding, 1e-8, or NaN."""
    a = draw(3, *SHAPE)
    theirs = float(analysis.calc_generalized_rms_error(a, a * (1 + 1e-11), normalize=True))
    assert theirs != pytest.approx(1e-11, rel=0.1)
    assert states.generalised_rms_error(a * (1 + 1e-11), a) == pytest.approx(1e-11, rel=1e-3)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_entropy_is_theirs(count):
    """Theirs takes the matrix, NaN without full rank; overlaps of modes have the same eigenvalues."""
    modes = draw(count, *SHAPE)
    flat = modes.reshape(count, -1)
    theirs = float(np.real(analysis.calc_vn_entropy(flat @ flat.conj().T / power(modes))))
    assert states.entropy(modes) == pytest.approx(theirs, abs=1e-12)


@pytest.mark.parametrize("shape", [None, (3, 3), (9, 3), (2, 3)])
def test_power_fractions_are_theirs(shape):
    """Theirs takes tensors only."""
    modes, weights = draw(3, *SHAPE), None if shape is None else draw(*shape, seed=1)
    given = None if weights is None else torch.from_numpy(weights)
    theirs = analysis.calc_mode_power_fractions(torch.from_numpy(modes), weight_matrix=given)
    np.testing.assert_allclose(states.power_fractions(modes, weights), theirs.numpy(), rtol=1e-12)


@pytest.mark.parametrize(("rows", "inner", "columns"), [(9, 3, 20), (2, 3, 20)])
def test_products_are_decomposed_alike(rows, inner, columns):
    a, b = draw(rows, inner), draw(inner, columns, seed=1)
    (u, s, vh), theirs = states.product_svd(a, b), analysis.product_svd(a, b)
    np.testing.assert_allclose(s, theirs[1], rtol=1e-12)
    turn = np.diagonal(theirs[2] @ vh.conj().T)
    np.testing.assert_allclose(np.abs(turn), 1, rtol=1e-12)
    np.testing.assert_allclose(turn[:, None] * vh, theirs[2], atol=1e-12)
    np.testing.assert_allclose(u * turn.conj(), theirs[0], atol=1e-12)


@pytest.mark.parametrize("shape", [(3, 3), (9, 3), (2, 3)])
def test_orthogonal_modes_are_theirs_up_to_a_phase_each(shape):
    modes, weights = draw(3, *SHAPE), draw(*shape, seed=1)
    theirs, rewritten = analysis.orthogonalize_probes(
        modes, weight_matrix=weights, return_reexpressed_weights=True
    )
    ours, weights = states.orthogonalise(modes, weights)
    turn = np.einsum("myx,myx->m", theirs, ours.conj())
    turn /= np.abs(turn)
    np.testing.assert_allclose(turn[:, None, None] * ours, theirs, atol=1e-12)
    np.testing.assert_allclose(weights * turn.conj(), rewritten, atol=1e-12)


@pytest.mark.filterwarnings("ignore:.*encountered in.*:RuntimeWarning")
@pytest.mark.parametrize("kind", [np.real, np.asarray])
def test_ring_correlation_is_the_real_part_of_theirs(kind):
    """Their bins begin at the frequency they are named by, ours lie around it: light is put where both agree.

    With ``size - 1`` bins theirs are half a Fourier pixel wide; only the first half of each ring is lit.
    """
    size, pixel = 41, 2.0
    radius = np.hypot(*np.meshgrid(*(np.fft.fftfreq(size) * size,) * 2, indexing="ij"))
    lit = (radius % 1 < 0.45) & (radius % 1 > 1e-9) | (np.rint(radius) == radius)
    scene = draw(size, size)
    one, two = (np.fft.ifft2(np.fft.fft2(kind(scene + draw(size, size, seed=s))) * lit) for s in (1, 2))
    basis = np.array([[0, -pixel], [-pixel, 0], [0, 0]])
    frequency, theirs, _ = analysis.calc_frc(kind(one), kind(two), basis, nbins=size - 1)
    ours = resolution.ring_correlation(kind(one), kind(two), pixel=(pixel, pixel), window="none")
    np.testing.assert_allclose(frequency[2::2], ours.frequency[1:-1], rtol=1e-12)
    np.testing.assert_allclose(theirs[2::2].real, ours.value[1:-1], atol=1e-10)


@pytest.mark.parametrize("shape", [(31, 36), (32, 36)])
def test_deconvolved_correlations_are_theirs_seen_from_the_other_image(shape):
    """Theirs has zero shift in the corner, moves the second image onto the first, and keeps the means."""
    image = draw(*shape)
    reference = np.roll(image, (2, -3), (0, 1)) + 0.5 * draw(*shape, seed=1)
    theirs = analysis.calc_deconvolved_cross_correlation(reference, image, im_slice=np.s_[:, :])
    ours = repeats.deconvolved_correlation(image, reference, window="none")
    centred, share = np.fft.fftshift(theirs - theirs.mean()), 1 - 1 / image.size
    np.testing.assert_allclose(ours.kernel * share, centred, atol=1e-9)
    assert ours.shift == pytest.approx((2, -3), abs=0.05)
    assert np.unravel_index(np.abs(theirs).argmax(), shape) == (2, shape[1] - 3)


@pytest.mark.filterwarnings("ignore:.*encountered in.*:RuntimeWarning")
def test_transfer_is_the_root_of_theirs():
    """Theirs is a ratio of intensities; ours, as that of Chapman et al. (2006), of magnitudes."""
    basis, every = np.array([[0, -1.0], [-1.0, 0], [0, 0]]), np.s_[:, :]
    same, noise = np.stack([draw(41, 41)] * 2), np.stack([draw(41, 41, seed=seed) for seed in range(16)])
    for repeated, tolerance in ((same, 1e-6), (noise, 0.05)):
        _, theirs = analysis.calc_consistency_prtf(repeated.mean(0), list(repeated), basis, every, nbins=1)
        ours = repeats.prtf(repeated).value
        np.testing.assert_allclose(np.sqrt(theirs), ours[3:].mean(), rtol=tolerance)
