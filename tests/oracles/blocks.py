"""Every kind of block with random weights that are far from the identity and still invertible."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from jkoflow.blocks import AffineBlock, Block, MixtureBlock, NeuralODEBlock
from jkoflow.blocks.autoregressive import (
    AutoregressiveBlock,
    AutoregressiveFamily,
    AutoregressiveRules,
    LeafRules,
)
from jkoflow.blocks.ode.velocity import MLPVelocity
from jkoflow.blocks.zuko import ZukoBlock
from jkoflow.laws import GaussianMixture
from jkoflow.particles import Particles

__all__ = [
    "BLOCKS",
    "DTYPES",
    "autodiff_log_det",
    "coarse_block",
    "context_for",
    "generator",
    "make_block",
    "make_velocity",
    "mixture_numbers",
    "points",
]

DTYPES = (torch.float32, torch.float64)
CONTEXT_DIM = 3


def generator(seed: int = 0) -> torch.Generator:
    """A source of randomness that belongs to the caller."""
    return torch.Generator().manual_seed(seed)


def points(n: int, dim: int, dtype: torch.dtype = torch.float64, *, seed: int = 7) -> Tensor:
    """Where blocks are tried: N(0.3, 1.2^2) in each coordinate, shape `(n, dim)`."""
    return (torch.randn(n, dim, generator=generator(seed), dtype=torch.float64) * 1.2 + 0.3).to(dtype)


def context_for(block: Block, n: int, dtype: torch.dtype, *, seed: int = 8) -> Tensor | None:
    """Context rows where the block takes a context, else None."""
    context_dim = block.conditioned_on or 0
    if context_dim == 0:
        return None
    return torch.randn(n, context_dim, generator=generator(seed), dtype=torch.float64).to(dtype)


def make_velocity(
    dim: int,
    dtype: torch.dtype = torch.float64,
    *,
    context_dim: int = 0,
    strength: float = 0.8,
    radius: float = math.inf,
    seed: int = 0,
    width: int = 16,
    frequency_scale: float = 0.5,
) -> MLPVelocity:
    """A small network with a random last layer: root mean square about `strength` in each coordinate."""
    source = generator(seed)
    field = MLPVelocity(
        dim=dim,
        context_dim=context_dim,
        width=width,
        depth=2,
        n_frequencies=6,
        frequency_scale=frequency_scale,
        generator=source,
    ).double()
    with torch.no_grad():
        for layer in field.hidden:
            layer.weight.mul_(2)  # torch's default weights leave a field that hardly varies
        field.out.weight.normal_(generator=source)
        field.out.bias.normal_(std=0.1, generator=source)
        probe = points(256, dim, seed=seed)
        context = torch.zeros(256, context_dim, dtype=torch.float64) if context_dim else None
        size = field.raw(probe, 0.5, context).square().mean().sqrt()
        field.out.weight.div_(size)
        field.out.bias.div_(size)
    field.amplitude.fill_(strength)
    field.radius.fill_(radius)
    return field.to(dtype)


def _affine(dim: int, dtype: torch.dtype) -> Block:
    source = generator(3)
    root = torch.randn(dim, dim, generator=source, dtype=torch.float64) / dim**0.5
    matrix = (0.5 * torch.eye(dim, dtype=torch.float64) + root @ root.T).to(dtype)
    offset = torch.randn(dim, generator=source, dtype=torch.float64).to(dtype)
    return AffineBlock(dim=dim, gamma=0.7, matrix=matrix, offset=offset)


def _one_step(dim: int, dtype: torch.dtype) -> Block:
    return NeuralODEBlock(make_velocity(dim, dtype, seed=1), gamma=0.5, steps=1)


def _steps(dim: int, dtype: torch.dtype) -> Block:
    return NeuralODEBlock(make_velocity(dim, dtype, seed=2, strength=1.0), gamma=math.inf, steps=3)


def _context(dim: int, dtype: torch.dtype) -> Block:
    return NeuralODEBlock(make_velocity(dim, dtype, seed=3, context_dim=CONTEXT_DIM), gamma=0.2, steps=2)


def _taper(dim: int, dtype: torch.dtype) -> Block:
    # points() lie inside, in and beyond the shell from the radius to twice the radius
    radius = 0.9 * dim**0.5
    return NeuralODEBlock(make_velocity(dim, dtype, seed=4, strength=0.4, radius=radius), gamma=1.5, steps=2)


def _mixture(dim: int, dtype: torch.dtype, context_dim: int = 0) -> MixtureBlock:
    weights, means, covariances = mixture_numbers(4, context_dim + dim, seed=5)
    law = GaussianMixture(weights, means, covariances=covariances)
    return MixtureBlock.of(law, context_dim=context_dim).to(dtype)


def _mixture_context(dim: int, dtype: torch.dtype) -> Block:
    return _mixture(dim, dtype, CONTEXT_DIM)


def _zuko(dim: int, dtype: torch.dtype, transform: str = "NSF", context_dim: int = 0) -> Block:
    options = {"transforms": 2, "hidden_features": [16]}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(6)
        block = ZukoBlock(
            dim=dim, gamma=0.6, context_dim=context_dim, transform=transform, options=options
        ).double()
    return block.to(dtype)


def _zuko_affine(dim: int, dtype: torch.dtype) -> Block:
    return _zuko(dim, dtype, "MAF")


def _zuko_context(dim: int, dtype: torch.dtype) -> Block:
    return _zuko(dim, dtype, context_dim=CONTEXT_DIM)


def _autoregressive(dim: int, dtype: torch.dtype, context_dim: int = 0) -> Block:
    """Fitted to correlated rows, and then moved by a network that says something of every column."""
    source = generator(9)
    root = torch.randn(dim, dim, generator=source, dtype=torch.float64) / dim**0.5
    context = points(300, context_dim, seed=11) if context_dim else None
    rows = Particles(points(300, dim, seed=10) @ (0.6 * torch.eye(dim) + root).double(), context)
    sizes = AutoregressiveRules(width=(16, 16), fixed=(3, 3), n_moving=3)
    block = AutoregressiveFamily(sizes).new(rows, math.inf, generator=source)
    with torch.no_grad():
        for layer in block.conditionals.network.said:
            noise = torch.randn(layer.weight.shape, generator=source, dtype=torch.float64)
            layer.weight.copy_(0.4 * noise * layer.mask)
            layer.bias.copy_(0.2 * torch.randn(layer.bias.shape, generator=source))
        block.order.copy_(torch.randperm(dim, generator=source))
    return block.to(dtype)


def _autoregressive_context(dim: int, dtype: torch.dtype) -> Block:
    return _autoregressive(dim, dtype, CONTEXT_DIM)


def _autoregressive_with_more(dim: int, dtype: torch.dtype, context_dim: int = 0) -> Block:
    """The same with a share for a mixture of Gaussians, and for kernels at the leaves of trees."""
    block = _autoregressive(dim, torch.float64, context_dim)
    assert isinstance(block, AutoregressiveBlock)
    context = points(400, context_dim, seed=13) if context_dim else None
    rows = Particles(points(400, dim, seed=12).sign() + 0.5 * points(400, dim, seed=14), context)
    mixture = _mixture(dim, torch.float64, context_dim)
    assert isinstance(mixture, MixtureBlock)
    rules = LeafRules(trees=(3, 2), least_share=0.0, widths=(0.2, 1.0), least_width=0.2, prior_rows=200)
    block.add_gaussians(mixture, rows.rows(slice(0, 100)), rules)
    block.grow_leaves(rows, rows.rows(slice(0, 100)), rules, 1)
    return block.to(dtype)


def _autoregressive_with_more_context(dim: int, dtype: torch.dtype) -> Block:
    return _autoregressive_with_more(dim, dtype, CONTEXT_DIM)


def mixture_numbers(n_components: int, dim: int, *, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Weights, means and covariances of overlapping components, float64."""
    source = generator(seed)
    root = torch.randn(n_components, dim, dim, generator=source, dtype=torch.float64) / dim**0.5
    covariances = 0.8 * root @ root.mT + 0.3 * torch.eye(dim, dtype=torch.float64)
    means = torch.randn(n_components, dim, generator=source, dtype=torch.float64)
    return 0.2 + torch.rand(n_components, generator=source, dtype=torch.float64), means, covariances


