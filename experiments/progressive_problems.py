r"""Shapes, a table and images as standardised rows, with fixed features to compare samples in.

    phi(x) = cos(W x + b)                              64 random Fourier features of a row
    phi(x) = (mean, root mean square) of relu(c_k * x)    32 random filters c_k of 5 x 5 x 3 over an image
    F(A, B) = |m_A - m_B|² + tr(S_A + S_B - 2 (S_A^{1/2} S_B S_A^{1/2})^{1/2}),   m, S of the features

Source: Heusel et al. (2017), arXiv 1706.08500, for the distance; Rahimi & Recht (2007) for the features.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from sklearn.decomposition import PCA
from torch import Tensor
from torch.nn.functional import conv2d, relu

from jkoflow.data import Schema, read_table
from jkoflow.data.distinct import repeated_rows
from jkoflow.exact import GaussianState, w2
from jkoflow.laws import make_law
from jkoflow.runtime import seed_stream

SHAPES = ("rings", "checkerboard", "rose")
FILES = {"protein": "uci_protein.npz", "images": "cifar10_test_jpg_5000.zip"}
PROBLEMS = (*SHAPES, *FILES)
CODES = 32
"""Principal components of an image."""
_SIDE, _FILTERS, _FEATURES = 32, 32, 64
_FEATURE_SEED = 0
_IMAGE_PARTS = {"validation": 500, "test": 1000}


@dataclass(frozen=True)
class Problem:
    """Rows in standardised units, and what to judge samples by.

    Arguments:
        train: Rows to train on, shape `(n, d)`, float32.
        validation: Rows to stop and choose by.
        test: Rows to judge by.
        real: Training rows, as many as there are test rows, whose distance to these is that of two real sets.
        features: The feature map of rows, `(n, d)` to `(n, k)`.
        truth_nll: NLL of the test rows under the law they are drawn from, nats; NaN where it is not known.
    """

    train: Tensor
    validation: Tensor
    test: Tensor
    features: Callable[[Tensor], Tensor]
    truth_nll: float = math.nan

    @property
    def real(self) -> Tensor:
        """As many training rows as there are test rows."""
        return self.train[: len(self.test)]


def make_problem(name: str, folder: Path | None, *, rows: int, seed: int) -> Problem | None:
    """The problem `name`, or None where its file is not in `folder`.

    Arguments:
        name: One of `PROBLEMS`.
        folder: Where the files are; None for nowhere.
        rows: Most rows to train on; a fifth as many to judge by.
        seed: Of draws, split and dequantisation.
    """
    if name in SHAPES:
        return _shape(name, rows, seed)
    path = None if folder is None else folder / FILES[name]
    if path is None or not path.exists():
        return None
    return _table(path, rows, seed) if name == "protein" else _images(path, seed)


def frechet(features: Callable[[Tensor], Tensor], one: Tensor, other: Tensor) -> float:
    """The Fréchet distance of two sets of rows in the features: squared W2 of two Gaussians."""
    states = [GaussianState.from_samples(features(rows.double()).numpy()) for rows in (one, other)]
    return w2(*states) ** 2


def fourier_features(dim: int) -> Callable[[Tensor], Tensor]:
    """cos(W x + b), W of standard deviation 2/sqrt(d), b uniform: the same for all runs."""
    generator = seed_stream(_FEATURE_SEED, "fourier features")
    weights = 2 / math.sqrt(dim) * torch.randn(_FEATURES, dim, generator=generator, dtype=torch.float64)
    phases = 2 * math.pi * torch.rand(_FEATURES, generator=generator, dtype=torch.float64)
    return lambda x: torch.cos(x @ weights.T + phases)


def image_features(decode: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Mean and root mean square over an image of relu(filter * image); random filters without a mean."""
    generator = seed_stream(_FEATURE_SEED, "image features")
    filters = torch.randn(_FILTERS, 3, 5, 5, generator=generator, dtype=torch.float64)
    filters = filters - filters.mean(dim=(1, 2, 3), keepdim=True)
    filters = filters / filters.square().sum(dim=(1, 2, 3), keepdim=True).sqrt()

    def features(codes: Tensor) -> Tensor:
        answer = relu(conv2d(decode(codes), filters))
        return torch.cat([answer.mean(dim=(2, 3)), answer.square().mean(dim=(2, 3)).sqrt()], dim=1)

    return features


def _shape(name: str, rows: int, seed: int) -> Problem:
    law = make_law(name)
    sizes = [rows, rows // 5, rows // 5]
    x = law.sample(sum(sizes), seed_stream(seed, "rows of " + name))
    schema = Schema.fit(read_table(x.numpy()), rows=np.arange(rows))
    z = torch.as_tensor(schema.encode(read_table(x.numpy()))).float()
    train, validation, test = torch.split(z, sizes)
    truth = -float((law.log_prob(x[-sizes[2] :]) - schema.log_jacobian(test)).mean())
    return Problem(train, validation, test, fourier_features(law.dim), truth)


def _table(path: Path, rows: int, seed: int) -> Problem:
    x = np.load(path, allow_pickle=False)["x"].astype(np.float64)
    x = x[~repeated_rows(x)]
    sizes = [min(rows, 5 * len(x) // 7), min(rows, 5 * len(x) // 7) // 5]
    order = torch.randperm(len(x), generator=seed_stream(seed, "split")).numpy()
    table = read_table(x[order[: sizes[0] + 2 * sizes[1]]])
    schema = Schema.fit(table, rows=np.arange(sizes[0]))
    z = torch.as_tensor(schema.encode(table, generator=seed_stream(seed, "dequantisation"))).float()
    train, validation, test = torch.split(z, [sizes[0], sizes[1], sizes[1]])
    return Problem(train, validation, test, fourier_features(z.shape[1]))


def _images(path: Path, seed: int) -> Problem:
    """Codes of the images, each of mean 0 and variance 1 over the rows trained on."""
    pixels = read_images(path)
    order = torch.randperm(len(pixels), generator=seed_stream(seed, "split")).numpy()
    pixels = pixels[order]
    n_validation, n_test = _IMAGE_PARTS.values()
    n_train = len(pixels) - n_validation - n_test
    pca = PCA(CODES, whiten=True, svd_solver="randomized", random_state=seed).fit(pixels[:n_train])
    codes = torch.as_tensor(pca.transform(pixels)).float()
    basis = torch.as_tensor(pca.components_ * np.sqrt(pca.explained_variance_)[:, None]).double()
    mean = torch.as_tensor(pca.mean_).double()

    def decode(z: Tensor) -> Tensor:
        return (mean + z @ basis).reshape(-1, _SIDE, _SIDE, 3).permute(0, 3, 1, 2)

    train, validation, test = torch.split(codes, [n_train, n_validation, n_test])
    return Problem(train, validation, test, image_features(decode))


def read_images(path: Path) -> npt.NDArray[np.float32]:
    """All JPEG files of the archive in the order of their names, as rows of pixels in [0, 1]."""
    from PIL import Image

    with zipfile.ZipFile(path) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".jpg"))
        images = []
        for name in names:
            with archive.open(name) as file:
                images.append(np.asarray(Image.open(file).convert("RGB"), dtype=np.float32))
    return np.stack(images).reshape(len(images), -1) / np.float32(255)
