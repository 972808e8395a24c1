"""Train networks that recover phases from simulated scans: one stage, or all three one after the other."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn

from phaseloom import plot
from phaseloom.errors import BadInput
from phaseloom.fitting.distributed import team
from phaseloom.fitting.loop import Epoch
from phaseloom.fitting.schedule import Every
from phaseloom.fitting.updates import list_pieces
from phaseloom.learning.evaluation import save_with_card
from phaseloom.learning.figures import plot_losses, plot_predictions
from phaseloom.learning.trainer import NetworkTraining
from phaseloom.learning.weight_files import NETWORK_FILE
from phaseloom.retrieval.evaluate import make_network_card, predict_image
from phaseloom.retrieval.linear_fit import solve_linear
from phaseloom.retrieval.networks.end_to_end import EndToEnd, make_scan_network
from phaseloom.retrieval.networks.linear import NOISELESS_DOSE_NUMBER, LinearRecovery
from phaseloom.retrieval.networks.recovery import PatchRecoveryNet
from phaseloom.retrieval.networks.tiny import TinyRecovery
from phaseloom.retrieval.objectives import (
    EndToEndObjective,
    PatchObjective,
    RetrievalObjective,
    StitchingObjective,
)
from phaseloom.retrieval.recipe import HELD_OUT_SHARE, SampleSimulator, Stage, Train
from phaseloom.retrieval.training_samples import SamplePool, StoredSamples, ViewSelection, draw_views
from phaseloom.runs.folder import save_recipe
from phaseloom.runs.parallel_map import set_up_worker
from phaseloom.spec import Call

__all__ = ["RetrievalTraining", "open_stages", "save_figures", "train_retrieval"]

STAGE_OBJECTIVES: dict[str, type[RetrievalObjective]] = {
    "patches": PatchObjective,
    "stitching": StitchingObjective,
    "end-to-end": EndToEndObjective,
}
STAGE_FOLDERS: dict[Stage, str] = {
    "patches": "1-patches",
    "stitching": "2-stitching",
    "end-to-end": "3-end-to-end",
}
STAGES_FILE = "train.yaml"  # recipe of all three stages, in the folder that holds theirs
CALIBRATION_SCANS = 100  # scans from which a network takes its statistics before it is trained


class RetrievalTraining(NetworkTraining):
    """Training of one stage on simulated scans.

    Attributes:
        recipe: see `phaseloom.retrieval.recipe.Train`.
        directory: folder of the run, or ``None``.
        pool: simulated scans.
        objective: the objective.
        progress: of the fit.
    """

    kind = Train
    recipe: Train
    objective: RetrievalObjective

    def __init__(self, recipe: Train, directory: Path | None):
        super().__init__(recipe, directory)
        self.pool = _make_pool(recipe)
        losses = _select_losses(recipe.losses, 1)
        make_objective = STAGE_OBJECTIVES[recipe.stage]
        self.objective = make_objective(self.net, self.pool, losses, precision=recipe.precision)

    def network(self) -> nn.Module:
        """The network of the stage, if it has parameters and the recipe has a loss."""
        recipe = self.recipe
        net = recipe.network()
        if isinstance(net, LinearRecovery):
            raise BadInput("train: model", "linear", "is solved, not trained: use phaseloom train linear")
        if not any(True for _ in net.parameters()):
            fix = "has no parameters to train: choose another network"
            raise BadInput(f"train: {recipe.stage}", type(net).__name__, fix)
        if not recipe.losses or recipe.losses[0].when:
            raise BadInput("losses", None, "must begin with one that is there in every epoch: it judges")
        return net

    @classmethod
    def resume(
        cls, directory: Path | str, /, *, changes: Mapping[str, Any] | None = None, stage: Stage | None = None
    ) -> Self:
        """Continue from the last snapshot of a folder, bit by bit as without the interruption.

        Args:
            directory: of the run.
            changes: see `NetworkTraining.resume`.
            stage: that it must be of.

        Raises:
            BadInput: not a training, one of another stage, or one without its snapshot.
        """
        training = super().resume(directory, changes=changes)
        own = training.recipe.stage
        if stage not in (None, own):
            fix = f"continues with: phaseloom train {own} --resume"
            raise BadInput(str(directory), f"a training of {own}", fix)
        return training

    def close(self) -> None:
        """Shut the simulating processes down."""
        self.pool.close()

    def list_scan_numbers(self, epoch: int, /) -> range:
        """Numbers of the samples that an epoch is trained on."""
        first = int((epoch - 1) * self.recipe.fresh * self.recipe.scans)
        return range(first, first + self.recipe.scans)

    def batches(self, epoch: int, /) -> Sequence[Any]:
        """The views of an epoch, in batches, whose scans are simulated as they are needed."""
        parts = self._parts(epoch)
        self.pool.hold([*self.list_scan_numbers(epoch), *self.recipe.list_holdout_numbers()])
        self.pool.expect([*_list_scans(parts), *self.recipe.list_holdout_numbers()])
        if epoch < self.recipe.epochs:
            self.pool.expect(_list_scans(self._parts(epoch + 1)))
        self.objective.losses = _select_losses(self.recipe.losses, epoch)
        return parts

    def _parts(self, epoch: int) -> list[Any]:
        """The views of an epoch in batches; those that are computed in pieces are tuples."""
        recipe = self.recipe
        parts = self._draw(recipe.views, self.list_scan_numbers(epoch), epoch).split(recipe.batch)
        return [part.split(recipe.pieces) if recipe.pieces else part for part in parts]

    def list_holdout_batches(self) -> list[ViewSelection]:
        """Hold-out views, the same after every epoch."""
        recipe = self.recipe
        views = self._draw(4 * recipe.unseen, recipe.list_holdout_numbers(), 0)
        return [*views.split(recipe.pieces or recipe.batch)]

    def _draw(self, count: int, numbers: Sequence[int], epoch: int) -> ViewSelection:
        """Views of some samples, drawn for an epoch."""
        shape = self.pool[-1].experiment.scan
        choice = self.recipe.make_view_distribution(self.net, shape)
        return draw_views(count, numbers, shape, choice, seed=(self.recipe.seed, epoch))

    def initialise_network(self) -> None:
        """Let the network take its statistics from typical patterns, unless it has been trained."""
        if team().is_main:
            _prepare_network(self)
        team().broadcast_parameters(self.net)

    def finish(self) -> tuple[Path | None, dict[str, Any]]:
        """Evaluate the network and write it with its card; the file, and the card."""
        unseen = [self.pool[number] for number in self.recipe.list_holdout_numbers()]
        trained = [self.pool[number] for number in self.list_scan_numbers(1)[:CALIBRATION_SCANS]]
        card = make_network_card(self.recipe, self.net, unseen, trained, epochs=self.progress.epoch)
        return save_with_card(self.net, card, self.directory), card


def train_retrieval(
    recipe: Train | None, directory: Path | str, /
) -> Iterator[tuple[RetrievalTraining, Epoch]]:
    """Train all three stages, patches, stitching and end-to-end, each from the networks of those before.

    Stages have the folders ``1-patches``, ``2-stitching`` and ``3-end-to-end``; each ends with its network,
    card and figures. Stopped at any time, it continues where it was when it is called without a recipe.

    Args:
        recipe: of all stages; its ``joint`` holds what differs in the third. ``None``: resume the folder.
        directory: of the stages.

    Yields:
        The training of a stage and its epoch.

    Raises:
        BadInput: a folder that holds a run already, or none to resume; a network that needs no stitching;
            joint settings that must be the same in all stages.
    """
    for training in open_stages(recipe, directory):
        for epoch in training:
            yield training, epoch
        if team().is_main:
            training.finish()
            save_figures(training)
        team().barrier()


def open_stages(recipe: Train | None, directory: Path | str, /) -> Iterator[RetrievalTraining]:
    """Open the trainings of the three stages that are not done, one after the other.

    Each must be run to its end and finished before the next one is opened. Arguments and errors as of
    `train_retrieval`; settings that the third stage would refuse are refused before the first begins.
    """
    folder = Path(directory)
    if recipe is None:
        if not (folder / STAGES_FILE).is_file():
            raise BadInput(str(folder), None, f"holds no {STAGES_FILE}: name the folder of train retrieval")
    else:
        _require_joint(recipe)
        if (folder / STAGES_FILE).exists() and team().is_main:
            fix = "exists already: name a new folder, or use --resume to go on with it"
            raise BadInput("--out", str(folder), fix)
        if team().is_main:
            save_recipe(recipe, folder, name=STAGES_FILE)
        team().barrier()
    return _open_remaining(folder)


def _open_remaining(folder: Path) -> Iterator[RetrievalTraining]:
    for stage, name in STAGE_FOLDERS.items():
        own = folder / name
        if (own / NETWORK_FILE).exists():
            continue
        if (own / "run.yaml").exists():
            yield RetrievalTraining.resume(own, stage=stage)
            continue
        changes: dict[str, Any] = {"stage": stage}
        if stage == "end-to-end":
            changes |= Train.from_path(folder / STAGES_FILE).joint
            changes["patches"] = str(folder / STAGE_FOLDERS["patches"] / NETWORK_FILE)
            changes["stitched"] = str(folder / STAGE_FOLDERS["stitching"] / NETWORK_FILE)
        yield RetrievalTraining.begin(Train.from_path(folder / STAGES_FILE, changes), own)


def _require_joint(recipe: Train) -> None:
    """Refuse what the third stage cannot use."""
    if recipe.model.name in ("tiny", "linear"):
        fix = "reads whole scans and needs no stitching: choose small, base or seed, or train patches"
        raise BadInput("train retrieval: model", recipe.model.name, fix)
    for name in recipe.joint:
        if name.partition(".")[0] in ("stage", "model", "stitching", "patches", "stitched", "joint"):
            raise BadInput("joint", name, "is the same in all steps: remove it")
    recipe.with_settings(recipe.joint)


def save_figures(training: RetrievalTraining, /, *, most: int = 3) -> list[Path]:
    """Write figures into the folder of a training: its losses, and predictions of some held-out scans."""
    if training.directory is None:
        return []
    paths = [training.directory / "curves.png"]
    plot.save(plot_losses(training.progress.history), paths[0])
    if training.recipe.stage != "stitching":
        net = make_scan_network(training.net)
        scans = [training.pool[number] for number in training.recipe.list_holdout_numbers()[:most]]
        images = [predict_image(net, scan) for scan in scans]
        phases = [scan.phase.numpy() for scan in scans]
        names = [scan.group for scan in scans]
        paths.append(training.directory / "unseen.png")
        plot.save(plot_predictions(images, phases, names, pixel=scans[0].experiment.spacing), paths[1])
    return paths


def _prepare_network(training: RetrievalTraining) -> None:
    recipe = training.recipe
    net = training.net
    if recipe.weights or recipe.patches or recipe.stage == "stitching":
        return
    scans = [training.pool[number] for number in training.list_scan_numbers(1)[:CALIBRATION_SCANS]]
    if isinstance(net, TinyRecovery):
        first = LinearRecovery(net.patterns, len(net.components.basis), [NOISELESS_DOSE_NUMBER])
        solve_linear(first, scans)
        net.begin(first)
        return
    recovery = net.recovery if isinstance(net, EndToEnd) else net
    assert isinstance(recovery, PatchRecoveryNet)
    few = [scan.roots[::3, ::3].float().square().flatten(0, 1) for scan in scans]
    recovery.calibrate(torch.cat(few))


def _list_scans(batches: Sequence[Any]) -> list[int]:
    """Numbers of the scans that this process reads for some batches."""
    pieces = [piece for batch in batches for piece in list_pieces(batch)]
    return sorted({int(number) for piece in pieces for number in team().share(piece)[0].scenes})


def _select_losses(losses: Sequence[Call], epoch: int) -> dict[str, Any]:
    """The losses of an epoch by name."""
    return {one.name: one.partial() for one in losses if Every(lambda: None, **dict(one.when)).is_due(epoch)}


def _make_pool(recipe: Train) -> SamplePool | StoredSamples:
    """The source of scans: files, or simulation here and in other processes."""
    if recipe.stored is not None:
        given = recipe.to_full_tree()
        usual = Train.of({}).to_full_tree()
        for name in ("specimen", "microscope", "fresh", "workers"):
            if given[name] != usual[name]:
                fix = "is that of the stored set: leave it out, or leave stored out"
                raise BadInput(f"train: {name}", None, fix)
        return StoredSamples(recipe.stored, HELD_OUT_SHARE, recipe.geometry)
    processes = None
    if recipe.workers:
        spawn = get_context("spawn")
        processes = ProcessPoolExecutor(recipe.workers, mp_context=spawn, initializer=set_up_worker)
    return SamplePool(SampleSimulator(recipe.specimen, recipe.microscope, recipe.seed), processes)
