"""Known shapes in the plane: how far the default fit is from the truth, in nats of KL divergence.

    python examples/shapes.py [NAME ...] [--rows N] [--picture FILE]

Each shape has an exactly known density, so KL(truth | model) = E[log p - log q_0] is an average over fresh
draws.
"""

from __future__ import annotations

import argparse
import math
import time

import torch

from jkoflow import JKOFlow, make_law
from jkoflow.runtime import seed_stream

SHAPES = ("rings", "checkerboard", "rose", "tree")
TEST_ROWS = 10_000


def kl_to_truth(name: str, *, rows: int, seed: int = 0) -> tuple[float, float, JKOFlow]:
    """Fit the defaults to `rows` draws; KL to the truth and its standard error, nats, and the model."""
    law = make_law(name)
    model = JKOFlow(random_state=seed).fit(law.sample(rows, seed_stream(seed, "example train")).numpy())
    fresh = law.sample(TEST_ROWS, seed_stream(seed, "example test"))
    gap = law.log_prob(fresh).numpy() - model.score_samples(fresh.numpy())
    return float(gap.mean()), float(gap.std(ddof=1) / math.sqrt(len(gap))), model


def main() -> None:
    """Print a line for each shape; draw samples beside the truth if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("names", nargs="*", default=SHAPES, metavar="NAME")
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--picture", help="write truth and samples side by side to this file")
    options = parser.parse_args()
    models = {}
    for name in options.names:
        wall, cpu = time.perf_counter(), time.process_time()
        kl, error, models[name] = kl_to_truth(name, rows=options.rows)
        print(
            f"{name:14} KL to the truth {kl:.3f} +- {error:.3f} nats   "
            f"{time.process_time() - cpu:.0f} CPU s, {time.perf_counter() - wall:.0f} s",
            flush=True,
        )
    if options.picture:
        draw(models, options.picture)


def draw(models: dict[str, JKOFlow], file: str) -> None:
    """Truth above, samples of the model below."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, len(models), figsize=(3 * len(models), 6), squeeze=False)
    for column, (name, model) in enumerate(models.items()):
        truth = make_law(name).sample(20_000, torch.Generator().manual_seed(1)).numpy()
        for row, points in enumerate((truth, model.sample(20_000, random_state=1))):
            axis = axes[row, column]
            axis.scatter(points[:, 0], points[:, 1], s=0.3, alpha=0.5, color="#1f4e79", linewidths=0)
            axis.set(xlim=(-4.4, 4.4), ylim=(-4.4, 4.4), aspect="equal", xticks=[], yticks=[])
            axis.set_title(name if row == 0 else "the model's samples", fontsize=10)
    figure.tight_layout()
    figure.savefig(file, dpi=130)


if __name__ == "__main__":
    main()
