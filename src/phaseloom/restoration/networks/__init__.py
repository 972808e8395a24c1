"""Networks that restore images.

`phaseformer` has all builders; `unet` and `phase_attention` are what they are built of, `agssf1` is the older
model, `vgg` compares images by features.
"""
