"""The page: one file that loads nothing, says what it was given, and executes none of it."""

from __future__ import annotations

import base64
import functools
import io
from html.parser import HTMLParser

import matplotlib.image
import numpy as np
import pytest

from jkoflow.errors import InputError
from jkoflow.report import HeldOut, ReportData, render_report
from jkoflow.report.drawing import plain_text
from jkoflow.report.limits import Limits
from jkoflow.report.samples import draw_histograms, draw_pairs
from jkoflow.report.training import path_length

TABLE_FIGURES = {"histograms", "pairs", "nll", "terms", "transport", "qq", "chi2"}
IMAGE_FIGURES = TABLE_FIGURES - {"histograms", "pairs"} | {"images-real", "images-generated"}


class Page(HTMLParser):
    """What a browser would make of the page: its images by id, its text, and every tag and address."""

    def __init__(self, html):
        super().__init__()
        self.images, self.tags, self.addresses, self.texts = {}, [], [], []
        self.feed(html)
        self.text = " ".join(" ".join(self.texts).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        attributes = dict(attrs)
        self.addresses += [
            attributes[name] for name in ("src", "href", "action", "data") if name in attributes
        ]
        if tag == "img":
            self.images[attributes["id"]] = attributes["src"]

    def handle_data(self, data):
        self.texts.append(data)


def made_up_step(block, **changes):
    return {
        "format": "jkoflow/1",
        "kind": "step",
        "block": block,
        "block_type": "neural_ode",
        "gamma": 0.25,
        "integration_steps": 2,
        "updates": {"warm_start": 1000, "proximal": 100},
        "finished_on": "proximal",
        "potential_nats": 2.5 / block,
        "neg_log_det_nats": -0.5 / block,
        "transport_nats": 0.3 / block,
        "held_out_nll_nats": 4.5 + 1 / block,
        "held_out_nll_se_nats": 0.1,
        "held_out_nll_data_nats": 7.5 + 1 / block,
        "transport": 0.36 / block**2,
        "step_doubling_error": 1e-4,
        "kept": True,
        "retries": 0,
        "cpu_seconds": 1.5,
        **changes,
    }


def made_up_data(dim=3, **changes):
    generator = np.random.default_rng(3)
    defaults = {
        "title": "a table",
        "n_rows": 1234,
        "columns": tuple(f"column {i}" for i in range(dim)),
        "real": generator.normal(size=(60, dim)),
        "generated": generator.normal(size=(50, dim)),
        "latent": generator.normal(size=(40, dim)),
        "held_out": HeldOut(
            nll=7.75, se=0.11, gaussian_nll=8.5, gaussian_se=0.12, difference_se=0.07, rows=123
        ),
        "steps": (made_up_step(1), made_up_step(2), made_up_step(3, gamma=None, transport_nats=None)),
        "settings": {"gamma": "auto", "smoothing": None},
        "notes": ("two rows are duplicates",),
        "environment": {"torch": "2.13.0"},
    }
    return ReportData(**{**defaults, **changes})


def words_only(**changes):
    """Data without rows, of which a page of words is made in no time."""
    nothing = np.empty((0, len(changes.get("columns", "c"))))
    return made_up_data(
        **{"dim": 1, "steps": (), "real": nothing, "generated": nothing, "latent": None, **changes}
    )


@functools.cache
def default_html():
    return render_report(made_up_data())


def decode(uri):
    header, content = uri.split(",")
    return header, base64.b64decode(content, validate=True)


def test_page_loads_nothing():
    html = default_html()
    page = Page(html)
    assert all(address.startswith("data:image/") for address in page.addresses)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    for loader in ("http://", "https://", "url(", "@import", "srcset"):
        assert loader not in html


@pytest.mark.parametrize(
    ("changes", "figures"),
    [
        ({}, TABLE_FIGURES),
        ({"dim": 1}, TABLE_FIGURES - {"pairs"}),
        ({"dim": 15}, TABLE_FIGURES),
        ({"dim": 6, "image_shape": (2, 3)}, IMAGE_FIGURES),
        ({"latent": None}, TABLE_FIGURES - {"qq", "chi2"}),
        ({"steps": ()}, TABLE_FIGURES - {"nll", "terms", "transport"}),
        ({"steps": (made_up_step(1),)}, TABLE_FIGURES),
        ({"held_out": None}, TABLE_FIGURES),
    ],
)
def test_every_figure_is_there_and_is_a_picture(changes, figures):
    page = Page(render_report(made_up_data(**changes)))
    assert set(page.images) == figures
    for uri in page.images.values():
        header, content = decode(uri)
        assert content.startswith(b"\x89PNG") if "png" in header else b"<svg" in content
    assert len(set(page.images.values())) == len(figures)


def test_same_data_same_page():
    assert render_report(made_up_data()) == default_html()


def test_what_the_user_named_is_text_never_markup():
    evil = "<script>alert('x')</script>"
    html = render_report(
        made_up_data(
            dim=2,
            columns=(evil, "b&b"),
            latent=None,
            title=evil,
            notes=(evil,),
            settings={evil: evil},
            environment={"torch": evil},
            steps=(made_up_step(1, block_type=evil), {"kind": "decision", "what": evil, "block": 1}),
        )
    )
    page = Page(html)
    assert "script" not in page.tags
    assert page.text.count("alert('x')") >= 7
    assert "b&b" in page.text


@pytest.mark.parametrize(
    "name", ["$", "$x", r"$\frac{", "price $ and $ cost", "_", "日本", "two\nlines", "x" * 300, ""]
)
def test_any_column_name_can_be_drawn(name):
    rows = made_up_data(dim=2).real
    draw_histograms(rows, rows, (name, "other"), limits=Limits())
    draw_pairs(rows, rows, (name, "other"), limits=Limits())


def test_label_is_short_and_on_one_line():
    assert plain_text("two\n lines") == "two lines"
    assert len(plain_text("x" * 300)) == 22
    assert plain_text("a$b") == r"a\$b"


def test_summary_says_the_numbers_it_was_given():
    text = Page(default_html()).text
    for words in (
        "Held-out NLL 7.75 ± 0.11 · nats per row, data units",
        "Gaussian's NLL 8.50 ± 0.12",
        "Difference 0.75 ± 0.07 · nats better than the Gaussian",
        "1,234 × 3",
        "means over 123 held-out rows",
        "two rows are duplicates",
        "3 trained · 4.50 CPU-s",
    ):
        assert words in text


def test_a_flow_that_loses_to_the_gaussian_says_so():
    text = Page(
        render_report(words_only(held_out=HeldOut(nll=9.0, se=0.1, gaussian_nll=8.5, gaussian_se=0.2)))
    ).text
    assert "Difference 0.50 ± 0.22 · nats worse than the Gaussian" in text


@pytest.mark.parametrize("steered", [True, False])
def test_rows_that_stopped_the_training_are_told(steered):
    text = Page(render_report(words_only(held_out=HeldOut(nll=1.0, se=0.1, rows=9, steered=steered)))).text
    assert ("validation rows, which also chose the blocks" in text) == steered
    assert ("Validation NLL" in text) == steered
    assert ("held-out rows, which no part of the fit looked at" in text) == (not steered)


def test_blocks_in_numbers():
    steps = (
        made_up_step(1, held_out_nll_nats=-12.3456),
        made_up_step(2, kept=False, finished_on="warm_start", retries=2),
        made_up_step(3, gamma=None, transport_nats=None, cpu_seconds=None),
        {"format": "jkoflow/1", "kind": "decision", "block": 3, "what": "budget spent", "cpu_seconds": 7.5},
        {"kind": "decision", "what": "pilot", "value": {"affine_first": False, "phase": 2.5, "kind": "a"}},
        {"kind": "decision", "what": "updates", "block": 2, "round": 0, "value": 1200},
    )
    html = render_report(words_only(steps=steps))
    text = Page(html).text
    assert (
        "neural ode 0.250 2 1,000 warm start + 100 proximal proximal −12.346 8.500 0.600 0.00010 yes 0 1.50"
        in text
    )
    assert "warm start 5.000 8.000 0.300 0.00010 no 2 1.50" in text
    assert "3 neural ode free" in text
    assert "yes 0 –" in text
    assert "Block 3: budget spent (cpu seconds 7.50)" in text
    assert "pilot (affine first no, phase 2.50, kind a)" in text
    assert "Block 2: updates (round 0, value 1,200)" in text
    assert html.count('class="dropped"') == 1


def test_path_length_leaves_out_what_was_not_kept():
    steps = [
        made_up_step(1, transport=4.0),
        made_up_step(2, transport=100.0, kept=False),
        made_up_step(3, transport=0.25),
    ]
    assert path_length(steps) == pytest.approx(2.5)


def test_rows_that_are_not_finite_are_left_out_and_told():
    generated = made_up_data().generated.copy()
    generated[4, 1], generated[7, 0] = np.nan, np.inf
    text = Page(render_report(made_up_data(generated=generated, latent=None, steps=()))).text
    assert "Generated rows that are not finite, left out of this page: 2." in text


def test_generated_rows_change_only_what_shows_them():
    one = Page(default_html()).images
    other = Page(render_report(made_up_data(generated=made_up_data().generated + 1))).images
    assert {name for name in one if one[name] != other[name]} == {"histograms", "pairs"}


def test_sheets_show_the_rows_as_pictures():
    black_left = np.tile([1.0, 0.0], (60, 2))
    data = made_up_data(dim=4, image_shape=(2, 2), real=black_left, generated=1 - black_left)
    images = Page(render_report(data)).images
    real, generated = (
        matplotlib.image.imread(io.BytesIO(decode(images[name])[1]))[..., :3].mean(axis=2)
        for name in ("images-real", "images-generated")
    )
    # The first ink from the left is nearer the edge where pictures are black on their left.
    middle = real.shape[0] // 2
    rows = slice(middle - 40, middle + 40)
    first_ink = [int(np.argmax((sheet[rows, 40:] < 0.05).any(axis=0))) for sheet in (real, generated)]
    assert first_ink[0] + 10 < first_ink[1]


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_any_scale_can_be_drawn(scale):
    data = made_up_data()
    draw_histograms(data.real * scale, data.generated * scale, data.columns, limits=Limits())
    draw_pairs(data.real * scale, data.generated * scale, data.columns, limits=Limits())


def test_generated_rows_may_all_be_the_same():
    render_report(made_up_data(generated=np.zeros((5, 3)), latent=np.zeros((5, 3)), steps=()))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"generated": np.zeros((5, 2))}, r"generated: expected shape \(rows, 3\).*got \(5, 2\)"),
        ({"latent": np.zeros(3)}, "latent: expected shape"),
        ({"image_shape": (2, 2)}, "image_shape: expected height × width = 3 columns, got 2 × 2"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        made_up_data(**changes)


def kept_blocks(*steps):
    return [block["kept"] for block in words_only(steps=steps).blocks]


def test_blocks_of_a_round_that_was_started_again_are_not_in_the_flow():
    """A first block, two of a first round, two of a second one, of which one is dropped."""
    lengths = [(1, True), (2, True), (3, True), (2, True), (2, False)]
    steps = [made_up_step(n, flow_blocks=length, kept=kept) for n, (length, kept) in enumerate(lengths, 1)]
    assert kept_blocks(*steps) == [True, False, False, True, False]
    assert kept_blocks(*steps, made_up_step(6, flow_blocks=1)) == [False] * 5 + [True]
    assert kept_blocks(*steps, made_up_step(6, flow_blocks=1, kept=False)) == [True] + [False] * 5


def test_blocks_without_lengths_are_in_the_flow_where_they_were_kept():
    assert kept_blocks(made_up_step(1), made_up_step(2, kept=False), made_up_step(3)) == [True, False, True]


def test_page_shows_no_more_than_its_limits() -> None:
    rows = np.random.default_rng(0).standard_normal((30, 3))
    data = ReportData(title="t", n_rows=30, columns=("a", "b", "c"), real=rows, generated=rows)
    page = render_report(data, limits=Limits(marginals=2, histograms=1, pair_columns=2))
    assert "The first 1 of 3 columns." in page
    assert "Pairs of the first 2 columns" in page
    assert "<td>b</td>" in page
    assert "<td>c</td>" not in page
