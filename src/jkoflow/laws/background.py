r"""The components of a mixture for rows unlike any of those that it is fitted to: their widths and weights.

    weight = seen + (1 - seen)/(n + 1),    widths spread growth^k,    weights decay^k over their sum

1/(n + 1) is the rule of succession's probability of a row unlike n others (Laplace 1774). Source: ours.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Background"]


@dataclass(frozen=True)
class Background:
    """The components of a mixture that stand for rows unlike any of those that it is fitted to.

    With more than one width it is a scale mixture whose mass beyond a radius r falls as r^{-1/2}, slower than
    that of any law whose rows are seen at all: the mean log-density of rows is then finite whatever their
    tails are, and no single row decides it.

    Arguments:
        spread: Standard deviation of the first component, in those of the columns.
        widths: Number of components.
        growth: Each is so many times as wide as the one before,
        decay: and has so many times its weight.
        seen: Share of such rows in the table, gross outliers, which come on top of the one in n + 1 that the
            rule of succession expects.
    """

    spread: float = 2.0
    widths: int = 1
    growth: float = 4.0
    decay: float = 0.5
    seen: float = 0.0

    @property
    def is_heavy(self) -> bool:
        """Whether it is there for the sake of heavy tails."""
        return self.widths > 1

    def share(self, n_rows: float) -> float:
        """The weight of all its components beside a mixture that is fitted to so many rows."""
        return self.seen + (1 - self.seen) / (n_rows + 1)

    def components(self) -> tuple[list[float], list[float]]:
        """Standard deviations, in those of the columns, and weights of sum 1."""
        deviations = [self.spread * self.growth**place for place in range(self.widths)]
        weights = [self.decay**place for place in range(self.widths)]
        return deviations, [weight / sum(weights) for weight in weights]
