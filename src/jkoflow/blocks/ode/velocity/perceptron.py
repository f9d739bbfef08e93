r"""The network of `MLPVelocity`, with or without k tangents through it, the backward pass by hand.

    values    z -> a = z s,  s = sigmoid(z)         gradient   g_0 -> a' g_0 + a'' sum_i g_i w_i
    tangents  w_i -> a' w_i                                    g_i -> a' g_i
              a' = s + a - a s                                 a'' = s (1 - s) (2 + z - 2 a)

Everything is stacked, so that a layer is one product: n rows of values, then k n rows of tangents. Only
values see biases, time and context. Automatic differentiation of the same lines takes twice the passes over
memory, which is where the time goes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import silu

__all__ = ["is_transformed", "product", "propagate", "propagate_values"]

_ONEDNN: Any = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
"""None where torch was built without oneDNN."""


def product(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, narrow: int = 16, few_products: int = 2**20
) -> Tensor:
    """`x weight^T + bias`, without gradient; in float32 on the CPU by oneDNN, twice as fast as MKL on AMD.

    Both must be contiguous or the transpose of a contiguous matrix: oneDNN has no fast way for other strides.
    Matrices with a side below `narrow` are multiplied faster by BLAS, up to so many products.
    """
    fast = _ONEDNN is not None and x.dtype is torch.float32 and x.device.type == "cpu"
    fast = fast and bool(torch.backends.mkldnn.enabled)
    thin = min(*x.shape, len(weight)) < narrow and x.numel() * len(weight) < few_products
    if not fast or thin or not x.numel():
        return x @ weight.T if bias is None else torch.addmm(bias, x, weight.T)
    result: Tensor = _ONEDNN(x, weight, bias, "none", [], "")
    return result


def is_transformed(x: Tensor) -> bool:
    """Whether `torch.func` looks through `x`, which the passes by hand do not support."""
    return bool(torch._C._functorch.is_functorch_wrapped_tensor(x))


def propagate_values(
    x: Tensor, columns: Tensor, frequencies: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]
) -> Tensor:
    """The network's values `(n, d)` alone; once differentiable in weights and biases, not in `x`.

    Arguments:
        x: Shape `(n, d)`.
        columns: Time and context, the last inputs of the first layer: shape `(1, c)` or `(n, c)`, constants.
        frequencies: W, shape `(m, d)`.
        weights: Of the hidden layers and of the output.
        biases: Of the hidden layers and of the output.
    """
    if torch.is_grad_enabled() and any(weight.requires_grad for weight in weights):
        arguments = (columns, frequencies, len(weights), x, *weights, *biases)
        values: Tensor = _PropagateValues.apply(*arguments)  # type: ignore[no-untyped-call]  # torch's own
        return values
    h = _inputs(x, columns, frequencies)
    for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
        h = silu(product(h, weight, bias), inplace=True)
    return product(h, weights[-1], biases[-1])


def propagate(
    x: Tensor,
    tangents: Tensor,
    columns: Tensor,
    frequencies: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
) -> tuple[Tensor, Tensor]:
    """The network's values and its derivatives along k directions, once differentiable.

    Arguments:
        x: Shape `(n, d)`.
        tangents: Directions, shape `(k, n, d)`, k >= 1.
        columns: Time and context, the last inputs of the first layer: shape `(1, c)` or `(n, c)`, constants.
        frequencies: W, shape `(m, d)`.
        weights: Of the hidden layers and of the output.
        biases: Of the hidden layers and of the output.

    Returns:
        Values `(n, d)` and derivatives `(k, n, d)`.
    """
    if not len(x):
        return torch.zeros_like(x), torch.zeros_like(tangents)
    if torch.is_grad_enabled():
        arguments = (columns, frequencies, len(weights), x, tangents, *weights, *biases)
        value, slope = _Propagate.apply(*arguments)  # type: ignore[no-untyped-call]  # torch's own
        return value, slope
    n = len(x)
    h, _ = _features(x, tangents, frequencies)
    first, shift = _first_layer(h, columns, weights[0], biases[0])
    for weight, bias in zip((first, *weights[1:-1]), (shift, *biases[1:-1]), strict=True):
        h = product(h, weight)
        h[:n] += bias
        _activate_in_place(h, n)
    return _read_out(h, n, weights[-1], biases[-1])


class _PropagateValues(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, columns: Tensor, frequencies: Tensor, n_layers: int, x: Tensor, *parameters: Tensor
    ) -> Tensor:
        weights, biases = parameters[:n_layers], parameters[n_layers:]
        h = _inputs(x, columns, frequencies)
        kept = [h]
        for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
            z = product(h, weight, bias)
            h = silu(z)
            kept += [z, h]
        ctx.save_for_backward(*weights, *kept)
        ctx.n_layers = n_layers
        return product(h, weights[-1], biases[-1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        weights, kept = ctx.saved_tensors[: ctx.n_layers], list(ctx.saved_tensors[ctx.n_layers :])
        g_weights, g_biases = list[Tensor](), list[Tensor]()
        for weight in reversed(weights):
            # copied: a product of two transposes takes longer than a copy and a product of one
            g_weights.append(product(g.T.contiguous(), kept.pop().T))
            g_biases.append(g.sum(dim=0))
            if kept:
                g = torch.ops.aten.silu_backward(product(g, weight.T), kept.pop())
        return None, None, None, None, *reversed(g_weights), *reversed(g_biases)


def _inputs(x: Tensor, columns: Tensor, frequencies: Tensor) -> Tensor:
    """[x, sin Wx, cos Wx, columns], shape `(n, d + 2 m + c)`."""
    (n, d), m = x.shape, len(frequencies)
    h = x.new_empty(n, d + 2 * m + columns.shape[1])
    phase = product(x, frequencies)
    h[:, :d] = x
    torch.sin(phase, out=h[:, d : d + m])
    torch.cos(phase, out=h[:, d + m : d + 2 * m])
    h[:, d + 2 * m :] = columns
    return h


class _Layer(NamedTuple):
    """What the backward pass of one hidden layer needs."""

    weight: Tensor
    below: Tensor
    tangents: Tensor
    slope: Tensor
    curvature: Tensor


class _Propagate(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        columns: Tensor,
        frequencies: Tensor,
        n_layers: int,
        x: Tensor,
        tangents: Tensor,
        *parameters: Tensor,
    ) -> tuple[Tensor, Tensor]:
        n, weights, biases = len(x), parameters[:n_layers], parameters[n_layers:]
        h, phase = _features(x, tangents, frequencies)
        first, shift = _first_layer(h, columns, weights[0], biases[0])
        layers = []
        for weight, bias in zip((first, *weights[1:-1]), (shift, *biases[1:-1]), strict=True):
            z = product(h, weight)
            z[:n] += bias
            above, slope, curvature = _activate(z, n)
            layers.append(_Layer(weight, h, z[n:], slope, curvature))
            h = above
        ctx.save_for_backward(
            columns, frequencies, phase, h, weights[-1], *(t for layer in layers for t in layer)
        )
        return _read_out(h, n, weights[-1], biases[-1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_value: Tensor, g_slope: Tensor) -> tuple[Tensor | None, ...]:
        n, d = g_value.shape
        columns, frequencies, phase, top, weight, *rest = ctx.saved_tensors
        layers = [_Layer(*rest[start : start + 5]) for start in range(0, len(rest), 5)]
        wants_x, wants_tangents = ctx.needs_input_grad[3:5]
        g = torch.cat([g_value, g_slope.reshape(-1, d)])
        g_weights, g_biases = [product(g.T, top.T)], [g_value.sum(dim=0)]
        g = product(g, weight.T)
        for layer in reversed(layers):
            _activate_backward(g, n, layer)
            g_weights.append(product(g.T, layer.below.T))
            g_biases.append(g[:n].sum(dim=0))
            if layer is layers[0]:
                along = g_biases[-1][:, None] if len(columns) == 1 else g[:n].T
                g_weights[-1] = torch.cat([g_weights[-1], along @ columns], dim=1)
            if layer is not layers[0] or wants_x or wants_tangents:
                g = product(g, layer.weight.T)
        g_x = g_tangents = None
        if wants_x or wants_tangents:
            g_x, g_tangents = _features_backward(
                g, n, phase, layers[0].below, frequencies, with_tangents=wants_tangents
            )
        return None, None, None, g_x, g_tangents, *reversed(g_weights), *reversed(g_biases)


def _first_layer(features: Tensor, columns: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Weights of the features alone, and what bias, time and context add: `(1, width)` or `(n, width)`."""
    split = features.shape[1]
    return weight[:, :split].contiguous(), torch.addmm(bias, columns, weight[:, split:].T)


