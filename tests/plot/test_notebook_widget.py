"""Interactive views under ``%matplotlib widget``: messages as the front end of ipympl sends them."""

import importlib.util
import subprocess
import sys
import textwrap

import pytest

if importlib.util.find_spec("ipympl") is None:  # importing it would choose it for all of the process
    pytest.skip("ipympl is not installed", allow_module_level=True)

SCRIPT = """
import matplotlib
matplotlib.use("module://ipympl.backend_nbagg")
import numpy as np
from matplotlib import pyplot as plt
from phaseloom import plot
from phaseloom.data.scan import Geometry, Scan4D

geometry = Geometry(wavelength=0.04, shape=(7, 10), angle=(2e-3, 1.5e-3), beam="electron")
places = np.indices((4, 5)).reshape(2, -1).T * 2.0
counts = np.random.default_rng(0).poisson(5, (20, 7, 10))
scan = Scan4D(counts=counts, positions=places, geometry=geometry, grid=(4, 5))


def send(figure, **message):
    canvas = figure.canvas
    canvas._handle_message(canvas, {"guiEvent": {}, "modifiers": [], **message}, [])


def mouse(figure, kind, axes, x, y, button=0, buttons=1):
    left, up = axes.transData.transform((x, y))
    down = figure.canvas.get_renderer().height - up
    send(figure, type=kind, x=left, y=down, button=button, buttons=buttons)


view = plot.browse(scan)
assert type(view.figure.canvas).__module__.startswith("ipympl"), type(view.figure.canvas)
send(view.figure, type="initialized")
view.figure.canvas.draw()
field, pattern = view.figure.axes[:2]
mouse(view.figure, "motion_notify", field, 5.0, 3.0, buttons=0)
assert view.index == 0
mouse(view.figure, "button_press", field, 5.0, 3.0)
mouse(view.figure, "button_release", field, 5.0, 3.0, buttons=0)
assert view.index == 7, view.index
seen = np.asarray(pattern.images[0].get_array(), float)
send(view.figure, type="key_press", key="kArrowRight")
assert view.index == 8, view.index
assert not np.array_equal(seen, np.asarray(pattern.images[0].get_array(), float))
send(view.figure, type="key_press", key="kArrowDown")
assert view.index == 13, view.index
mouse(view.figure, "button_press", field, 5.0, 3.0, button=2, buttons=2)
assert view.index == 13

pages = plot.slide(np.eye(6), lambda panel, line: panel.subplots().plot(line), label="row")
pages.figure.canvas.draw()
axes = pages.slider.ax
left, right = axes.get_xlim()
mouse(pages.figure, "button_press", axes, 4.2, 0.5)
mouse(pages.figure, "button_release", axes, 4.2, 0.5, buttons=0)
assert pages.index == 4, pages.index

both = plot.compare(scan, lambda number: counts[number] + 1.0)
both.figure.canvas.draw()
send(both.figure, type="key_press", key="kArrowRight")
assert both.index == 1

bundle = view.figure.canvas._repr_mimebundle_()
bundle = bundle[0] if isinstance(bundle, tuple) else bundle
assert any("widget-view" in kind for kind in bundle), list(bundle)
send(view.figure, type="closing")
plt.close("all")
print("all of it")
"""


@pytest.mark.medium
def test_views_answer_the_messages_of_a_notebook_widget():
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SCRIPT)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.endswith("all of it\n")
