"""A slider over epochs that a run has left behind, and its present."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import panel as pn

__all__ = ["EpochSlider"]


class EpochSlider:
    """Chooses one of a growing number of epochs, or the present one at its right end.

    Panel's ``DiscreteSlider`` makes a new slider, and watches itself once more, whenever its options change:
    after an hour of a run it would hold thousands of them.

    Attributes:
        slider: of Panel; its value is the place among the epochs.

    Example:
        >>> chosen = EpochSlider()
        >>> chosen.offer([1, 5, 9])
        >>> chosen.value is None
        True
        >>> chosen.slider.value = 1
        >>> chosen.offer([5, 9, 13])
        >>> chosen.value, chosen.slider.name
        (5, 'History: epoch 5')
    """

    def __init__(self) -> None:
        self._epochs: list[int] = []
        self._offering = False
        self._call: Callable[[], None] = lambda: None
        self.slider = pn.widgets.IntSlider(
            start=0, end=1, value=1, disabled=True, show_value=False, width=170
        )
        self.slider.param.watch(lambda event: self._react(), "value")
        self._show_name()

    @property
    def value(self) -> int | None:
        """The epoch that is chosen; ``None``: the present one."""
        place = self.slider.value
        return self._epochs[place] if place < len(self._epochs) else None

    def on_choose(self, call: Callable[[], None], /) -> None:
        """Call this when a user chooses another epoch."""
        self._call = call

    def offer(self, epochs: Sequence[int], /) -> None:
        """Offer these epochs and the present one; what is chosen stays, or becomes the present one."""
        if (epochs := list(epochs)) == self._epochs:
            return
        chosen = self.value
        self._epochs = epochs
        end = max(len(epochs), 1)
        self._offering = True
        try:
            place = epochs.index(chosen) if chosen in epochs else end
            self.slider.param.update(end=end, value=place, disabled=not epochs)
        finally:
            self._offering = False
        self._show_name()

    def _react(self) -> None:
        if not self._offering:
            self._show_name()
            self._call()

    def _show_name(self) -> None:
        self.slider.name = "History: now" if self.value is None else f"History: epoch {self.value}"
