"""What a PtyRAD parameter file may hold beside ``init_params``, and the check of a whole file."""
# ruff: noqa: RUF012, RUF041 - pydantic copies mutable defaults; nested literals keep long lists readable

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, create_model, model_validator

from phaseloom.compat.ptyrad.legacy import migrate
from phaseloom.compat.ptyrad.schema_data import InitParams
from phaseloom.compat.ptyrad.settings import (
    Count,
    LooseSettings,
    NotNegative,
    Pair,
    Positive,
    Settings,
    as_tree,
    check,
)
from phaseloom.errors import BadInput, nearest

__all__ = ["SECTIONS", "check_section", "check_tree", "is_ptyrad"]

Tree = dict[str, Any]
Fraction: Any = Annotated[float, Field(ge=0, le=1)]
Percent: Any = Annotated[float, Field(ge=0, le=100)]
Triple = Annotated[list[float], Field(min_length=3, max_length=3)]
ObjectPart = Literal["amplitude", "phase", "both"]


class _OptimizerParams(Settings):
    name: Literal[
        Literal["Adadelta", "Adafactor", "Adagrad", "Adam", "AdamW", "SparseAdam", "Adamax", "ASGD", "LBFGS"],
        Literal["Muon", "Nadam", "RAdam", "RMSprop", "Rprop", "SGD"],
    ] = "Adam"
    configs: dict[str, Any] | None = {}
    load_state: str | None = None


class _SchedulerParams(Settings):
    name: Literal[
        Literal["LambdaLR", "MultiplicativeLR", "StepLR", "MultiStepLR", "ConstantLR", "LinearLR"],
        Literal["ExponentialLR", "PolynomialLR", "CosineAnnealingLR", "ReduceLROnPlateau", "CyclicLR"],
        Literal["OneCycleLR", "CosineAnnealingWarmRestarts"],
    ]
    configs: dict[str, Any] | None = {}
    load_state: str | None = None
    step_unit: Literal["iter", "batch"] = "iter"


class UpdateParams(LooseSettings):
    """How a part is refined; one that is written out loses PtyRAD's defaults: what it leaves out is off."""

    start_iter: Count | None = None
    end_iter: int | None = None
    lr: NotNegative | None = 0.0

    def list_notes(self, place: str, /) -> list[str]:
        """Also that a rate without a start does nothing, which few expect."""
        notes = super().list_notes(place)
        if self.start_iter is None and self.lr:
            fix = "stays fixed, as in PtyRAD, because start_iter is not given: write start_iter: 1"
            notes.insert(0, f"{place} {fix}")
        return notes


class _UpdatedParts(Settings):
    obja: UpdateParams = UpdateParams(start_iter=1, lr=5e-4)
    objp: UpdateParams = UpdateParams(start_iter=1, lr=5e-4)
    obj_tilts: UpdateParams = UpdateParams()
    slice_thickness: UpdateParams = UpdateParams()
    probe: UpdateParams = UpdateParams(start_iter=1, lr=1e-4)
    probe_pos_shifts: UpdateParams = UpdateParams(start_iter=1, lr=5e-4)


class ModelParams(Settings):
    """Model, optimiser, and what is refined."""

    detector_blur_std: NotNegative | None = None
    preload_data: bool | None = True
    optimizer_params: _OptimizerParams = _OptimizerParams()
    scheduler_params: _SchedulerParams | None = None
    update_params: _UpdatedParts = _UpdatedParts()

    @model_validator(mode="after")
    def _check_starts(self) -> Self:
        place = "model_params.update_params"
        starts = []
        for name in type(self.update_params).model_fields:
            part = getattr(self.update_params, name)
            part.lr = part.lr or 0.0
            if part.start_iter is not None:
                starts.append(part.start_iter)
                if part.lr == 0:
                    fix = "must not be zero when start_iter is given: write null there"
                    raise BadInput(f"{place}.{name}.lr", 0, fix)
        if not starts:
            raise BadInput(place, None, "moves nothing: give one part a start_iter of 1")
        if min(starts) > 1:
            raise BadInput(place, None, "moves nothing at first: let one part have start_iter: 1")
        return self


def _group(title: str, /, **settings: Any) -> tuple[Any, Any]:
    """Type and default of a group of settings, each given as type and default."""
    model = create_model(title, __base__=Settings, **settings)
    return model, model()


def _loss(state: bool, weight: float, **settings: Any) -> tuple[Any, Any]:
    return _group("Loss", state=(bool, state), weight=(NotNegative, weight), **settings)


