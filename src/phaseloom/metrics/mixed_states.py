"""Mixed states: sets of incoherent modes, compared as the one density matrix they stand for.

Modes are a complex stack ``(mode, y, x)``, or one wave ``(y, x)``. They stand for the density matrix (the
mutual intensity) ``rho = sum_m psi_m psi_m^H``, which no unitary mixing of the modes changes. So nothing
here depends on the order of modes, on their phases, or on whether they are orthogonal.

A. Levitan, R. Comin, Opt. Lett. 47 (2022) 2322, doi 10.1364/OL.455955.
"""

import numpy as np
from numpy.typing import ArrayLike

from phaseloom.errors import BadInput

__all__ = ["entropy", "fidelity", "generalised_rms_error", "match_modes", "orthogonalise", "power_fractions"]
__all__ += ["product_svd", "rms_error"]


def product_svd(a: ArrayLike, b: ArrayLike, /) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Singular values of a product of two thin matrices that is never formed: ``a @ b = u diag(s) vh``.

    With ``a = Qa Ra`` and ``b^H = Qb Rb`` (QR decompositions) only the small ``Ra Rb^H`` is decomposed.

    Args:
        a: ``(row, inner)``.
        b: ``(inner, column)``.

    Returns:
        ``u (row, k)``, ``s (k)`` in descending order and ``vh (k, column)``, ``k`` the smallest of the
        three sizes; the columns of ``u`` and the rows of ``vh`` are orthonormal.

    Raises:
        BadInput: not two matrices that can be multiplied.

    Example:
        >>> a, b = np.arange(6.0).reshape(3, 2), np.eye(2, 5) + 1
        >>> u, s, vh = product_svd(a, b)
        >>> bool(np.allclose(u * s @ vh, a @ b)), s.shape
        (True, (2,))
    """
    one = np.asarray(a)
    two = np.asarray(b)
    if one.ndim != 2 or two.ndim != 2 or one.shape[1] != two.shape[0]:
        raise BadInput("product_svd", (one.shape, two.shape), "must be (row, inner) and (inner, column)")
    left, first = np.linalg.qr(one)
    right, second = np.linalg.qr(two.conj().T)
    u, s, vh = np.linalg.svd(first @ second.conj().T, full_matrices=False)
    return left @ u, s, vh @ right.conj().T


def orthogonalise(modes: ArrayLike, /, weights: ArrayLike | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Orthogonal modes, strongest first, and the weights that give the old waves back.

    With weights the light is ``weights @ modes``: of every shot and mode of it in orthogonal probe
    relaxation (Odstrcil et al. 2016, doi 10.1364/OE.24.008360), so the new modes describe the whole
    experiment. They carry its power, summed over shots; the new weights have orthonormal columns and
    ``new_weights @ new_modes = weights @ modes``.

    Args:
        modes: ``(mode, y, x)`` or ``(y, x)``, complex.
        weights: ``(row, mode)`` or ``(shot, row, mode)``; default: the identity.

    Returns:
        New modes ``(k, y, x)`` and weights ``(..., row, k)``. ``k`` is the number of modes, or fewer
        where there are fewer rows (of all shots together) or pixels.

    Raises:
        BadInput: the last axis of the weights is not that of the modes.

    Example:
        >>> random = np.random.default_rng(0)
        >>> modes, weights = random.normal(size=(3, 5, 4)), random.normal(size=(7, 2, 3))
        >>> new, rewritten = orthogonalise(modes, weights)
        >>> bool(np.allclose(np.tensordot(rewritten, new, 1), np.tensordot(weights, modes, 1)))
        True
    """
    stack = _stack_modes(modes)
    count = len(stack)
    shape = stack.shape[1:]
    mixing = np.eye(count) if weights is None else np.asarray(weights)
    if mixing.ndim not in (2, 3) or mixing.shape[-1] != count:
        raise BadInput(
            "orthogonalise.weights", mixing.shape, f"must be (row, {count}) or (shot, row, {count})"
        )
    u, s, vh = product_svd(mixing.reshape(-1, count), stack.reshape(count, -1))
    return (s[:, None] * vh).reshape(-1, *shape), u.reshape(*mixing.shape[:-1], -1)


