"""Every run ends with a sentence on how far it may be trusted, and halves of the counts give a resolution."""

import sys
from dataclasses import replace
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import torch
import yaml

from benchmarks.start_search import draw_scan
from phaseloom import cli
from phaseloom.calibration.one_material import RatioEvidence, SlowDetails
from phaseloom.data import prepare
from phaseloom.data.formats import native
from phaseloom.errors import BadInput
from phaseloom.fitting.verdict import Doubt, Judgement
from phaseloom.metrics.resolution import RingCorrelation
from phaseloom.plot.report import report, trust_facts
from phaseloom.reconstruction import result_builder as outcome
from phaseloom.reconstruction.half_data_frc import halves
from phaseloom.reconstruction.protocol import Job
from phaseloom.reconstruction.recipe import Reconstruct
from phaseloom.result import Result
from phaseloom.simulation import simulate
from phaseloom.trust import Verdict, describe_trust

PIXEL, WINDOW = 0.2, 64


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """A scan of 100 patterns that hold a defocus of 100 A well."""
    margin = (WINDOW // 2 + 4) * PIXEL
    positions = simulate.raster((10, 10), 0.6, jitter=0.05, seed=1)
    positions += margin - positions.min(0)
    rows, columns = np.ceil((positions.max(0) + margin) / PIXEL).astype(int)
    truth = simulate.atoms((int(rows), int(columns)), PIXEL, peak=0.5, seed=2)
    scan, _ = simulate.electron_scan(
        truth, PIXEL, positions, energy=80e3, semiangle=0.025, defocus=100.0, window=WINDOW, dose=1e6
    )
    path = tmp_path_factory.mktemp("wide") / "scan.h5"
    native.write(scan, path)
    return path


def ended(path, *, off=0.0, **settings):
    """The default run of a scan whose defocus is stated wrong by so many angstrom."""
    optics = {"semiangle": "25 mrad", "defocus": f"{100 + off} A", "modes": 1}
    tree = {"file": str(path), "probe": {"focused": optics}, "start": "none"} | settings
    job = Job.begin(Reconstruct.of(tree))
    for _ in job:
        pass
    return job


def told(monkeypatch, capsys, *words):
    """What the command line says, and its exit code."""
    monkeypatch.setattr(sys, "argv", ["phaseloom", *map(str, words)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return capsys.readouterr().out.splitlines(), stop.value.code


class TestAVerdict:
    @pytest.mark.medium
    def test_the_default_run_of_a_good_scan_has_converged(self, wide):
        assert ended(wide).result().verdict.startswith("converged: what is left is ")

    @pytest.mark.medium
    def test_so_has_one_that_began_on_a_coarser_grid(self, wide):
        job = ended(wide, epochs=16, prepare=[{"pad": {"to": [128, 128]}}])
        assert job.progress.coarse_epochs == 10
        assert outcome.judge_run(job).startswith("converged")

    def test_few_epochs_still_fall(self, wide):
        said = ended(wide, epochs=4).result().verdict
        assert said.startswith("still falling")
        assert "(8 instead of 4)" in said

    def test_a_defocus_150_angstrom_off_is_a_wrong_start(self, wide):
        assert outcome.judge_run(ended(wide, off=150)).startswith("wrong start")

    @pytest.mark.medium
    def test_adam_is_judged_alike(self, wide):
        assert outcome.judge_run(ended(wide, optimizer="adam", epochs=30)).startswith("converged")
        assert outcome.judge_run(ended(wide, optimizer="adam", epochs=4)).startswith("still falling")
        wrong = ended(wide, optimizer="adam", epochs=30, off=150)
        assert outcome.judge_run(wrong).startswith("wrong start")

    def test_a_run_that_has_not_begun_has_learned_nothing(self, tree):
        assert outcome.judge_run(Job.begin(Reconstruct.of(tree))).startswith("nothing was learned")


class TestAFile:
    def test_keeps_verdict_and_halves(self, finished, tmp_path):
        result = finished.result()
        frequency = np.linspace(0, 2, 9)
        curve = RingCorrelation(frequency, 1 - frequency / 2, *(np.full(9, v) for v in (0.3, 1 / 7, 8.0)))
        replace(result, halves=curve).save(tmp_path / "a.h5")
        again = Result.load(tmp_path / "a.h5")
        assert again.verdict == result.verdict != ""
        assert again.halves.resolution() == curve.resolution()
        assert dict(trust_facts(again))["resolution"].startswith("71.4 pm")

    def test_of_an_earlier_version_loads_and_says_so(self, finished, tmp_path):
        finished.result().save(tmp_path / "a.h5")
        with h5py.File(tmp_path / "a.h5", "r+") as file:
            del file.attrs["verdict"]
        old = Result.load(tmp_path / "a.h5")
        assert old.verdict == ""
        assert old.halves is None
        assert outcome.summary_lines(old)[0] == "verdict: none: the result is of an earlier version"


class TestHalves:
    @pytest.mark.medium
    def test_repeat_what_the_dose_allows(self, wide):
        job = ended(wide, epochs=8)
        found = halves(job)
        first, second = found.results
        assert np.abs(first.object - second.object).max() > 1e-3
        rings = found.correlation
        assert rings.value[:4].min() > 0.95
        assert rings.value[-1] < 0.6
        assert 0.4 < rings.resolution() < 0.6
        power = [float((np.abs(r.probe) ** 2).sum()) for r in (*found.results, job.result())]
        np.testing.assert_allclose(power[:2], power[2] / 2, rtol=0.1)

    @pytest.mark.medium
    def test_a_half_is_repeated_by_its_recipe(self, wide):
        found = halves(ended(wide, epochs=2)).results[1]
        assert "thin" in found.recipe
        job = Job.begin(Reconstruct.of(yaml.safe_load(found.recipe)))
        for _ in job:
            pass
        np.testing.assert_array_equal(job.result().object, found.object)

    def test_are_refused_where_counts_are_no_numbers(self, tree):
        recipe = Reconstruct.of(tree | {"prepare": [{"normalise": {"by": "divide", "value": 3.0}}]})
        with pytest.raises(BadInput, match="is not a whole number of counts"):
            halves(recipe)

    def test_the_refused_value_is_shown_as_it_is(self, tree):
        recipe = Reconstruct.of(tree | {"prepare": [{"normalise": {"by": "divide", "value": 1 + 1e-7}}]})
        with pytest.raises(BadInput, match=r": \d+\.9+\d* is not a whole number of counts"):
            halves(recipe)

    def test_end_with_an_interruption(self, tree):
        job = Job.begin(Reconstruct.of(tree))

        def stopped(half):
            half.progress.stopped = "interrupted in epoch 1; nothing was learned"

        with pytest.raises(KeyboardInterrupt):
            halves(job, drive=stopped)


class TestThin:
    def test_halves_add_up_and_have_the_noise_of_poisson(self, files):
        scan = files.scan
        first, second = (prepare.thin(scan, which=which, seed=3).counts for which in (0, 1))
        np.testing.assert_array_equal(first.astype(int) + second, scan.counts)
        assert first.dtype == scan.counts.dtype
        bright = scan.counts > 20
        spread = (2.0 * first - scan.counts)[bright] / np.sqrt(scan.counts[bright])
        assert spread.mean() == pytest.approx(0, abs=0.1)
        assert spread.std() == pytest.approx(1, abs=0.05)

    def test_the_order_of_reading_does_not_matter(self, files):
        scan = files.scan
        whole = prepare.thin(scan, which=1).counts
        lazy = prepare.thin(native.read(files.native), which=1).counts
        np.testing.assert_array_equal(lazy[np.array([7, 2])], whole[[7, 2]])

    def test_untrusted_pixels_are_zero(self, files):
        mask = np.ones(files.scan.mask.shape, bool)
        mask[3] = False
        counts = np.where(mask, files.scan.counts, -1.0)
        thinned = prepare.thin(replace(files.scan, counts=counts, mask=mask), which=0)
        assert not thinned.counts[:, 3].any()

    def test_there_are_two_halves(self, files):
        with pytest.raises(BadInput, match="choose 0 or 1"):
            prepare.thin(files.scan, which=2)


class TestTheCommandLine:
    @pytest.mark.medium
    def test_a_run_ends_with_its_verdict_before_all_numbers(self, wide, tmp_path, monkeypatch, capsys):
        settings = ["probe.focused.semiangle='25 mrad'", "probe.focused.defocus='100 A'", "start=none"]
        sets = [word for setting in (*settings, "epochs=3") for word in ("--set", setting)]
        words = ("reconstruct", wide, *sets, "--halves", "--quiet", "--out", tmp_path / "run")
        lines, code = told(monkeypatch, capsys, *words)
        assert code == 0
        at = next(n for n, line in enumerate(lines) if line.startswith("verdict: still falling"))
        assert lines[at - 1].startswith("halves: two more runs")
        assert lines[at + 1].startswith("in plain words:")
        assert lines[at + 2].split()[0] == "chi^2"
        assert any(line.split()[:1] == ["resolution"] for line in lines[at:])
        lines, code = told(
            monkeypatch, capsys, "look", tmp_path / "run" / "result.h5", "--picture", tmp_path / "a.png"
        )
        assert code == 0
        assert lines[0].startswith("verdict: still falling")
        assert (tmp_path / "a.png").stat().st_size > 10_000

    def test_counts_that_cannot_be_split_are_refused_before_the_run(
        self, files, tmp_path, monkeypatch, capsys
    ):
        words = ("reconstruct", files.native, "--set", "prepare=[{normalise: {by: divide, value: 3.0}}]")
        more = ("--set", "start=none", "--halves", "--quiet", "--out", tmp_path / "run")
        lines, code = told(monkeypatch, capsys, *words, *more)
        assert code == 2
        assert not (tmp_path / "run" / "events.jsonl").exists()
        assert not any("verdict" in line for line in lines)


@pytest.mark.parametrize(
    ("mean", "image", "is_said"),
    [(7.5, "image", True), (16.0, "image", True), (4.0, "image", False), (16.0, None, False)],
)
def test_a_near_field_that_explains_nearly_all_is_no_wrong_start(mean, image, is_said):
    """It begins near its end, so that its loss can hardly fall: two right images were called wrong starts."""
    history = [{"number": 1, "loss": 2.6, "holdout": 2.9}, {"number": 2, "loss": 1.85, "holdout": None}]
    likelihood = SimpleNamespace(mean_pattern_loss=mean)
    job = SimpleNamespace(
        level=SimpleNamespace(likelihood=likelihood),
        progress=SimpleNamespace(history=history),
        hologram_images=(image,) if image else (),
    )
    doubts = outcome._doubt_model_of_holograms(job)
    assert bool(doubts) == is_said
    assert all(one.verdict is Verdict.DOUBTFUL for one in doubts)
    assert all("the model lacks something" in one.sentence for one in doubts)


@pytest.mark.parametrize(
    ("code", "mean", "wanted"),
    [
        (Verdict.WRONG_START, 3.3, Verdict.WRONG_START),
        (Verdict.WRONG_START, 9.0, Verdict.DOUBTFUL),
        (Verdict.CONVERGED, 3.3, Verdict.DOUBTFUL),
    ],
)
def test_a_near_field_that_explains_little_is_a_wrong_start_whatever_is_doubted(code, mean, wanted):
    """Exchanged positions were *doubtful*, for a distance that is not shown."""
    job = SimpleNamespace(
        level=SimpleNamespace(likelihood=SimpleNamespace(mean_pattern_loss=mean)),
        progress=SimpleNamespace(history=[{"number": 1, "loss": 3.2, "holdout": None}]),
        hologram_images=("image",),
    )
    doubt = Doubt(Verdict.DOUBTFUL, "the holograms do not show their distance")
    (found,) = outcome._keep_wrong_start(job, Judgement(code, "by losses"), [doubt])
    assert found.verdict is wanted
    assert found.sentence == doubt.sentence


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (SlowDetails(0.78, 1.2e5), "details wider than 12 µm are hardly"),
        (SlowDetails(0.6, None), "slow details are hardly"),
        (SlowDetails(0.97, 4e5), ""),
    ],
)
def test_slow_details_that_holograms_do_not_show_are_doubted(found, said):
    """Two phase objects with wrong images were *converged*."""
    doubts = outcome._doubt_slow_details(found)
    assert bool(doubts) == bool(said)
    assert all(said in one.sentence for one in doubts)


@pytest.mark.parametrize(
    ("said", "is_said"),
    [
        ({"is_distance_fitted": True, "distance_change": -0.51}, True),
        ({"is_distance_fitted": True, "distance_change": -0.3}, False),
        ({"is_distance_fitted": False, "distance_change": -0.3}, True),
        ({"is_distance_fitted": False, "distance_change": 0.1}, False),
    ],
)
def test_a_distance_far_from_that_stated_is_doubted(monkeypatch, said, is_said):
    monkeypatch.setattr(outcome, "measure_agreement", lambda *_: 0.99)
    found = {"holograms": {"is_shown": True, **said}}
    job = SimpleNamespace(
        recipe=SimpleNamespace(found=found), wants_evidence=True, model=None, hologram_images=("image",)
    )
    doubts = outcome._doubt_holograms(job)
    assert bool(doubts) == is_said
    assert all("off that stated" in one.sentence for one in doubts)


@pytest.mark.parametrize(
    ("share", "loss", "epochs", "is_said"),
    [
        (-0.1, 3.0, 20, True),
        (0.1, 2.4, 20, True),
        (0.4, 3.0, 20, False),
        (0.1, 1.5, 20, False),
        (0.0, 3.0, 9, False),
    ],
)
def test_a_falling_loss_that_explains_nothing_is_a_wrong_start(share, loss, epochs, is_said):
    """Patterns at exchanged positions: the loss fell at 3 times shot noise, and more epochs were advised."""
    history = [{"loss": loss, "explained": (share, 0.02)} for _ in range(epochs)]
    job = SimpleNamespace(progress=SimpleNamespace(history=history))
    doubts = outcome._doubt_unexplained(job, Judgement(Verdict.STILL_FALLING, "still falling"))
    assert [one.verdict for one in doubts] == [Verdict.WRONG_START] * is_said
    assert not outcome._doubt_unexplained(job, Judgement(Verdict.CONVERGED, "converged"))


def list_titles(result):
    """Titles of the panels of a report."""
    return " ".join(axes.get_title() for axes in report(result).axes)


def test_a_scan_that_was_moved_as_a_whole_is_named_and_not_a_drift(finished):
    """A forgotten offset of 200 nm was called drift, or a wrong step or defocus."""
    result = finished.result()
    moved = np.array(result.positions_start)
    half = len(moved) // 2
    moved[half:] += [50.0, -20.0]
    numbers = (np.arange(len(moved)) >= half).astype(int)
    both = replace(result, positions=moved, scan_numbers=numbers)
    facts = dict(trust_facts(both))
    assert facts["move of scan 1"].startswith("y +50")
    assert "trend of moves" not in facts
    assert "in the order of the scan" not in list_titles(both)
    assert "in the order of the scan" in list_titles(replace(both, scan_numbers=None))
    assert "From the first to the last" not in describe_trust(both)
    assert "trend of moves" in dict(trust_facts(replace(both, scan_numbers=None)))
    assert "move of scan 1" not in dict(trust_facts(replace(both, positions=both.positions_start)))


def test_a_result_keeps_which_pixels_of_its_patterns_count(files, tree, tmp_path):
    mask = np.ones(files.scan.geometry.shape, bool)
    mask[5:7, 3:] = False
    job = Job.begin(Reconstruct.of({**tree, "epochs": 1}), scan=replace(files.scan, mask=mask))
    for _ in job:
        pass
    job.result().save(tmp_path / "r.h5")
    kept = Result.load(tmp_path / "r.h5").examples
    np.testing.assert_array_equal(kept["good"], mask)
    assert kept["good"].shape == kept["measured"].shape[1:]


def test_positions_that_span_less_than_a_pixel_have_a_wrong_unit_before_all_else(files, tree, finished):
    """A thousandth of the right positions: more epochs were advised, and a stretch by 324 % was told."""
    scan = replace(files.scan, positions=1e-3 * files.scan.positions, grid=None)
    job = Job.begin(Reconstruct.of({**tree, "epochs": 16}), scan=scan)
    for _ in job:
        pass
    said = outcome.judge_run(job)
    assert said.verdict is Verdict.WRONG_START
    assert str(said).startswith("wrong start: all positions lie within")
    assert "check the units" in str(said)
    result = replace(finished.result(), verdict_code="still_falling")
    start = 1e-3 * result.positions_start
    words = describe_trust(replace(result, positions_start=start))
    assert words.startswith("All stated positions lie within")
    assert "stretched" not in words
    right = describe_trust(result)
    assert "lie within" not in right
    still = replace(result, positions_start=0 * start, positions=0 * start, heights=np.arange(25.0))
    assert "lie within" not in describe_trust(still)


@pytest.mark.parametrize(
    ("losses", "share", "held", "expected"),
    [
        ("doubtful", (0.97, 0.002), 1.14, "converged"),
        ("doubtful", (0.954, 0.002), 1.49, "doubtful"),  # steps that are a quarter too long
        ("doubtful", (0.914, 0.002), 1.29, "doubtful"),
        ("doubtful", (0.98, 0.001), 3.1, "doubtful"),  # a false minimum
        ("doubtful", (0.71, 0.001), 2.0, "doubtful"),
        ("converged", (0.10, 0.125), 1.13, "doubtful"),
        ("converged", (0.75, 0.12), 0.8, "converged"),
        ("levelled", (0.22, 0.02), 1.3, "doubtful"),
        ("wrong start", (0.99, 0.001), 1.2, "wrong_start"),
        ("converged", (0.3, 0.16), 0.95, "doubtful"),  # nothing for sure
        ("converged", (0.35, 0.116), 1.01, "converged"),  # 3000 photons, 0.79 with the truth
        ("overfitting", (0.98, 0.01), 1.1, "overfitting"),
    ],
)
def test_of_photons_the_share_explained_outweighs_the_gap_between_losses(losses, share, held, expected):
    """11 of 24 right runs were doubtful, and two with the detector turned over converged."""
    said = Judgement(Verdict(losses.replace(" ", "_")), f"{losses}: by losses")
    geometry = SimpleNamespace(beam="photon", near=False)
    progress = SimpleNamespace(history=[{"explained": share}] * 8, holdout_loss=held)
    level = SimpleNamespace(likelihood=SimpleNamespace(mean_pattern_loss=5.0))
    scan = SimpleNamespace(geometry=geometry, scan_numbers=None)
    recipe = SimpleNamespace(found={})
    job = SimpleNamespace(scan=scan, progress=progress, level=level, recipe=recipe)
    judgement = outcome._judge_by_explained_share(job, said)
    assert judgement.verdict.value == expected
    assert str(judgement).startswith(expected.replace("_", " "))
    geometry.beam = "electron"
    assert outcome._judge_by_explained_share(job, said) is said


@pytest.mark.parametrize(
    ("losses", "event", "mean", "expected"),
    [
        ("converged", {"explained": None}, 1.03, "doubtful"),  # 500 photons: 0.44 with the truth
        ("levelled", {"explained": None}, 1.03, "doubtful"),
        ("overfitting", {"explained": None}, 1.01, "doubtful"),  # fewer epochs would not help
        ("still_falling", {"explained": None}, 1.01, "doubtful"),
        ("wrong_start", {"explained": None}, 1.03, "wrong_start"),
        ("converged", {"explained": None}, 8.0, "converged"),  # one pattern was held out
        ("converged", {}, 1.03, "converged"),  # none was held out
    ],
)
def test_photons_that_show_nothing_of_the_object_are_doubted_with_their_cause(losses, event, mean, expected):
    """Images of 300 to 500 photons a pattern were mostly noise, and could be used."""
    said = Judgement(Verdict(losses), f"{losses}: by losses")
    geometry = SimpleNamespace(beam="photon", near=False)
    scan = SimpleNamespace(geometry=geometry, scan_numbers=None)
    progress = SimpleNamespace(history=[event] * 8, holdout_loss=0.95)
    level = SimpleNamespace(likelihood=SimpleNamespace(mean_pattern_loss=mean))
    recipe = SimpleNamespace(found={})
    job = SimpleNamespace(scan=scan, progress=progress, level=level, recipe=recipe)
    judgement = outcome._judge_by_explained_share(job, said)
    assert judgement.verdict.value == expected
    if judgement is said:
        return
    for words in ("counting noise", "show nothing of the object", "too few photons", "take more counts"):
        assert words in str(judgement)


@pytest.mark.medium
def test_a_scan_of_few_photons_is_not_called_right():
    torch.set_num_threads(1)
    scan = draw_scan(802)[0]
    rng = np.random.default_rng(1)
    share = 300 / float(np.asarray(scan.counts).sum((1, 2)).mean())
    few = rng.binomial(np.asarray(scan.counts).astype(int), share).astype(np.float32)
    verdicts = {}
    for name, counts in {"few": few, "many": scan.counts}.items():
        job = Job.begin(Reconstruct.of({"device": "cpu"}), scan=replace(scan, counts=counts))
        for _ in job:
            pass
        verdicts[name] = job.result()
    assert verdicts["few"].verdict_code == "doubtful"
    assert "too few photons" in verdicts["few"].verdict
    assert verdicts["many"].verdict_code == "converged"


@pytest.mark.parametrize(
    ("gain", "agreement", "margin", "is_doubted"),
    [
        (0.01, 0.9, 0.01, False),
        (0.01, 0.9, 0.00003, True),  # an image of 0.88 that was converged
        (0.01, 0.995, 0.00003, False),  # it does not matter
        (0.001, 0.9, 0.01, True),
        (0.01, 0.9, None, False),  # the ratio was fitted
    ],
)
def test_absorption_that_starts_do_not_tell_is_doubted(gain, agreement, margin, is_doubted):
    doubts = outcome._doubt_ratio(RatioEvidence(gain, agreement), margin)
    assert [one.verdict for one in doubts] == [Verdict.DOUBTFUL] * is_doubted
