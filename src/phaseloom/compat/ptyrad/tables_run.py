"""How PtyRAD 1.0 runs: tables of its sections on model, losses, constraints, running and tuning."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from phaseloom.compat.ptyrad.tables import (
    INIT,
    REQUIRED,
    Count,
    Group,
    Knob,
    Least,
    Of,
    Positive,
    Share,
    Two,
    choice,
)

__all__ = ["SECTIONS"]

Percent = Annotated[float, Field(ge=0, le=100)]


def _moved(start: int | None, rate: float) -> Group:
    """How a part moves."""
    knobs = {
        "start_iter": Knob(Count | None, start),
        "end_iter": Knob(int | None),
        "lr": Knob(Least | None, rate),
    }
    return Group(knobs, loose=True, whole=True)


_OPTIMIZERS = choice(
    "Adadelta Adafactor Adagrad Adam AdamW SparseAdam Adamax ASGD LBFGS Muon Nadam RAdam RMSprop Rprop SGD"
)
_SCHEDULERS = choice(
    "LambdaLR MultiplicativeLR StepLR MultiStepLR ConstantLR LinearLR ExponentialLR PolynomialLR "
    "CosineAnnealingLR ReduceLROnPlateau CyclicLR OneCycleLR CosineAnnealingWarmRestarts"
)
MODEL = {
    "detector_blur_std": Knob(Least | None),
    "preload_data": Knob(bool | None, True),
    "optimizer_params": Group(
        {
            "name": Knob(_OPTIMIZERS, "Adam"),
            "configs": Knob(dict[str, Any] | None, {}),
            "load_state": Knob(str | None),
        }
    ),
    "scheduler_params": Group(
        {
            "name": Knob(_SCHEDULERS, REQUIRED),
            "configs": Knob(dict[str, Any] | None, {}),
            "load_state": Knob(str | None),
            "step_unit": Knob(choice("iter batch"), "iter"),
        },
        filled=False,
    ),
    "update_params": Group(
        {
            "obja": _moved(1, 5e-4),
            "objp": _moved(1, 5e-4),
            "obj_tilts": _moved(None, 0.0),
            "slice_thickness": _moved(None, 0.0),
            "probe": _moved(1, 1e-4),
            "probe_pos_shifts": _moved(1, 5e-4),
        }
    ),
}


def _loss(state: bool, weight: float, **knobs: Knob) -> Group:
    return Group({"state": Knob(bool, state), "weight": Knob(Least, weight), **knobs})


LOSS = {
    "loss_single": _loss(True, 1.0, dp_pow=Knob(float, 0.5)),
    "loss_poissn": _loss(False, 1.0, dp_pow=Knob(float, 1.0), eps=Knob(Positive, 1e-6)),
    "loss_pacbed": _loss(False, 0.5, dp_pow=Knob(float, 0.2)),
    "loss_sparse": _loss(False, 0.1, ln_order=Knob(Count, 1)),
    "loss_simlar": _loss(
        False,
        0.1,
        obj_type=Knob(Of, "both"),
        scale_factor=Knob(Annotated[list[float], Field(min_length=3, max_length=3)], [1.0, 1.0, 1.0]),
        blur_std=Knob(Least, 1.0),
    ),
}


def _constraint(on: bool, **knobs: Knob) -> Group:
    """What happens after an iteration: from ``start_iter`` (none: never), each ``step``-th."""
    times = {"start_iter": 1 if on else None, "step": 1, "end_iter": None}
    return Group({**{key: Knob(Count | None, value) for key, value in times.items()}, **knobs})


_BLURRED = {"obj_type": Knob(Of, "both"), "kernel_size": Knob(Count, 5)}
_OF = {"obj_type": Knob(Of, "both")}
CONSTRAINT = {
    "ortho_pmode": _constraint(True),
    "probe_mask_k": _constraint(
        False, radius=Knob(Least, 0.22), width=Knob(Least, 0.05), power_thresh=Knob(Share, 0.95)
    ),
    "probe_mask_r": _constraint(
        False,
        radius=Knob(Least, 0.95),
        order=Knob(Annotated[int, Field(ge=0)], 6),
        power_thresh=Knob(Share, 0.95),
        z_range=Knob(Two, [-500.0, 500.0]),
        z_steps=Knob(Count, 101),
    ),
    "fix_probe_int": _constraint(True),
    "obj_rblur": _constraint(True, **_BLURRED, std=Knob(Least, 0.4)),
    "obj_zblur": _constraint(True, **_BLURRED, std=Knob(Least, 1.0)),
    "kr_filter": _constraint(False, **_OF, radius=Knob(Least, 0.15), width=Knob(Least, 0.05)),
    "kz_filter": _constraint(False, **_OF, beta=Knob(Least, 1.0), alpha=Knob(Least, 1.0)),
    "kr_thresh": _constraint(False, **_OF, thresh=Knob(Annotated[float, Field(gt=0, le=1)], 0.05)),
    "complex_ratio": _constraint(False, **_OF, alpha1=Knob(float, 1.0), alpha2=Knob(float, 0.0)),
    "mirrored_amp": _constraint(
        False, relax=Knob(Share, 0.1), scale=Knob(Least, 0.03), power=Knob(Least, 4.0)
    ),
    "obj_z_recenter": _constraint(
        False,
        thresh=Knob(Percent | None, 95.0),
        scale=Knob(Share | None, 1.0),
        max_shift=Knob(Least | None, 10.0),
    ),
    "obja_thresh": _constraint(False, relax=Knob(Share, 0.0), thresh=Knob(Two, [0.96, 1.04])),
    "objp_postiv": _constraint(False, relax=Knob(Share, 0.0)),
    "pos_recenter": _constraint(True, relax=Knob(Share, 0.0)),
    "tilt_smooth": _constraint(False, std=Knob(Least, 2.0)),
}

_SAVED = choice("model obja objp probe probe_prop optim_state scheduler_state")
_FIGURES = "loss learning_rates forward probe_r_amp probe_k_amp probe_k_phase pos tilt tilt_avg"
_FIGURES += " slice_thickness convergence convergence_full convergence_dynamic all"
_AFFIXES = "minimal default all indices meas batch pmode omode nlayer lr optimizer scheduler start_iter"
_AFFIXES += " model constraint loss conv_angle aberrations Ls z_shift dx affine tilt"
_WATCHED = ["obja", "objp", "probe", "probe_pos_shifts"]
RECON = {
    "NITER": Knob(Count, 200),
    "INDICES_MODE": Group(
        {
            "mode": Knob(choice("full sub center"), "full"),
            "subscan_slow": Knob(Count | None),
            "subscan_fast": Knob(Count | None),
        }
    ),
    "BATCH_SIZE": Group({"size": Knob(Count, 32), "grad_accumulation": Knob(Count, 1)}),
    "GROUP_MODE": Knob(choice("random sparse compact hilbert fps"), "random"),
    "SAVE_ITERS": Knob(Count | None, 10),
    "output_dir": Knob(str, "output/"),
    "recon_dir_affixes": Knob(list[choice(_AFFIXES)], ["default"]),
    "prefix_time": Knob(bool | str | None, "date"),
    "prefix": Knob(str, ""),
    "postfix": Knob(str, ""),
    "save_result": Knob(list[_SAVED], ["model", "objp"]),
    "result_modes": Group(
        {
            "obj_dim": Knob(
                Annotated[list[Annotated[int, Field(ge=2, le=4)]], Field(min_length=1)], [2, 3, 4]
            ),
            "FOV": Knob(Annotated[list[choice("full crop")], Field(min_length=1)], ["crop"]),
            "bit": Knob(Annotated[list[choice("raw 32 16 8")], Field(min_length=1)], ["8"]),
        }
    ),
    "selected_figs": Knob(list[choice(_FIGURES)], ["convergence", "forward", "probe_r_amp", "pos"]),
    "copy_params": Knob(bool, True),
    "compiler_configs": Group(
        {
            "enable": Knob(bool, False),
            "fullgraph": Knob(bool, False),
            "dynamic": Knob(bool | None),
            "backend": Knob(choice("inductor cudagraphs ipex onnxrt"), "inductor"),
            "mode": Knob(
                choice("default reduce-overhead max-autotune max-autotune-no-cudagraphs"), "default"
            ),
            "options": Knob(dict[str, str | int | bool] | None),
        }
    ),
    "convergence_monitor": Group(
        {
            "tensors": Knob(Annotated[list[choice(" ".join(_WATCHED))], Field(min_length=1)], _WATCHED),
            "every_n_iters": Knob(Count | None),
            "percentile_range": Knob(Two, [15.0, 85.0]),
        }
    ),
}

_SAMPLERS = "RandomSampler TPESampler GPSampler CmaEsSampler NSGAIISampler NSGAIIISampler GridSampler"
_SAMPLERS += " QMCSampler BruteForceSampler"
_PRUNERS = "MedianPruner PatientPruner PercentilePruner SuccessiveHalvingPruner HyperbandPruner"
_PRUNERS += " ThresholdPruner"
_TUNED = "optimizer batch_size plr oalr oplr slr tlr dzlr dx pmode_max conv_angle C10 C12 C21 C23 C30 C32"
_TUNED += " C34 C41 C43 C45 C50 C52 C54 C56 z_shift Nlayer dz scale asymmetry rotation shear tilt_y tilt_x"
_TUNE = Group(
    {
        "state": Knob(bool, REQUIRED),
        "suggest": Knob(choice("int float cat"), REQUIRED),
        "kwargs": Knob(dict[str, Any], REQUIRED),
    },
    filled=False,
)
HYPERTUNE = {
    "if_hypertune": Knob(bool, False),
    "verbosity": Knob(choice("DEBUG INFO WARNING ERROR CRITICAL"), "WARNING"),
    "collate_results": Knob(bool, True),
    "append_params": Knob(bool, True),
    "n_trials": Knob(Count, 5),
    "timeout": Knob(Least | None),
    "sampler_params": Group(
        {"name": Knob(choice(_SAMPLERS), "TPESampler"), "configs": Knob(dict[str, Any] | None)}
    ),
    "pruner_params": Group(
        {"name": Knob(choice(_PRUNERS), "HyperbandPruner"), "configs": Knob(dict[str, Any] | None)}
    ),
    "storage_path": Knob(str, "sqlite:///hypertune.sqlite3"),
    "study_name": Knob(str, "study"),
    "error_metric": Knob(choice("loss contrast"), "loss"),
    "tune_params": Group(dict.fromkeys([*_TUNED.split(), "defocus", "c3", "c5"], _TUNE)),
}

SECTIONS: Mapping[str, Group] = {
    "init_params": Group(INIT),
    "hypertune_params": Group(HYPERTUNE),
    "model_params": Group(MODEL),
    "loss_params": Group(LOSS),
    "constraint_params": Group(CONSTRAINT),
    "recon_params": Group(RECON),
}
"""The six sections of a parameter file."""
