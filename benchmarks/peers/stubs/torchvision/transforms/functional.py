"""Gaussian blur of the last two axes, edges mirrored."""

import torch


def gaussian_blur(image, kernel_size, sigma=None):
    """Blur with a kernel of ``kernel_size`` (one number or two) and ``sigma`` pixels."""
    sizes = [kernel_size] * 2 if isinstance(kernel_size, int) else list(kernel_size)
    widths = [0.15 * n + 0.35 for n in sizes] if sigma is None else sigma
    widths = [float(w) for w in (widths if isinstance(widths, (list, tuple)) else [widths])]
    if len(widths) == 1:
        widths = widths * 2
    flat = image.reshape(-1, 1, *image.shape[-2:])
    for axis, (size, width) in enumerate(zip(sizes, widths, strict=True)):
        place = torch.arange(size, dtype=image.dtype, device=image.device) - (size - 1) / 2
        kernel = torch.softmax(-0.5 * (place / width) ** 2, 0)
        kernel = kernel.reshape(1, 1, -1, 1) if axis == 0 else kernel.reshape(1, 1, 1, -1)
        pad = (0, 0, size // 2, size // 2) if axis == 0 else (size // 2, size // 2, 0, 0)
        flat = torch.nn.functional.conv2d(torch.nn.functional.pad(flat, pad, mode="reflect"), kernel)
    return flat.reshape(image.shape)
