"""A PtyRAD parameter file in our terms: data, model, optimiser, run and search."""
