"""Pairs of a degraded and a good image: where they come from and how they are cut.

`folders` reads them from files, `noise2noise` makes them of scans, `underwater` simulates them; `image_kinds`
normalises and `crops` cuts them.
"""
