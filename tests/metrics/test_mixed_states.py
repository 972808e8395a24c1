"""Mixed states are compared as density matrices: no number depends on how their modes are written."""

import numpy as np
import pytest
from scipy.linalg import sqrtm

from phaseloom.errors import BadInput
from phaseloom.metrics import mixed_states as states

SHAPE = (7, 5)


def draw(*shape, seed=0):
    random = np.random.default_rng(seed)
    return random.normal(size=shape) + 1j * random.normal(size=shape)


def unitary(size, seed=9):
    return np.linalg.qr(draw(size, size, seed=seed))[0]


def mixed(modes, seed=9):
    """The same state, written otherwise."""
    return np.tensordot(unitary(len(modes), seed), modes, 1)


def density(modes):
    flat = modes.reshape(len(modes), -1)
    return flat.T @ flat.conj()


A, B = draw(3, *SHAPE, seed=1), draw(2, *SHAPE, seed=2)


@pytest.mark.parametrize(("rows", "inner", "columns"), [(9, 3, 20), (2, 3, 20), (9, 4, 3)])
def test_a_product_is_decomposed_without_being_formed(rows, inner, columns):
    a, b = draw(rows, inner), draw(inner, columns, seed=1)
    u, s, vh = states.product_svd(a, b)
    count = min(rows, inner, columns)
    np.testing.assert_allclose(u * s @ vh, a @ b, atol=1e-12)
    np.testing.assert_allclose(s, np.linalg.svd(a @ b, compute_uv=False)[:count], rtol=1e-12)
    np.testing.assert_allclose(u.conj().T @ u, np.eye(count), atol=1e-12)
    np.testing.assert_allclose(vh @ vh.conj().T, np.eye(count), atol=1e-12)


def test_orthogonal_modes_are_the_same_density_matrix():
    modes, weights = states.orthogonalise(A)
    overlaps = np.einsum("myx,nyx->mn", modes, modes.conj())
    powers = np.diagonal(overlaps).real
    np.testing.assert_allclose(density(modes), density(A), atol=1e-12)
    np.testing.assert_allclose(overlaps, np.diag(powers), atol=1e-12)
    assert np.all(np.diff(powers) <= 0)
    np.testing.assert_allclose(np.tensordot(weights, modes, 1), A, atol=1e-12)


@pytest.mark.parametrize("shape", [(3, 3), (2, 3), (11, 3), (6, 2, 3), (1, 2, 3)])
def test_weights_times_modes_stay(shape):
    weights = draw(*shape, seed=4)
    modes, rewritten = states.orthogonalise(A, weights)
    count = min(3, int(np.prod(shape[:-1])))
    assert (modes.shape, rewritten.shape) == ((count, *SHAPE), (*shape[:-1], count))
    np.testing.assert_allclose(np.tensordot(rewritten, modes, 1), np.tensordot(weights, A, 1), atol=1e-12)
    flat = rewritten.reshape(-1, count)
    np.testing.assert_allclose(flat.conj().T @ flat, np.eye(count), atol=1e-12)


def test_power_fractions_are_the_eigenvalues():
    values = np.linalg.eigvalsh(density(A))[::-1][:3]
    np.testing.assert_allclose(states.power_fractions(mixed(A)), values / values.sum(), rtol=1e-12)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_equal_modes_have_the_logarithm_of_their_number(count):
    equal = mixed(np.eye(35)[:count].reshape(count, *SHAPE))
    assert states.entropy(equal) == pytest.approx(np.log(count), abs=1e-12)


def test_repeating_a_mode_makes_no_disorder():
    assert states.entropy(np.stack([A[0], 1j * A[0], 3 * A[0]])) == pytest.approx(0, abs=1e-12)


def test_shots_that_vary_are_disorder():
    steady, varying = np.ones((4, 1, 1)), draw(4, 1, 2)
    assert states.entropy(A[0], steady) == pytest.approx(0, abs=1e-12)
    assert states.entropy(A[:2], varying) > 0.1


def test_fidelity_is_uhlmanns():
    rho, sigma = density(A) / np.trace(density(A)), density(B) / np.trace(density(B))
    root = sqrtm(rho)
    expected = np.trace(sqrtm(root @ sigma @ root)).real ** 2
    assert states.fidelity(A, B) == pytest.approx(expected, rel=1e-6)


