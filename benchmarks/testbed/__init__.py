"""Simulated 4D-STEM scans with the faults of real instruments; numpy, SciPy and abTEM's potentials alone.

Nothing of phaseloom is imported here, so that the scans can judge it. See `benchmarks.faulty_scans`.
"""
