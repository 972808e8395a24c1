"""Who races, where, and which rates are tried: plain values, nothing runs here.

Rates are those of each program, in its own units, except where a program's probe has the scale of the
counts: there the rate of the probe is relative to its peak, so that one sweep serves all doses.
"""

__all__ = ["PROGRAMS", "RACES"]

RACES = {
    "S": {
        "case": "S",
        "dose": 1e6,
        "measure": "error",
        "marks": [0.3, 0.2, 0.15, 0.1, 0.06],
        "target": 0.06,
        "epochs": 40,
        "off": 40.0,
    },
    "S low dose": {
        "case": "S",
        "dose": 1e4,
        "measure": "scaled",
        "marks": [0.3, 0.2, 0.15],
        "target": None,
        "epochs": 40,
        "off": 40.0,
    },
    "M": {
        "case": "M",
        "dose": 1e6,
        "measure": "error",
        "marks": [0.3, 0.15, 0.1],
        "target": 0.3,
        "epochs": 25,
        "off": 40.0,
    },
    "L": {
        "case": "L",
        "dose": 1e6,
        "measure": "error",
        "marks": [0.3, 0.15, 0.1],
        "target": 0.3,
        "epochs": 10,
        "off": 40.0,
    },
    "thin": {
        "case": "thin",
        "dose": 1e5,
        "measure": "scaled",
        "marks": [0.5, 0.3, 0.2],
        "target": None,
        "epochs": 40,
        "off": 40.0,
    },
    "thick": {
        "case": "thick",
        "dose": 1e4,
        "measure": "rmse",
        "marks": [0.1, 0.06, 0.05, 0.036],
        "target": 0.06,
        "epochs": 40,
        "off": 30.0,
        "still": ["positions"],
    },
}
LIKE_S = ("S96", "S192", "S58", "S37", "absorber")
RACES |= {name: RACES["S"] | {"case": name, "settings": "S"} for name in LIKE_S}
OF_CRYSTALS = {"measure": "error", "dose": 1e5, "marks": [0.5, 0.3, 0.2, 0.15, 0.1], "target": None}
RACES |= {
    f"{name}-{thickness}": RACES[settings]
    | OF_CRYSTALS
    | {"case": f"{name}-{thickness}", "settings": settings}
    for name in ("SrTiO3", "Si", "MoS2")
    for thickness, settings in (("thin", "S"), ("thick", "thick"))
}
"""Settled before any test object is drawn. ``measure`` is what the marks are of: ``error`` (relative),
``scaled`` (after the best contrast factor) or ``rmse`` (radian); ``target`` is the mark that a sweep wants
reached soonest (None: only how low it comes counts); ``still`` names what is known and does
not move; ``settings`` is the race whose frozen settings are taken."""

