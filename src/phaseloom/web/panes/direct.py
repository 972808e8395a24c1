"""The part that makes a direct image and lets its optics be changed by hand."""

from __future__ import annotations

import html
from typing import Any

import panel as pn

from phaseloom.data.scan import Scan4D
from phaseloom.direct.solve import DirectMethod
from phaseloom.web.panes.desk import Desk, flow
from phaseloom.web.panes.figures import ImageView
from phaseloom.web.state.run_images import Field
from phaseloom.web.state.scan_view import DirectView

__all__ = ["DirectPart"]


class DirectPart:
    """A button that fits the optics, sliders that change them, and the image that follows.

    Attributes:
        view: of Panel.
    """

    def __init__(self, desk: Desk):
        self.desk = desk
        self._scan: Scan4D | None = None
        self._direct: DirectView | None = None
        self._busy = False
        self._again = False
        self._settling = False
        guard = desk.attempt
        self.make = pn.widgets.Button(name="Make direct image", button_type="primary", disabled=True)
        self.reset = pn.widgets.Button(name="As fitted", button_type="default", disabled=True)
        self.method = pn.widgets.Select(name="Method", options=[str(one) for one in DirectMethod], width=140)
        self.words = pn.pane.HTML("", sizing_mode="stretch_width")
        slider = pn.widgets.FloatSlider
        look: dict[str, Any] = {"disabled": True, "width": 200}
        self.sliders = {
            "defocus": slider(name="Defocus (nm)", start=-100.0, end=100.0, step=0.1, **look),
            "astigmatism": slider(name="Astigmatism (nm)", start=0.0, end=50.0, step=0.1, **look),
            "angle": slider(name="Its angle (degrees)", start=-90.0, end=90.0, step=0.5, **look),
            "rotation": slider(name="Rotation (degrees)", start=-180.0, end=180.0, step=0.1, **look),
        }
        self.transposed = pn.widgets.Toggle(name="Transposed", disabled=True)
        self.image = ImageView("Direct image", values="rad", height=330)
        self.make.on_click(guard(lambda event: self._fit()))
        self.reset.on_click(guard(lambda event: self._take_fitted()))
        for widget in (*self.sliders.values(), self.transposed):
            widget.param.watch(guard(lambda event: self._redraw()), "value")
        self.method.param.watch(guard(lambda event: self._redraw()), "value")
        picture = pn.pane.Bokeh(self.image.figure, sizing_mode="stretch_width")
        self.view: Any = pn.Column(
            flow(self.make, self.reset, self.method, align_items="end"),
            flow(*self.sliders.values(), self.transposed, align_items="end"),
            picture,
            self.words,
            sizing_mode="stretch_width",
        )

    def open(self, scan: Scan4D) -> None:
        """Another scan."""
        self._scan = scan
        self._direct = None
        self.image.clear()
        self.make.disabled = scan.geometry.near
        why = "A near field has no direct image." if scan.geometry.near else ""
        self.words.object = f"<p>{why}</p>"
        self._enable(False)

    def close(self) -> None:
        """No scan."""
        self._scan = self._direct = None
        self.image.clear()
        self.image.figure.title.text = "Direct image"
        self.make.disabled = True
        self.words.object = ""
        self._enable(False)

    def _enable(self, on: bool) -> None:
        for widget in (*self.sliders.values(), self.transposed, self.reset):
            widget.disabled = not on

    def _fit(self) -> None:
        scan = self._scan
        if scan is None:
            return
        self.words.object = "<p role='status'>fitting optics and orientation ...</p>"
        self.make.disabled = True

        def done(found: DirectView) -> None:
            if scan is self._scan:
                self.make.disabled = False
                self._direct = found
                lines = "<br>".join(html.escape(line) for line in found.found.lines())
                self.words.object = f"<p style='font-size:0.9em'>{lines}</p>"
                self._take_fitted()
                self._enable(True)

        def failed(problem: BaseException) -> None:
            if scan is self._scan:
                self.make.disabled = False
                self.words.object = f"<p role='status'>{html.escape(str(problem))}</p>"

        self.desk.background(lambda: DirectView(scan), done, failed=failed)

    def _take_fitted(self) -> None:
        if self._direct is None:
            return
        values = self._direct.values
        far = max(abs(values["defocus"]) * 0.1 * 2, 5.0)
        self._settling = True
        self.sliders["defocus"].param.update(
            start=-far, end=far, step=far / 500, value=0.1 * values["defocus"]
        )
        most = max(0.2 * values["astigmatism"], far / 4)
        self.sliders["astigmatism"].param.update(end=most, step=most / 250, value=0.1 * values["astigmatism"])
        self.sliders["angle"].value = values["angle"]
        self.sliders["rotation"].value = values["rotation"]
        self.transposed.value = bool(values["transposed"])
        self._settling = False
        self._redraw()

    def _redraw(self) -> None:
        """The image with the optics of the sliders; of changes during a computation the last one counts."""
        direct = self._direct
        if direct is None or self._settling:
            return
        if self._busy:
            self._again = True
            return
        self._busy = True
        values = {name: widget.value for name, widget in self.sliders.items()}
        values |= {"defocus": 10 * values["defocus"], "astigmatism": 10 * values["astigmatism"]}
        values["transposed"] = float(self.transposed.value)
        method = self.method.value

        def done(image: Field) -> None:
            self._busy = False
            if direct is not self._direct:  # another file was opened meanwhile
                return
            unit = "rad" if DirectMethod(method).is_in_radian else "arbitrary"
            self.image.show(image.values, pixel=image.pixel, title=f"Direct image, {method} ({unit})")
            self.image.reset_contrast()
            if self._again:
                self._again = False
                self._redraw()

        def failed(problem: BaseException) -> None:
            self._busy = False
            self.desk.fail(problem)

        self.desk.background(lambda: direct.image(values, method=method), done, failed=failed)
