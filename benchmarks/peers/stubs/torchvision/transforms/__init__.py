"""Gaussian blur as a module."""

import torch

from torchvision.transforms import functional


class GaussianBlur(torch.nn.Module):
    """See `functional.gaussian_blur`."""

    def __init__(self, kernel_size, sigma=1.0):
        super().__init__()
        self.kernel_size, self.sigma = kernel_size, sigma

    def forward(self, image):
        """The blurred image."""
        return functional.gaussian_blur(image, self.kernel_size, self.sigma)