def test_fidelity_is_symmetric_bounded_and_blind_to_mixing():
    value = states.fidelity(A, B)
    assert 0 < value < 1
    assert states.fidelity(B, A) == pytest.approx(value, rel=1e-12)
    assert states.fidelity(2 * mixed(A), np.exp(0.7j) * mixed(B)) == pytest.approx(value, rel=1e-12)
    assert states.fidelity(A, 0.3 * mixed(A)) == pytest.approx(1, rel=1e-12)


def test_fidelity_of_waves_is_their_overlap():
    one, two = A[0], B[0]
    overlap = abs(np.vdot(one, two)) ** 2 / np.vdot(one, one).real / np.vdot(two, two).real
    assert states.fidelity(one, two) == pytest.approx(overlap, rel=1e-12)


def test_states_without_common_light_have_no_fidelity():
    basis = np.eye(35).reshape(35, *SHAPE)
    assert states.fidelity(basis[:2], basis[2:5]) == 0
    assert states.generalised_rms_error(basis[2:4], basis[:2]) == pytest.approx(np.sqrt(2))


def test_a_constant_phase_is_no_error_and_a_scale_only_if_asked():
    assert states.rms_error(np.exp(1.2j) * A, A) < 1e-15
    assert states.rms_error(1.5 * A, A) == pytest.approx(0.5)
    assert states.rms_error(1.5j * A, A, scale=True) < 1e-15
    error = states.rms_error(A[0], A[1], scale=True)
    assert error == pytest.approx(np.sqrt(1 - states.fidelity(A[0], A[1])))


def test_no_phase_beats_the_one_removed():
    turned = np.exp(1j * np.linspace(0, 2 * np.pi, 721))
    brute = min(np.linalg.norm(A[1] - c * A[0]) for c in turned) / np.linalg.norm(A[1])
    assert states.rms_error(A[0], A[1]) == pytest.approx(brute, rel=1e-4)
    assert states.rms_error(A[0], A[1]) <= brute


def test_generalised_error_vanishes_under_mixing_only():
    assert states.generalised_rms_error(mixed(A), A) < 1e-14
    dark = np.concatenate([mixed(A), np.zeros((2, *SHAPE))])
    assert states.generalised_rms_error(dark, A) < 1e-14
    assert states.generalised_rms_error(A, dark) < 1e-14
    assert states.generalised_rms_error(A[:2], A) > 0.1


@pytest.mark.parametrize(("one", "two"), [(A, B), (B, A), (A[0], B[0])])
def test_generalised_error_is_the_bures_distance(one, two):
    power, wanted = np.sum(np.abs(one) ** 2), np.sum(np.abs(two) ** 2)
    bures = power + wanted - 2 * np.sqrt(states.fidelity(one, two) * power * wanted)
    assert states.generalised_rms_error(one, two) == pytest.approx(np.sqrt(bures / wanted), rel=1e-12)


def test_generalised_error_of_waves_is_their_error():
    error = states.rms_error(A[0], B[0])
    assert states.generalised_rms_error(A[0], B[0]) == pytest.approx(error, rel=1e-12)


def test_small_errors_are_not_lost():
    assert states.generalised_rms_error(mixed(A * (1 + 1e-11)), A) == pytest.approx(1e-11, rel=1e-3)


def test_no_mixing_beats_the_match():
    best = np.linalg.norm(
        states.match_modes(A, mixed(A) + 0.5 * draw(3, *SHAPE)) - mixed(A) - 0.5 * draw(3, *SHAPE)
    )
    for seed in range(20):
        other = np.linalg.norm(mixed(A, seed) - mixed(A) - 0.5 * draw(3, *SHAPE))
        assert best < other
    np.testing.assert_allclose(states.match_modes(mixed(A), A), A, atol=1e-12)
    np.testing.assert_allclose(density(states.match_modes(A, B)), density(A), atol=1e-12)


@pytest.mark.parametrize(
    "call",
    [
        lambda: states.orthogonalise(A, np.ones((4, 2))),
        lambda: states.product_svd(np.ones((2, 3)), np.ones((2, 3))),
        lambda: states.fidelity(A, np.ones((3, 4))),
        lambda: states.fidelity(A, 0 * A),
        lambda: states.power_fractions(0 * A),
        lambda: states.rms_error(A, A[0]),
        lambda: states.rms_error(A, 0 * A),
        lambda: states.generalised_rms_error(A, 0 * A),
        lambda: states.entropy(np.ones(3)),
    ],
)
def test_what_cannot_be_compared_is_refused(call):
    with pytest.raises(BadInput):
        call()
