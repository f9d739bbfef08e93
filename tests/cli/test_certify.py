"""`jkoflow certify`: by which rows a model is judged, what is printed and written, and the exit statuses."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from cli.commands import check_refused, tree
from jkoflow import JKOFlow
from jkoflow.certify import Certificates, Claim, KLBracket, certify
from jkoflow.certify.rows import evidence_of_run, model_remark
from jkoflow.certify.subject import Subject
from jkoflow.cli import main
from jkoflow.cli.certify import certificate_lines, say_certificates
from jkoflow.cli.status import ExitStatus
from jkoflow.data import read_table, write_table
from jkoflow.fitting import split_rows
from jkoflow.model import load_model, save_model
from jkoflow.runs import RunFolder
from jkoflow.storage import read_json
from oracles.quick_training import use_quick_recipe

ROWS, FRESH = 300, 80
"""Fewer than 100 rows leave the bracket of the KL, which takes the most time, undecided."""


CONFIG = "max_blocks = 1\nsmoothing = 0.2\n"


def table_of(n: int = ROWS, seed: int = 0) -> pd.DataFrame:
    """Two columns that follow each other, and a count."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    return pd.DataFrame({"x": x, "y": 2 * x + 0.5 * rng.normal(size=n), "k": rng.poisson(9.0, n)})


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with table.csv, fresh.csv of the same law, and run/; not to be changed."""
    folder = tmp_path_factory.mktemp("certify")
    table_of().to_csv(folder / "table.csv", index=False)
    table_of(FRESH, seed=1).to_csv(folder / "fresh.csv", index=False)
    (folder / "settings.toml").write_text(CONFIG)
    arguments = ["fit", str(folder / "table.csv"), "-o", str(folder / "run")]
    with pytest.MonkeyPatch.context() as patch:
        use_quick_recipe(patch)
        assert main([*arguments, "--config", str(folder / "settings.toml")]) == 0
    return folder


@pytest.fixture
def copied(fitted: Path, tmp_path: Path) -> Path:
    """A copy whose run names the copied table."""
    shutil.copytree(fitted, tmp_path / "copy", ignore=shutil.ignore_patterns(".lock"))
    record = tmp_path / "copy" / "run" / "run.json"
    record.write_text(record.read_text().replace(str(fitted), str(tmp_path / "copy")))
    return tmp_path / "copy"


def certified(*arguments: object, status: int = 0) -> None:
    assert main(["certify", *map(str, arguments)]) == status


def record_of(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def the_claim(record: dict[str, Any], words: str) -> dict[str, Any]:
    (claim,) = (claim for claim in record["claims"] if words in claim["claim"])
    return claim


# ── by which rows ──


def test_rows_are_those_that_the_fit_set_aside_with_the_noise_of_the_fit(
    fitted: Path, tmp_path: Path
) -> None:
    certified(fitted / "run", "-o", tmp_path / "out.json")
    record, model = record_of(tmp_path / "out.json"), load_model(fitted / "run")
    results = read_json(fitted / "run" / "run.json")["results"]
    claim = the_claim(record, "mean negative log-likelihood")
    assert claim["rows"] == results["held_out_rows"] == ROWS / 10
    in_data_units = claim["measured"] + np.log(model.schema.scale).sum()
    assert in_data_units == pytest.approx(results["held_out_nll_nats"], abs=1e-9)
    assert any(note.startswith(f"0 of {ROWS // 10} held-out rows") for note in record["notes"])


def test_file_is_what_python_says_of_the_same_evidence(fitted: Path, tmp_path: Path) -> None:
    certified(fitted / "run", "-o", tmp_path / "out.json")
    with RunFolder.open(fitted / "run", "read") as run:
        evidence = evidence_of_run(run, load_model(run.model))
        found = certify(replace(evidence, remarks=(model_remark(run.model),)))
    assert (tmp_path / "out.json").read_text() == found.to_json() + "\n"


def test_given_rows_are_taken_in_the_order_of_the_fit(fitted: Path, tmp_path: Path) -> None:
    pd.read_csv(fitted / "fresh.csv")[["k", "x", "y"]].to_parquet(tmp_path / "turned.parquet")
    for name, data in (("a", fitted / "fresh.csv"), ("b", tmp_path / "turned.parquet")):
        certified(fitted / "run", "--data", data, "-o", tmp_path / name)
    assert (tmp_path / "a").read_text() == (tmp_path / "b").read_text()
    record = record_of(tmp_path / "a")
    expected = JKOFlow.load(fitted / "run").certify(pd.read_csv(fitted / "fresh.csv"))
    assert record["claims"] == json.loads(expected.to_json())["claims"]
    assert the_claim(record, "mean negative log-likelihood")["rows"] == FRESH


def test_rows_of_the_fit_are_counted_and_told(
    fitted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, fresh = read_table(fitted / "table.csv"), pd.read_csv(fitted / "fresh.csv")
    seen = split_rows(table, load_model(fitted / "run").settings)
    again = pd.read_csv(fitted / "table.csv").iloc[[*seen.train[:7], *seen.validation[:3], *seen.holdout[:5]]]
    pd.concat([fresh.head(60), again, again.head(1)]).to_csv(tmp_path / "planted.csv", index=False)
    certified(fitted / "run", "--data", tmp_path / "planted.csv", "-o", tmp_path / "out.json")
    (note,) = (note for note in record_of(tmp_path / "out.json")["notes"] if "occur exactly" in note)
    assert note.startswith("11 of 76 held-out rows")
    assert "flatter" in note
    assert note in capsys.readouterr().out


@pytest.mark.parametrize(("change", "word"), [("gone", "not there any more"), ("other", "has changed")])
def test_table_that_is_not_what_it_was_leaves_claims_undecided(
    change: str, word: str, copied: Path, tmp_path: Path
) -> None:
    table = copied / "table.csv"
    if change == "gone":
        table.unlink()
    else:
        table.write_text(table.read_text().replace("0.", "1.", 1))
    certified(copied / "run", "--strict", "--allow-undecided")
    record = record_of(copied / "run" / "certificates.json")
    assert record["kl"]["lower"] is None
    assert the_claim(record, "KL(p_0‖q_0) is at least")["verdict"] == "undecided"
    assert [note for note in record["notes"] if note.startswith("no held-out rows: ") and word in note]
    certified(copied / "run", "--data", copied / "fresh.csv", "--overwrite")
    record = record_of(copied / "run" / "certificates.json")
    assert the_claim(record, "mean negative log-likelihood")["rows"] == FRESH
    assert any("is not known" in note for note in record["notes"])
    assert any("repeat rows of the fit was not checked" in note and word in note for note in record["notes"])


def test_run_without_rows_set_aside_says_so(copied: Path, tmp_path: Path) -> None:
    for path in (copied / "run" / "run.json", copied / "run" / "model" / "config.json"):
        path.write_text(path.read_text().replace('"holdout_fraction": 0.1', '"holdout_fraction": 0.0'))
    certified(copied / "run")
    notes = record_of(copied / "run" / "certificates.json")["notes"]
    assert "no held-out rows: the run set none aside (holdout_fraction)" in notes


def test_model_folder_alone_is_certified_and_written_where_asked(
    fitted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(fitted / "run" / "model", tmp_path / "model")
    before = tree(tmp_path / "model")
    certified(tmp_path / "model")
    printed = capsys.readouterr().out
    assert "give rows with --data" in printed
    assert "not written; give -o FILE to keep them" in printed
    assert tree(tmp_path / "model") == before
    certified(tmp_path / "model", "--data", fitted / "fresh.csv", "-o", tmp_path / "out.json")
    claim = the_claim(record_of(tmp_path / "out.json"), "mean negative log-likelihood")
    assert claim["rows"] == FRESH


def test_context_columns_are_found_in_the_table(
    fitted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_quick_recipe(monkeypatch)
    (tmp_path / "settings.toml").write_text("max_blocks = 1\n")
    run, table = tmp_path / "run", str(fitted / "table.csv")
    config = ["--config", str(tmp_path / "settings.toml"), "--context", "k"]
    assert main(["fit", table, "-o", str(run), *config]) == 0
    certified(run)
    results, model = read_json(run / "run.json")["results"], load_model(run)
    claim = the_claim(record_of(run / "certificates.json"), "mean negative log-likelihood")
    in_data_units = claim["measured"] + np.log(model.schema.scale).sum()
    assert in_data_units == pytest.approx(results["held_out_nll_nats"], abs=1e-9)
    rows = pd.read_csv(table).head(FRESH)
    rows.to_csv(tmp_path / "again.csv", index=False)
    rows.assign(k=rows["k"] + 1).to_csv(tmp_path / "given_others.csv", index=False)
    held_out = split_rows(read_table(table).drop(["k"]), model.settings).holdout
    for name, count in (("again.csv", FRESH - int((held_out < FRESH).sum())), ("given_others.csv", 0)):
        certified(run, "--data", tmp_path / name, "--overwrite")
        notes = record_of(run / "certificates.json")["notes"]
        assert any(note.startswith(f"{count} of {FRESH} held-out rows") for note in notes)


# ── exit statuses ──


def change_model(run: Path, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Write the run's model anew with every tensor changed."""
    model = load_model(run)
    model.flow.load_state_dict({name: change(value) for name, value in model.flow.state_dict().items()})
    save_model(model, run / "model", overwrite=True)


