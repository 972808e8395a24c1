"""Rotation and strain of a crystal from its Bragg disks.

In reading order: `disk_probe`, `disk_likelihood` and `probe_estimate` for a disk; `lattice`,
`lattice_search` and `lattice_fit` for the lattice of a pattern; `lattice_map` for those of a scan;
`strain_map` and `strain_figure`.
"""
