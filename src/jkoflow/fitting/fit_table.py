r"""From a table to a model: split, columns, smoothing, the method, and what the run folder keeps of it.

    table -> rows -> p_0 -> (steps, each stored before the next begins) -> model

Source: the data flow of Cheng, Lu, Tan & Xie (2024), arXiv 2310.17582, section 3.1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from jkoflow.blocks import family_named
from jkoflow.config import Settings
from jkoflow.data import Table, Weights
from jkoflow.fitting.ending import record_ending
from jkoflow.fitting.record import Progress, Timed, open_journal
from jkoflow.fitting.results import check_cell_mass, rehearsed_results, results_of
from jkoflow.fitting.rows import empty_model, mean_log_jacobian, particles_of
from jkoflow.fitting.split import Split, describe, described_weights, split_of_run
from jkoflow.functionals import KL
from jkoflow.global_state import default_state, one_thread
from jkoflow.journal import Stopwatch
from jkoflow.laws import check_law, law_named
from jkoflow.methods import Job, method_named
from jkoflow.model import Model, save_model
from jkoflow.particles import Particles
from jkoflow.particles.smoothing import resolve_smoothing
from jkoflow.recipe import Recipe
from jkoflow.runs import RunFolder
from jkoflow.runtime import Runtime, resolve_device
from jkoflow.schedule import check_gamma
from jkoflow.steps import State, initial_state
from jkoflow.world import ALONE, World

__all__ = ["Fitted", "check_options", "fit_table"]


@dataclass(frozen=True)
class Fitted:
    """What a fit gives back.

    Arguments:
        model: The density.
        steps: One record for each step, as in `steps.jsonl`.
        results: The summary: held-out NLL beside a Gaussian's, round trip, CPU-seconds, notes.
        split: Which rows of the table did what.
    """

    model: Model
    steps: list[dict[str, Any]]
    results: dict[str, Any]
    split: Split


def check_options(settings: Settings) -> None:
    """Refuse options that name nothing, before a table is read.

    Raises:
        InputError: A name or a value that is not known.
    """
    check_gamma(settings.gamma)
    resolve_smoothing(settings.smoothing)
    resolve_device(settings.device)
    method_named(settings.objective)
    family_named(settings.block)
    check_law(settings.law)


@default_state()
@one_thread()
def fit_table(
    table: Table,
    *,
    settings: Settings,
    context: Table | None = None,
    weight: Weights | None = None,
    weight_column: str | None = None,
    run: RunFolder | None = None,
    progress: Progress = lambda record: None,
    recipe: Recipe | None = None,
    world: World = ALONE,
) -> Fitted:
    """Fit a model to a table.

    Arguments:
        table: The rows.
        settings: The options.
        context: Columns to condition on, row by row; None for none.
        weight: How much each row counts, above 0, shape `(n,)`, as `counted_rows` has it; None where all
            count the same.
        weight_column: The column that the weights are from, for the record.
        run: An open run folder to keep the fit in, new or to be resumed; None for memory only.
        progress: Called with a record of kind `start` before the first step, then with each step's.
        recipe: The tuned numbers; those of the defaults where None.
        world: The processes of the fit, the first of which has the run folder.

    Raises:
        InputError: The table, the context, the weights or an option is refused.
        NumericalError: A block could not be trained, or the density that was found is none.
        RunFolderError, ProcessError: The run folder cannot be written; another process is gone.
    """
    begun = Stopwatch()
    check_options(settings)
    known = world.broadcast(None if run is None or run.is_new else run.description)
    split = split_of_run(table, settings, known, context, weight)
    recipe = _for_tails(recipe or Recipe(), split)
    law = law_named(settings.law, table.dim)
    empty = empty_model(table, context, weight, split, settings, law, world)
    parts = particles_of(empty, table, context, weight, split, world)
    runtime = Runtime(settings.seed, empty.like.device, empty.like.dtype)

    description = describe(table, context, settings, split, described_weights(weight, weight_column))
    jacobian = mean_log_jacobian(empty.schema, parts["validation"])
    timed = Timed(begun, _rehearsal(parts, settings.seed))
    journal, recorder, n_taken = open_journal(run, description, settings, jacobian, progress, world, timed)
    progress({"kind": "start", "split": split.sizes(), "notes": list(empty.schema.notes), "taken": n_taken})
    job = Job(empty.settings, family_named(settings.block, **recipe.of_blocks), runtime, journal, recipe)
    start = initial_state(KL(empty.flow.law), parts["train"], parts["validation"])
    state = method_named(settings.objective)(start, job)
    model = replace(empty, flow=state.flow)
    check_cell_mass(model.flow, parts["train"])
    judged = model if state.judged is None else replace(model, flow=state.judged)
    told = {"ended": record_ending(state, settings, journal), "cpu_seconds": recorder.stopwatch.seconds()}
    groups = {name: split.groups_of(name) for name in parts}
    results = results_of(model, judged, parts, context, groups=groups, **told)
    model = _with_facts(model, results)
    if run is not None:
        save_model(model, run.model, overwrite=True)
        run.finish(results)
    return Fitted(model, recorder.steps, results, split)


def _with_facts(model: Model, results: dict[str, Any]) -> Model:
    """The model, which knows how well it did on rows that it was not trained on."""
    summary = {key: results[key] for key in ("held_out_nll_nats", "held_out_on", "held_out_rows")}
    return replace(model, facts={**model.facts, **summary})


def _rehearsal(parts: Mapping[str, Particles], seed: int) -> Callable[[State], float]:
    """What the journal tells by how long the fit takes after its last step."""
    return lambda state: rehearsed_results(state.flow, parts, seed)


def _for_tails(recipe: Recipe, split: Split) -> Recipe:
    """The recipe, with the wide closings of heavy tails where rows lie far enough out."""
    far = split.far
    if far is None or not far.heavy:
        return recipe
    return recipe.with_heavy_tails(float(far.rows.mean()))
