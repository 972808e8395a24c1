"""Virtual detectors, centre of mass and radial profiles of a scan."""