PROGRAMS = {
    "ptyrad": {
        "environment": "ptyrad",
        "base": {"batch": 32, "blur": False},
        "first": {"rates": {"object": 5e-4, "probe": 1e-4, "positions": 5e-4}, "blur": True},
        "grid": {
            "rates.object": [1e-3, 2e-3, 5e-3, 1e-2, 2e-2],
            "rates.probe": [1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2],
            "rates.positions": [2e-3, 5e-3, 1e-2, 2e-2],
            "batch": [16, 32],
        },
        "start": {"rates.object": 5e-3, "rates.probe": 2e-2, "rates.positions": 5e-3, "batch": 32},
        "deep": {"rates.object": 2e-3, "rates.probe": 5e-3, "rates.positions": 5e-3, "batch": 32},
    },
    "ptychi lsqml": {
        "environment": "ptychi",
        "base": {"engine": "lsqml"},
        "first": {"rates": {"object": 1.0, "probe": 1.0, "positions": 0.3}, "batch": 100},
        "grid": {
            "rates.object": [0.3, 0.5, 1.0],
            "rates.probe": [0.3, 1.0, 2.0],
            "rates.positions": [0.1, 0.3, 1.0],
            "momentum": [0.0, 0.5],
            "batching": ["random", "uniform", "compact"],
            "batch": [16, 32, 64],
        },
        "start": {
            "rates.object": 1.0,
            "rates.probe": 1.0,
            "rates.positions": 0.3,
            "momentum": 0.0,
            "batching": "random",
            "batch": 32,
        },
    },
    "ptychi adam": {
        "environment": "ptychi",
        "base": {"engine": "adam", "batch": 32},
        "first": {"rates": {"object": 1e-3, "probe": 1e-3, "positions": 1e-3}},
        "grid": {
            "rates.object": [2e-3, 5e-3, 1e-2, 2e-2],
            "rates.probe": [5e-3, 1e-2, 2e-2, 5e-2, 0.1],
            "rates.positions": [5e-3, 1e-2, 2e-2],
            "batch": [16, 32],
        },
        "start": {"rates.object": 5e-3, "rates.probe": 2e-2, "rates.positions": 1e-2, "batch": 32},
    },
    "phaser adam": {
        "environment": "phaser",
        "base": {"engine": "adam"},
        "first": {"rates": {"object": 1e-2, "probe": 1e-2, "positions": 1e-2}, "batch": 64},
        "grid": {
            "rates.object": [2e-3, 5e-3, 1e-2, 2e-2],
            "rates.probe": [5e-3, 1e-2, 2e-2, 5e-2, 0.1],
            "rates.positions": [2e-2, 5e-2, 0.1],
            "noise": ["anscombe", "poisson"],
            "batch": [16, 32],
        },
        "start": {
            "rates.object": 1e-2,
            "rates.probe": 2e-2,
            "rates.positions": 5e-2,
            "noise": "anscombe",
            "batch": 32,
        },
    },
    "phaser lsqml": {
        "environment": "phaser",
        "base": {"engine": "lsqml"},
        "first": {"rates": {"object": 1.0, "probe": 1.0, "positions": 1e-2}, "batch": 64},
        "grid": {
            "rates.object": [0.3, 1.0, 3.0, 10.0],
            "rates.probe": [0.3, 0.6, 1.0],
            "rates.positions": [1e-2, 1e-1, 1.0],
            "batch": [16, 32, 64],
        },
        "start": {"rates.object": 1.0, "rates.probe": 1.0, "rates.positions": 1e-2, "batch": 32},
    },
    "quantem": {
        "environment": "quantem",
        "base": {"batch": 32, "kind": "complex"},
        "first": {"rates": {"object": 5e-3, "probe": 1e-3, "positions": 0.0}},
        "grid": {
            "rates.object": [2e-3, 5e-3, 1e-2, 2e-2],
            "rates.probe": [5e-3, 1e-2, 2e-2, 5e-2, 0.1],
            "rates.positions": [0.0, 5e-3, 1e-2, 2e-2],
            "batch": [16, 32],
        },
        "start": {"rates.object": 5e-3, "rates.probe": 2e-2, "rates.positions": 1e-2, "batch": 32},
    },
    "cdtools": {
        "environment": "cdtools",
        "base": {"batch": 32},
        "first": {"rates": {"object": 5e-3, "probe": 5e-3, "positions": 5e-3}},
        "grid": {
            "rates.object": [2e-3, 5e-3, 1e-2, 2e-2],
            "rates.probe": [5e-3, 1e-2, 2e-2, 5e-2, 0.1],
            "rates.positions": [5e-3, 1e-2, 2e-2],
            "batch": [16, 32],
        },
        "start": {"rates.object": 5e-3, "rates.probe": 2e-2, "rates.positions": 1e-2, "batch": 32},
    },
}
"""For each program: settings that never change, the program's own defaults (the first run of a sweep),
the grid that a sweep moves on, and where on it the sweep starts (``deep``: where slices are many)."""
