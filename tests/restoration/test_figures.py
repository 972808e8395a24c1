"""Figures of restored images: one scale in a row, colours as they are, what differs from the target."""

import numpy as np
import pytest

from phaseloom import plot
from phaseloom.errors import BadInput
from phaseloom.restoration.figures import before_after


def row(seed: int = 0, shape=(13, 18), **more) -> dict:
    rng = np.random.default_rng(seed)
    target = rng.normal(size=shape)
    noisy, mended = target + rng.normal(size=shape), target + 0.1 * rng.normal(size=shape)
    return {"input": noisy, "network": mended, **more, "target": target}


def panels(figure) -> dict:
    return {axes.get_title(): axes for axes in figure.axes if axes.get_title()}


def test_a_row_has_one_scale_and_the_difference_one_of_its_own_about_zero():
    given = row()
    seen = panels(before_after([given], ["film"]))
    assert list(seen) == ["input", "network", "target", "network less target"]
    scales = {seen[name].images[0].get_clim() for name in ("input", "network", "target")}
    assert len(scales) == 1
    low, high = scales.pop()
    assert given["target"].min() <= low < high <= given["target"].max()
    off = seen["network less target"].images[0]
    np.testing.assert_allclose(off.get_array(), given["network"] - given["target"], rtol=1e-4, atol=1e-6)
    assert off.get_clim()[0] == -off.get_clim()[1]
    assert off.get_clim()[1] < high / 2


def test_rows_have_scales_of_their_own():
    first, second = row(0), {name: 100 * image for name, image in row(1).items()}
    figure = before_after([first, second], ["a", "b"])
    highs = [axes.images[0].get_clim()[1] for axes in figure.axes if axes.get_title() == "input"]
    assert highs[1] > 20 * highs[0]


def test_finer_pixels_show_the_same_field(tmp_path):
    finer = np.kron(row()["target"], np.ones((2, 2)))
    seen = panels(before_after([row(**{"network, finer": finer})], ["film"], pixel=(0.5, 0.25), unit="rad"))
    extents = {tuple(axes.images[0].get_extent()) for axes in seen.values()}
    assert extents == {(0, 18 * 0.25, 13 * 0.5, 0)}
    assert [name for name in seen if seen[name].patches] == ["input"]
    plot.save(seen["input"].figure, tmp_path / "film.png", dpi=40)
    assert (tmp_path / "film.png").stat().st_size > 1000


def test_colours_are_clipped_and_have_no_difference():
    given = row(2, (3, 12, 15))
    seen = panels(before_after([given], ["reef"]))
    assert list(seen) == ["input", "network", "target"]
    wanted = np.moveaxis(given["network"], 0, -1).clip(0, 1)
    np.testing.assert_allclose(seen["network"].images[0].get_array(), wanted, rtol=1e-6)


def test_a_column_that_a_row_lacks_stays_empty():
    bare = {"input": np.eye(9)}
    figure = before_after([row(), bare], ["a", "b"])
    assert [axes.get_title() for axes in figure.axes].count("input") == 2
    assert len([axes for axes in figure.axes if axes.get_title()]) == 5


def test_a_row_without_a_target_has_the_scale_of_all_its_images():
    given = {"input": np.zeros((5, 7)), "network": np.full((1, 5, 7), 3.0)}
    seen = panels(before_after([given], ["film"]))
    assert seen["input"].images[0].get_clim() == seen["network"].images[0].get_clim() == (0, 3)


def test_long_names_end_with_what_tells_them_apart():
    figure = before_after([row()], ["/a/long/way/to/some/data/set: film 7"])
    (text,) = (one.get_text() for axes in figure.axes for one in axes.texts if "film" in one.get_text())
    assert text.startswith("…")
    assert text.endswith("film 7")
    assert len(text) <= 24


@pytest.mark.parametrize(
    ("images", "names", "said"),
    [
        ([], [], "as many"),
        ([row()], ["a", "b"], "1 rows, 2 names"),
        ([{}], ["a"], "without any image"),
        ([{"input": np.zeros((2, 5, 6))}], ["a"], "each channel as a row"),
        ([{"input": np.zeros((0, 6))}], ["a"], "neither an image"),
        ([{"input": np.zeros((3, 5, 6)), "target": np.zeros((5, 6))}], ["a"], "row of either"),
    ],
)
def test_what_cannot_be_drawn_is_refused(images, names, said):
    with pytest.raises(BadInput, match=said):
        before_after(images, names)
