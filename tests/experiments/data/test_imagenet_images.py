import math

import numpy as np
import pytest
from PIL import Image

from experiments.data.imagenet_images import evaluation_image, random_box, training_image


def smooth(rng, width, height):
    """A picture in which neighbouring pixels are alike."""
    small = Image.fromarray(rng.integers(0, 256, (4, 5, 3), np.uint8))
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))


def resized(array, height, width):
    """Bilinear with antialiasing, as a product with two matrices of triangles, in float64."""

    def triangles(before, after):
        scale = before / after
        centres = (np.arange(after) + 0.5) * scale
        distance = np.abs(np.arange(before) + 0.5 - centres[:, None]) / max(scale, 1)
        weights = np.maximum(1 - distance, 0)
        return weights / weights.sum(axis=1, keepdims=True)

    vertical, horizontal = triangles(len(array), height), triangles(array.shape[1], width)
    return np.einsum(
        "ai,bj,ijc->abc", vertical, horizontal, array.astype(np.float64), optimize=True
    )


MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def pixels(normalised):
    """Back to 0 ... 255."""
    return (normalised.astype(np.float64) * STD + MEAN) * 255


@pytest.mark.parametrize(
    ("size", "inner"),
    [
        ((256, 256), (256, 256)),
        ((500, 375), (341, 256)),
        ((375, 500), (256, 341)),
        ((100, 80), (320, 256)),
        ((61, 300), (256, 1259)),
    ],
)
def test_evaluation_shows_the_centre_of_the_resized_image(size, inner):
    array = smooth(np.random.default_rng(0), *size)
    shown = evaluation_image(Image.fromarray(array))
    assert shown.shape == (224, 224, 3)
    assert shown.dtype == np.float32
    whole = resized(array, inner[1], inner[0])
    top, left = (int(np.rint((side - 224) / 2)) for side in whole.shape[:2])  # half to even
    expected = whole[top : top + 224, left : left + 224]
    assert expected.std() > 20
    np.testing.assert_allclose(pixels(shown), expected, atol=1.2)  # it rounds to bytes twice


def test_normalises_each_channel():
    colour = np.uint8([10, 200, 90])
    image = Image.fromarray(np.broadcast_to(colour, (300, 280, 3)).copy())
    expected = np.float32([(10 / 255 - 0.485) / 0.229, (200 / 255 - 0.456) / 0.224,
                           (90 / 255 - 0.406) / 0.225])  # fmt: skip
    for shown in (
        evaluation_image(image),
        training_image(image, np.random.default_rng(0)),
    ):
        np.testing.assert_allclose(shown, np.broadcast_to(expected, (224, 224, 3)), atol=1e-6)


def coordinates(width, height):
    """A picture whose red is the column and whose green is the row."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([columns, rows, 0 * rows], axis=-1).astype(np.uint8)


def test_training_shows_the_box_it_drew_and_mirrors_half_of_the_time():
    image = Image.fromarray(coordinates(240, 200))
    mirrored = []
    for seed in range(60):
        left, top, right, bottom = random_box(240, 200, np.random.default_rng(seed))
        shown = pixels(training_image(image, np.random.default_rng(seed)))
        mirrored.append(shown[0, 0, 0] > shown[0, -1, 0])
        shown = shown[:, ::-1] if mirrored[-1] else shown
        # Where the centre of an output pixel lies in the picture, held inside the box.
        columns = left + (np.arange(224) + 0.5) * (right - left) / 224 - 0.5
        rows = top + (np.arange(224) + 0.5) * (bottom - top) / 224 - 0.5
        for found, expected, low, high in (
            (shown[..., 0], columns[None, :], left, right - 1),
            (shown[..., 1], rows[:, None], top, bottom - 1),
        ):
            expected = np.broadcast_to(np.clip(expected, low, high), (224, 224))
            np.testing.assert_allclose(found, expected, atol=1.1)
    assert 18 <= sum(mirrored) <= 42  # 3 standard deviations around 30


def test_random_boxes_have_the_published_distribution():
    width, height, draws = 500, 375, 4000
    rng = np.random.default_rng(0)
    boxes = np.asarray([random_box(width, height, rng) for _ in range(draws)])
    left, top, right, bottom = boxes.T
    assert (left >= 0).all()
    assert (top >= 0).all()
    assert (right <= width).all()
    assert (bottom <= height).all()
    area = (right - left) * (bottom - top) / (width * height)
    aspect = np.log((right - left) / (bottom - top))
    assert 0.078 < area.min() < 0.09
    assert area.max() > 0.95
    assert np.abs(aspect).max() == pytest.approx(math.log(4 / 3), abs=0.01)
    # A small box always fits, so there area and aspect are uniform, and the place is too.
    small = area < 0.5
    assert np.mean(area[small] < 0.29) == pytest.approx(0.5, abs=0.04)
    assert np.mean(aspect[small] < 0) == pytest.approx(0.5, abs=0.04)
    place = (left / np.maximum(width - (right - left), 1))[small]
    assert place.mean() == pytest.approx(0.5, abs=0.03)
    assert place.std() == pytest.approx(math.sqrt(1 / 12), abs=0.02)


@pytest.mark.parametrize(
    ("size", "box"),
    [((300, 10), (143, 0, 156, 10)), ((9, 300), (0, 144, 9, 156)), ((1, 1), (0, 0, 1, 1))],
)
def test_an_image_of_another_shape_shows_its_largest_centre(size, box):
    assert random_box(*size, np.random.default_rng(0)) == box