LOSSES = {
    "loss_single": _loss(True, 1.0, dp_pow=(float, 0.5)),
    "loss_poissn": _loss(False, 1.0, dp_pow=(float, 1.0), eps=(Positive, 1e-6)),
    "loss_pacbed": _loss(False, 0.5, dp_pow=(float, 0.2)),
    "loss_sparse": _loss(False, 0.1, ln_order=(Count, 1)),
    "loss_simlar": _loss(
        False,
        0.1,
        obj_type=(ObjectPart, "both"),
        scale_factor=(Triple, [1.0, 1.0, 1.0]),
        blur_std=(NotNegative, 1.0),
    ),
}


class LossParams(_group("Losses", **LOSSES)[0]):
    """What is minimised: the sum of the losses that are on."""

    @model_validator(mode="after")
    def _check_data_term(self) -> Self:
        if not (self.loss_single.state or self.loss_poissn.state or self.loss_pacbed.state):
            fix = "has no term that looks at the data: switch loss_single, loss_poissn or loss_pacbed on"
            raise BadInput("loss_params", None, fix)
        return self


class _Constraint(Settings):
    start_iter: Count | None = None
    step: Count | None = 1
    end_iter: Count | None = None


class _ActiveConstraint(_Constraint):
    start_iter: Count | None = 1


def _constraint(on: bool, **settings: Any) -> tuple[Any, Any]:
    """What is done after each ``step``-th iteration from ``start_iter`` on; without a start it is off."""
    model = create_model("Constraint", __base__=_ActiveConstraint if on else _Constraint, **settings)
    return model, model()


_OBJECT = {"obj_type": (ObjectPart, "both")}
_BLUR = {**_OBJECT, "kernel_size": (Count, 5)}
CONSTRAINTS = {
    "ortho_pmode": _constraint(True),
    "probe_mask_k": _constraint(
        False, radius=(NotNegative, 0.22), width=(NotNegative, 0.05), power_thresh=(Fraction, 0.95)
    ),
    "probe_mask_r": _constraint(
        False,
        radius=(NotNegative, 0.95),
        order=(Annotated[int, Field(ge=0)], 6),
        power_thresh=(Fraction, 0.95),
        z_range=(Pair, [-500.0, 500.0]),
        z_steps=(Count, 101),
    ),
    "fix_probe_int": _constraint(True),
    "obj_rblur": _constraint(True, **_BLUR, std=(NotNegative, 0.4)),
    "obj_zblur": _constraint(True, **_BLUR, std=(NotNegative, 1.0)),
    "kr_filter": _constraint(False, **_OBJECT, radius=(NotNegative, 0.15), width=(NotNegative, 0.05)),
    "kz_filter": _constraint(False, **_OBJECT, beta=(NotNegative, 1.0), alpha=(NotNegative, 1.0)),
    "kr_thresh": _constraint(False, **_OBJECT, thresh=(Annotated[float, Field(gt=0, le=1)], 0.05)),
    "complex_ratio": _constraint(False, **_OBJECT, alpha1=(float, 1.0), alpha2=(float, 0.0)),
    "mirrored_amp": _constraint(
        False, relax=(Fraction, 0.1), scale=(NotNegative, 0.03), power=(NotNegative, 4.0)
    ),
    "obj_z_recenter": _constraint(
        False,
        thresh=(Percent | None, 95.0),
        scale=(Fraction | None, 1.0),
        max_shift=(NotNegative | None, 10.0),
    ),
    "obja_thresh": _constraint(False, relax=(Fraction, 0.0), thresh=(Pair, [0.96, 1.04])),
    "objp_postiv": _constraint(False, relax=(Fraction, 0.0)),
    "pos_recenter": _constraint(True, relax=(Fraction, 0.0)),
    "tilt_smooth": _constraint(False, std=(NotNegative, 2.0)),
}


class _Positions(Settings):
    mode: Literal["full", "sub", "center"] = "full"
    subscan_slow: Count | None = None
    subscan_fast: Count | None = None


class _Batches(Settings):
    size: Count = 32
    grad_accumulation: Count = 1


class _ResultImages(Settings):
    obj_dim: Annotated[list[Annotated[int, Field(ge=2, le=4)]], Field(min_length=1)] = [2, 3, 4]
    FOV: Annotated[list[Literal["full", "crop"]], Field(min_length=1)] = ["crop"]
    bit: Annotated[list[Literal["raw", "32", "16", "8"]], Field(min_length=1)] = ["8"]


