"""ImageNet through files that TFDS itself writes: its own builder, fed with small pictures."""

import dataclasses
import io
import json
import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.datasets.imagenet2012 import imagenet2012_dataset_builder

from experiments.data import DataError, imagenet
from experiments.data.imagenet import ImageNetBatches, ImageNetEvaluation
from experiments.data.imagenet_images import evaluation_image
from sparsejax.training import BatchSource
from tests.experiments.data.test_imagenet_images import pixels, smooth

Published = imagenet2012_dataset_builder.Builder
TRAIN, VALIDATION = 23, 10


@dataclasses.dataclass
class Picture:
    name: str
    jpeg: bytes
    label: int


class Imagenet2012(Published, skip_registration=True):
    """TFDS's builder (its features, its version, its writers) without the two tar files."""

    name = "imagenet2012"
    pkg_dir_path = Published._get_pkg_dir_path()

    def __init__(self, splits, data_dir):
        self._splits = splits
        super().__init__(data_dir=data_dir, file_format="array_record")

    def _split_generators(self, dl_manager):
        return {name: self._generate_examples(found) for name, found in self._splits.items()}

    def _generate_examples(self, pictures):
        for picture in pictures:
            example = {"image": io.BytesIO(picture.jpeg), "label": picture.label}
            yield picture.name, example | {"file_name": picture.name}


def jpeg(array, mode="RGB"):
    file = io.BytesIO()
    Image.fromarray(array).convert(mode).save(file, "JPEG", quality=95)
    return file.getvalue()


def pictures(count, seed):
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        width, height = (int(side) for side in rng.integers(40, 400, 2))
        mode = {3: "L", 6: "CMYK"}.get(number, "RGB")
        content = jpeg(smooth(rng, width, height), mode)
        found.append(Picture(f"n{seed:08d}_{number}.JPEG", content, int(rng.integers(1000))))
    return found


def prepare(folder, **splits):
    tfds.disable_progress_bar()
    Imagenet2012(splits, folder).download_and_prepare()


@pytest.fixture(scope="module")
def splits():
    return {"train": pictures(TRAIN, 1), "validation": pictures(VALIDATION, 2)}


