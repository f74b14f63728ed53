"""Ready-made tasks: their models, their data formats, and what is said when data is missing or damaged."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import pytest
import torch
from torch.nn import functional
from torch.testing import assert_close

from isthmus.errors import DataError, SettingError, TaskError
from isthmus.io.checkpoints import load_weights
from isthmus.landscape import Task
from isthmus.seeds import seeded
from isthmus.tasks import TASKS, cifar10, digits, fashion, mnist, task_named
from isthmus.tasks.augment import add_noise, crop_and_flip
from isthmus.tasks.formats import read_cifar10, read_idx
from isthmus.tasks.models import MLP, VGG16, ConvNet, LeNet5, ResNet

REAL = os.environ.get("ISTHMUS_DATA")
needs_data = pytest.mark.skipif(not REAL, reason="needs the real data sets: set ISTHMUS_DATA")


def idx(tensor: torch.Tensor) -> bytes:
    """A uint8 tensor in IDX format."""
    sizes = b"".join(size.to_bytes(4, "big") for size in tensor.shape)
    return bytes((0, 0, 8, tensor.dim())) + sizes + bytes(tensor.flatten().tolist())


def images_and_labels(count: int, shape: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(count)
    pixels = torch.randint(256, (count, *shape), generator=generator, dtype=torch.uint8)
    return pixels, torch.arange(count, dtype=torch.uint8) % 10


def write(path: Path, content: bytes, zipped: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if zipped:
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(content))
    else:
        path.write_bytes(content)


def write_mnist(folder: Path, zipped: bool = False) -> None:
    for prefix, count in (("train", 20), ("t10k", 10)):
        pixels, labels = images_and_labels(count, (28, 28))
        write(folder / f"{prefix}-images-idx3-ubyte", idx(pixels), zipped)
        write(folder / f"{prefix}-labels-idx1-ubyte", idx(labels), zipped)


def write_cifar(folder: Path, batches: tuple[int, ...], zipped: bool = False) -> None:
    for name in (*(f"data_batch_{number}" for number in batches), "test_batch"):
        pixels, labels = images_and_labels(10, (3072,))
        write(
            folder / f"{name}.bin", bytes(torch.cat([labels[:, None], pixels], 1).flatten().tolist()), zipped
        )


# -- models -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (MLP((64, 8, 8, 10)), (1, 8, 8)),
        (ConvNet(8, 4), (1, 8, 8)),
        (ConvNet(28, 4), (1, 28, 28)),
        (LeNet5(), (1, 28, 28)),
        (ResNet(20, 4), (3, 32, 32)),
        (ResNet(8), (3, 32, 32)),
        (VGG16(8), (3, 32, 32)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_models_run_export_and_use_every_parameter(model, shape):
    model.eval()
    inputs = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    output = model(inputs)
    assert output.shape == (3, 10)
    exported = torch.export.export(model, (inputs,)).module()
    assert_close(exported(inputs), output)
    model.train()(inputs).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in model.parameters())


def test_the_published_sizes():
    models = {"resnet20": ResNet(20), "resnet56": ResNet(56), "vgg16": VGG16(), "lenet": LeNet5()}
    sizes = {name: sum(p.numel() for p in model.parameters()) for name, model in models.items()}
    assert sizes == {"resnet20": 269_722, "resnet56": 853_018, "vgg16": 14_728_266, "lenet": 61_706}


def test_residual_names_are_those_of_the_published_code():
    names = {name.rpartition(".")[0] for name, _ in ResNet(56).named_parameters()}
    block = ("conv1", "bn1", "conv2", "bn2")
    expected = {f"layer{s}.{i}.{part}" for s in (1, 2, 3) for i in range(9) for part in block}
    assert names == expected | {"conv1", "bn1", "linear"}


def test_a_shortcut_takes_every_second_pixel_and_pads_both_sides():
    block = ResNet(8, 4).eval().layer2[0]
    for parameter in block.parameters():
        parameter.data.zero_()
    images = torch.rand(2, 4, 6, 6)
    output = block(images)
    assert_close(output[:, 2:6], images[:, :, ::2, ::2])
    assert not output[:, :2].any()
    assert not output[:, 6:].any()


@pytest.mark.parametrize(("depth", "width"), [(21, 16), (2, 16), (20, 5), (20, 0)])
def test_residual_networks_that_do_not_exist(depth, width):
    with pytest.raises(SettingError, match="CIFAR ResNet"):
        ResNet(depth, width)


# -- augmentation -------------------------------------------------------------------------------


def test_crop_and_flip_against_one_image_at_a_time():
    images = torch.rand(16, 3, 8, 6)
    found = crop_and_flip(images, seeded(0, "augment"))
    generator = seeded(0, "augment")
    top, left = torch.randint(9, (2, 16, 1), generator=generator)
    mirrored = torch.rand(16, 1, generator=generator) < 0.5
    padded = functional.pad(images, (4, 4, 4, 4))
    for number in range(16):
        y, x = int(top[number]), int(left[number])
        crop = padded[number, :, y : y + 8, x : x + 6]
        assert_close(found[number], crop.flip(-1) if mirrored[number] else crop, rtol=0, atol=0)
    assert 0 < int(mirrored.sum()) < 16


@pytest.mark.parametrize("augment", [crop_and_flip, add_noise])
def test_augmentation_is_a_function_of_its_generator(augment):
    images = torch.rand(8, 3, 8, 8)
    kept = images.clone()
    one, same, other = (augment(images, seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(images, kept)


# -- formats ------------------------------------------------------------------------------------


@pytest.mark.parametrize("zipped", [False, True])
def test_idx_files_are_read_by_content(tmp_path, zipped):
    pixels, _ = images_and_labels(5, (3, 4))
    path = tmp_path / "images"
    path.write_bytes(gzip.compress(idx(pixels)) if zipped else idx(pixels))
    assert torch.equal(read_idx(path, 3), pixels)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda content: b"", "expected the magic number 00000803, got an empty file"),
        (lambda content: b"\x00\x00\x08\x01" + content[4:], "got 00000801"),
        (lambda content: b"\x00\x00\x0d\x03" + content[4:], "got 00000d03"),
        (lambda content: content[:10], "ends within its header"),
        (lambda content: content[:-1], "announces 5 × 3 × 4 bytes, and 59 follow"),
        (lambda content: content + b"x", "announces 5 × 3 × 4 bytes, and 61 follow"),
        (lambda content: gzip.compress(content)[:-12], "truncated or damaged gzip"),
        (lambda content: gzip.compress(content)[:15] + b"\xff" * 30, "truncated or damaged gzip"),
        (lambda content: b"\x1f\x8b" + content, "truncated or damaged gzip"),
    ],
)
def test_damaged_idx_files_are_named(tmp_path, damage, told):
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(damage(idx(images_and_labels(5, (3, 4))[0])))
    with pytest.raises(DataError, match="train-images-idx3-ubyte") as caught:
        read_idx(path, 3)
    assert told in str(caught.value)


@pytest.mark.parametrize("zipped", [False, True])
def test_cifar_records(tmp_path, zipped):
    write_cifar(tmp_path, (1,), zipped)
    images, labels = read_cifar10(tmp_path / ("data_batch_1.bin" + ".gz" * zipped))
    pixels, _ = images_and_labels(10, (3072,))
    assert images.shape == (10, 3, 32, 32)
    assert torch.equal(images.flatten(1), pixels)
    assert labels.tolist() == list(range(10))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "got 0;"),
        (bytes(3072), "expected a multiple of 3,073 bytes, got 3,072"),
        (bytes([10]) + bytes(3072), "expected labels from 0 to 9, got 10"),
        (gzip.compress(bytes(3073))[:-9], "truncated or damaged gzip"),
    ],
)
def test_damaged_cifar_files_are_named(tmp_path, content, told):
    path = tmp_path / "data_batch_1.bin"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"data_batch_1\.bin") as caught:
        read_cifar10(path)
    assert told in str(caught.value)


# -- finding the data ---------------------------------------------------------------------------


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("below", ["mnist", "MNIST/raw", "."])
def test_mnist_is_found_where_it_may_lie(tmp_path, below, zipped, monkeypatch):
    write_mnist(tmp_path / below, zipped)
    task = mnist.mlp(tmp_path, width=8)
    assert task.note == "MNIST: 20 images to train on, 10 held out"
    images, labels = task.train
    assert_close(images[:, 0] * 0.3081 + 0.1307, images_and_labels(20, (28, 28))[0] / 255)
    assert labels.dtype == torch.int64
    monkeypatch.setenv("ISTHMUS_DATA", str(tmp_path))
    assert torch.equal(mnist.lenet().test[0], task.test[0])


@pytest.mark.parametrize("below", ["fashion-mnist", "FashionMNIST/raw"])
def test_mnist_and_fashion_do_not_mix(tmp_path, below):
    write_mnist(tmp_path / "mnist")
    with pytest.raises(DataError, match="Fashion-MNIST needs the four IDX files"):
        fashion.cnn(tmp_path)
    write_mnist(tmp_path / below)
    assert fashion.cnn(tmp_path, width=4).note.startswith("Fashion-MNIST: 20 images")


@pytest.mark.parametrize("below", ["cifar-10-batches-bin", "."])
@pytest.mark.parametrize("zipped", [False, True])
def test_cifar_takes_the_batches_that_are_there(tmp_path, below, zipped):
    write_cifar(tmp_path / below, (2, 5), zipped)
    task = cifar10.resnet20(tmp_path, width=4)
    assert task.note == (
        "CIFAR-10: 20 images to train on (2 of the 5 training batches are there), 10 held out"
    )
    images, _ = task.test
    pixels = images_and_labels(10, (3, 32, 32))[0] / 255
    expected = (pixels - torch.tensor((0.485, 0.456, 0.406)).view(3, 1, 1)) / torch.tensor(
        (0.229, 0.224, 0.225)
    ).view(3, 1, 1)
    assert_close(images, expected)


def test_missing_data_says_what_is_wanted_where(tmp_path, monkeypatch):
    monkeypatch.delenv("ISTHMUS_DATA", raising=False)
    with pytest.raises(DataError, match=r"no data folder is named: MNIST needs .* set ISTHMUS_DATA"):
        mnist.mlp()
    with pytest.raises(DataError, match="does not exist: CIFAR-10 needs the files of its binary version"):
        cifar10.vgg16(tmp_path / "none")
    with pytest.raises(DataError, match=r"test_batch\.bin not found below"):
        cifar10.resnet20(tmp_path)
    write_cifar(tmp_path, ())
    with pytest.raises(DataError, match=r"data_batch_1\.bin to data_batch_5\.bin not found below"):
        cifar10.resnet20(tmp_path)
    write_mnist(tmp_path / "mnist")
    (tmp_path / "mnist/t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match=r"^t10k-labels-idx1-ubyte not found below .* with \.gz at the end"):
        mnist.lenet(tmp_path)


@pytest.mark.parametrize(
    ("images", "labels", "told"),
    [
        ((20, 28, 27), 20, r"images of shape \[28, 27\]: expected \[28, 28\]"),
        ((20, 28, 28), 19, "20 images and .* has 19 labels"),
        ((0, 28, 28), 0, "0 images and .* has 0 labels"),
    ],
)
def test_files_that_do_not_fit_together(tmp_path, images, labels, told):
    write_mnist(tmp_path)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(torch.zeros(images, dtype=torch.uint8)))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(torch.zeros(labels, dtype=torch.uint8)))
    with pytest.raises(DataError, match=told):
        mnist.mlp(tmp_path)


# -- the table ----------------------------------------------------------------------------------


def test_the_table_builds_every_task_under_its_name(tmp_path):
    for below in ("mnist", "fashion-mnist"):
        write_mnist(tmp_path / below)
    write_cifar(tmp_path, (1,))
    (tmp_path / "shakespeare").mkdir()
    (tmp_path / "shakespeare" / "input.txt").write_text("To be, or not to be: that is the question.\n" * 200)
    for name in TASKS:
        task = task_named(name, tmp_path)
        assert (task.name, bool(task.note)) == (name, True)
        assert task.example[0].shape[0] == 2
    with pytest.raises(
        TaskError, match=r"no ready-made task 'digits': expected one of digits-mlp, digits-cnn"
    ):
        task_named("digits")


def test_the_digits_split_is_fixed_and_whole():
    one, two = digits.mlp(), digits.cnn()
    for split, size in (("train", 1197), ("test", 600)):
        assert one.split(split).fingerprint == two.split(split).fingerprint
        images, labels = getattr(one, split)
        assert images.shape == (size, 1, 8, 8)
        assert labels.bincount().min() > size / 10 * 0.7
    pixels = torch.cat([one.train[0], one.test[0]])
    assert_close(torch.stack([pixels.mean(), pixels.std()]), torch.tensor([0.0, 1.0]), atol=1e-3, rtol=0)


def train_plainly(task: Task, seed: int, epochs: float) -> torch.nn.Module:
    """SGD as a task's recipe says, written from scratch."""
    recipe, examples, model = task.recipe, task.split("train"), task.build(seed).train()
    optimizer = torch.optim.SGD(
        model.parameters(), recipe.rate, recipe.momentum, weight_decay=recipe.weight_decay
    )
    steps = round(epochs * examples.steps_per_epoch(recipe.batch))
    stream = examples.stream(seed, recipe.batch, augment=recipe.augment)
    for step, (inputs, targets) in zip(range(steps), stream, strict=False):
        optimizer.param_groups[0]["lr"] = recipe.rate_at(step, steps)
        optimizer.zero_grad()
        functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
    return model.eval()