def power_fractions(modes: ArrayLike, /, weights: ArrayLike | None = None) -> np.ndarray:
    """Share of each orthogonal mode in the total power, ``(k,)``, largest first; they add to one.

    These are the eigenvalues of the density matrix divided by its trace. The first alone is the
    coherent fraction: 1 for a coherent wave, ``1 / n`` for ``n`` equal modes.

    Args:
        modes: ``(mode, y, x)`` or ``(y, x)``, complex, orthogonal or not.
        weights: as in `orthogonalise`.

    Raises:
        BadInput: modes without power, or weights that do not fit.

    Example:
        >>> power_fractions([[[2, 0]], [[0, 1]]]).round(6).tolist()
        [0.8, 0.2]
    """
    power = _compute_power(orthogonalise(modes, weights)[0])
    if not power.sum() > 0:
        raise BadInput("states.modes", None, "carry no power: nothing to compare")
    return power / power.sum()


def entropy(modes: ArrayLike, /, weights: ArrayLike | None = None) -> float:
    """Entropy ``-tr(rho log rho)`` of the density matrix of trace one, in nat (von Neumann 1927).

    0 for a coherent wave, ``log n`` for ``n`` equal orthogonal modes; its exponential is the number of
    modes the light effectively has. Divide by ``log 2`` for bit.

    Args:
        modes: ``(mode, y, x)`` or ``(y, x)``, complex.
        weights: as in `orthogonalise`.

    Raises:
        BadInput: modes without power, or weights that do not fit.

    Example:
        >>> float(np.exp(entropy(np.eye(4)[:3, None])).round(6))
        3.0
    """
    share = power_fractions(modes, weights)
    share = share[share > 0]
    return float(np.sum(share * np.log(1 / share)))


def fidelity(a: ArrayLike, b: ArrayLike, /) -> float:
    """How far two mixed states overlap: ``(tr sqrt(sqrt(rho) sigma sqrt(rho)))^2 / (tr rho tr sigma)``.

    Computed from the modes as the squared trace norm (sum of singular values) of their overlaps
    ``<a_m, b_n>``. 1 for equal states up to a factor, 0 for states without common light; of two
    coherent waves it is the squared normalised overlap. Also the largest squared overlap of any of
    their purifications (Uhlmann 1976, doi 10.1016/0034-4877(76)90060-4; Jozsa 1994, doi
    10.1080/09500349414552171, whose square it follows).

    Args:
        a: ``(mode, y, x)`` or ``(y, x)``, complex.
        b: the same window; any number of modes.

    Raises:
        BadInput: windows differ, or modes without power.

    Example:
        >>> wave = np.eye(3)
        >>> round(fidelity(wave, 2j * wave), 6), round(fidelity(wave[:1, None], wave[:2, None]), 6)
        (1.0, 0.5)
    """
    one, two = _stack_pair(a, b)
    total = _compute_power(one).sum() * _compute_power(two).sum()
    if not total > 0:
        raise BadInput("fidelity", None, "needs modes with power in both states")
    return float(np.linalg.svd(_compute_overlap(one, two), compute_uv=False).sum() ** 2 / total)


def match_modes(modes: ArrayLike, reference: ArrayLike, /) -> np.ndarray:
    """The same mixed state, its modes mixed unitarily to lie nearest to a reference.

    Least squares over all unitary mixings (Schoenemann 1966, doi 10.1007/BF02289451). For one mode this
    sets the constant phase. Of different numbers of modes the smaller is filled up with zeros.

    Args:
        modes: ``(mode, y, x)`` or ``(y, x)``, complex.
        reference: the same window.

    Returns:
        ``(mode, y, x)`` with the larger of both numbers of modes.

    Raises:
        BadInput: windows differ.

    Example:
        >>> reference = np.random.default_rng(0).normal(size=(2, 5, 4))
        >>> bool(np.allclose(match_modes(1j * reference[::-1], reference), reference))
        True
    """
    moving, fixed = _pad_modes(*_stack_pair(modes, reference))
    left, _, right = np.linalg.svd(_compute_overlap(fixed, moving))
    return np.tensordot(left @ right, moving, 1)


