"""Newton steps of a model's parts: what `phaseloom.ptycho.curvature` makes them of, and many in one call."""
