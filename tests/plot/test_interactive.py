"""Interactive figures, driven by the events a user would make, without a screen."""

import gc
import signal
import sys
import threading
import types
import weakref

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.backend_bases import FigureManagerBase, KeyEvent, MouseEvent
from matplotlib.backends.backend_agg import FigureCanvasAgg

from phaseloom import plot
from phaseloom.data.scan import Geometry, Scan4D
from phaseloom.errors import BadInput
from phaseloom.plot.gui import Picture, has_window, is_open, process_events
from phaseloom.result import Result

GEOMETRY = Geometry(wavelength=0.0418, shape=(7, 10), angle=(2e-3, 1.5e-3), beam="electron")


@pytest.fixture(autouse=True)
def interruptible():
    """Ctrl-C raises, also where a shell in the background has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Lazy:
    """Counts that say which patterns were read."""

    def __init__(self, values):
        self.values, self.read = values, []
        self.shape, self.dtype = values.shape, values.dtype

    def __getitem__(self, index):
        self.read.append(np.asarray(index).tolist())
        return self.values[index]


class Canvas(FigureCanvasAgg):
    """A canvas that counts what a window would do."""

    drawn = flushed = 0
    pressed = None

    def draw(self):
        self.drawn += 1
        super().draw()

    def flush_events(self):
        self.flushed += 1
        if self.pressed is not None:
            self.pressed()


class Window(FigureManagerBase):
    """A manager with a window that nobody sees."""

    shown = 0

    def show(self):
        self.shown += 1


Canvas.manager_class = Window


@pytest.fixture(autouse=True)
def _no_screen():
    plt.switch_backend("agg")
    yield
    plt.close("all")
    plt.switch_backend("agg")


@pytest.fixture
def windows(monkeypatch):
    """A backend with windows."""
    backend = types.ModuleType("unseen_windows")
    backend.FigureCanvas, backend.FigureManager = Canvas, Window
    monkeypatch.setitem(sys.modules, "unseen_windows", backend)
    plt.switch_backend("module://unseen_windows")


def scan(grid=(5, 6), masked=True):
    draw = np.random.default_rng(1)
    mask = np.ones((7, 10), bool)
    mask[:, 3] = not masked
    counts = Lazy(draw.poisson(3, (30, 7, 10)).astype(np.uint16))
    places = np.stack(np.meshgrid(np.arange(5.0) * 2, np.arange(6.0) * 3, indexing="ij"), -1).reshape(-1, 2)
    if grid is None:
        places = places[draw.permutation(30)] + draw.uniform(-0.4, 0.4, (30, 2))
    return Scan4D(counts=counts, positions=places, geometry=GEOMETRY, mask=mask, grid=grid)


def image(axes):
    return np.asarray(axes.images[0].get_array())


def click(view, axes, x, y, button=1):
    """Press a mouse button at data coordinates."""
    canvas = view.figure.canvas
    canvas.draw()
    event = MouseEvent("button_press_event", canvas, *axes.transData.transform((x, y)), button=button)
    canvas.callbacks.process("button_press_event", event)


def press(view, *keys):
    for key in keys:
        canvas = view.figure.canvas
        canvas.callbacks.process("key_press_event", KeyEvent("key_press_event", canvas, key))


def population(figure):
    """Artists but for ticks, axes and figures."""
    every = figure.findobj(Axes)
    return sum(len(axes.get_children()) for axes in every), len(every), len(plt.get_fignums())


def words(figure):
    return " | ".join(t.get_text() for t in figure.findobj(lambda a: hasattr(a, "get_text")))


@pytest.mark.parametrize("number", [0, 13, 29])
def test_a_click_on_a_raster_shows_the_pattern_of_that_pixel(number):
    data = scan()
    view = plot.browse(data)
    field, pattern = view.figure.axes
    row, column = divmod(number, 6)
    click(view, field, 3 * (column + 0.6), 2 * (row + 0.3))
    assert view.index == number
    np.testing.assert_array_equal(image(pattern), data.counts.values[number])
    assert f"pattern {number} " in words(view.figure)


def test_a_click_among_free_positions_shows_the_nearest():
    data = scan(None)
    view = plot.browse(data)
    y, x = data.positions[17] + [0.3, -0.4]
    click(view, view.figure.axes[0], x, y)
    assert view.index == 17
    (ring,) = view.figure.axes[0].lines
    np.testing.assert_allclose(np.ravel(ring.get_data()), data.positions[17, ::-1])


def test_only_a_left_click_on_the_map_chooses_and_not_while_a_tool_is_on():
    view = plot.browse(scan())
    field, pattern = view.figure.axes
    click(view, pattern, 4e-3, 4e-3)
    click(view, field, 8, 5, button=3)
    view.figure.canvas.widgetlock(view)
    click(view, field, 8, 5)
    assert view.index == 0
    view.figure.canvas.widgetlock.release(view)
    click(view, field, 8, 5)
    assert view.index == 14


def test_keys_step_along_rows_and_from_row_to_row():
    view = plot.browse(scan())
    seen = []
    for key in ("right", "right", "down", "left", "up", "up", "end", "right", "home"):
        press(view, key)
        seen.append(view.index)
    assert seen == [1, 2, 8, 7, 1, 0, 29, 29, 0]


def test_lazy_counts_are_summed_once_in_chunks_and_then_read_one_at_a_time():
    data = scan()
    view = plot.browse(data, index=4)
    assert [index for chunk in data.counts.read[:-1] for index in chunk] == list(range(30))
    assert data.counts.read[-1] == [4]
    data.counts.read.clear()
    press(view, "right", "l", "m", "m")
    view.show(20)
    assert data.counts.read == [[5], [20]]


def test_of_given_values_nothing_but_the_pattern_shown_is_read():
    data = scan()
    values = np.linspace(-1, 1, 30)
    view = plot.browse(data, values, label="loss")
    assert data.counts.read == [[0]]
    np.testing.assert_allclose(image(view.figure.axes[0]), values.reshape(5, 6))
    view.figure.canvas.draw()
    assert "loss" in words(view.figure)
    with pytest.raises(BadInput, match=r"one for each pattern: \(30,\)"):
        plot.browse(data, values[1:])


def test_the_map_holds_counts_of_trusted_pixels():
    data = scan()
    trusted = np.delete(data.counts.values, 3, axis=2).sum((1, 2))
    view = plot.browse(data)
    np.testing.assert_allclose(image(view.figure.axes[0]), trusted.reshape(5, 6))
    assert "7 untrusted pixels" in words(view.figure)
    assert "untrusted" not in words(plot.browse(scan(masked=False)).figure)


def test_the_scale_is_toggled_and_so_is_the_mean():
    data = scan()
    view = plot.browse(data)
    axes = view.figure.axes[1]
    scales = [type(axes.images[0].norm).__name__]
    press(view, "l")
    scales.append(type(axes.images[0].norm).__name__)
    assert scales == ["LogNorm", "Normalize"]
    assert axes.images[0].get_clim() == (0, np.delete(data.counts.values[0], 3, axis=1).max())
    press(view, "m")
    np.testing.assert_allclose(image(axes), data.counts.values.mean(0))
    assert "mean pattern" in axes.get_title()
    press(view, "m", "l")
    np.testing.assert_array_equal(image(axes), data.counts.values[0])
    view.figure.canvas.draw()


def test_keys_of_matplotlib_keep_their_meaning_but_for_those_of_the_view():
    view = plot.browse(scan())
    press(view, "l", "g", "f", "shift")
    assert view.figure.axes[1].get_yscale() == "linear"
    press(view, "ctrl+w")
    assert not is_open(view.figure)


def test_browsing_leaves_nothing_behind():
    view = plot.browse(scan())
    press(view, "right", "l", "l")
    view.figure.canvas.draw()
    before = population(view.figure)
    for number in range(8):
        view.show(number)
        press(view, "l", "m")
        view.figure.canvas.draw()
    press(view, "l", "m")
    view.figure.canvas.draw()
    assert population(view.figure) == before


def test_a_view_lives_as_long_as_its_figure_and_no_longer():
    view = plot.browse(scan())
    figure, known = view.figure, weakref.ref(view)
    del view
    gc.collect()
    canvas = figure.canvas
    canvas.callbacks.process("key_press_event", KeyEvent("key_press_event", canvas, "end"))
    assert known().index == 29
    plt.close(figure)
    del figure, canvas
    gc.collect()
    assert known() is None


def test_a_pattern_without_counts_or_with_nan_is_shown():
    data = scan()
    data.counts.values = data.counts.values.astype(float)
    data.counts.values[0] = 0
    data.counts.values[1, 2, 2] = np.nan
    view = plot.browse(data, np.r_[np.nan, np.zeros(29)])
    press(view, "l", "right", "l")
    view.figure.canvas.draw()
    assert "nan" not in view.figure.axes[1].get_title()


def test_a_slider_shows_pattern_model_and_difference_and_asks_for_no_other():
    data, asked = scan(), []

    def modelled(index):
        asked.append(index)
        return torch.full((7, 10), 1.0 + index, requires_grad=True)

    view = plot.compare(data, modelled)
    view.slider.set_val(11)
    press(view, "l", "l")
    assert (view.index, asked, data.counts.read) == (11, [0, 11], [[0], [11]])
    left, middle, right = view.figure.axes[:3]
    measured = data.counts.values[11].astype(float)
    np.testing.assert_array_equal(image(left), measured)
    np.testing.assert_array_equal(image(middle), np.full((7, 10), 12.0))
    np.testing.assert_allclose(image(right), (measured - 12) / np.sqrt(13))
    assert left.images[0].get_clim() == middle.images[0].get_clim()
    assert sum(right.images[0].get_clim()) == 0


def test_a_drag_of_the_slider_and_the_keys_agree():
    view = plot.compare(scan(), lambda index: np.ones((7, 10)))
    axes, canvas = view.slider.ax, view.figure.canvas
    click(view, axes, 20.2, 0.5)
    assert view.index == 20
    x, y = axes.transData.transform((20.2, 0.5))
    canvas.callbacks.process(
        "button_release_event", MouseEvent("button_release_event", canvas, x, y, button=1)
    )
    press(view, "left")
    assert (view.index, view.slider.val) == (19, 19)


def test_a_model_of_another_shape_is_refused():
    with pytest.raises(BadInput, match=r"compare: modelled.*\(7, 10\)"):
        plot.compare(scan(), lambda index: np.ones((7, 9)))


def test_anything_can_be_stepped_through():
    asked = []

    class Stack:
        def __len__(self):
            return 9

        def __getitem__(self, index):
            asked.append(index)
            return np.full((3, 4), float(index))

    def draw(panel, values):
        axes = panel.subplots()
        panel.colorbar(axes.imshow(values), ax=axes)

    view = plot.slide(Stack(), draw, label="slice")
    before = population(view.figure)
    for number in (5, 2, 8):
        view.slider.set_val(number)
        view.figure.canvas.draw()
        assert image(view.figure.axes[1]).max() == number
    assert asked == [0, 5, 2, 8]
    assert population(view.figure)[1:] == before[1:]
    with pytest.raises(BadInput, match="not one of 9"):
        view.show(9)


def test_a_single_thing_needs_no_slider_and_none_are_refused():
    view = plot.slide([1], lambda panel, one: panel.subplots())
    press(view, "right")
    assert (view.index, view.slider) == (0, None)
    with pytest.raises(BadInput, match="nothing"):
        plot.slide([], lambda panel, one: None)


def test_an_image_of_another_shape_takes_the_place_of_the_old():
    figure = plt.figure()
    picture = Picture(figure.subplots(), pixel=(1.0, 1.0), label="counts")
    for side, pixel in ((4, 2.0), (8, 1.0), (8, 0.5), (900, 0.1)):
        picture.show(np.eye(side), title=f"{side}", pixel=(pixel, pixel))
        figure.canvas.draw()
        assert len(figure.axes[0].images) == 1
        assert picture.drawn.get_extent()[1] == pytest.approx(side * pixel)


def states(epochs=3, side=21, seed=0):
    """What a run is made of, as a mapping."""
    draw = np.random.default_rng(seed)
    rows = [
        {"number": n, "loss": 9.0 / n, "holdout": 10.0 / n if n > 1 else None} for n in range(1, epochs + 1)
    ]
    y, x = np.mgrid[-8:8, -8:8] / 2
    return {
        "object": np.exp(0.3j * draw.normal(size=(2, side, side + 4))),
        "probe": np.exp(-(y**2) - x**2)[None] * np.array([1.0, 0.5])[:, None, None],
        "pixel": (0.3, 0.4),
        "coverage": np.ones((side, side + 4)),
        "history": rows,
    }


def test_a_live_view_draws_in_place_and_leaves_nothing_behind(windows):
    state = states()
    live = plot.Live(lambda: state, seconds=0)
    assert live.update()
    manager, before = live.figure.canvas.manager, population(live.figure)
    for epoch in range(4, 54):
        state |= states(epoch, seed=epoch)
        assert live.update()
    assert population(live.figure) == before
    assert manager.shown == 1
    assert live.figure.canvas.drawn == 51
    phase, _, probe, curves = live.figure.axes
    train, held = curves.lines
    np.testing.assert_allclose(train.get_xdata(), np.arange(1, 54))
    np.testing.assert_allclose(held.get_ydata(), 10 / np.arange(2, 54))
    assert curves.get_yscale() == "log"
    assert image(phase).shape == (21, 25)
    assert image(probe).shape[2] == 3
    assert "epoch 53" in live.figure.get_suptitle()
    assert "80 %" in probe.get_title()


def test_a_live_view_follows_to_a_finer_grid(windows):
    state = states()
    live = plot.Live(lambda: state, seconds=0)
    live.update()
    before = population(live.figure)
    for side, pixel in ((21, 0.3), (42, 0.15), (63, 0.1)):
        state |= states(side=side) | {"pixel": (pixel, pixel)}
        live.update()
        assert live.figure.axes[0].images[0].get_extent()[2] == pytest.approx(6.3)
    assert population(live.figure) == before


def test_a_live_view_draws_every_so_manieth_time_and_not_too_often(windows, monkeypatch):
    seen = []

    def source():
        seen.append(live._updates)
        return states()

    live = plot.Live(source, every=3, seconds=0)
    drawn = [live.update() for _ in range(8)]
    assert drawn == [True, False, False] * 2 + [True, False]
    assert seen == [1, 4, 7]
    assert live.figure.canvas.flushed == 8
    now = [100.0]
    monkeypatch.setattr("phaseloom.plot.live.time.monotonic", lambda: now[0])
    rare = plot.Live(states(), seconds=5)
    drawn = []
    for now[0] in (100.0, 102.0, 104.9, 105.0, 109.0, 111.0):
        drawn.append(rare.update())
    assert drawn == [True, False, False, True, False, True]
    with pytest.raises(BadInput, match="every >= 1"):
        plot.Live(states(), every=0)


def test_a_closed_window_ends_the_pictures_and_not_the_run(windows):
    asked = []
    live = plot.Live(lambda: asked.append(1) or states(), seconds=0)
    live.update()
    canvas = live.figure.canvas
    canvas.pressed = lambda: plt.close(live.figure)
    live.update()
    other = plt.figure()
    assert other.canvas.manager.num == 1
    assert live.closed
    assert not live.update()
    live.draw()
    assert len(asked) == 2
    process_events([live.figure, other])
    assert canvas.flushed == 2
    assert other.canvas.flushed == 1


def test_without_a_window_nothing_is_asked_for_but_by_draw(tmp_path):
    asked = []
    live = plot.Live(lambda: asked.append(1) or states())
    assert not has_window(live.figure)
    assert [live.update() for _ in range(5)] == [False] * 5
    assert not asked
    live.draw()
    plot.save(live.figure, tmp_path / "live.png", dpi=30)
    assert len(asked) == 1
    assert (tmp_path / "live.png").stat().st_size > 1000


def test_a_result_is_drawn_before_its_first_epoch_and_after():
    state = states()
    places = np.ones((3, 2))
    kept = {name: state[name] for name in ("object", "probe", "coverage", "pixel")}
    result = Result(**kept, positions=places, positions_start=places, origin=(0, 0), geometry=GEOMETRY)
    live = plot.Live(result)
    live.draw()
    assert "before the first epoch" in live.figure.get_suptitle()
    result.history.extend(state["history"])
    live.draw()
    assert "held out 3.333" in live.figure.get_suptitle()


def test_tensors_bare_losses_and_negative_losses_are_drawn():
    wave = torch.ones(9, 8, dtype=torch.complex64, requires_grad=True)
    live = plot.Live({"object": wave, "pixel": (1.0, 1.0), "history": [2.0, np.nan, -1.0]})
    live.draw()
    live.figure.canvas.draw()
    assert live.figure.axes[3].get_yscale() == "linear"
    with pytest.raises(BadInput, match="lacks pixel"):
        plot.Live({"object": wave}).draw()


def test_watching_yields_everything_and_wakes_windows_between_items(windows):
    first, second = plt.figure().canvas, plt.figure().canvas
    assert list(plot.watching(range(5))) == list(range(5))
    assert (first.flushed, second.flushed) == (5, 5)
    list(plot.watching(range(3), figures=[second.figure]))
    assert (first.flushed, second.flushed) == (5, 8)
    second.pressed = lambda: plt.close(second.figure)
    assert list(plot.watching(range(3))) == [0, 1, 2]
    assert second.flushed == 9


def interrupt():
    signal.raise_signal(signal.SIGINT)


def test_ctrl_c_in_a_generator_that_ends_by_itself_ends_the_loop():
    done = []

    def fit():
        for number in range(9):
            try:
                if number == 3:
                    interrupt()
                done.append(number)
            except KeyboardInterrupt:
                done.append("went back")
                return
            yield number

    assert list(plot.watching(fit())) == [0, 1, 2]
    assert done == [0, 1, 2, "went back"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_in_a_generator_that_raises_ends_the_loop():
    def work():
        yield 1
        interrupt()
        yield 2

    assert list(plot.watching(work())) == [1]


def test_what_a_generator_yields_in_spite_of_ctrl_c_is_not_lost():
    def stubborn():
        for number in range(9):
            try:
                if number == 1:
                    interrupt()
            except KeyboardInterrupt:
                yield -1
            yield number

    assert list(plot.watching(stubborn())) == [0, -1]


def test_ctrl_c_between_items_lets_the_body_finish(caplog):
    seen = []
    for number in plot.watching(range(9)):
        if number == 2:
            interrupt()
        seen.append(number)
    assert seen == [0, 1, 2]
    assert "ends after this item" in caplog.text


def test_a_second_ctrl_c_is_raised():
    def body():
        for _ in plot.watching(range(9)):
            interrupt()
            interrupt()

    def deaf():
        yield 0
        try:
            interrupt()
        except KeyboardInterrupt:
            interrupt()

    with pytest.raises(KeyboardInterrupt):
        body()
    with pytest.raises(KeyboardInterrupt):
        list(plot.watching(deaf()))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_break_or_an_error_gives_ctrl_c_back():
    def failing():
        yield 1
        raise ValueError("no")

    for _ in plot.watching(range(3)):
        break
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with pytest.raises(ValueError, match="no"):
        list(plot.watching(failing()))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_thread_and_a_program_with_its_own_ctrl_c_are_left_alone():
    seen = []
    thread = threading.Thread(target=lambda: seen.extend(plot.watching(range(3))))
    thread.start()
    thread.join()
    assert seen == [0, 1, 2]

    def own(number, stack):
        seen.append("own")

    signal.signal(signal.SIGINT, own)
    try:
        for _ in plot.watching(range(2)):
            interrupt()
        assert signal.getsignal(signal.SIGINT) is own
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    assert seen[3:] == ["own", "own"]
