"""The page's section on certificates: the bracket first, every claim with its verdict, and whose they are."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jkoflow.certify
from jkoflow.certify import Certificates, Claim, KLBracket
from jkoflow.certify.claim import undecided
from jkoflow.certify.rows import model_remark
from jkoflow.config import Settings
from jkoflow.data import read_table
from jkoflow.errors import RunFolderError
from jkoflow.fitting import fit_table
from jkoflow.model import load_model, save_model
from jkoflow.report.certificates import bracket_ends, claim_groups
from jkoflow.report.gather import gather_report, read_certificates
from jkoflow.report.glossary import GLOSSARY
from jkoflow.report.page import render_report
from jkoflow.runs import RunFolder
from oracles.quick_training import use_quick_recipe
from report.test_report import Page, words_only

LIPSCHITZ = ("the inverse is Lipschitz", "Lemma C.2")


def certificates(**ends: Any) -> Certificates:
    """Claims of three sources, one of them about each of three blocks, and notes."""
    claims = (
        Claim(
            "KL is at least this", "Donsker", "lower", "holds", 0.02, interval=(0.01, math.inf), level=0.95
        ),
        Claim(*LIPSCHITZ, "theorem", "holds", 1.5, bound=4.0, unit="stretch", rows=256, block=1),
        Claim(*LIPSCHITZ, "theorem", "holds", -2.5, bound=8.0, unit="stretch", rows=256, block=2),
        Claim(*LIPSCHITZ, "theorem", "fails", 9.5, bound=6.0, unit="stretch", block=3, remedy="smooth more"),
        undecided("<b>normal</b>", "Székely", "plug-in", why="no held-out rows", remedy="give rows"),
    )
    return Certificates(KLBracket(**ends), claims, ("3 of 40 rows <i>repeat</i>",))


def text_of(found: Certificates) -> str:
    return Page(render_report(words_only(certificates=found))).text


def test_answer_comes_first_with_the_kind_of_each_number() -> None:
    html = render_report(
        words_only(certificates=certificates(lower=0.0123, estimate=0.05, upper=0.09, assumption="rich"))
    )
    text = Page(html).text
    for words in (
        "At least 0.0123 nats a proven lower bound, at 95 %",
        "About 0.05 nats a plug-in estimate",
        "At most 0.09 nats under the assumption below, at 95 %",
        "What “at most” assumes: rich",
    ):
        assert words in text
    sections = [line for line in html.splitlines() if line.startswith("<section")]
    assert sections[0] == '<section id="certificates" class="answer usable">'
    assert html.index("Usable for drawing rows") < html.index('class="ends"') < html.index('class="cards"')


@pytest.mark.parametrize(
    ("ends", "values", "details"),
    [
        ({}, ["–", "–", "–"], ["could not be computed", "no estimate", "no upper bound"]),
        (
            {"lower": 0.0, "upper": math.inf},
            ["0", "–", "–"],
            ["no bound above 0", "no estimate", "no upper bound"],
        ),
        (
            {"lower": 0.1, "estimate": math.nan},
            ["0.1", "–", "–"],
            ["proven", "no estimate", "no upper bound"],
        ),
        ({"lower": 0.1, "level": 0.9}, ["0.1", "–", "–"], ["at 90 %", "no estimate", "no upper bound"]),
    ],
)
def test_what_is_not_known_of_the_bracket_is_said(
    ends: dict[str, float], values: list[str], details: list[str]
) -> None:
    found = bracket_ends(KLBracket(**ends))
    assert [end.value for end in found] == values
    assert [detail in end.detail for end, detail in zip(found, details, strict=True)] == [True] * 3


def test_claims_are_grouped_and_those_of_blocks_folded_under_the_worst() -> None:
    groups = claim_groups(certificates())
    assert [group.source for group in groups] == ["Donsker", "Lemma C.2", "Székely"]
    (folded,) = groups[1].rows
    assert folded.verdict == "fails"
    assert folded.claim == "the inverse is Lipschitz: 3 blocks, 2 hold, 1 fails"
    assert (folded.measured, folded.bound, folded.remedy) == ("−2.5 to 9.5", "4 to 8", "smooth more")
    assert [block.number for block in folded.blocks] == [1, 2, 3]
    assert [block.mark for block in folded.blocks] == ["✓", "✓", "✗"]
    html = render_report(words_only(certificates=certificates()))
    assert html.count("<details>") == 1, "each block, folded under its claim"
    assert "block 3: 9.5, bound 6, theorem's bound" in Page(html).text


def test_a_claim_of_one_block_alone_is_not_folded() -> None:
    (group,) = claim_groups(Certificates(KLBracket(), (Claim(*LIPSCHITZ, "theorem", "holds", block=2),)))
    assert [(row.claim, row.blocks) for row in group.rows] == [(f"{LIPSCHITZ[0]} (block 2)", ())]


def test_claims_have_marks_intervals_reasons_and_remedies_and_no_markup() -> None:
    html = render_report(words_only(certificates=certificates(lower=0.01)))
    text = Page(html).text
    assert "✓ KL is at least this 0.02 0.01 to ∞, 95 %" in text
    assert "? <b>normal</b> Why: no held-out rows What to change: give rows" in text
    assert "3 hold, 1 fails, 1 undecided" in text
    assert "3 of 40 rows <i>repeat</i>" in text
    assert "<i>" not in html


def test_page_without_certificates_says_how_to_get_them() -> None:
    text = Page(render_report(words_only(uncertified="not certified; jkoflow certify RUN"))).text
    assert "How far is this model from the data" in text
    assert "jkoflow certify RUN" in text
    assert "Claims" not in text
    assert "How far is this model" not in Page(render_report(words_only())).text


@pytest.mark.parametrize(
    ("ends", "tone", "words"),
    [
        ({"lower": 0.0, "upper": 0.05}, "usable", "Usable for drawing rows"),
        ({"lower": 0.7, "upper": 0.9}, "bad", "Do not use as a stand-in"),
        ({}, "unknown", "Nothing is known of the model"),
    ],
)
def test_page_opens_with_the_sentence_in_its_colour_and_a_command(
    ends: dict[str, float], tone: str, words: str
) -> None:
    html = render_report(words_only(certificates=certificates(**ends)))
    assert f'<section id="certificates" class="answer {tone}">' in html
    assert html.index(words) < html.index("<code>jkoflow ")
    assert f"--{tone}:" in html


def test_claims_and_glossary_are_folded_away_under_the_answer() -> None:
    html = render_report(words_only(certificates=certificates(lower=0.01, upper=0.3)))
    folded = [html.index(f'<details id="{name}">') for name in ("claims", "glossary", "judges")]
    assert html.index('class="verdict"') < html.index('class="next"') < folded[0]
    assert folded == sorted(folded)
    assert "<details open" not in html
    assert "prefers-color-scheme: dark" in html
    assert "right in at most 70 % of cases" in Page(html).text


SYMBOLS = re.compile(
    r"W2|KL|TV|nats|eps_inv|eps_n|xi_n|gamma|lambda|plug-in|p_0|q_0|p_n|N\(0, I\)|L_n|T_n\^|energy"
)


def test_symbols_of_claims_are_explained() -> None:
    """Those of all texts of claims, which are constants of the modules in `certify`."""
    explained = " ".join(f"{symbol} {meaning}" for symbol, meaning in GLOSSARY)
    files = Path(jkoflow.certify.__file__).parent.glob("*.py")
    used = {symbol for file in files for symbol in SYMBOLS.findall(file.read_text())}
    assert len(used) > 10
    assert {symbol for symbol in used if symbol not in explained} == set()
    assert len({symbol for symbol, _ in GLOSSARY}) == len(GLOSSARY)


# ── whose they are ──


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    folder = tmp_path_factory.mktemp("run") / "run"
    with pytest.MonkeyPatch.context() as patch:
        use_quick_recipe(patch, updates=4)
        table = read_table(np.random.default_rng(0).normal(size=(60, 2)))
        with RunFolder.open(folder, "new") as opened:
            fit_table(table, settings=Settings(max_blocks=1), run=opened)
    return folder


def stored(run: Path, *notes: str) -> Path:
    found = certificates(lower=0.25)
    (run / "certificates.json").write_text(Certificates(found.kl, found.claims, notes).to_json())
    return run / "certificates.json"


def test_certificates_of_the_run_are_on_its_page(run: Path) -> None:
    stored(run, model_remark(run / "model"))
    with RunFolder.open(run, "read") as opened:
        data, _ = gather_report(opened)
    assert data.certificates is not None
    assert data.certificates.kl.lower == 0.25
    assert "At least 0.25 nats" in text_of(data.certificates)


def test_certificates_of_another_model_or_of_none_are_not_shown(run: Path) -> None:
    stored(run, model_remark(run / "model"))
    model = load_model(run)
    model.flow.load_state_dict({name: 1.5 * value for name, value in model.flow.state_dict().items()})
    save_model(model, run / "model", overwrite=True)
    with RunFolder.open(run, "read") as opened:
        found, why = read_certificates(opened)
        assert found is None
        assert "not of this model" in why
        assert "--overwrite" in why
        stored(run)
        assert read_certificates(opened)[0] is None
        (run / "certificates.json").unlink()
        found, why = read_certificates(opened)
        assert found is None
        assert f"jkoflow certify {run}" in why
        assert "--overwrite" not in why


@pytest.mark.parametrize("damage", ["cut", "verdict", "format"])
def test_damaged_certificates_are_refused_with_a_remedy(run: Path, damage: str) -> None:
    file = stored(run, model_remark(run / "model"))
    text, record = file.read_text(), json.loads(file.read_text())
    record["claims"][0]["verdict"] = "certain"
    changed = {
        "cut": text[:100],
        "verdict": json.dumps(record),
        "format": text.replace("jkoflow/1", "jkoflow/2"),
    }
    file.write_text(changed[damage])
    with RunFolder.open(run, "read") as opened, pytest.raises(RunFolderError, match=r"certificates\.json"):
        read_certificates(opened)