def _read_out(h: Tensor, n: int, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    output = product(h, weight)
    return output[:n].add_(bias), _by_direction(output[n:], n)


def _activate(z: Tensor, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """The activations above z, a' and a''; what z held for the values is used up."""
    above, value = torch.empty_like(z), z[:n]
    sigmoid = value.sigmoid()
    activated = torch.mul(value, sigmoid, out=above[:n])
    slope = torch.add(sigmoid, activated).addcmul_(activated, sigmoid, value=-1)
    torch.mul(_by_direction(z[n:], n), slope, out=_by_direction(above[n:], n))
    value.add_(activated, alpha=-2).add_(2)
    return above, slope, torch.ops.aten.sigmoid_backward(value, sigmoid)


def _activate_in_place(z: Tensor, n: int) -> None:
    """The activations alone."""
    value = z[:n]
    sigmoid = value.sigmoid()
    value *= sigmoid
    slope = torch.add(sigmoid, value).addcmul_(value, sigmoid, value=-1)
    _by_direction(z[n:], n).mul_(slope)


def _activate_backward(g: Tensor, n: int, layer: _Layer) -> None:
    """The gradient above an activation becomes the gradient below it, in place."""
    along = g[n : 2 * n] * layer.tangents[:n]
    for start in range(n, len(layer.tangents), n):
        along.addcmul_(g[n + start : 2 * n + start], layer.tangents[start : start + n])
    _by_direction(g, n).mul_(layer.slope)
    g[:n].addcmul_(along, layer.curvature)


def _features(x: Tensor, tangents: Tensor, frequencies: Tensor) -> tuple[Tensor, Tensor]:
    """[x, sin Wx, cos Wx] above its derivatives, shape `((1 + k) n, d + 2 m)`, and both times W^T."""
    (n, d), m = x.shape, len(frequencies)
    stack = torch.cat([x, tangents.reshape(-1, d)])
    phase = product(stack, frequencies)
    h = stack.new_empty(len(stack), d + 2 * m)
    h[:, :d] = stack
    sine = torch.sin(phase[:n], out=h[:n, d : d + m])
    cosine = torch.cos(phase[:n], out=h[:n, d + m :])
    slope, along = _by_direction(phase[n:], n), _by_direction(h[n:], n)
    torch.mul(slope, cosine, out=along[:, :, d : d + m])
    torch.mul(slope, sine, out=along[:, :, d + m :]).neg_()
    return h, phase


def _features_backward(
    g: Tensor, n: int, phase: Tensor, h: Tensor, frequencies: Tensor, *, with_tangents: bool
) -> tuple[Tensor, Tensor | None]:
    """The gradients of x and, if asked for, of the tangents."""
    m, d = frequencies.shape
    sine, cosine = h[:n, d : d + m], h[:n, d + m :]
    stacked = _by_direction(g, n)
    g_sine, g_cosine = stacked[:, :, d : d + m], stacked[:, :, d + m :]
    g_value = (g_sine[0] * cosine).addcmul_(g_cosine[0], sine, value=-1)
    bent = (g_sine[1:] * sine).addcmul_(g_cosine[1:], cosine).mul_(_by_direction(phase[n:], n))
    g_x = torch.addmm(g[:n, :d], g_value - bent.sum(dim=0), frequencies)
    if not with_tangents:
        return g_x, None
    g_slope = (g_sine[1:] * cosine).addcmul_(g_cosine[1:], sine, value=-1)
    g_tangents = torch.addmm(g[n:, :d], g_slope.view(len(g) - n, m), frequencies)
    return g_x, _by_direction(g_tangents, n)


def _by_direction(stack: Tensor, n: int) -> Tensor:
    return stack.view(len(stack) // n, n, stack.shape[1])
