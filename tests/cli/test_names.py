"""What acts in a name, such as an escape sequence, is shown on terminal and page, and never acts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from cli.commands import check_refused
from hostile.workplace import run
from jkoflow.blocks import AffineBlock
from jkoflow.cli import main
from jkoflow.config import Settings
from jkoflow.data import Schema, read_table, write_table
from jkoflow.flow import Flow
from jkoflow.laws import StandardNormal
from jkoflow.model import Model, save_model
from jkoflow.report import render_report
from jkoflow.report.contents import ReportData
from jkoflow.storage import visible

ACTING = ("\x1b[2Jgone", "\u202egnp.exe", "<img src=x onerror=alert(1)>", "a\u200bb", "line\nbreak", "\x9b2J")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model of columns with such names, and a table of them."""
    rows = np.random.default_rng(0).normal(size=(40, len(ACTING)))
    write_table(tmp_path / "table.parquet", rows, ACTING)
    schema = Schema.fit(read_table(tmp_path / "table.parquet"))
    flow = Flow(StandardNormal(len(ACTING)), [AffineBlock(dim=len(ACTING))])
    save_model(Model(schema, flow, Settings()), tmp_path / "model")
    return tmp_path / "model"


def test_text_is_shown_and_does_not_act() -> None:
    assert visible("a b\u00a0c é ‖ ±") == "a b\u00a0c é ‖ ±"
    assert [visible(name) for name in ACTING] == [
        r"\x1b[2Jgone",
        r"\u202egnp.exe",
        "<img src=x onerror=alert(1)>",
        r"a\u200bb",
        r"line\nbreak",
        r"\x9b2J",
    ]


def test_file_name_that_acts_is_shown(model: Path, tmp_path: Path) -> None:
    output = tmp_path / "\x1b[31mred\u202e.csv"
    outcome = run(["sample", str(model), "-n", "3", "-o", str(output)])
    assert (outcome.status, outcome.faults) == (0, [])
    assert r"\x1b[31mred\u202e" in outcome.printed
    assert output.exists()


def test_missing_columns_that_act_are_shown(model: Path, tmp_path: Path) -> None:
    write_table(tmp_path / "other.csv", np.eye(2), ["a", "b"])
    outcome = run(["score", str(model), str(tmp_path / "other.csv"), "-o", str(tmp_path / "out.csv")])
    assert (outcome.status, outcome.faults) == (2, [])
    assert r"\x1b[2Jgone" in outcome.printed


def test_page_shows_names_as_text() -> None:
    rows = np.random.default_rng(0).normal(size=(40, len(ACTING)))
    page = render_report(
        ReportData(title=ACTING[0], n_rows=40, columns=ACTING, real=rows, generated=rows, notes=ACTING)
    )
    assert "<img src=x" not in page
    assert "&lt;img src=x onerror=alert(1)&gt;" in page
    assert not {"\x1b", "\u202e", "\u200b", "\x9b"} & set(page)
    assert r"\u202egnp.exe" in page


def test_header_that_is_a_formula_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = np.random.default_rng(0).normal(size=(40, 2))
    write_table(tmp_path / "table.csv", rows, ["=1+1", "@b"])
    schema = Schema.fit(read_table(tmp_path / "table.csv"))
    assert schema.names == ("=1+1", "@b")
    save_model(Model(schema, Flow(StandardNormal(2)), Settings()), tmp_path / "model")
    assert main(["sample", str(tmp_path / "model"), "-n", "20", "-o", str(tmp_path / "new.csv")]) == 0
    assert "2 column names would be a formula to a spreadsheet" in capsys.readouterr().err
    assert (tmp_path / "new.csv").read_text().startswith("'=1+1,'@b\n")
    scored = ["score", str(tmp_path / "model"), str(tmp_path / "new.csv"), "-o", str(tmp_path / "scores.npy")]
    assert main(scored) == 0


# ── scores that are no numbers ──


def scored(tmp_path: Path, *, matrix: float, row: float) -> tuple[list[str], Path]:
    rows = np.random.default_rng(0).normal(size=(40, 2))
    schema = Schema.fit(read_table(rows))
    block = AffineBlock(dim=2, matrix=torch.eye(2) * matrix)
    save_model(Model(schema, Flow(StandardNormal(2), [block, block]), Settings()), tmp_path / "model")
    rows[3, 0] = row
    write_table(tmp_path / "table.npy", rows, ["a", "b"])
    output = tmp_path / "scores.npy"
    return ["score", str(tmp_path / "model"), str(tmp_path / "table.npy"), "-o", str(output)], output


def test_row_beyond_the_dtype_has_density_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, output = scored(tmp_path, matrix=1.0, row=1e200)
    assert main(arguments) == 0
    assert "1 of 40 rows lie so far" in capsys.readouterr().err
    assert np.isneginf(np.load(output)[3])
    assert np.isfinite(np.delete(np.load(output), 3)).all()


def test_rows_without_a_number_are_a_numerical_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments, output = scored(tmp_path, matrix=1.0, row=0.0)
    whole = Model.log_prob

    def spoilt(model: Model, *given: object, **options: object) -> np.ndarray:
        scores = whole(model, *given, **options)  # type: ignore[arg-type]
        scores[[4, 7]] = np.nan
        return scores

    monkeypatch.setattr(Model, "log_prob", spoilt)
    assert main(arguments) == 3
    printed = capsys.readouterr().err
    assert "2 of 40 rows have no log-likelihood that is a number, row 5 first" in printed
    assert "so far" not in printed
    assert np.isnan(np.load(output)).sum() == 2


def test_damaged_settings_of_a_model_are_refused(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**record, "facts": [1]}))
    arguments = ["score", str(model), str(tmp_path / "table.parquet"), "-o", str(tmp_path / "out.csv")]
    check_refused(capsys, arguments, 4, "facts: expected a table", "fit again")
