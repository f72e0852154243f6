"""The oracle of gradients: central differences in float64."""

import numpy as np


def central_differences(function, x, step=1e-5):
    """The gradient of ``function``, an array to a number, at ``x`` in float64."""
    gradient = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        change = np.zeros_like(x)
        change[index] = step
        gradient[index] = (function(x + change) - function(x - change)) / (2 * step)
    return gradient
