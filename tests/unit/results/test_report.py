"""The page: what stands in it, that nothing of a user's runs in it, and how a real browser takes it."""

import base64
import html
import io
import re
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from unittest.mock import MagicMock

import fsspec
import numpy as np
import pandas as pd
import pytest
import zarr
from PIL import Image
from sklearn.datasets import load_digits

import draws
import labelsieve
from browser import browser
from installs import ROOT, environment_after, pip_lines
from labelsieve import InvalidInputError, MissingDependencyError
from labelsieve.cli.app import run
from labelsieve.errors import install_line
from labelsieve.results import report
from labelsieve.results.report import heading_parts

NAMES = ("cat & dog", "<script>document.title='taken over'</script>", '"><img src=x onerror=alert(1)>', "$x$ and $y$")
IDS = [f"<b>row {i}</b>" for i in range(1500)]
VOID = {"meta", "link", "img"}


class Parsed(HTMLParser):
    """A page as its tags, with the text of each table's cells, and a check that tags close in order."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.tables, self._open, self._cell = [], [], [], None
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self._cell = ""

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag
        if tag in ("td", "th"):
            self.tables[-1][-1].append(self._cell.strip())
            self._cell = None

    def handle_data(self, data):
        if self._cell is not None:
            self._cell += data

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def found():
    labels, probs = draws.draw(1500, 4, seed=8, noise=0.25)
    return labelsieve.find_label_issues(labels, probs, class_names=NAMES, ids=IDS, progress=False)


@pytest.fixture(scope="module")
def page(found, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "r.html"
    found.report(path, top=40)
    return path.read_text(encoding="utf-8")


@pytest.fixture
def without_plots(monkeypatch):
    """Leave the plots out, which take nearly all the time of a page."""
    monkeypatch.setattr(report, "Plots", MagicMock())
    monkeypatch.setattr(report, "_svg", lambda ax, name: "")


def test_the_tables_are_those_of_the_result(found, page):
    rows, classes, pairs, run_facts = Parsed(page).tables
    frame = found.to_frame(40)
    assert [line[0] for line in rows[1:]] == [str(row) for row in frame["row"]]
    assert [line[1] for line in rows[1:]] == [IDS[row] for row in frame["row"]]
    assert [line[2] for line in rows[1:]] == [f"{k} {NAMES[k]}" for k in frame["given_label"]]
    assert [line[4] for line in rows[1:]] == [f"{score:.4g}" for score in frame["score"]]
    summary = found.class_summary()
    assert [line[0] for line in classes[1:]] == [f"{k} {NAMES[k]}" for k in summary["class"]]
    assert [line[3] for line in classes[1:]] == [f"{100 * noise:.2f}%" for noise in summary["label_noise"]]
    assert [line[3] for line in pairs[1:]] == [f"{n:,}" for n in found.confused_pairs(20)["estimated_rows"]]
    facts = {line[0]: line[1] for line in run_facts}
    assert facts["Rows and classes"] == "1,500 x 4"
    assert facts["Read"] == "48 kB in 1 pass"
    assert facts["Settings"] == "self_confidence, off_diagonal"
    assert f"numpy {np.__version__}" in facts["Versions"]
    assert f"<dd>{found.num_issues:,}</dd>" in page
    assert f"<dd>{100 * found.health_score():.2f}%</dd>" in page


STORIES = [
    ({}, "The 257 rows with the lowest scores (17.13% of the rows) are listed as issues."),
    (
        {"estimation_method": "off_diagonal_calibrated"},
        (
            "352 (23.47% of the rows) are listed as issues. The "
            "label of the other 2 is the class that the model predicts, "
            "or nearly so."
        ),
    ),
    ({"filter_by": "low_self_confidence"}, "'low_self_confidence': 257 (17.13% of the rows), as many as estimated."),
    ({"filter_by": "both"}, "'both': 300 (20.00% of the rows), more than estimated."),
    ({"filter_by": "both", "frac_noise": 0.5}, "'both': 139 (9.27% of the rows), fewer than estimated."),
]


@pytest.mark.parametrize(("choices", "end"), STORIES)
def test_found_and_estimated_numbers_are_one_story(choices, end, without_plots, tmp_path):
    labels, probs = draws.draw(1500, 4, seed=8, noise=0.25)
    found = labelsieve.find_label_issues(labels, probs, progress=False, **choices)
    found.report(tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    n, estimated = found.num_issues, found.estimated_num_issues
    text = report.summary_of(found)
    assert f"that {estimated:,} of 1,500 labels ({estimated / 1500:.2%}) are wrong" in text
    assert f"the share of the others, {found.health_score():.2%}" in text
    assert text.endswith(end)
    assert html.escape(text) in page.replace("&#39;", "&#x27;")
    assert f'<dd>{n:,}</dd><dd class="of">{n / 1500:.2%} of the rows</dd>' in page
    assert f'<dd>{estimated:,}</dd><dd class="of">{estimated / 1500:.2%} of the rows</dd>' in page
    shown = found._repr_html_()
    assert f"<strong>{n:,}</strong>" in shown
    assert f"an estimated {estimated:,} labels are wrong: label health {found.health_score():.1%}" in shown


def test_the_heading_names_dataset_date_and_version(tmp_path, found, without_plots):
    labels, probs = draws.draw(300, 4, seed=8)
    folder = tmp_path / "my <data>"
    folder.mkdir()
    np.save(folder / "labels.npy", labels)
    np.save(folder / "pred_probs.npy", probs)
    before = datetime.now(UTC).replace(second=0, microsecond=0)
    stored = labelsieve.find_label_issues(
        folder / "labels.npy", folder / "pred_probs.npy", output=tmp_path / "r.zarr", progress=False
    )
    assert before <= datetime.strptime(stored.facts.finished, "%Y-%m-%d %H:%M").replace(tzinfo=UTC) <= datetime.now(UTC)
    when, version = f"{stored.facts.finished} UTC", f"Labelsieve {labelsieve.__version__}"
    for result in (stored, labelsieve.load(tmp_path / "r.zarr")):
        assert heading_parts(result) == ["my <data>/pred_probs.npy", when, version]
        facts = report.facts_of(result)
        assert (facts["labels"], facts["pred_probs"]) == (str(folder / "labels.npy"), str(folder / "pred_probs.npy"))
        assert facts["Finished"] == when
        result.report(tmp_path / "r.html")
        page = (tmp_path / "r.html").read_text(encoding="utf-8")
        assert f'<p class="about">my &lt;data&gt;/pred_probs.npy · {when} · {version}</p>' in page
        assert "of 300 rows of my &lt;data&gt;/pred_probs.npy</title>" in page
    assert heading_parts(found) == [f"{found.facts.finished} UTC", version], "arrays in memory have no name"
    assert heading_parts(found, "cats & dogs")[0] == "cats & dogs"
    old = replace(found, facts=replace(found.facts, inputs={}, finished=""))  # as saved before there was a date
    assert heading_parts(old) == [version]
    assert "Finished" not in report.facts_of(old)


def test_flags_have_a_column_where_there_are_any(tmp_path, found, without_plots):
    for labels, flags in ((np.arange(400) % 4, None), (np.minimum(np.arange(400), 3), ["", "rare", "rare", "rare"])):
        probs = 0.7 * np.eye(4)[labels] + 0.075
        labelsieve.find_label_issues(labels, probs, progress=False).report(tmp_path / "r.html")
        classes = Parsed((tmp_path / "r.html").read_text(encoding="utf-8")).tables[-2]
        assert ("Flag" in classes[0]) == (flags is not None)
        assert {len(line) for line in classes} == {7 if flags is None else 8}
        if flags is not None:
            assert sorted(line[-1] for line in classes[1:]) == flags


def test_what_was_read_has_a_rate_only_where_it_was_read(found):
    nothing = replace(found, facts=replace(found.facts, bytes_read=0, rows_resumed=1500, seconds=2.0))
    assert report.facts_of(nothing)["Time"] == "2 s"
    assert report.facts_of(replace(found, facts=replace(found.facts, seconds=2.0)))["Time"] == "2 s, 24 kB per second"


def test_names_ids_and_texts_are_text(found, tmp_path):
    found.report(tmp_path / "r.html", texts=["<script>alert(2)</script>"] * 1500)
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    parsed = Parsed(page)
    assert len(parsed.all("script")) == 1
    assert parsed.all("img") == []
    assert parsed.all("b") == []
    assert "<script>alert(2)</script>" in [line[2] for line in parsed.tables[0][1:]]
    for name in NAMES[1:3]:
        assert name not in page


def test_the_page_stands_alone_and_can_be_read_aloud(page):
    parsed = Parsed(page)
    policy = next(meta["content"] for meta in parsed.all("meta") if meta.get("http-equiv"))
    assert policy.startswith("default-src 'none'; img-src data:;")
    addresses = [
        v for _, attributes in parsed.tags for k, v in attributes.items() if k in ("src", "href", "xlink:href")
    ]
    assert [v for v in addresses if not v.startswith(("#", "data:"))] == []
    assert re.findall(r"url\((?!#)", page) == []
    assert parsed.all("html") == [{"lang": "en"}]
    assert [name for name, _ in parsed.tags if name in ("h1", "h2")] == ["h1"] + ["h2"] * 5
    assert all(figure["aria-label"] for figure in parsed.all("figure"))
    assert all("scope" in header for header in parsed.all("th"))
    assert len(parsed.all("caption")) == len(parsed.tables) == 4
    ids = [attributes["id"] for _, attributes in parsed.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    sections = [link["href"] for link in parsed.all("a")]
    assert {href.removeprefix("#") for href in sections} <= set(ids)


def test_a_page_is_the_same_bytes_each_time(found, page, tmp_path):
    found.report(tmp_path / "again.html", top=40)
    assert (tmp_path / "again.html").read_text(encoding="utf-8") == page


def pictures_in(page):
    found = re.findall(r'<img src="data:image/(\w+);base64,([^"]+)" alt="Row (\d+), labelled', page)
    return [(form, int(row), Image.open(io.BytesIO(base64.b64decode(data)))) for form, data, row in found]


@pytest.mark.parametrize("kind", ["bytes", "floats", "npy", "columns first", "zarr", "url", "colour"])
def test_pictures_stand_beside_their_rows(found, without_plots, tmp_path, kind):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (1500, 9, 7, 3) if kind == "colour" else (1500, 9, 7), dtype=np.uint8)
    images[:, 0, 0], images[:, 0, 1] = 0, 255  # so that floats are scaled back to the same bytes
    given = images
    if kind == "floats":
        given = images / 255
    elif kind in ("npy", "columns first"):
        np.save(tmp_path / "images.npy", images if kind == "npy" else np.asfortranarray(images))
        given = tmp_path / "images.npy"
    elif kind == "url":
        np.save(tmp_path / "images.npy", images)
        given = "memory://pictures/images.npy"
        fsspec.filesystem("memory").pipe_file("/pictures/images.npy", (tmp_path / "images.npy").read_bytes())
    elif kind == "zarr":
        zarr.create_array(tmp_path / "images.zarr", shape=images.shape, dtype="u1", chunks=(100, 9, 7))[:] = images
        given = str(tmp_path / "images.zarr")
    found.report(tmp_path / "r.html", images=given, top=12)
    shown = pictures_in((tmp_path / "r.html").read_text(encoding="utf-8"))
    assert [row for _, row, _ in shown] == found.indices[:12].tolist()
    for form, row, picture in shown:
        assert form == "png"
        assert np.abs(np.asarray(picture).astype(int) - images[row].astype(int)).max() <= (kind == "floats")


def test_texts_are_found_by_row(found, without_plots, tmp_path):
    texts = [f"text {i}" for i in range(1500)]
    (tmp_path / "t.txt").write_text("\n".join(texts))
    (tmp_path / "t2.txt").write_text("\n".join(["a\u2028\x0cb", *texts[1:]]) + "\n", encoding="utf-8")
    for given in (texts, pd.Series(texts, index=range(1500, 0, -1)), tmp_path / "t.txt", tmp_path / "t2.txt"):
        found.report(tmp_path / "r.html", texts=given, top=9)
        page = Parsed((tmp_path / "r.html").read_text(encoding="utf-8"))
        assert [line[2] for line in page.tables[0][1:]] == [texts[row] for row in found.indices[:9]]


@pytest.mark.parametrize("images", [[[[0, 1]] * 2] * 1500, np.ones((1500, 2, 2), bool)], ids=["lists", "masks"])
def test_pictures_of_other_kinds(found, without_plots, tmp_path, images):
    found.report(tmp_path / "r.html", images=images, top=2)
    assert len(pictures_in((tmp_path / "r.html").read_text(encoding="utf-8"))) == 2


def test_large_pictures_are_made_small(found, without_plots, tmp_path):
    rng = np.random.default_rng(0)
    images = np.broadcast_to(rng.integers(0, 256, (1, 300, 200, 3), dtype=np.uint8), (1500, 300, 200, 3))
    found.report(tmp_path / "r.html", images=images, top=5)
    for form, _, picture in pictures_in((tmp_path / "r.html").read_text(encoding="utf-8")):
        assert (form, picture.size) == ("jpeg", (64, 96))


def test_a_page_of_a_thousand_rows_is_under_five_megabytes(tmp_path):
    labels, probs = draws.draw(6000, 40, seed=8, noise=0.4)
    found = labelsieve.find_label_issues(labels, probs, progress=False)
    rng = np.random.default_rng(0)
    images = np.broadcast_to(rng.integers(0, 256, (64, 64), dtype=np.uint8), (6000, 64, 64))
    found.report(tmp_path / "r.html", top=1000, images=images)
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert len(Parsed(page).tables[0]) == 1001
    assert len(page.encode()) < 5_000_000


def test_what_deserves_a_look_is_said(without_plots, tmp_path):
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 3], [200, 5, 100])
    probs = rng.dirichlet([5, 5, 5, 0.01], 305)
    probs[65] *= 0.98
    found = labelsieve.find_label_issues(labels, probs, class_names=list("wxyz"), progress=False)
    tiny = (
        "the mean probability of the class over its rows is below 1/K, so nearly every row that is predicted as it "
        "counts as confident"
    )
    parted = (
        "130 rows are counted by their predicted class; another 108 do not reach its threshold, but may reach the low "
    )
    assert report.warnings_of(found) == [
        "1 row of pred_probs sums to 1 within 5% but not within 1% (row 65).",
        parted
        + "threshold of another class, so that the confident joint counts them: filter_by='low_self_confidence' or "
        "'confident_learning' includes them.",
        "1 class absent (2 y): no row has this label, so nothing is known about it.",
        "1 class rare (1 x): fewer than 10 rows have this label, too few for a threshold.",
        f"1 class tiny threshold (3 z): {tiny}.",
    ]
    found.report(tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert page.count("<li>1 ") == 4
    assert f"<li>{parted}" in page
    for again in ({"batch_size": 7}, {"batch_size": 100, "partition_batches": 2}):
        assert labelsieve.find_label_issues(labels, probs, progress=False, **again).facts.notes == found.facts.notes


def test_a_page_without_rows_does_not_say_that_there_are_none(found, tmp_path):
    found.report(tmp_path / "r.html", top=0)
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "<p>None of them is shown here.</p>" in page
    assert "No row is a label issue" not in page


def test_no_issues_are_a_page_too(tmp_path):
    labels, probs = np.array([0, 1, 0, 1]), np.array([[0.9, 0.1], [0.1, 0.9]] * 2)
    labelsieve.find_label_issues(labels, probs, progress=False).report(tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "<p>No row is a label issue.</p>" in page
    assert len(Parsed(page).tables) == 2


@pytest.mark.parametrize(
    ("name", "choices", "message"),
    [
        ("r.htm", {}, r"r\.htm must end in \.html"),
        ("none/r.html", {}, "there is no folder"),
        ("r.html", {"images": np.zeros((3, 4, 4))}, r"images must have shape \(1,500, H, W\)"),
        ("r.html", {"images": np.zeros((1500, 4))}, "images must have shape"),
        ("r.html", {"images": np.zeros((1500, 0, 4))}, "images must have shape"),
        ("r.html", {"images": np.zeros((1500, 4, 4), complex)}, "images must be numbers"),
        ("r.html", {"images": "none.npy"}, r"images: there is no file .*none\.npy"),
        ("r.html", {"texts": ["a"]}, "there are 1 texts, and there must be 1,500"),
        ("r.html", {"texts": "none.txt"}, r"texts: none\.txt is not readable"),
        ("r.html", {"top": -1}, "top must be a whole number"),
    ],
)
def test_what_cannot_be_shown_is_refused_and_nothing_is_left(found, tmp_path, name, choices, message):
    with pytest.raises(InvalidInputError, match=message):
        found.report(tmp_path / name, **choices)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("missing", ["jinja2", "matplotlib"])
def test_without_its_packages_the_page_names_the_pip_line(found, tmp_path, monkeypatch, missing):
    for name in [name for name in sys.modules if name.partition(".")[0] == missing]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(MissingDependencyError, match=re.escape(install_line("report"))):
        found.report(tmp_path / "r.html")


def test_pictures_for_notebooks_are_axes(found):
    bars = found.plot.scores().patches
    assert sum(round(bar.get_height()) for bar in bars) == 1500
    classes = found.plot.classes()
    assert [bar.get_width() for bar in classes.patches] == found.class_summary()["label_noise"].tolist()
    heat = found.plot.pairs().images[0].get_array()
    pairs = found.confused_pairs(None)
    assert heat.sum() == pairs["estimated_rows"].sum()
    worst = pairs.iloc[0]
    assert heat[worst["given_label"], worst["suggested_label"]] == worst["estimated_rows"]
    assert len(found.plot.pairs(top=3).get_xticks()) <= 3


# On the command line ---------------------------------------------------------------------------------------------


def test_a_page_by_the_command_line(found, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    labels, probs = draws.draw(1500, 4, seed=8, noise=0.25)
    np.save("labels.npy", labels)
    np.save("probs.npy", probs)
    (tmp_path / "names.txt").write_text("\n".join("wxyz"))
    (tmp_path / "texts.txt").write_text("\n".join(f"text {i}" for i in range(1500)))
    what = ["labels.npy", "probs.npy", "--class-names", "names.txt", "-o", "r.zarr"]
    assert run(["find", *what, "--report", "a.html", "--texts", "texts.txt", "--rows", "7", "--quiet"]) == 0
    assert run(["report", "r.zarr", "-o", "b.html", "--texts", "texts.txt", "--rows", "7"]) == 0
    assert capsys.readouterr().out == "written to b.html\n"
    one, two = ((tmp_path / name).read_text() for name in ("a.html", "b.html"))
    assert one == two
    assert [line[1] for line in Parsed(one).tables[0][1:]] == [f"text {row}" for row in found.indices[:7]]
    assert run(["report", "nothing.zarr"]) == 2
    assert "there is no result of Labelsieve" in capsys.readouterr().err
    monkeypatch.setattr("labelsieve.job.scan.scan", lambda *_, **__: pytest.fail("read"))
    np.save("ids.npy", np.arange(1500))
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    for given, place in (("--ids", "ids.npy"), ("--texts", "texts.txt"), ("--class-names", "names.txt")):
        for option in ("-o", "--report"):
            assert run(["find", "labels.npy", "probs.npy", "--report", "p.html", given, place, option, place]) == 2
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before
    for wrong in (["--report", "x.htm"], ["--report", "x.html", "--texts", "names.txt"], ["--texts", "texts.txt"]):
        assert run(["find", "labels.npy", "probs.npy", *wrong]) == 2


# In a browser ----------------------------------------------------------------------------------------------------


def column(page, number):
    return page.run(f"Array.from(document.querySelector('table').tBodies[0].rows, r => r.cells[{number}].textContent)")


@pytest.mark.slow
def test_a_browser_takes_the_page(found, tmp_path):
    images = np.zeros((1500, 8, 8), np.uint8)
    images[:, 2:4] = 200
    found.report(tmp_path / "r.html", images=images, top=60)
    with browser() as page:
        page.size(1280, 900)
        page.open((tmp_path / "r.html").as_uri())
        assert page.complaints() == []
        assert page.requests() == [(tmp_path / "r.html").as_uri()]
        assert page.run("document.title") == f"Label issues: {found.num_issues:,} of 1,500 rows"
        assert NAMES[1] in page.run("document.body.innerText"), "a name is shown as it is"
        assert page.run("Array.from(document.images).every(image => image.naturalWidth === 8)")
        assert page.run("document.querySelectorAll('svg').length") == 3

        rows = found.indices[:60].tolist()
        click = "document.querySelectorAll('table thead button')[{}].click()"
        for wanted in (sorted(rows), sorted(rows, reverse=True)):
            page.run(click.format(0))
            assert [int(text) for text in column(page, 0)] == wanted
        page.run(click.format(4))
        assert [int(text) for text in column(page, 0)] == rows, "by score again"
        page.run(click.format(2))
        labels = column(page, 3)
        assert labels == sorted(labels)
        header = "document.querySelectorAll('table thead th')[3].getAttribute('aria-sort')"
        assert page.run(header) == "ascending"
        # By keyboard: each heading that sorts can be reached and pressed.
        page.run("document.querySelectorAll('table thead button')[0].focus()")
        for kind in ("rawKeyDown", "char", "keyUp"):
            page.ask(
                "Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", windowsVirtualKeyCode=13, text="\r"
            )
        assert [int(text) for text in column(page, 0)] == sorted(rows)
        for width, dark in ((1280, False), (390, False), (390, True)):
            page.size(width, 800)
            page.emulate(dark=dark)
            assert page.run("document.documentElement.scrollWidth") <= width, "only tables scroll sideways"
            paper = page.run("getComputedStyle(document.body).backgroundColor")
            assert paper == ("rgb(22, 24, 27)" if dark else "rgb(255, 255, 255)")
        page.emulate(media="print")
        assert page.run("getComputedStyle(document.querySelector('nav')).display") == "none"
        assert page.complaints() == []


@pytest.mark.slow
@pytest.mark.parametrize("shown", ["images", "texts"])
def test_long_ids_are_seen_whole_in_a_window_of_1300_pixels(tmp_path, shown):
    labels, probs = draws.draw(300, 4, seed=8, noise=0.25)
    names = ["tabby cat", "golden retriever dog", "two-toed sloth", "hippopotamus"]
    ids = [f"images/train/n{i:08d}/ILSVRC2012_train_{i:08d}.JPEG" for i in range(300)]
    found = labelsieve.find_label_issues(labels, probs, class_names=names, ids=ids, progress=False)
    what = {"images": np.zeros((300, 8, 8), np.uint8), "texts": ["a text of some length, as a review is"] * 300}
    found.report(tmp_path / "r.html", top=9, **{shown: what[shown]})
    with browser() as page:
        page.size(1300, 900)
        page.open((tmp_path / "r.html").as_uri())
        assert page.run("document.querySelector('table td.id').textContent") == ids[found.indices[0]]
        region, cell = "document.querySelector('.scroll')", "document.querySelector('table td.id')"
        assert page.run(f"{region}.scrollWidth") == page.run(f"{region}.clientWidth"), "nothing is cut off"
        assert page.run(f"{cell}.scrollWidth <= {cell}.clientWidth")
        page.size(400, 900)
        assert page.run("document.documentElement.scrollWidth") <= 400


@pytest.mark.slow
def test_a_newcomer_sees_the_flipped_digits(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # With what README's first line installs, and nothing else.
    [line] = pip_lines((ROOT / "README.md").read_text(encoding="utf-8").partition("labelsieve demo")[0])
    environment = environment_after(line, tmp_path / "site")
    command = [sys.executable, "-m", "labelsieve", "demo", "--report", "report.html"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert "written to report.html" in done.stdout
    flipped = set(np.load("labelsieve-demo/flipped.npy").tolist())
    shown = pictures_in((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert len(shown) == 100
    assert sum(row in flipped for _, row, _ in shown) > 90
    digits = load_digits().images
    for _, row, picture in shown:
        scaled = digits[row] * (255 / digits[row].max())
        assert np.abs(np.asarray(picture) - scaled).max() <= 1
    with browser() as page:
        page.open((tmp_path / "report.html").as_uri())
        assert page.complaints() == []
        assert page.run("document.images.length") == 100
