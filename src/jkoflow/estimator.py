r"""The scikit-learn estimator: a table in, samples and exact log-likelihoods out.

    log p(x) = log q_0((x - m)/s) - sum log s           (`score_samples`, nats, data units)

Source: Cheng, Lu, Tan & Xie (2024), arXiv 2310.17582, for the flow; scikit-learn for the rest.
"""

from __future__ import annotations

import os
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, DensityMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from jkoflow.certify import Certificates, certify
from jkoflow.certify.cross_validation import with_cross_validation
from jkoflow.certify.fit_rows import FittedTable
from jkoflow.certify.rows import evidence_from, evidence_without, held_out_evidence
from jkoflow.certify.same_law import recorded_of
from jkoflow.config import Settings
from jkoflow.counts import checked_count
from jkoflow.data import Table, checked_weight, counted_rows, read_table
from jkoflow.errors import InputError
from jkoflow.fitting import fit_table
from jkoflow.global_state import default_state
from jkoflow.model import Model, load_model, save_model
from jkoflow.runs import RunFolder

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["JKOFlow"]

Reals = npt.NDArray[np.float64]


class JKOFlow(ClassNamePrefixFeaturesOutMixin, TransformerMixin, DensityMixin, BaseEstimator):  # type: ignore[misc]
    """A normalizing flow trained block by block, each block one proximal step of KL(. | N(0, I)).

    Arguments:
        gamma: Step sizes: `"auto"`, a number, or a table such as `{"kind": "geometric", "first": 0.25,
            "growth": 1.4}`; kinds are `constant`, `geometric`, `adaptive`.
        max_blocks: Most blocks.
        objective: `"auto"`, `"jko"` (every block on the proximal objective alone), `"end_to_end"` (all blocks
            at once on the likelihood) or `"flow_matching"` (one block on straight paths).
        closing: `"auto"`: where step sizes are automatic, each round of blocks ends with the map of a
            Gaussian mixture where validation rows want it; None: blocks alone.
        block: Kind of block: `"neural_ode"`, `"affine"`, or a table with `kind` and that kind's options.
        law: The law that the flow ends in: `"standard_normal"`, or a table such as `{"kind": "gaussian",
            "mean": ..., "covariance": ...}`; another than the standard normal needs `objective="jko"`.
        divergence: The log-determinant in training: `"auto"`, `"determinant"`, `"exact"`, `"hutchinson"`.
        smoothing: None; a W2 distance in standardised units; or `{"kind": ..., "time" or "delta": ...}`.
        validation_fraction: Share of the rows for early stopping and choices.
        holdout_fraction: Share of the rows that no part of the fit looks at.
        budget: CPU-seconds; None for the documented limit in updates.
        dtype: `"float32"` or `"float64"`.
        device: `"auto"`, `"cpu"`, `"cuda"`.
        random_state: None, a whole number, or a `numpy.random.RandomState`.
        verbose: 0 for silence, 1 for a line on stderr after each step.

    Attributes:
        flow_: The trained `Flow`, on standardised rows.
        model_: The `Model`: columns, flow, settings.
        steps_: One record for each step: step size, loss terms and validation NLL in nats, transport.
        results_: The summary: held-out NLL beside a Gaussian's, round-trip error, CPU-seconds, notes.
        n_features_in_: d.
        feature_names_in_: Column names, where X was a DataFrame.
    """

    def __init__(
        self,
        *,
        gamma: Any = "auto",
        max_blocks: int = 16,
        objective: str = "auto",
        closing: str | None = "auto",
        block: Any = "neural_ode",
        law: Any = "standard_normal",
        divergence: str = "auto",
        smoothing: Any = None,
        validation_fraction: float = 0.1,
        holdout_fraction: float = 0.0,
        budget: float | None = None,
        dtype: str = "float32",
        device: str = "auto",
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.gamma = gamma
        self.max_blocks = max_blocks
        self.objective = objective
        self.closing = closing
        self.block = block
        self.law = law
        self.divergence = divergence
        self.smoothing = smoothing
        self.validation_fraction = validation_fraction
        self.holdout_fraction = holdout_fraction
        self.budget = budget
        self.dtype = dtype
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    @default_state()
    def fit(
        self,
        X: Any,
        y: object = None,
        *,
        context: Any = None,
        sample_weight: Any = None,
        run: str | os.PathLike[str] | None = None,
    ) -> Self:
        """Fit the flow.

        Arguments:
            X: A DataFrame, an array `(n_samples, n_features)`, or the path of a table. From 256 MB on rows
                are not read into memory: float64 in a `.npy` file, or in a read-only `numpy.memmap`, stays
                where it is and must not change meanwhile; others are copied to a temporary file (`TMPDIR`).
            y: Ignored.
            context: What each row is conditioned on, `(n_samples, n_context)`; None for nothing.
            sample_weight: How much each row counts, `(n_samples,)`, finite and >= 0: a whole number is the
                row that many times, 0 leaves it out; None where all count the same.
            run: A new folder to keep the run in: model, settings, record of steps, checkpoints.

        Returns:
            The estimator itself.

        Raises:
            InputError: The rows or an option are refused; nothing was written.
            NumericalError: A block could not be trained.
            RunFolderError: `run` is already there or cannot be written.
        """
        del y
        settings, table = self._settings(), read_table(X)
        conditions = _table_of(context)
        weight = checked_weight(sample_weight, table)
        table, conditions, weight = counted_rows(table, conditions, weight)
        opened = nullcontext() if run is None else RunFolder.open(run, "new")
        with opened as folder:
            fitted = fit_table(
                table,
                context=conditions,
                weight=weight,
                settings=settings,
                run=folder,
                progress=self._report,
            )
        self._forget()
        self.results_, self.steps_ = fitted.results, fitted.steps
        self._fitted = FittedTable(table, conditions, weight, settings, fitted.split)
        return self._set_model(fitted.model)

    @default_state()
    def sample(
        self, n_samples: int = 1, *, context: Any = None, random_state: Any = None
    ) -> Reals | pd.DataFrame:
        """Draw rows like those of the table.

        Arguments:
            n_samples: How many.
            context: One row for all, or one row each; where the model was fitted with a context.
            random_state: None for fresh rows each time, or a whole number: the same number gives the same
                rows, and fewer rows are the first of more.

        Returns:
            Rows `(n_samples, n_features)` in data units; a DataFrame if X was one. The round-trip error of
            each row, standardised units, is kept in `inversion_error_`.
        """
        check_is_fitted(self)
        seed = _seed(random_state)
        conditions = _table_of(context)
        rows, self.inversion_error_ = self.model_.sample(n_samples, seed=seed, context=conditions)
        return self.model_.schema.to_user(rows)

    @default_state()
    def score_samples(self, X: Any, *, context: Any = None) -> Reals:
        """Log-density of each row, shape `(n_samples,)`, nats, in the units of the data; deterministic.

        A row of a column that was recorded on a grid is scored at the middle of its cell.
        """
        check_is_fitted(self)
        return self.model_.log_prob(self._rows(X), _table_of(context))

    def log_prob(self, X: Any, *, context: Any = None) -> Reals:
        """The same as `score_samples`."""
        return self.score_samples(X, context=context)

    @default_state()
    def score(self, X: Any, y: object = None, *, context: Any = None, sample_weight: Any = None) -> float:
        """Mean log-density of a row, by the rows' weights where given, nats, in the units of the data."""
        del y
        check_is_fitted(self)
        rows = self._rows(X)
        nats = self.model_.log_prob(rows, _table_of(context))
        return float(np.average(nats, weights=checked_weight(sample_weight, rows)))

    @default_state()
    def transform(self, X: Any, *, context: Any = None) -> Reals:
        """Latent rows `(n_samples, n_features)`: independent standard normals where the model is right."""
        check_is_fitted(self)
        return self.model_.transform(self._rows(X), _table_of(context))

    @default_state()
    def inverse_transform(self, X: Any, *, context: Any = None) -> Reals | pd.DataFrame:
        """Rows in data units of latent rows `(n_samples, n_features)`."""
        check_is_fitted(self)
        latent = read_table(np.asarray(X))
        if latent.dim != self.n_features_in_:
            raise InputError(f"latent rows: expected {self.n_features_in_} columns, got {latent.dim}")
        rows = self.model_.inverse_transform(latent.array, _table_of(context))
        return self.model_.schema.to_user(rows)

    @default_state()
    def certify(self, X: Any = None, *, context: Any = None, sample_weight: Any = None) -> Certificates:
        """How far the model is from the data, and how one knows.

        Arguments:
            X: Rows that no part of the fit used, early stopping included; None for those that `fit` set aside
                (`holdout_fraction`), which a loaded model has not. Where `fit` set aside fewer than 100 of a
                table of 100 to 1,000 rows, the model is fitted five times more, each time without a fifth of
                the rows, which are its held-out rows.
            context: What each row of X is conditioned on, where the model was fitted with a context.
            sample_weight: How much each row of X counts, as of `fit`.

        Returns:
            Between which ends KL(data‖model) lies, and claims with a verdict each; see `Certificates`.

        Raises:
            InputError: Rows that do not fit the model, or a context without rows.
        """
        check_is_fitted(self)
        for name, value in (("context", context), ("sample_weight", sample_weight)):
            if X is None and value is not None:
                raise InputError(f"{name}: given without X; the rows that fit set aside have their own")
        fitted: FittedTable | None = getattr(self, "_fitted", None)
        if X is not None:
            table, given = self._rows(X), _table_of(context)
            rows = counted_rows(table, given, checked_weight(sample_weight, table))
            fit_rows = None if fitted is None else fitted.looked_at
            evidence = evidence_from(self.model_, *rows, stream="certify", fit_rows=fit_rows)
            return certify(evidence, recorded=recorded_of(self.model_))
        if fitted is None:
            return certify(
                evidence_without(
                    self.model_, "a stored or copied model does not keep the rows of its fit; pass X"
                )
            )
        return certify(with_cross_validation(held_out_evidence(self.model_, fitted), fitted))

    @default_state()
    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write the model folder `path`: safetensors and JSON, no pickle."""
        check_is_fitted(self)
        save_model(self.model_, path, overwrite=overwrite)

    @classmethod
    @default_state()
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """An estimator from a model folder or a run folder."""
        model = load_model(path)
        options = model.settings.to_dict()
        options["random_state"] = options.pop("seed")
        return cls(**options)._set_model(model)

    def __getstate__(self) -> dict[str, Any]:
        """What a pickle or a deep copy takes along: all but the rows of the fit, as with `save`."""
        state: dict[str, Any] = super().__getstate__()
        return {name: value for name, value in state.items() if name != "_fitted"}

    def _forget(self) -> None:
        """Take off what an earlier fit, or a use of it, has put on."""
        for name in [name for name in vars(self) if name.endswith("_") or name == "_fitted"]:
            delattr(self, name)

    @property
    def _n_features_out(self) -> int:
        """How many names `get_feature_names_out` makes: latent columns are jkoflow0, jkoflow1, ..."""
        return self.n_features_in_

    def _set_model(self, model: Model) -> Self:
        self.model_ = model
        self.flow_ = model.flow
        self.n_features_in_ = model.schema.dim
        if model.schema.was_frame:
            self.feature_names_in_ = np.array(model.schema.names, dtype=object)
        return self

    def _settings(self) -> Settings:
        options = self.get_params(deep=False)
        options.pop("verbose")
        options["seed"] = _seed(options.pop("random_state"))
        return Settings.from_mapping(options)

    def _rows(self, X: Any) -> Table:
        return self.model_.schema.check(read_table(X))

    def _report(self, record: dict[str, Any]) -> None:
        if self.verbose:
            import sys

            print(progress_line(record), file=sys.stderr, flush=True)  # noqa: T201  (asked for by verbose)


def progress_line(record: dict[str, Any]) -> str:
    """One line on the start of a fit, or on a step: step size, loss terms, validation NLL in data units."""
    if record["kind"] == "start":
        split = record["split"]
        return (
            f"split: {split['train']:,} rows to train, {split['validation']:,} to stop, "
            f"{split['holdout']:,} held out to judge"
        )
    at_most = f" of at most {record['planned']}" if "planned" in record else ""
    nominal = record.get("nominal_gamma", record["gamma"])
    gamma = "free" if nominal is None else f"{nominal:.3g}"
    kept = "" if record["kept"] else "  (dropped: no better)"
    return (
        f"block {record['block']:>2}{at_most}  gamma {gamma:>7}  potential {record['potential_nats']:.3f}"
        f"  -log det {record['neg_log_det_nats']:.3f}  transport {record['transport_nats']:.3f}"
        f"  validation NLL {record['held_out_nll_data_nats']:.4f} nats{kept}"
    )


def _table_of(context: Any) -> Table | None:
    return None if context is None else read_table(context)


def _seed(random_state: Any, *, most: int = 2**31 - 1) -> int:
    if random_state is None:
        return int(np.random.default_rng().integers(most))
    if random_state is np.random or isinstance(random_state, np.random.RandomState):
        return int(check_random_state(random_state).randint(most))
    return checked_count(random_state, "random_state", least=None)
