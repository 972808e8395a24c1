"""Patterns as an autoencoder draws them again: noise, which its latents cannot say, is gone."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from phaseloom.data.counts import loaded
from phaseloom.data.scan import Scan4D
from phaseloom.embedding.embed import AT_ONCE, autoencoder, lesson_of
from phaseloom.embedding.objective import Drawing

__all__ = ["denoise"]


def denoise(scan: Scan4D, /, *, model: Path) -> Scan4D:
    """Each pattern as the counts that an autoencoder expects by its latents; a step of ``prepare``.

    For virtual detectors, centres of mass, groups and eyes. What is left are no counts: their noise is small,
    and alike in patterns that are alike. A noise model knows what counts are, so give a reconstruction the
    measured ones (docs/autoencoder.md). Untrusted pixels stay as they are.

    Args:
        scan: prepared as for the training.
        model: file or folder of an autoencoder; a path is looked for beside the parameter file too.

    Raises:
        BadInput: a network that is no autoencoder, or patterns of another size than it learned from.
    """
    net, card = autoencoder(model)
    drawn = _Expected(lesson_of(net, card, scan))
    return replace(scan, counts=loaded(drawn) if isinstance(scan.counts, np.ndarray) else drawn)


@dataclass(frozen=True, eq=False)
class _Expected:
    """Patterns that are drawn when they are read."""

    lesson: Drawing

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(np.float32)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.lesson.scan.counts.shape

    def __getitem__(self, index: np.ndarray, /) -> np.ndarray:
        index = np.arange(self.shape[0])[index]
        flat = np.atleast_1d(index)
        parts = [self._drawn(flat[start : start + AT_ONCE]) for start in range(0, len(flat), AT_ONCE)]
        out = np.concatenate(parts) if parts else np.empty((0, *self.shape[1:]), self.dtype)
        return out if np.ndim(index) else out[0]

    def _drawn(self, index: np.ndarray) -> np.ndarray:
        scan, drawn = self.lesson.scan, self.lesson.drawn(index)[1][:, 0].cpu().numpy()
        return np.where(scan.mask, drawn, np.asarray(scan.counts[index], self.dtype))
