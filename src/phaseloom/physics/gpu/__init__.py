"""One update of a plain experiment in CUDA: transforms fused with all that stands between them.

`phaseloom.ptycho.newton.on_gpu` calls it; docs/decisions/047-fused-kernels-on-a-gpu.md has the reasons.
"""
