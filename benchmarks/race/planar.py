"""Problems in the plane whose density is known: the library's shapes, and pictures as Gaussian mixtures.

    p(x) = Σ_k w_k N(x; m_k, I),    w_k ∝ white - grey_k,    m_k two apart: the centre of pixel k

A picture's pixels are turned upright; lengths are in halves of a pixel, so that the mixture is round: the
noise is half a pixel in either direction. Source: Xu, Cheng & Xie (2023), arXiv 2212.14424, for the two
pictures.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from jkoflow.laws import GaussianMixture, Law, make_law

__all__ = ["PICTURES", "SHAPES", "picture_law", "shape_law"]

SHAPES = ("rose", "tree", "rings", "checkerboard")
PICTURES = {"img_rose": "img_rose.png", "img_tree": "img_tree.png"}


def shape_law(name: str) -> Law:
    """One of the library's own shapes."""
    return make_law(name)


def picture_law(file: Path) -> GaussianMixture:
    """The law of a picture, darker where denser."""
    with Image.open(file) as picture:
        grey = np.asarray(picture.convert("L"), dtype=np.float64)[::-1]
    weights = grey.max() - grey
    row, column = np.nonzero(weights)
    centres = np.stack([2 * column + 1 - grey.shape[1], 2 * row + 1 - grey.shape[0]], axis=1)
    return GaussianMixture(
        torch.as_tensor(weights[row, column]), torch.as_tensor(centres), stds=torch.ones(len(row))
    )
