"""A run as it goes: object, probe and losses in a window that follows it.

live = plot.Live(job.images)
for epoch in plot.watching(job):
    live.update()
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from phaseloom.errors import BadInput
from phaseloom.plot.gui import (
    Picture,
    freeze_layout,
    has_window,
    is_open,
    open_window,
    process_events,
    to_numpy,
)
from phaseloom.plot.object import PHASE_COLOURS, ObjectField
from phaseloom.plot.probe import bright_box
from phaseloom.plot.style import LINE_COLOURS, SMALL_FONT, frame, limits, wave_colours

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Live"]

MIN_IDLE_RATIO = 4
"""Times as long as a drawing took that pass before the next: at most a fifth of a run goes to pictures."""


class Drawable(Protocol):
    """What is drawn of a run; a `phaseloom.result.Result` is one."""

    @property
    def object(self) -> np.ndarray:
        """Complex ``(slice, y, x)``."""
        ...

    @property
    def probe(self) -> np.ndarray:
        """Complex ``(mode, y, x)``."""
        ...

    @property
    def pixel(self) -> tuple[float, float]:
        """Object pixel (y, x), angstrom."""
        ...

    @property
    def coverage_mask(self) -> np.ndarray:
        """``(y, x)``: where the object can be trusted."""
        ...

    @property
    def history(self) -> Sequence[Mapping[str, Any]]:
        """A row for each epoch, with ``number``, ``loss`` and maybe ``holdout``."""
        ...


Source = Drawable | Mapping[str, Any]


class Live:
    """Phase and amplitude of the object, the probe and the losses of a run, redrawn in place.

    ``source`` says what to draw: a result, a mapping with ``object``, ``pixel`` and, if known, ``probe``,
    ``coverage`` and ``history`` (rows, or plain losses), or a function that returns one of them and is
    called only when something is drawn. Waves may be arrays or tensors, with or without an axis of
    slices and modes.

    Closing the window ends the pictures, not the run. Without a window (a cluster) `update` costs nothing.

    Args:
        source: as above, such as ``job.images``, which is quicker than ``job.result``.
        every: draw at every so manieth update, beginning with the first.
        seconds: and not before so many have passed, nor four times as many as the last drawing took;
            0: always.

    Attributes:
        figure: of pyplot.

    Raises:
        BadInput: numbers that leave nothing to be drawn, or a mapping without an object.

    Example:
        >>> import matplotlib.pyplot as plt
        >>> plt.switch_backend("agg")
        >>> live = Live({"object": np.ones((9, 9), complex), "pixel": (1.0, 1.0), "history": [3.0, 2.0]})
        >>> live.update()  # no window, nothing drawn
        False
        >>> live.draw()  # for a file, say
        >>> plt.close(live.figure)
    """

    def __init__(
        self, source: Source | Callable[[], Source], /, *, every: int = 1, seconds: float = 0.5
    ) -> None:
        import matplotlib.pyplot as plt

        if every < 1 or seconds < 0:
            raise BadInput("plot.Live", (every, seconds), "must be every >= 1 and seconds >= 0")
        self._source = source
        self._every = every
        self._seconds = seconds
        self._updates = 0
        self._next = 0.0
        self._panels: _Panels | None = None
        with plt.ioff():  # or a notebook shows the figure a second time when its cell is done
            self.figure = open_window(13.0, 5.2, "Phaseloom: live")
        self._windowed = has_window(self.figure)
        if self._windowed:
            self.figure.canvas.manager.show()  # pyright: ignore[reportOptionalMemberAccess]

    @property
    def closed(self) -> bool:
        """Whether the figure was closed."""
        return not is_open(self.figure)

    def update(self) -> bool:
        """Draw if it is time for it and there is a window; whether that was so."""
        self._updates += 1
        if not self._windowed or self.closed:
            return False
        due = (self._updates - 1) % self._every == 0 and time.monotonic() >= self._next
        if due:
            self.draw()
        else:
            process_events([self.figure])
        return due

    def draw(self) -> None:
        """Draw the state of this moment, due or not, also without a window; nothing once it is closed."""
        if self.closed:
            return
        began = time.monotonic()
        seen = _LiveState.of(self._source() if callable(self._source) else self._source)
        first = self._panels is None
        self._panels = self._panels or _Panels(self.figure)
        self._panels.show(seen)
        if first:
            freeze_layout(self.figure)
        if self._windowed:
            self.figure.canvas.draw()
            process_events([self.figure])
        ended = time.monotonic()
        self._next = ended + (max(self._seconds, MIN_IDLE_RATIO * (ended - began)) if self._seconds else 0.0)


@dataclass(frozen=True)
class _LiveState:
    """What is drawn, in one form."""

    object: np.ndarray
    probe: np.ndarray | None
    pixel: tuple[float, float]
    coverage_mask: np.ndarray
    history: Sequence[Mapping[str, Any]]

    @classmethod
    def of(cls, source: Source) -> _LiveState:
        """From a result or a mapping."""
        if not isinstance(source, Mapping):
            return cls(source.object, source.probe, source.pixel, source.coverage_mask, source.history)
        missing = [name for name in ("object", "pixel") if name not in source]
        if missing:
            raise BadInput("plot.Live: source", None, f"lacks {' and '.join(missing)}")
        object_ = _with_leading_axis(source["object"])
        probe = None if source.get("probe") is None else _with_leading_axis(source["probe"])
        coverage_mask = np.ones(object_.shape[1:], bool)
        if (coverage := source.get("coverage")) is not None:
            coverage = to_numpy(coverage)
            coverage_mask = coverage > 0.05 * np.percentile(coverage[coverage > 0], 90)
        history = [
            row if isinstance(row, Mapping) else {"number": number, "loss": float(row)}
            for number, row in enumerate(source.get("history", ()), 1)
        ]
        return cls(object_, probe, source["pixel"], coverage_mask, history)


class _Panels:
    """The artists of a live view; made once, then given new values."""

    def __init__(self, figure: Figure):
        from matplotlib.gridspec import GridSpec

        grid = GridSpec(2, 3, figure, width_ratios=[1.25, 1.25, 1])
        places = [figure.add_subplot(part) for part in (grid[:, 0], grid[:, 1], grid[0, 2], grid[1, 2])]
        unit = (1.0, 1.0)
        self.phase = Picture(places[0], pixel=unit, label="phase (rad)", cmap=PHASE_COLOURS)
        self.amplitude = Picture(places[1], pixel=unit, label="amplitude (1)", cmap="gray")
        self.probe = Picture(places[2], pixel=unit)
        self.curves = _Curves(places[3])
        self.title = figure.suptitle(" ", fontsize=10.5, fontweight="bold", x=0.01, ha="left")
        self._box: tuple[slice, slice] = (slice(0, 0), slice(0, 0))
        self._window = ()

    def show(self, seen: _LiveState) -> None:
        """Everything anew."""
        field: ObjectField = ObjectField.of(seen)  # pyright: ignore[reportArgumentType]
        phase = field.phase()
        amplitude = field.amplitude()
        count = len(seen.object)
        summed = f", sum of {count} slices" if count > 1 else ""
        self.phase.show(phase, title=f"Phase{summed}", limits=limits(phase), pixel=seen.pixel)
        self.amplitude.show(amplitude, title="Amplitude", limits=limits(amplitude), pixel=seen.pixel)
        if seen.probe is not None:
            self._show_probe(seen.probe, seen.pixel)
        self.curves.show(seen.history)
        self.title.set_text(_headline(seen.history))

    def _show_probe(self, probe: np.ndarray, pixel: tuple[float, float]) -> None:
        """The strongest mode, cut to where there has been light."""
        power = (np.abs(probe) ** 2).sum((1, 2))
        best = int(power.argmax())
        self._widen(probe)
        share = 100 * power[best] / max(float(power.sum()), 1e-30)
        title = "Probe" if len(probe) == 1 else f"Probe, mode {best + 1} of {len(probe)}: {share:.3g} %"
        self.probe.show(wave_colours(probe[best][self._box]), title=title, pixel=pixel)

    def _widen(self, probe: np.ndarray) -> None:
        """Grow the box to the light of this probe: one that breathed with it would make the picture jump."""
        window = probe.shape[1:]
        lit = tuple(
            slice(*part.indices(size)[:2]) for part, size in zip(bright_box(probe), window, strict=True)
        )
        if self._window == window:
            pairs = zip(self._box, lit, strict=True)
            lit = tuple(slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in pairs)
        self._box = (lit[0], lit[1])
        self._window = window


class _Curves:
    """Losses over epochs."""

    def __init__(self, axes: Axes):
        self.axes = axes
        frame(axes, title="Progress", x="epoch", y="loss")
        axes.grid(color="0.92", which="both", linewidth=0.6)
        (self.train,) = axes.plot([], [], color=LINE_COLOURS[0], linewidth=1.5, label="training")
        (self.held,) = axes.plot([], [], "--", color=LINE_COLOURS[1], linewidth=1.5, label="held out")
        axes.legend(fontsize=SMALL_FONT, frameon=False, loc="upper right")

    def show(self, history: Sequence[Mapping[str, Any]]) -> None:
        """New curves, and a scale that fits them."""
        epochs = np.array([row["number"] for row in history], float)
        train = np.array([row["loss"] for row in history], float)
        held = np.array([np.nan if (v := row.get("holdout")) is None else v for row in history], float)
        seen = np.isfinite(held)
        self.train.set_data(epochs, train)
        self.held.set_data(epochs[seen], held[seen])
        known = np.concatenate([train[np.isfinite(train)], held[seen]])
        if not known.size:
            return
        self._scale(known)
        self.axes.set_xlim(min(1.0, epochs[0]), max(epochs[-1], epochs[0] + 1))

    def _scale(self, known: np.ndarray) -> None:
        """Logarithmic where all are positive, with plain numbers at its ticks."""
        from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

        low = float(known.min())
        high = float(known.max())
        self.axes.set_yscale("log" if low > 0 else "linear")
        if low <= 0:
            room = 0.08 * (high - low) or 0.5
            self.axes.set_ylim(low - room, high + room)
            return
        self.axes.set_ylim(low / (high / low) ** 0.08 / 1.01, high * (high / low) ** 0.08 * 1.01)
        wide = high / low > 4
        self.axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)) if wide else MaxNLocator(5))
        self.axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.4g}"))
        self.axes.yaxis.set_minor_formatter(NullFormatter())


def _headline(history: Sequence[Mapping[str, Any]]) -> str:
    """The last epoch in a line."""
    if not history:
        return "before the first epoch"
    last = history[-1]
    held = last.get("holdout")
    seconds = last.get("seconds")
    line = f"epoch {last['number']}   loss {last['loss']:.4g}"
    line += "" if held is None else f"   held out {held:.4g}"
    return line if seconds is None else f"{line}   {seconds:.3g} s"


def _with_leading_axis(values: Any) -> np.ndarray:
    """With an axis of slices or modes."""
    values = to_numpy(values)
    return values[None] if values.ndim == 2 else values