class _CompilerConfigs(Settings):
    enable: bool = False
    fullgraph: bool = False
    dynamic: bool | None = None
    backend: Literal["inductor", "cudagraphs", "ipex", "onnxrt"] = "inductor"
    mode: Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"] = "default"
    options: dict[str, str | int | bool] | None = None


class _ConvergenceMonitor(Settings):
    tensors: Annotated[list[Literal["obja", "objp", "probe", "probe_pos_shifts"]], Field(min_length=1)] = [
        "obja",
        "objp",
        "probe",
        "probe_pos_shifts",
    ]
    every_n_iters: Count | None = None
    percentile_range: Pair = [15.0, 85.0]


class ReconParams(Settings):
    """How a run goes, and what it leaves."""

    NITER: Count = 200
    INDICES_MODE: _Positions = _Positions()
    BATCH_SIZE: _Batches = _Batches()
    GROUP_MODE: Literal["random", "sparse", "compact", "hilbert", "fps"] = "random"
    SAVE_ITERS: Count | None = 10
    output_dir: str = "output/"
    recon_dir_affixes: list[
        Literal[
            Literal[
                "minimal", "default", "all", "indices", "meas", "batch", "pmode", "omode", "nlayer", "lr"
            ],
            Literal["optimizer", "scheduler", "start_iter", "model", "constraint", "loss", "conv_angle"],
            Literal["aberrations", "Ls", "z_shift", "dx", "affine", "tilt"],
        ]
    ] = ["default"]
    prefix_time: bool | str | None = "date"
    prefix: str = ""
    postfix: str = ""
    save_result: list[
        Literal["model", "obja", "objp", "probe", "probe_prop", "optim_state", "scheduler_state"]
    ] = ["model", "objp"]
    result_modes: _ResultImages = _ResultImages()
    selected_figs: list[
        Literal[
            Literal[
                "loss", "learning_rates", "forward", "probe_r_amp", "probe_k_amp", "probe_k_phase", "pos"
            ],
            Literal["tilt", "tilt_avg", "slice_thickness", "convergence", "convergence_full"],
            Literal["convergence_dynamic", "all"],
        ]
    ] = ["convergence", "forward", "probe_r_amp", "pos"]
    copy_params: bool = True
    compiler_configs: _CompilerConfigs = _CompilerConfigs()
    convergence_monitor: _ConvergenceMonitor | None = _ConvergenceMonitor()

    @model_validator(mode="after")
    def _check_values(self) -> Self:
        stamp = self.prefix_time
        known = ("date", "time", "datetime")
        if isinstance(stamp, str) and stamp not in known and not stamp.startswith("%"):
            fix = "is not supported: write true, false, date, time, datetime or a format such as %Y%m%d"
            raise BadInput("recon_params.prefix_time", stamp, fix)
        if self.convergence_monitor is not None:
            low, high = self.convergence_monitor.percentile_range
            if not 0 <= low < high <= 100:
                place = "recon_params.convergence_monitor.percentile_range"
                raise BadInput(place, [low, high], "must rise from 0 at least to 100 at most")
        return self


class _SamplerParams(Settings):
    name: Literal[
        Literal[
            "RandomSampler", "TPESampler", "GPSampler", "CmaEsSampler", "NSGAIISampler", "NSGAIIISampler"
        ],
        Literal["GridSampler", "QMCSampler", "BruteForceSampler"],
    ] = "TPESampler"
    configs: dict[str, Any] | None = None


class _PrunerParams(Settings):
    name: Literal[
        Literal["MedianPruner", "PatientPruner", "PercentilePruner", "SuccessiveHalvingPruner"],
        Literal["HyperbandPruner", "ThresholdPruner"],
    ] = "HyperbandPruner"
    configs: dict[str, Any] | None = None


class TunedSetting(Settings):
    """One setting that is searched."""

    state: bool
    suggest: Literal["int", "float", "cat"]
    kwargs: dict[str, Any]


class TunedRange(LooseSettings):
    """Values of a setting that is searched between two ends."""

    model_config = ConfigDict(strict=True)

    low: float
    high: float
    step: float | None = None
    log: bool = False


RENAMED_TUNED_SETTINGS = {"defocus": "C10", "c3": "C30", "c5": "C50"}
TUNED_SETTINGS = (
    *("optimizer", "batch_size", "plr", "oalr", "oplr", "slr", "tlr", "dzlr", "dx", "pmode_max"),
    *("conv_angle", "C10", "C12", "C21", "C23", "C30", "C32", "C34", "C41", "C43", "C45", "C50", "C52"),
    *("C54", "C56", "z_shift", "Nlayer", "dz", "scale", "asymmetry", "rotation", "shear", "tilt_y"),
    *("tilt_x", *RENAMED_TUNED_SETTINGS),
)