@pytest.fixture(scope="module")
def data_dir(splits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("imagenet")
    prepare(folder, **splits)
    return folder


@pytest.fixture(scope="module")
def in_order(splits, data_dir):
    """The pictures of each split in the order in which TFDS has written them."""
    found = {}
    for split, there in splits.items():
        by_name = {picture.name: picture for picture in there}
        builder = tfds.builder_from_directory(data_dir / "imagenet2012" / "5.1.0")
        skip = {"image": tfds.decode.SkipDecoding()}
        source = builder.as_data_source(split, decoders=skip)
        found[split] = [by_name[example["file_name"].decode()] for example in source]
    return found


def coded(count):
    """Pictures whose red is the column, green the row and blue ten times the picture's number."""
    rng, found = np.random.default_rng(0), []
    for number in range(count):
        width, height = (int(side) for side in rng.integers(60, 250, 2))
        rows, columns = np.mgrid[:height, :width]
        array = np.stack([columns, rows, np.full_like(rows, 10 * number)], axis=-1)
        file = io.BytesIO()
        Image.fromarray(array.astype(np.uint8)).save(file, "JPEG", quality=95, subsampling=0)
        found.append(Picture(f"{number}.JPEG", file.getvalue(), label_of(number)))
    return found


def label_of(number):
    return 37 * number % 1000


@pytest.fixture(scope="module")
def coded_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("coded")
    prepare(folder, train=coded(TRAIN))
    return folder


@pytest.fixture(scope="module")
def steps(coded_dir):
    """The batches of five epochs, in order."""
    with ImageNetBatches(coded_dir, 4, seed=7, workers=3) as batches:
        assert isinstance(batches, BatchSource)  # so `fit` takes it in place of arrays
        assert (batches.examples, batches.batch_size, batches.steps_per_epoch) == (TRAIN, 4, 5)
        found = []
        for count in (1, 2, 2, 3, 1, 1, 5, 5, 5):
            arrays, indices = batches.block(len(found), count)
            assert indices is None
            assert arrays["image"].shape == (count, 4, 224, 224, 3)
            assert arrays["label"].shape == (count, 4)
            assert (arrays["image"].dtype, arrays["label"].dtype) == (np.float32, np.int32)
            assert isinstance(arrays["image"], np.ndarray)
            found += [{name: array[row] for name, array in arrays.items()} for row in range(count)]
    return found


def test_a_batch_depends_on_the_seed_and_the_step_alone(coded_dir, steps):
    with ImageNetBatches(coded_dir, 4, seed=7, workers=1) as batches:
        # Backwards, across an epoch's end, twice the same, and prefetched or not.
        for step, count in ((12, 2), (4, 3), (4, 3), (7, 1), (8, 2), (0, 1)):
            arrays, _ = batches.block(step, count)
            for row in range(count):
                for name, array in arrays.items():
                    np.testing.assert_array_equal(array[row], steps[step + row][name])
    with ImageNetBatches(coded_dir, 4, seed=8) as batches:
        assert not np.array_equal(batches.block(0, 1)[0]["label"][0], steps[0]["label"])


def test_an_epoch_shows_every_image_at_most_once_in_an_order_of_its_own(steps):
    orders = []
    for epoch in range(5):
        batches = steps[5 * epoch : 5 * epoch + 5]
        images = pixels(np.concatenate([batch["image"] for batch in batches]))
        numbers = np.rint(images[..., 2].mean((1, 2)) / 10).astype(int)
        np.testing.assert_array_equal(  # each image comes with its own label
            label_of(numbers), np.concatenate([batch["label"] for batch in batches])
        )
        assert len(set(numbers)) == 20  # the other three sit out this epoch
        orders.append(tuple(numbers))
    assert len(set(orders)) == 5
    assert {number for order in orders for number in order} == set(range(TRAIN))
    # Every position of an epoch is taken by several images.
    assert min(len(set(position)) for position in zip(*orders, strict=True)) >= 3


def test_every_showing_of_an_image_is_augmented_anew(steps):
    shown = pixels(np.concatenate([batch["image"] for batch in steps]))
    left, right = shown[:, 112, 0, 0], shown[:, 112, -1, 0]
    assert 35 <= (left > right).sum() <= 65  # mirrored: 3 standard deviations around 50
    boxes = np.stack([np.minimum(left, right), abs(right - left), shown[:, 0, 112, 1]], axis=1)
    numbers = np.rint(shown[..., 2].mean((1, 2)) / 10).astype(int)
    for number in range(TRAIN):
        own = boxes[numbers == number]
        distances = np.abs(own[:, None] - own[None]).max(axis=-1)
        assert (distances + 100 * np.eye(len(own)) > 1).all()


@pytest.mark.parametrize("process_count", [2, 3])
def test_the_parts_of_the_processes_make_the_whole_batch(coded_dir, process_count):
    def arrays_of(**process):
        with ImageNetBatches(coded_dir, 6, 1, workers=2, **process) as batches:
            assert (batches.batch_size, batches.steps_per_epoch) == (6, 3)
            return batches.block(2, 2)[0]  # across the end of an epoch

    whole = arrays_of()
    parts = [
        arrays_of(process_index=index, process_count=process_count)
        for index in range(process_count)
    ]
    for name in ("image", "label"):
        assert parts[0][name].shape[:2] == (2, 6 // process_count)
        joined = np.concatenate([part[name] for part in parts], axis=1)
        np.testing.assert_array_equal(joined, whole[name])


def test_evaluation_shows_every_image_once_in_batches_of_one_shape(data_dir, in_order):
    batches = ImageNetEvaluation(data_dir, 4, workers=2)
    assert (batches.examples, len(batches)) == (VALIDATION, 3)
    found = list(batches)
    assert [batch["weight"].tolist() for batch in found] == [[1] * 4, [1] * 4, [1, 1, 0, 0]]
    for batch in found:
        assert batch["image"].shape == (4, 224, 224, 3)
        dtypes = {name: array.dtype.name for name, array in batch.items()}
        assert dtypes == {"image": "float32", "label": "int32", "weight": "float32"}
    joined = {name: np.concatenate([batch[name] for batch in found]) for name in found[0]}
    for index, picture in enumerate(in_order["validation"]):
        with Image.open(io.BytesIO(picture.jpeg)) as image:
            expected = evaluation_image(image.convert("RGB"))
        np.testing.assert_array_equal(joined["image"][index], expected)
        assert joined["label"][index] == picture.label
    assert not joined["image"][VALIDATION:].any()
    again = list(batches)
    np.testing.assert_array_equal(again[2]["image"], found[2]["image"])


def test_evaluation_in_parts_and_of_other_splits(data_dir):
    whole = list(ImageNetEvaluation(data_dir, 4))
    parts = []
    for index in range(2):
        process = {"process_index": index, "process_count": 2}
        parts.append(list(ImageNetEvaluation(data_dir, 4, **process)))
    for name in whole[0]:
        for number, batch in enumerate(whole):
            joined = np.concatenate([part[number][name] for part in parts])
            np.testing.assert_array_equal(joined, batch[name])
    batches = ImageNetEvaluation(data_dir, 3, split="train[:5]")
    assert (batches.examples, sum(batch["weight"].sum() for batch in batches)) == (5, 5)


def test_grey_images_have_three_equal_channels_and_cmyk_is_converted(in_order):
    modes = {}
    for picture in in_order["train"]:
        with Image.open(io.BytesIO(picture.jpeg)) as image:
            modes[image.mode] = picture
    assert set(modes) == {"RGB", "L", "CMYK"}
    with Image.open(io.BytesIO(modes["L"].jpeg)) as image:
        shown = pixels(evaluation_image(image.convert("RGB")))
    np.testing.assert_allclose(shown[..., 0], shown[..., 2], atol=1e-3)


def test_the_next_block_is_decoded_meanwhile(coded_dir, monkeypatch):
    decoded = threading.Semaphore(0)
    real = imagenet.training_image
    monkeypatch.setattr(
        imagenet, "training_image", lambda image, rng: decoded.release() or real(image, rng)
    )
    with ImageNetBatches(coded_dir, 2, seed=0, workers=2) as batches:
        batches.block(0, 2)
        for _ in range(8):  # two blocks of two batches of two
            assert decoded.acquire(timeout=60)
        batches.block(2, 2)
        for _ in range(4):
            assert decoded.acquire(timeout=60)
        assert not decoded.acquire(blocking=False)  # and no more


def test_an_image_that_cannot_be_decoded_is_named(tmp_path):
    there = pictures(3, 5)
    there[1].jpeg = there[1].jpeg[: len(there[1].jpeg) // 2]
    prepare(tmp_path, train=there, validation=[Picture("text.JPEG", b"no image", 0)])
    with (
        ImageNetBatches(tmp_path, 3, seed=0) as batches,
        pytest.raises(DataError, match=r"example \d of train \(n00000005_1.JPEG\) in .*truncated"),
    ):
        batches.block(0, 1)
    with pytest.raises(
        DataError, match=r"example 0 of validation \(text.JPEG\) in .*cannot be dec"
    ):
        next(iter(ImageNetEvaluation(tmp_path, 3)))
    file = next(tmp_path.rglob("*train.array_record*"))
    file.write_bytes(file.read_bytes()[:100])
    with (
        ImageNetBatches(tmp_path, 3, seed=0) as batches,
        pytest.raises(DataError, match=r"example \d of train .* cannot be decoded"),
    ):
        batches.block(0, 1)


def test_without_a_prepared_dataset_the_message_says_how_to_prepare_it(data_dir, tmp_path):
    (tmp_path / "imagenet2012" / "incomplete").mkdir(parents=True)
    with pytest.raises(DataError) as caught:
        ImageNetBatches(tmp_path, 2, seed=0)
    for expected in (
        f"no {tmp_path / 'imagenet2012'}/VERSION/dataset_info.json",
        "ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar",
        "`tfds build imagenet2012 --file_format=array_record --manual_dir=",
    ):
        assert expected in str(caught.value)
    with pytest.raises(DataError, match="the split 'test' in .* cannot be read: .*'validation'"):
        ImageNetEvaluation(data_dir, 2, split="test")
    shutil.copytree(data_dir, tmp_path, dirs_exist_ok=True)
    info = tmp_path / "imagenet2012" / "5.1.0" / "dataset_info.json"
    info.write_text(json.dumps(json.loads(info.read_text()) | {"fileFormat": "tfrecord"}))
    with pytest.raises(
        DataError,
        match="are not array_record files, the only ones with random access. .*`tfds build",
    ):
        ImageNetBatches(tmp_path, 2, seed=0)
    info.write_text("{")
    with pytest.raises(DataError, match="the split 'train' in .*5.1.0 cannot be read"):
        ImageNetBatches(tmp_path, 2, seed=0)


def test_the_newest_version_is_read(data_dir, tmp_path):
    shutil.copytree(data_dir, tmp_path, dirs_exist_ok=True)
    old = tmp_path / "imagenet2012" / "5.0.0"
    old.mkdir()
    (old / "dataset_info.json").write_text("{")
    assert ImageNetEvaluation(tmp_path, 2).examples == VALIDATION


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 24}, "batch_size must be from 1 to 23, the number of examples; got 24"),
        ({"batch_size": 0}, "batch_size must be a positive multiple of process_count = 1; got 0"),
        ({"process_count": 3}, "batch_size must be a positive multiple of process_count = 3"),
        ({"process_index": 1}, "process_index must be from 0 to process_count - 1 = 0; got 1"),
        ({"seed": -1}, r"seed must be an integer from 0 to 2\*\*32 - 1; got -1"),
        ({"workers": 0}, "workers must be >= 1, or None for one per core; got 0"),
    ],
)
def test_bad_arguments_are_named(data_dir, arguments, message):
    with pytest.raises(ValueError, match=message):
        ImageNetBatches(data_dir, **({"batch_size": 4, "seed": 0} | arguments))


def test_bad_steps_are_named(data_dir):
    with ImageNetBatches(data_dir, 4, seed=0) as batches:
        for step, count in ((-1, 1), (0, 0)):
            message = f"step must be >= 0 and count >= 1; got {step} and {count}"
            with pytest.raises(ValueError, match=message):
                batches.block(step, count)


def test_leaves_tensorflow_alone(data_dir):
    code = (
        "import sys\n"
        "from experiments.data.imagenet import ImageNetBatches, ImageNetEvaluation\n"
        f"with ImageNetBatches({str(data_dir)!r}, 4, 0) as batches: batches.block(0, 1)\n"
        f"print(len(list(ImageNetEvaluation({str(data_dir)!r}, 4))))\n"
        "print('tensorflow' in sys.modules)"
    )
    process = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True
    )
    assert (process.stdout.split(), process.stderr) == (["3", "False"], "")