@pytest.fixture
def sabotaged(copied: Path) -> Path:
    """The copied run with a model whose affine block stretches twice too much."""
    change_model(copied / "run", lambda tensor: 2 * tensor)
    return copied


def test_strict_exits_with_one_where_a_claim_fails(
    sabotaged: Path, fitted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, data = sabotaged / "run", sabotaged / "fresh.csv"
    capsys.readouterr()
    certified(run, "--data", data, "--strict", status=ExitStatus.CLAIM_FAILS)
    printed = capsys.readouterr()
    assert printed.err.splitlines()[-1].startswith("jkoflow: ")
    assert "Traceback" not in printed.err
    assert "remedy: " in printed.out
    record = record_of(run / "certificates.json")
    failed = [claim for claim in record["claims"] if claim["verdict"] == "fails"]
    assert failed
    assert failed[0]["claim"] in printed.out
    certified(run, "--data", data, "--overwrite")


def test_strict_exits_with_zero_where_none_fails(fitted: Path, tmp_path: Path) -> None:
    certified(fitted / "run", "--strict", "--allow-undecided", "-o", tmp_path / "out.json")
    verdicts = {claim["verdict"] for claim in record_of(tmp_path / "out.json")["claims"]}
    assert verdicts == {"holds", "undecided", "told"}


def test_strict_exits_with_one_where_nothing_is_known(
    fitted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    run = fitted / "run"
    certified(run, "--strict", "-o", tmp_path / "out.json", status=ExitStatus.CLAIM_FAILS)
    told = capsys.readouterr()
    assert "30 held-out rows, of 100 that are needed" in told.err
    assert "--allow-undecided" in told.err
    assert "holdout_fraction = 0.34" in told.out
    certified(run, "-o", tmp_path / "other.json")


@pytest.mark.parametrize(
    ("ends", "options", "status"),
    [
        ({"lower": 0.0, "upper": 0.05}, ["--strict"], 0),
        ({"lower": 0.0, "upper": 9.0}, ["--strict"], 0),
        ({"lower": 0.7, "upper": 0.9}, ["--strict"], 1),
        ({"lower": 0.7, "upper": 0.9}, ["--strict", "--allow-undecided"], 1),
        ({"lower": 0.7, "upper": 0.9}, [], 0),
        ({}, ["--strict"], 1),
        ({"lower": 0.0, "upper": math.inf}, ["--strict"], 1),
        ({"lower": 0.0, "upper": math.inf}, ["--strict", "--allow-undecided"], 0),
    ],
)
def test_strict_goes_by_the_first_line(
    ends: dict[str, float], options: list[str], status: int, fitted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = Certificates(KLBracket(**ends), ())
    monkeypatch.setattr("jkoflow.cli.certify.certify", lambda *given, **named: found)
    certified(fitted / "run/model", "--data", fitted / "fresh.csv", *options, status=status)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: table_of().drop(columns="y"), ("missing y",)),
        (lambda: table_of().assign(extra=1.0), ("not known extra",)),
        (lambda: table_of().assign(x=np.nan), ("x (300 NaN)",)),
        (lambda: table_of().head(0), ("got none",)),
    ],
)
def test_bad_table_is_refused_and_nothing_written(
    make: Any, words: tuple[str, ...], copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make().to_csv(copied / "bad.csv", index=False)
    before = tree(copied)
    check_refused(capsys, ["certify", str(copied / "run"), "--data", str(copied / "bad.csv")], 2, *words)
    assert tree(copied) == before


@pytest.mark.parametrize(
    ("arguments", "word"),
    [(["--data", "none.csv"], "No such file"), (["--seed", "3"], "--seed"), (["--level", "0.9"], "--level")],
)
def test_wrong_usage_is_refused(
    arguments: list[str], word: str, fitted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check_refused(capsys, ["certify", str(fitted / "run"), *arguments], 2, word)
    assert not (fitted / "run" / "certificates.json").exists()


def test_certificates_are_not_overwritten_unasked(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = copied / "run" / "certificates.json"
    kept.write_text("kept")
    run = str(copied / "run")
    check_refused(capsys, ["certify", run], 4, "certificates.json", "already there", "--overwrite")
    assert kept.read_text() == "kept"
    certified(run, "--overwrite")
    assert record_of(kept)["format"] == "jkoflow/1"


def test_a_new_fit_takes_the_old_certificates_away(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_quick_recipe(monkeypatch)
    (copied / "run" / "certificates.json").write_text("of the old model")
    arguments = ["fit", str(copied / "table.csv"), "-o", str(copied / "run"), "--overwrite"]
    assert main([*arguments, "--config", str(copied / "settings.toml")]) == 0
    assert not (copied / "run" / "certificates.json").exists()


# ── what is printed ──


def printed(**ends: Any) -> str:
    return certificate_lines(Certificates(KLBracket(**ends), ()))[1]


def test_the_first_line_is_the_answer_and_one_command_is_next(
    fitted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    certified(fitted / "run", "-o", tmp_path / "out.json")
    lines = capsys.readouterr().out.splitlines()
    assert (
        lines[0]
        == "verdict         ? nothing is known of the model: 30 held-out rows, of 100 that are needed"
    )
    (command,) = (line for line in lines if line.startswith("next"))
    assert f"jkoflow certify {fitted / 'run'} --data NEW_ROWS.csv --overwrite" in command


def test_the_first_line_has_a_colour_where_a_person_looks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = Certificates(KLBracket(0.0, 0.01, 0.05), ())
    say_certificates(found, Subject())
    assert "\033" not in capsys.readouterr().out
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    say_certificates(found, Subject())
    first, *rest = capsys.readouterr().out.splitlines()
    assert first.startswith("\033[32mverdict")
    assert not [line for line in rest if "\033" in line]
    monkeypatch.setenv("NO_COLOR", "1")
    say_certificates(found, Subject())
    assert "\033" not in capsys.readouterr().out


def test_rows_of_another_law_are_told_as_that_and_the_model_is_not_blamed(
    fitted: Path, tmp_path: Path
) -> None:
    far = table_of(FRESH, seed=1)
    far[["x", "y"]] += 9.0
    far.to_csv(tmp_path / "far.csv", index=False)
    certified(fitted / "run", "--data", tmp_path / "far.csv", "-o", tmp_path / "out.json")
    record = record_of(tmp_path / "out.json")
    assert the_claim(record, "as likely under the model")["verdict"] == "fails"
    remedies = {claim["remedy"] for claim in record["claims"] if claim["verdict"] == "fails"}
    assert all("another law" in remedy for remedy in remedies)
    certified(fitted / "run", "--data", fitted / "fresh.csv", "-o", tmp_path / "same.json")
    assert the_claim(record_of(tmp_path / "same.json"), "as likely under the model")["verdict"] != "fails"


def test_bracket_is_told_by_what_is_known_of_it() -> None:
    assert "between 0.1000 and 0.3000 nats at 95 %, estimate 0.2000" in printed(
        lower=0.1, estimate=0.2, upper=0.3
    )
    assert "at least 0.1000 nats at 95 %, without an upper bound" in printed(lower=0.1, upper=float("inf"))
    assert "no lower bound above 0" in printed(lower=0.0)
    assert "not known" in printed()
    lines = certificate_lines(Certificates(KLBracket(0.0, 0.1, 0.2, assumption="a rich critic"), ()))
    assert "right in at most 66 % of cases" in lines[2]
    assert "assuming: a rich critic" in lines[3]


def test_each_failing_claim_has_a_line_with_its_remedy_and_sources_have_counts() -> None:
    claims = (
        Claim("one", "A", "theorem", "holds"),
        Claim("two", "B", "plug-in", "fails", 2.0, bound=1.0, unit="nats", block=3, remedy="fit longer"),
        Claim("three", "A", "plug-in", "holds"),
        Claim("four", "A", "lower", "undecided"),
    )
    lines = [
        " ".join(line.split()) for line in certificate_lines(Certificates(KLBracket(), claims, ("seen",)))
    ]
    assert lines[4:] == [
        "claims 2 hold, 1 fails, 1 undecided",
        "2 hold, 1 undecided A",
        "1 fails B",
        "fails two (block 3): measured 2, bound 1 nats",
        "remedy: fit longer",
        "note seen",
    ]


def test_model_that_gives_no_numbers_ends_in_no_traceback(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change_model(copied / "run", lambda tensor: tensor * 1e30)
    certified(copied / "run", "--data", copied / "fresh.csv")
    assert "Traceback" not in capsys.readouterr().err
    assert record_of(copied / "run" / "certificates.json")["kl"]["lower"] is None


def test_model_of_numbers_that_are_none_is_refused(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change_model(copied / "run", lambda tensor: torch.full_like(tensor, torch.nan))
    certified(copied / "run", "--data", copied / "fresh.csv", status=4)
    assert "expected finite numbers" in capsys.readouterr().err


def test_one_row_of_data_is_enough_to_be_undecided(fitted: Path, tmp_path: Path) -> None:
    write_table(tmp_path / "one.csv", np.array([[0.0, 0.0, 9.0]]), ["x", "y", "k"])
    certified(fitted / "run", "--data", tmp_path / "one.csv", "-o", tmp_path / "out.json")
    assert record_of(tmp_path / "out.json")["kl"]["lower"] is None