class TuneParams(_group("Tuned", **dict.fromkeys(TUNED_SETTINGS, (TunedSetting | None, None)))[0]):
    """What can be searched."""


class HypertuneParams(Settings):
    """A search for settings."""

    if_hypertune: bool = False
    verbosity: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = "WARNING"
    collate_results: bool = True
    append_params: bool = True
    n_trials: Count = 5
    timeout: NotNegative | None = None
    sampler_params: _SamplerParams = _SamplerParams()
    pruner_params: _PrunerParams | None = _PrunerParams()
    storage_path: str = "sqlite:///hypertune.sqlite3"
    study_name: str = "study"
    error_metric: Literal["loss", "contrast"] = "loss"
    tune_params: TuneParams = TuneParams()

    @model_validator(mode="after")
    def _check_ranges(self) -> Self:
        for name in TUNED_SETTINGS:
            if (tuned := getattr(self.tune_params, name)) is not None:
                _check_range(tuned, f"hypertune_params.tune_params.{name}.kwargs")
        return self


def _check_range(tuned: TunedSetting, place: str) -> None:
    for key in ("choices",) if tuned.suggest == "cat" else ("low", "high"):
        if key not in tuned.kwargs:
            raise BadInput(f"{place}.{key}", None, f"is missing: suggest {tuned.suggest} needs it")
    if tuned.suggest == "cat":
        return
    values = check(TunedRange, tuned.kwargs, place)
    steps_with_log = (None, 1) if tuned.suggest == "int" else (None,)
    if values.log and values.step not in steps_with_log:
        raise BadInput(place, tuned.kwargs, "has both step and log: keep one of them")


SECTIONS: Mapping[str, type[Settings]] = {
    "init_params": InitParams,
    "hypertune_params": HypertuneParams,
    "model_params": ModelParams,
    "loss_params": LossParams,
    "constraint_params": _group("ConstraintParams", **CONSTRAINTS)[0],
    "recon_params": ReconParams,
}
"""The six sections of a parameter file."""


def is_ptyrad(tree: Any, /) -> bool:
    """Whether a tree is that of a PtyRAD parameter file.

    Example:
        >>> is_ptyrad({"init_params": {}}), is_ptyrad({"file": "scan.h5"})
        (True, False)
    """
    if not isinstance(tree, Mapping):
        return False
    return "init_params" in tree or len({*SECTIONS, "exp_params", "source_params"} & set(tree)) > 1


def check_tree(tree: Mapping[str, Any], /) -> tuple[Tree, list[str]]:
    """The whole tree with defaults filled in, and notes on how it was understood.

    Raises:
        BadInput: an unknown name, a value of the wrong kind, a required one missing, values that clash.

    Example:
        >>> check_tree({"init_params": {"meas_Npix": 128}})
        Traceback (most recent call last):
        phaseloom.errors.BadInput: init_params.pos_N_scan_slow: is missing: write it
    """
    tree, notes = migrate(tree)
    for name in tree:
        if name not in SECTIONS:
            raise BadInput("PtyRAD parameter file", f"unknown section '{name}';", nearest(name, SECTIONS))
    if not isinstance(tree.get("init_params"), Mapping):
        raise BadInput("init_params", None, "is missing: it holds the data and the experiment")
    full = {name: check_section(name, tree.get(name), notes) for name in SECTIONS}
    _drop_renamed_settings(full["hypertune_params"]["tune_params"], notes)
    return full, notes


def check_section(name: str, given: Any, notes: list[str], /) -> Tree:
    """One section by itself, with its defaults; notes are appended to ``notes``.

    Example:
        >>> check_section("loss_params", {"loss_sparse": {"state": True}}, [])["loss_sparse"]["weight"]
        0.1
    """
    return as_tree(check(SECTIONS[name], given, name), name, notes)


def _drop_renamed_settings(tuned: Tree, notes: list[str]) -> None:
    for old, new in RENAMED_TUNED_SETTINGS.items():
        given = tuned.pop(old)
        if given is not None and given["state"]:
            minus = ", and is minus the defocus: turn low and high round" if old == "defocus" else ""
            fix = f"is called {new} since 0.1.0b13{minus}"
            raise BadInput(f"hypertune_params.tune_params.{old}", None, fix)
        if given is not None:
            notes.append(f"hypertune_params.tune_params.{old} is off and is passed over: it is {new} now")
