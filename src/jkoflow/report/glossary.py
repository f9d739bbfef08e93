"""What the symbols in claims stand for, for the page: a reader of the answer need not know the theory.

Source: docs/theory.md; Cheng, Lu, Tan & Xie (2024), arXiv 2310.17582, Sections 2 to 5.
"""

from __future__ import annotations

__all__ = ["GLOSSARY"]

GLOSSARY: tuple[tuple[str, str], ...] = (
    (
        "data, p_0",
        "the law that the table's rows are drawn from, dequantised and smoothed as in the fit",
    ),
    ("model, q_0", "the law of generated rows, whose density log_prob is"),
    ("q, N(0, I)", "the noise at the end of the flow: independent standard normals"),
    (
        "KL(p_0‖q_0), KL(data‖model)",
        "the Kullback–Leibler divergence: by how many nats log_prob is below the log-density of the data, on "
        "average over real rows; 0 only if the two laws are the same",
    ),
    (
        "TV",
        "the total variation: the largest difference between the probabilities of one event under two laws, "
        "0 to 1; the best classifier between the two is right in (1 + TV)/2 of cases",
    ),
    ("nats", "unit of log-densities, by the natural logarithm: 1 nat is a factor of 2.72 in density"),
    (
        "W2",
        "the Wasserstein distance: root mean square way that rows must move to turn one law into another",
    ),
    ("block n, T_n", "the n-th map of the flow; rows x_{n-1} go in, x_n = T_n(x_{n-1}) come out"),
    ("p_n", "the law of real rows after n of N blocks; p_N should be q"),
    ("q_n", "the same of generated rows, on their way back from the noise"),
    ("T_n^{n-1}", "the best map back, of least movement, from p_n to p_{n-1}; T_n^{-1} is the learned one"),
    (
        "gamma_n",
        "size of the proximal step that block n is, or comes nearest to: the larger, the further it may move "
        "rows; without one a step is free",
    ),
    ("closing", "a free last step in closed form, by a Gaussian mixture"),
    (
        "eps_n, xi_n, the first-order residual",
        "how far block n is from the exact step of the theory; 0 if it is that step",
    ),
    ("plug-in", "an estimate put where a theorem asks for the true number, so that no proof is left"),
    ("V, lambda", "the potential of the noise, |x|²/2, and its convexity, 1: how strongly it pulls to 0"),
    ("I, rho", "the Fisher information of a law rho against q, and a law along the diffusion to q"),
    ("∇T, det", "the derivative of a map, and by how much it changes volumes"),
    ("eps_inv,n, L_n", "error of the computed inverse of block n, and by how much that inverse can stretch"),
    ("energy distance", "a distance between two samples that is 0 only for samples of one law"),
    ("p = …", "the share of samples of the right law that look at least as wrong, by chance"),
    ("standardised units", "columns scaled to mean 0 and standard deviation 1"),
    ("held-out rows", "rows that no part of the fit looked at"),
    ("validation rows", "rows that no block was trained on, by which blocks were chosen and stopped"),
)
"""A symbol or word, and what it stands for."""
