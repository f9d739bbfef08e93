"""The line that says why a fit ended, and the part of its end by which a budget is kept."""

from __future__ import annotations

import torch

from jkoflow.blocks import AffineBlock
from jkoflow.config import Settings
from jkoflow.fitting.ending import record_ending
from jkoflow.fitting.results import rehearsed_results
from jkoflow.flow import Flow
from jkoflow.journal import Journal
from jkoflow.laws import StandardNormal
from jkoflow.particles import Particles
from jkoflow.steps import State
from oracles.blocks import points
from oracles.jobs import start_state


def state_with(n_blocks: int, ended: str = "") -> State:
    rows = Particles(points(20, 2, torch.float64))
    start = start_state(rows, rows)
    flow = start.flow
    for _ in range(n_blocks):
        flow = flow.then(AffineBlock(dim=2))
    return State(flow, start.functional, rows, rows, start.log_det, start.nll, ended=ended)


def test_line_names_blocks_seconds_and_the_reason() -> None:
    told = list[dict[str, object]]()
    journal = Journal(budget=100.0, clock=lambda: 0.0, spent=13.2, write=told.append)
    line = record_ending(state_with(5, "the stop rule"), Settings(max_blocks=16), journal)
    assert line == "ended after 5 of 16 blocks, 13 of 100 CPU-seconds: the stop rule"
    assert told == [{"kind": "decision", "what": "end", "value": line}]
    again = Journal(decisions=told)
    assert record_ending(state_with(2), Settings(), again) == line, "replayed"


def test_full_flow_says_that_max_blocks_is_reached() -> None:
    line = record_ending(state_with(2), Settings(max_blocks=2), Journal())
    assert line == "ended after 2 of 2 blocks: max_blocks is reached"


def test_rehearsal_is_an_eighth_of_the_end_in_the_plane_and_a_64th_of_many_columns() -> None:
    for dim, share in ((2, 8), (10, 40), (200, 64)):
        rows = Particles(points(80, dim, torch.float32))
        flow = Flow(StandardNormal(dim), [AffineBlock(dim=dim)]).to(torch.float32)
        assert rehearsed_results(flow, {"train": rows, "validation": rows}, seed=0) == share