@pytest.mark.parametrize(("build", "width", "epochs"), [(digits.mlp, 128, 30), (digits.cnn, 16, 6)])
def test_the_digits_recipes_train(build, width, epochs):
    task = build(width)
    model = train_plainly(task, seed=1, epochs=epochs)
    inputs, targets = task.test
    with torch.no_grad():
        accuracy = (model(inputs).argmax(1) == targets).float().mean()
    assert accuracy > 0.96


# -- real data ----------------------------------------------------------------------------------


@needs_data
@pytest.mark.parametrize(
    ("build", "mean", "std"), [(mnist.mlp, 0.0, 1.0), (fashion.cnn, 0.0, 1.0)], ids=["mnist", "fashion"]
)
def test_real_images_are_normalised(build, mean, std):
    images, labels = build(REAL).train
    assert images.shape == (60_000, 1, 28, 28)
    assert labels.bincount().numel() == 10
    assert_close(images.double().mean().item(), mean, atol=1e-3, rtol=0)
    assert_close(images.double().std().item(), std, atol=1e-3, rtol=0)


@needs_data
@pytest.mark.slow
def test_a_published_checkpoint_gets_its_published_accuracy():
    path = Path(REAL or "") / "checkpoints/cifar10_resnet/resnet20/akamaster-resnet20-12fca82f.th"
    if not path.is_file():
        pytest.skip(f"needs {path}")
    task = cifar10.resnet20(REAL)
    images, labels = task.test
    with task.network.at(load_weights(path, task.network)) as model, torch.no_grad():
        wrong = sum(
            int((model(x).argmax(1) != y).sum())
            for x, y in zip(images.split(1000), labels.split(1000), strict=True)
        )
    assert wrong == 827
