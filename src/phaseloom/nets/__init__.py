"""Networks that read phases out of diffraction patterns: builders name the sizes.

* `phaseloom.nets.recovery`: the patterns of a window of a scan become a patch of the phase;
* `phaseloom.nets.stitching`: the patches of a scan become one image;
* `phaseloom.nets.endtoend`: both, trained together;
* `phaseloom.nets.autoencoder`: a pattern becomes a few numbers, and these the pattern again;
* `phaseloom.nets.phaseformer`: an image becomes a better one, on its own pixels and on finer ones;
* `phaseloom.nets.pretrained`: weights of others, and files of ours.
"""

__all__ = ["endtoend", "layers", "linear", "losses", "predict", "pretrained", "recovery", "stitching", "tiny"]
__all__ += ["autoencoder", "convolutional", "embedding_losses", "linear_skip", "residual", "sizes"]
__all__ += ["stabilised", "summary", "view"]
__all__ += ["agssf", "gates", "phase_attention", "phaseformer", "references", "restoration_losses", "tiles"]
__all__ += ["ushape", "vgg", "weighting"]
