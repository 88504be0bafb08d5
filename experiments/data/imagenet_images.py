"""The preprocessing with which torchvision's and timm's published ImageNet networks were made."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

SIZE = 224
"""Height and width of what a network sees."""
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)
"""Mean and standard deviation of the channels red, green and blue in [0, 1]."""

_SHORTER_SIDE = 256
_AREA = (0.08, 1.0)
_NARROWEST, _WIDEST = 3 / 4, 4 / 3


def evaluation_image(image: Image.Image) -> np.ndarray:
    """The central 224x224 of an RGB image whose shorter side is resized to 256; normalised.

    Bilinear with antialiasing. Returns float32 [224, 224, 3].
    """
    shorter = min(image.size)
    # The longer side is rounded down, as in the reference: one row decides where the centre is.
    width, height = (side * _SHORTER_SIDE // shorter for side in image.size)
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (round((side - SIZE) / 2) for side in image.size)
    return _normalised(image.crop((left, top, left + SIZE, top + SIZE)))


def training_image(image: Image.Image, rng: np.random.Generator) -> np.ndarray:
    """A random part of an RGB image, resized to 224x224, mirrored half of the time; normalised.

    Bilinear with antialiasing. Returns float32 [224, 224, 3].
    """
    image = image.crop(random_box(*image.size, rng))
    image = image.resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return _normalised(image)


def random_box(width: int, height: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of the part of an image that a training example shows.

    Its area is uniform in 8 to 100 % of the image's, the logarithm of its aspect ratio (width over
    height) uniform between those of 3/4 and 4/3, its place uniform. If ten draws do not fit in the
    image, it is the largest central part with an aspect ratio within these bounds.
    """
    for _ in range(10):
        area = width * height * rng.uniform(*_AREA)
        aspect = math.exp(rng.uniform(math.log(_NARROWEST), math.log(_WIDEST)))
        columns, rows = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < columns <= width and 0 < rows <= height:
            left = int(rng.integers(width - columns + 1))
            top = int(rng.integers(height - rows + 1))
            return left, top, left + columns, top + rows
    # Too wide, or too high, for the bounds: the shorter side is shown whole.
    columns = min(width, round(height * _WIDEST))
    rows = min(height, round(width / _NARROWEST))
    left, top = (width - columns) // 2, (height - rows) // 2
    return left, top, left + columns, top + rows


def _normalised(image: Image.Image) -> np.ndarray:
    return (np.asarray(image, np.float32) / 255 - MEAN) / STD