def rms_error(image: ArrayLike, reference: ArrayLike, /, *, scale: bool = False) -> float:
    """Distance of two complex arrays up to a constant phase, ``min |reference - c image| / |reference|``.

    The minimum is over ``|c| = 1``, or over all complex ``c`` with ``scale``. 0 for equality; an image
    orthogonal to the reference and of the same power has ``sqrt(2)``, or 1 with ``scale``, which is then
    ``sqrt(1 - fidelity)`` of the two waves. Times the root mean square of the reference it is the error
    in the unit of the field.

    Args:
        image: any shape, complex or real.
        reference: the same shape, for instance the truth.
        scale: remove a common factor, too.

    Raises:
        BadInput: shapes differ, or the reference is zero.

    Example:
        >>> reference = np.exp(1j * np.arange(12.0).reshape(3, 4))
        >>> errors = rms_error(2j * reference, reference), rms_error(2j * reference, reference, scale=True)
        >>> [round(error, 6) for error in errors]
        [1.0, 0.0]
    """
    moving = np.asarray(image).astype(complex)
    fixed = np.asarray(reference).astype(complex)
    if moving.shape != fixed.shape or not fixed.any():
        raise BadInput("rms_error", moving.shape, f"needs a reference of that shape, not zero: {fixed.shape}")
    overlap = np.vdot(moving, fixed)
    factor = overlap / max(np.vdot(moving, moving).real, 1e-300) if scale else np.exp(1j * np.angle(overlap))
    return float(np.linalg.norm(fixed - factor * moving) / np.linalg.norm(fixed))


def generalised_rms_error(modes: ArrayLike, reference: ArrayLike, /) -> float:
    """Distance of two mixed states, ``min_U |reference - U modes| / |reference|`` over unitary mixings.

    Its square is ``(tr rho + tr sigma - 2 tr sqrt(sqrt(rho) sigma sqrt(rho))) / tr rho``, with ``rho`` the
    density matrix of the reference: the squared Bures distance (Levitan & Comin 2022, doi
    10.1364/OL.455955), so 0 only where both are the same density matrix, and `rms_error` for coherent
    waves. 1 means no better than no light at all, ``sqrt(2)`` equal power and no common light. It is
    computed as that norm, for the difference of traces loses all errors below 1e-8.

    Args:
        modes: ``(mode, y, x)`` or ``(y, x)``, complex.
        reference: the same window; any number of modes.

    Raises:
        BadInput: windows differ, or the reference is zero.

    Example:
        >>> reference = np.random.default_rng(0).normal(size=(2, 5, 4))
        >>> mixed = np.array([reference[0] + reference[1], reference[0] - reference[1]]) / np.sqrt(2)
        >>> generalised_rms_error(mixed, reference) < 1e-12
        True
    """
    moving, fixed = _pad_modes(*_stack_pair(modes, reference))
    norm = np.linalg.norm(fixed)
    if not norm > 0:
        raise BadInput("generalised_rms_error.reference", None, "is zero: nothing to compare with")
    return float(np.linalg.norm(fixed - match_modes(moving, fixed)) / norm)


def _stack_modes(modes: ArrayLike) -> np.ndarray:
    """Modes ``(mode, y, x)`` in double precision."""
    values = np.asarray(modes).astype(complex)
    if values.ndim not in (2, 3) or values.size == 0:
        raise BadInput("states.modes", values.shape, "must be modes (mode, y, x) or one wave (y, x)")
    return values.reshape(-1, *values.shape[-2:])


def _stack_pair(a: ArrayLike, b: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Two stacks of modes in one window."""
    one = _stack_modes(a)
    two = _stack_modes(b)
    if one.shape[1:] != two.shape[1:]:
        raise BadInput("states.modes", one.shape, f"and {two.shape} must share their window (y, x)")
    return one, two


def _pad_modes(one: np.ndarray, two: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both stacks with as many modes as the larger: dark ones are appended."""
    most = max(len(one), len(two))
    first, second = (np.pad(s, ((0, most - len(s)), (0, 0), (0, 0))) for s in (one, two))
    return first, second


def _compute_overlap(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """Every mode of one times every conjugate mode of the other, summed over pixels."""
    return one.reshape(len(one), -1) @ two.reshape(len(two), -1).conj().T


def _compute_power(stack: np.ndarray) -> np.ndarray:
    """Power of each mode."""
    return np.sum(np.abs(stack) ** 2, (1, 2))