BLOCKS: dict[str, Callable[[int, torch.dtype], Block]] = {
    "affine": _affine,
    "autoregressive": _autoregressive,
    "autoregressive_context": _autoregressive_context,
    "autoregressive_with_more": _autoregressive_with_more,
    "autoregressive_with_more_context": _autoregressive_with_more_context,
    "mixture": _mixture,
    "mixture_context": _mixture_context,
    "neural_ode": _one_step,
    "neural_ode_steps": _steps,
    "neural_ode_context": _context,
    "neural_ode_taper": _taper,
    "zuko": _zuko,
    "zuko_affine": _zuko_affine,
    "zuko_context": _zuko_context,
}


def make_block(name: str, dtype: torch.dtype = torch.float64, dim: int = 3) -> Block:
    """The block of that name: the same numbers at every call, gradients off."""
    return BLOCKS[name](dim, dtype).requires_grad_(False)


_COARSE = {1: (1.2, 0.8), 2: (0.75, 0.4)}
"""Strength and frequency scale by dimension, found by trial; that the map is one to one is tested."""


def coarse_block(dim: int) -> NeuralODEBlock:
    """One Runge-Kutta step of a field so strong that the step is far from the flow, and yet one to one."""
    strength, frequency_scale = _COARSE[dim]
    field = make_velocity(dim, seed=8, strength=strength, frequency_scale=frequency_scale)
    return NeuralODEBlock(field, gamma=1.0, steps=1).requires_grad_(False)


def autodiff_log_det(block: Block, x: Tensor, context: Tensor | None = None) -> Tensor:
    """log|det dT(x)| row by row, by reverse-mode differentiation of `push` itself."""

    if context is None:
        jacobian = torch.func.vmap(torch.func.jacrev(lambda row: block.push(row[None])[0]))(x)
    else:
        jacobian = torch.func.vmap(torch.func.jacrev(lambda row, c: block.push(row[None], c[None])[0]))(
            x, context
        )
    return torch.linalg.slogdet(jacobian)[1]
