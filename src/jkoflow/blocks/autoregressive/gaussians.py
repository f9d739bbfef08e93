r"""The conditionals of a Gaussian mixture, one column at a time, beside those that a network moves.

    p(x_i | x_<i, c) = sum_k w_ik N(x_i; l_ik(x_<i), s_ik^2),    w_ik = pi_k p_k(x_<i) / sum_j pi_j p_j(x_<i)

They are those of `blocks.mixture`, whose map they make. Source: Bishop (2006), "Pattern Recognition and
Machine Learning", section 2.3.1, for the conditionals of a Gaussian.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from jkoflow.blocks.autoregressive.head import Components
from jkoflow.blocks.log_sums import log_sum_exp
from jkoflow.blocks.mixture import MixtureBlock
from jkoflow.blocks.mixture_quantile import log_root_two_pi

__all__ = ["GaussianConditionals"]


class GaussianConditionals(nn.Module):
    """The conditionals of a mixture of (c, x), and the share of each column that they have.

    Arguments:
        n_components: K.
        dim: d.
        context_dim: c.
    """

    def __init__(self, n_components: int, dim: int, context_dim: int) -> None:
        super().__init__()
        self.n_components, self.dim, self.context_dim = n_components, dim, context_dim
        p = context_dim + dim
        self.register_buffer("share", torch.zeros(dim))
        self.register_buffer("log_weights", torch.zeros(n_components))
        self.register_buffer("means", torch.zeros(n_components, p))
        self.register_buffer("inverse_factors", torch.eye(p).repeat(n_components, 1, 1))

    share: Tensor
    log_weights: Tensor
    means: Tensor
    inverse_factors: Tensor

    @classmethod
    def of(cls, mixture: MixtureBlock, order: Tensor) -> GaussianConditionals:
        """Those of the mixture that a block takes to N(0, I), with shares of zero.

        Arguments:
            mixture: The block.
            order: The columns in the order in which they are conditioned, shape `(d,)`.
        """
        made = cls(mixture.n_components, mixture.dim, mixture.context_dim).to(mixture.means)
        index = torch.cat([torch.arange(mixture.context_dim).to(order), mixture.context_dim + order])
        factors = torch.linalg.inv(mixture.inverse_factors.double())[:, index]
        covariances = factors @ factors.mT
        inverse = torch.linalg.inv(torch.linalg.cholesky(covariances)).tril()
        made.log_weights.copy_(mixture.log_weights)
        made.means.copy_(mixture.means[:, index])
        made.inverse_factors.copy_(inverse)
        return made

    @property
    def columns(self) -> list[int]:
        """The columns that they have a share of."""
        return [i for i, share in enumerate(self.share.tolist()) if share > 0]

    def log_prob_by_column(self, rows: Tensor) -> Tensor:
        """log p(x_i | x_<i, c), shape `(n, d)`, nats.

        Arguments:
            rows: Context and columns, shape `(n, c + d)`.
        """
        inverse = self.inverse_factors.double()
        u = self._whitened(rows, inverse)
        heights = inverse.diagonal(dim1=1, dim2=2).log() - 0.5 * u.square() - log_root_two_pi
        log_weights = torch.log_softmax(self.log_weights.double(), dim=0)  # of sum 1, whatever their rounding
        joint = log_sum_exp(log_weights[:, None] + heights.cumsum(dim=2))
        first = torch.zeros_like(joint[:, :1])
        return torch.cat([first, joint], dim=1).diff(dim=1)[:, self.context_dim :].to(rows.dtype)

    def components(self, column: int, rows: Tensor) -> Components:
        """The mixture of one column for some rows, of weights of sum 1, shape `(n, K, 1)` each.

        Arguments:
            column: i.
            rows: Context and columns before i, more are not looked at, shape `(n, >= c + i)`.
        """
        place = self.context_dim + column
        seen, inverse = rows[:, :place].double(), self.inverse_factors.double()
        factors = inverse[:, :place, :place]
        squares = self._whitened(seen, factors).square().sum(dim=2)
        heights = (
            self.log_weights.double() + factors.diagonal(dim1=1, dim2=2).log().sum(dim=1) - 0.5 * squares
        )
        row, rate = inverse[:, place, :place].contiguous(), inverse[:, place, place]
        means = self.means.double()
        shift = seen @ row.T - (row * means[:, :place]).sum(dim=1)
        location = means[:, place] - shift / rate
        log_scale = (-rate.log()).expand_as(location)
        found = torch.log_softmax(heights, dim=1), location, log_scale
        return Components(*(part[:, :, None].to(rows.dtype) for part in found))

    def _whitened(self, rows: Tensor, inverse: Tensor) -> Tensor:
        """u_k = L_k^{-1} (x - m_k) by the first columns, shape `(n, K, columns)`, float64."""
        p = rows.shape[1]
        shift = (inverse @ self.means.double()[:, :p, None]).flatten()
        flat = rows.double() @ inverse.flatten(0, 1).T - shift
        return flat.view(len(rows), self.n_components, p)

    def check_numbers(self) -> None:
        """Refuse weights that do not sum to one, shares out of range, and factors of no covariance.

        Raises:
            ValueError: Such numbers; the message names their tensor.
        """
        factors, share = self.inverse_factors, self.share
        if abs(float(self.log_weights.double().logsumexp(dim=0))) > MixtureBlock.weights_tolerance:
            raise ValueError("tensor gaussians.log_weights: expected weights of sum 1")
        if not bool((factors.diagonal(dim1=1, dim2=2) > 0).all()) or bool(factors.triu(1).any()):
            raise ValueError("tensor gaussians.inverse_factors: expected triangular ones, diagonals above 0")
        if bool(((share < 0) | (share >= 1)).any()):
            raise ValueError("tensor gaussians.share: expected numbers of at least 0 and below 1")
