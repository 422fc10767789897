"""The review page: decisions by keyboard in a real browser become labels; nothing of a user's runs; refusals."""

import base64
import csv
import hashlib
import io
import json
import re
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import labelsieve
from browser import browser
from draws import draw
from labelsieve import InputTypeError, InvalidInputError, LabelIssues, MissingDependencyError, apply_decisions
from labelsieve.cli.app import run
from labelsieve.errors import install_line
from labelsieve.review import page as review_page
from labelsieve.review import page as review_rows
from labelsieve.sources.names import escape_formula, unescape_formula

NAMES = ["=cat", "dög", "a, b", "bird"]


def find(n_rows=300, n_classes=4, noise=0.25, **more):
    labels, probs = draw(n_rows, n_classes, seed=5, noise=noise)
    return labels, probs, labelsieve.find_label_issues(labels, probs, progress=False, **more)


def config_of(path):
    """Return what the page holds as data."""
    [text] = re.findall(r'<script type="application/json" id="config">(.*?)</script>', path.read_text(encoding="utf-8"))
    return json.loads(text)


def downloaded(page, folder, name="decisions.csv"):
    """Download the decisions by a key, and return the path of the file."""
    page.download(folder, "d")
    return folder / name


def open_page(page, path):
    page.open(path.as_uri())
    page.wait_for("document.documentElement.dataset.ready")


def test_fifty_decisions_by_keyboard_become_labels(tmp_path):
    labels, probs, found = find(400, class_names=NAMES)
    path, rng = tmp_path / "review.html", np.random.default_rng(0)
    found.review(path, pred_probs=probs, images=np.zeros((400, 8, 8), np.uint8))
    rows, expected, decided = found.indices[:50], labels.copy(), []
    suggested = found.issues.suggested_labels
    with browser() as page:
        open_page(page, path)
        page.run("document.getElementById('reviewer').focus()")
        page.write("Ann")
        page.press("Enter")
        for at, row in enumerate(rows.tolist()):
            if at == 25:
                open_page(page, path)
                assert page.run("document.getElementById('done-text').textContent").startswith("25 of")
                assert page.run("document.getElementById('reviewer').value") == "Ann"
            assert page.run("document.getElementById('row-name').textContent") == f"Row {row}"
            given, wanted = int(labels[row]), int(suggested[at])
            word = ("accept", "keep", "other", "unsure", "digit")[int(rng.integers(5))]
            if word == "other":
                [wanted, *_] = {0, 1, 2, 3} - {given, wanted}
                page.press("o")
                # A part of a name, without accents.
                page.write(("cat", "dog", ", b", "bir")[wanted])
                page.press("Enter")
            elif word == "digit":
                order = np.argsort(-probs[row], kind="stable").tolist()
                other = next(k for k in order if k not in (given, wanted))
                page.press(str(order.index(other) + 1))
                word, wanted = "other", other
            else:
                page.press(word[0])
            if word in ("accept", "other"):
                expected[row] = wanted
            decided.append((row, word))
            if at == 30:
                page.press("Backspace")  # and again
                assert page.run("document.getElementById('row-name').textContent") == f"Row {row}"
                page.press("u")
                decided[-1], expected[row] = (row, "unsure"), given
        table = downloaded(page, tmp_path, "decisions-Ann.csv")
        assert page.complaints() == []
        assert set(page.requests()) == {path.as_uri()} | {url for url in page.requests() if url.startswith("blob:")}
    with table.open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert list(lines[0]) == ["row", "id", "given_label", "decision", "label", "reviewer", "time", "result"]
    assert [(int(line["row"]), line["decision"]) for line in lines] == decided
    assert {(line["reviewer"], line["result"]) for line in lines} == {("Ann", found.fingerprint)}
    applied = apply_decisions(labels, table, issues=found)
    assert np.array_equal(applied.labels, expected)
    assert applied.counts["accept"] > 5


@pytest.fixture(scope="module")
def one_browser():
    with browser() as page:
        yield page


@pytest.fixture
def chromium(one_browser):
    """Give a page that remembers nothing of earlier tests."""
    one_browser.ask("Storage.clearDataForOrigin", origin="file://", storageTypes="all")
    one_browser.events.clear()
    return one_browser


def text_of(page, name):
    return page.run(f"document.getElementById('{name}').textContent")


def choose(page, name, value):
    """Choose in a list, as a user does."""
    page.run(f"$('{name}').value = '{value}'; $('{name}').dispatchEvent(new Event('change'))")


def naive_rows(found, probs, rows):
    """Return what the page must hold of issues, one by one."""
    frame = found.to_frame().set_index("row")
    lines = []
    for row in rows:
        one = frame.loc[row]
        order = sorted(range(probs.shape[1]), key=lambda k: (-probs[row, k], k))[:5]
        lines.append(
            {
                "given": int(one["given_label"]),
                "suggested": int(one["suggested_label"]),
                "score": float(f"{one['score']:.6g}"),
                "p_given": float(f"{one['p_given']:.6g}"),
                "p_suggested": float(f"{one['p_suggested']:.6g}"),
                "id": str(one["id"]),
                "row": row,
                "text": f"text {row}",
                "top": [[k, float(f"{probs[row, k]:.6g}")] for k in order],
            }
        )
    return lines


@pytest.mark.parametrize("stored", [False, True])
def test_the_page_holds_the_worst_rows(tmp_path, stored):
    ids = [f"id {row}" for row in range(300)]
    _, probs, found = find(n_classes=7, class_names=list("abcdefg"), ids=ids)
    probs_given, texts = probs, [f"text {row}" for row in range(300)]
    if stored:
        found.save(tmp_path / "result.zarr")
        found = labelsieve.load(tmp_path / "result.zarr")
        np.save(tmp_path / "probs.npy", probs)
        (tmp_path / "texts.txt").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(texts).encode())
        probs_given, texts = tmp_path / "probs.npy", tmp_path / "texts.txt"
    found.review(tmp_path / "review.html", top=20, texts=texts, pred_probs=probs_given, title="Letters")
    config = config_of(tmp_path / "review.html")
    rows = found.indices[:20].tolist()
    assert config["rows"] == naive_rows(found, probs, rows)
    assert config["index"]["rows"] == rows
    assert config["index"]["given"] == [one["given"] for one in config["rows"]]
    assert config["index"]["suggested"] == [one["suggested"] for one in config["rows"]]
    assert (config["fingerprint"], len(config["rows"])) == (found.fingerprint, 20)
    assert (config["classes"], config["values"]) == (list("abcdefg"), list(range(7)))
    assert "Letters" in (tmp_path / "review.html").read_text(encoding="utf-8")


def test_rows_that_are_tokens_have_places(tmp_path):
    labels, probs = [[0, 1], [0, 1, 0]], [np.eye(2)[[0, 1]] * 0.8 + 0.1, np.eye(2)[[0, 1, 1]] * 0.8 + 0.1]
    found = labelsieve.token_classification.find_label_issues(labels, probs, progress=False)
    found.rows.review(tmp_path / "review.html")
    [line] = config_of(tmp_path / "review.html")["rows"]
    assert (line["row"], line["place"]) == (4, "sentence 1, token 2")


def test_logits_are_shown_as_probabilities(tmp_path):
    labels, probs = draw(200, 3, seed=1)
    logits = np.log(probs) + np.arange(200)[:, None]
    found = labelsieve.find_label_issues(labels, logits, from_logits=True, progress=False)
    found.review(tmp_path / "review.html", pred_probs=logits)
    for one in config_of(tmp_path / "review.html")["rows"]:
        assert dict(map(tuple, one["top"]))[one["suggested"]] == pytest.approx(probs[one["row"]].max(), rel=1e-5)


def test_some_rows_of_logits_look_like_probabilities(tmp_path):
    labels, probs = draw(300, 3, seed=1, noise=0.3)
    logits = 2 * np.log(probs)
    quiet = np.arange(200, 230)
    logits[quiet] = np.linspace(0, 1, 90).reshape(30, 3)
    logits[0, (labels[0] + 1) % 3] = -np.inf
    found = labelsieve.find_label_issues(labels, logits, from_logits=True, progress=False)
    wanted = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    rows = np.setdiff1d(np.append(quiet, 0), found.indices)
    assert len(rows) > 5
    found.review(tmp_path / "review.html", rows=rows, labels=labels, pred_probs=logits)
    for one in config_of(tmp_path / "review.html")["rows"]:
        assert one["p_given"] == pytest.approx(wanted[one["row"], labels[one["row"]]], rel=1e-5)
        assert one["p_suggested"] == pytest.approx(wanted[one["row"]].max(), rel=1e-5)


@pytest.mark.parametrize(
    ("given", "names", "kind", "values"),
    [
        ([0, 1, 0, 1], None, "numbers", [0, 1]),
        ([0, 1, 0, 1], ["no", "yes"], "numbers", [0, 1]),
        (["no", "yes", "no", "yes"], None, "names", ["no", "yes"]),
        (["no", "yes", "no", "yes"], ["no", "yes"], "names", ["no", "yes"]),
        (pd.Series(["no", "yes", "no", "yes"], dtype="category"), None, "names", ["no", "yes"]),
        ([False, True, False, True], None, "booleans", ["False", "True"]),
        ([False, True, False, True], ["no", "yes"], "booleans", ["False", "True"]),
        (np.array([b"no", b"yes", b"no", b"yes"]), None, "names", ["no", "yes"]),
        (pd.Series([0, 1, 0, None]), None, "numbers", [0, 1]),
    ],
)
def test_decisions_name_labels_as_they_are_stored(tmp_path, given, names, kind, values):
    probs = [[0.9, 0.1], [0.2, 0.8], [0.1, 0.9], [0.3, 0.7]]
    more = {"ignore_label": None} if isinstance(given, pd.Series) and given.hasnans else {}
    found = labelsieve.find_label_issues(given, probs, class_names=names, progress=False, **more)
    found.save(tmp_path / "result.zarr")
    for result in (found, labelsieve.load(tmp_path / "result.zarr")):
        assert result.facts.label_kind == kind
        result.review(tmp_path / "review.html")
        config = config_of(tmp_path / "review.html")
        assert config["values"] == values
        decided = {"row": [2], "given_label": [values[0]], "decision": ["accept"], "label": [values[1]]}
        corrected = apply_decisions(given, pd.DataFrame(decided)).labels
        assert corrected[2] == np.asarray(given)[1]


def test_labels_tell_whether_decisions_name_them_by_number_or_by_name(tmp_path):
    labels, _, found = find(class_names=NAMES)
    earlier = LabelIssues(**{**vars_of(found), "facts": replace(found.facts, label_kind="")})
    names = np.array(NAMES)[labels]
    for given, values in ((labels, [0, 1, 2, 3]), (names, NAMES)):
        earlier.review(tmp_path / "review.html", labels=given)
        assert config_of(tmp_path / "review.html")["values"] == values
    without = LabelIssues(**{**vars_of(earlier), "class_names": None})
    without.review(tmp_path / "review.html")
    assert config_of(tmp_path / "review.html")["values"] == [0, 1, 2, 3]
    earlier.review(tmp_path / "review.html", labels=labels.astype(float))  # as beside missing values
    assert config_of(tmp_path / "review.html")["values"] == [0, 1, 2, 3]
    pd.DataFrame({"label": labels}).to_csv(tmp_path / "labels.csv", index=False)  # where numbers are text
    earlier.review(tmp_path / "review.html", labels=tmp_path / "labels.csv")
    assert config_of(tmp_path / "review.html")["values"] == [0, 1, 2, 3]
    # Codes in the run, names in the file to be corrected.
    found.review(tmp_path / "review.html", labels=names, class_names=["c", "d", "ab", "b"])
    config = config_of(tmp_path / "review.html")
    assert (config["classes"], config["values"]) == (["c", "d", "ab", "b"], NAMES)


def test_numbers_and_names_that_are_numbers_are_told_apart(tmp_path):
    names = ["1", "2", "0"]
    labels, probs = draw(300, 3, seed=1, noise=0.3)
    found = labelsieve.find_label_issues(labels, probs, class_names=names, progress=False)
    rows = np.flatnonzero(~found.mask())[:20]
    pd.DataFrame({"label": labels}).to_csv(tmp_path / "labels.csv", index=False)
    with pytest.raises(InvalidInputError, match=r"may be the number or the name of a class.*numbers as integers"):
        found.review(tmp_path / "review.html", rows=rows, labels=tmp_path / "labels.csv")
    assert not (tmp_path / "review.html").exists()
    texts = np.array(names)[labels]
    of_names = labelsieve.find_label_issues(texts, probs, class_names=names, progress=False)
    for one, given, values in ((found, labels, [0, 1, 2]), (of_names, texts, names)):
        one.review(tmp_path / "review.html", rows=rows, labels=given)
        config = config_of(tmp_path / "review.html")
        assert (config["values"], config["index"]["given"]) == (values, labels[rows].tolist())


def test_without_issues_names_that_are_numbers_are_in_no_doubt(tmp_path):
    found = labelsieve.find_label_issues(["1", "0", "1"], [[0.9, 0.1], [0.1, 0.9], [0.9, 0.1]], class_names=["1", "0"])
    assert found.num_issues == 0
    found.review(tmp_path / "review.html", labels=np.array(["1", "0", "1"]))
    assert found.to_label_studio(tmp_path / "tasks.json", labels=np.array(["1", "0", "1"]))


def vars_of(found):
    return {name: getattr(found, name) for name in found.__dataclass_fields__}


def test_an_audit_is_shown_in_its_order(tmp_path):
    labels, probs, found = find(1000, ids=[f"id {row}" for row in range(1000)])
    audit = found.audit(60, labels=labels)
    found.review(tmp_path / "review.html", audit=audit)
    config = config_of(tmp_path / "review.html")
    frame = found.to_frame().set_index("row")
    assert config["index"]["rows"] == audit.rows.tolist()
    assert config["index"]["given"] == labels[audit.rows].tolist()
    suggested = [int(frame["suggested_label"].get(row, -1)) for row in audit.rows]
    assert config["index"]["suggested"] == suggested
    assert 0 < suggested.count(-1) < 60
    for one, row, score in zip(config["rows"], audit.rows, audit.scores, strict=True):
        assert one["score"] == float(f"{score:.6g}")
        assert one.get("id") == frame["id"].get(row)
    found.review(tmp_path / "review.html", audit=audit, pred_probs=probs)
    config = config_of(tmp_path / "review.html")
    assert config["index"]["suggested"] == probs[audit.rows].argmax(axis=1).tolist()
    for one in config["rows"]:
        assert one["p_given"] == float(f"{probs[one['row'], labels[one['row']]]:.6g}")
    # An audit without labels takes them from `labels`.
    bare = found.audit(60)
    with pytest.raises(InvalidInputError, match="given labels of rows that are not issues are not in the result"):
        found.review(tmp_path / "review.html", audit=bare)
    found.review(tmp_path / "review.html", audit=bare, labels=labels)
    assert config_of(tmp_path / "review.html")["index"]["given"] == labels[audit.rows].tolist()


def test_an_audit_of_numbers_beside_missing_ones(tmp_path):
    labels, probs = draw(200, 3, seed=1, noise=0.3)
    floats = labels.astype(float)
    floats[5] = np.nan
    found = labelsieve.find_label_issues(floats, probs, ignore_label=None, progress=False)
    audit = found.audit(30, labels=floats)
    found.review(tmp_path / "review.html", audit=audit)
    config = config_of(tmp_path / "review.html")
    assert config["index"]["given"] == labels[audit.rows].tolist()
    assert config["values"] == [0, 1, 2]


@pytest.fixture(scope="module")
def small():
    return find(100)


BAD = {
    "another ending": (lambda *_: {"path": "review.htm"}, "must end in .html"),
    "no folder": (lambda *_: {"path": "nowhere/review.html"}, "there is no folder"),
    "no rows": (lambda *_: {"top": 0}, "top must be a whole number of at least 1"),
    "too few pictures": (lambda *_: {"images": np.zeros((99, 8, 8))}, "100"),
    "pictures of one row": (lambda *_: {"images": np.zeros((100, 8))}, "images must have shape"),
    "a picture that is not there": (
        lambda *_: {"images": [f"{row}.png" for row in range(100)]},
        "the picture of row [0-9]+, .*png, is not there",
    ),
    "too few texts": (lambda *_: {"texts": ["a"] * 99}, "there are 99 texts, and there must be 100"),
    "no texts": (lambda *_: {"texts": "nowhere.txt"}, "texts: nowhere.txt is not readable"),
    "too few labels": (lambda y, p: {"labels": y[1:]}, "labels have 99 rows, the result has 100"),
    "other labels": (lambda y, p: {"labels": (y + 1) % 4}, "differ from the result, as row"),
    "labels that are no classes": (lambda y, p: {"labels": y + 4}, "is not one of the labels of the result"),
    "probabilities of other classes": (lambda y, p: {"pred_probs": p[:, 1:]}, "pred_probs have shape"),
    "other probabilities": (lambda y, p: {"pred_probs": p[::-1].copy()}, "pred_probs are not those of the result"),
    "probabilities that are none": (lambda y, p: {"pred_probs": p * np.nan}, "has NaN or infinite values"),
    "names of several classes": (
        lambda y, p: {"labels": np.array(list("abca"))[y], "class_names": list("abca"), "rows": [0]},
        "labels are names, and class_names has 'a' for several classes",
    ),
    "too few names": (lambda *_: {"class_names": ["a"]}, "1 class_names"),
    "an audit of fewer rows": (lambda *_: {"audit": find(90)[2].audit(30)}, "the audit is not of this result"),
    "an audit of another result": (
        lambda y, p: {"audit": replace(find(100)[2].audit(30, labels=y), fingerprint=f"{0:012}-{0:012}")},
        "the audit is not of this result",
    ),
    "an audit of other issues": (
        lambda y, p: {"audit": find(100, noise=0.6)[2].audit(30)},
        "the audit is not of this result",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_and_nothing_is_written(tmp_path, monkeypatch, small, case):
    monkeypatch.chdir(tmp_path)
    labels, probs, found = small
    arguments, message = BAD[case]
    with pytest.raises(InvalidInputError, match=message):
        found.review(**{"path": "review.html", **arguments(labels, probs)})
    assert list(tmp_path.iterdir()) == []


def test_objects_of_another_kind_are_refused(tmp_path, small):
    with pytest.raises(InputTypeError, match="audit must be an Audit"):
        small[2].review(tmp_path / "review.html", audit="audit.json")
    with pytest.raises(InputTypeError, match="title must be text, not 5"):
        small[2].review(tmp_path / "review.html", title=5)
    for texts in (5, (text for text in "ab")):
        with pytest.raises(InputTypeError, match="texts must be a sequence of strings or a file's path, not "):
            small[2].review(tmp_path / "review.html", texts=texts)
    empty = labelsieve.find_label_issues(["", "b", ""], [[0.9, 0.1], [0.2, 0.8], [0.1, 0.9]], progress=False)
    with pytest.raises(InvalidInputError, match="has the name '', which a table of decisions cannot hold"):
        empty.review(tmp_path / "review.html")


@pytest.mark.parametrize(
    ("missing", "extra"), [("jinja2", "report"), ("PIL", "images"), ("matplotlib", None), ("pandas", None)]
)
def test_a_page_needs_no_plots(tmp_path, monkeypatch, small, missing, extra):
    for name in [name for name in sys.modules if name.partition(".")[0] == missing] or [missing]:
        monkeypatch.setitem(sys.modules, name, None)
    path = tmp_path / "review.html"
    if extra is None:
        small[2].review(path, images=np.zeros((100, 8, 8)))
        return
    with pytest.raises(MissingDependencyError, match=re.escape(install_line(extra))):
        small[2].review(path, images=np.zeros((100, 8, 8)))
    assert not path.exists()


def test_the_command_reports_the_size_of_the_page(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    labels, _, found = find(400, class_names=NAMES)
    found.save("result.zarr")
    found.audit(30, labels=labels).save("audit.json")
    np.save("images.npy", np.zeros((400, 8, 8), np.uint8))
    assert run(["review", "result.zarr", "-o", "review.html", "--top", "9", "--images", "images.npy"]) == 0
    size = (tmp_path / "review.html").stat().st_size
    said = capsys.readouterr().out
    assert said == f"9 rows to review, written to review.html ({size / 1000:.3g} kB)\n"
    assert run(["review", "result.zarr", "-o", "review.html", "--audit", "audit.json", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["output"], answer["n_rows"]) == ("review.html", 30)
    assert answer["page_bytes"] == (tmp_path / "review.html").stat().st_size
    for bad in (["--audit", "result.zarr"], ["--texts", "nowhere.txt"]):
        assert run(["review", "result.zarr", "-o", "other.html", *bad]) == 2
    assert not (tmp_path / "other.html").exists()


def test_pictures_fit_their_sizes(tmp_path):
    rng = np.random.default_rng(0)
    labels, probs = draw(500, 3, seed=2, noise=0.5)
    found = labelsieve.find_label_issues(labels, probs, progress=False)
    noise = rng.integers(0, 256, (500, 64, 64, 3), dtype=np.uint8)  # nothing compresses worse
    found.review(tmp_path / "review.html", images=noise)
    lines = config_of(tmp_path / "review.html")["rows"]
    sizes = [len(base64.b64decode(one["picture"].partition(",")[2])) for one in lines]
    assert max(sizes) < 7000
    assert 500 * (max(sizes) * 4 / 3 + 300) < 5_000_000
    large = rng.integers(0, 256, (500, 300, 300, 3), dtype=np.uint8)
    found.review(tmp_path / "review.html", images=large, top=3)
    lines = config_of(tmp_path / "review.html")["rows"]
    assert max(len(base64.b64decode(one["picture"].partition(",")[2])) for one in lines) <= 20_000


def test_nothing_but_the_pages_own_script_runs(tmp_path, small):
    inputs = {"pred_probs": "/data/</title><script>alert(1)</script>/\udcff.npy"}
    found = LabelIssues(**{**vars_of(small[2]), "facts": replace(small[2].facts, inputs=inputs)})
    found.review(tmp_path / "review.html")
    text = (tmp_path / "review.html").read_text(encoding="utf-8")
    assert "<script>alert" not in text
    [policy] = re.findall('Content-Security-Policy" content="(.*?)"', text)
    policy = policy.replace("&#39;", "'")
    assert policy == review_page.content_policy()
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    scripts, styles = (
        re.findall("<script>(.*?)</script>", text, re.DOTALL),
        re.findall("<style>(.*?)</style>", text, re.DOTALL),
    )
    for name, [content] in (("script-src", scripts), ("style-src", styles)):
        assert rules[name] == f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
    assert (rules["default-src"], rules["img-src"], "connect-src" in rules) == ("'none'", "data:", False)
    assert not re.search(r"\son\w+=|\sstyle=|javascript:", text.partition("<script")[0])


HOSTILE = [
    "</script><img src=x onerror='window.hacked=1'>",
    "<!--<script>window.hacked=1</script>",
    '"><svg onload=window.hacked=1>',
    "'; window.hacked=1; //",
    "${window.hacked=1}`{{ 7*7 }}",
    "\u202egnp.exe\u202c",
    "nul\0nul",
    '=HYPERLINK("http://evil","x")',
    'a\r\nb,"c"',
    "\u2028\u2029",
    "x" * 3000,
    "\ud800 lone",
]


def test_hostile_names_ids_and_texts_are_text(tmp_path, chromium):
    n_classes = len(HOSTILE)
    labels, probs = draw(400, n_classes, seed=3, noise=0.4)
    texts = [HOSTILE[row % n_classes] * 2 for row in range(400)]
    ids = [HOSTILE[-1 - row % n_classes] + str(row) for row in range(400)]
    found = labelsieve.find_label_issues(labels, probs, class_names=HOSTILE, ids=ids, progress=False)
    path = tmp_path / "review.html"
    found.review(path, texts=texts, title=HOSTILE[0], pred_probs=probs)
    page = chromium
    page.size(400, 800)
    open_page(page, path)
    shown = [name.encode("utf-8", "backslashreplace").decode() for name in HOSTILE]
    page.run("document.getElementById('reviewer').focus()")
    page.write('<b>=1+1"')
    page.press("Enter")
    for row in found.indices[:15].tolist():
        assert text_of(page, "text") == shown[row % n_classes] * 2
        assert text_of(page, "row-name") == f"Row {row}: {shown[-1 - row % n_classes]}{row}"
        assert (shown[labels[row]].strip() or f"class {labels[row]}") in text_of(page, "keep")
        page.press("a")
    page.press("g")
    page.press("o")
    assert page.run("document.querySelectorAll('#other-list bdi').length") == n_classes
    page.press("Escape")
    assert page.run("document.documentElement.scrollWidth") <= 400
    assert page.run("document.querySelectorAll('svg, b, body img').length") == 1, "the picture, which has no source"
    assert page.run("typeof window.hacked") == "undefined"
    assert (
        page.run("document.title") == f"Review: the worst {len(found):,} of {len(found):,} label issues of {shown[0]}"
    )
    assert page.complaints() == []
    table = downloaded(page, tmp_path, "decisions-b-1-1.csv")
    applied = apply_decisions(
        labels, table, issues=found, ids=[one.encode("utf-8", "backslashreplace").decode() for one in ids]
    )
    rows = found.indices[:15]
    assert np.array_equal(applied.labels[rows], found.issues.suggested_labels[:15])
    assert set(pd.read_csv(table)["reviewer"]) == {'<b>=1+1"'}


CELLS = [
    "=1+1",
    "+a",
    "-5",
    "-5.5e3",
    "-a",
    "'=1",
    "''=1",
    "'tis",
    "@x",
    "\tx",
    "\rx",
    "a,b",
    'a"b',
    "a\nb",
    "a\r\nb",
    " a ",
    "",
    "1e5",
    "+.5",
    "-",
    "é漢",
    "\u202ex",
    "nul\0",
    "=",
    "'",
    "\ufeffx",
]


def test_the_script_writes_and_reads_csv_as_python_does(tmp_path, chromium, small):
    small[2].review(tmp_path / "review.html")
    page = chromium
    open_page(page, tmp_path / "review.html")
    assert page.run(f"{json.dumps(CELLS)}.map(escapeFormula)") == [escape_formula(cell) for cell in CELLS]
    escaped = [escape_formula(cell) for cell in CELLS]
    assert page.run(f"{json.dumps(escaped)}.map(unescapeFormula)") == CELLS
    assert [unescape_formula(cell) for cell in escaped] == CELLS
    text = page.run(f"csvText([{json.dumps(CELLS)}, {json.dumps(CELLS[::-1])}])")
    lines = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    assert [[unescape_formula(cell) for cell in line] for line in lines] == [CELLS, CELLS[::-1]]
    for end in ("\r\n", "\n"):
        # Python quotes a carriage return only if lines end with one.
        cells = [cell for cell in escaped if end == "\r\n" or "\r" not in cell]
        file = io.StringIO(newline="")
        csv.writer(file, lineterminator=end).writerows([cells, cells[::-1]])
        wanted = [unescape_formula(cell) for cell in cells]
        assert page.run(f"parseCsv({json.dumps(file.getvalue())})") == [wanted, wanted[::-1]]
    for torn in ("row,x\r\n1,2", 'row,"x', 'a,"b"c\r\n'):
        answer = page.run(
            f"(() => {{ try {{ parseCsv({json.dumps(torn)}); return ''; }} catch (e) {{ return e.message; }} }})()"
        )
        assert answer, torn


def test_names_and_an_audit_from_page_to_estimate(tmp_path, chromium):
    labels, probs = draw(600, 4, seed=6, noise=0.3)
    names = np.array(NAMES)[labels]
    found = labelsieve.find_label_issues(names, probs, class_names=NAMES, progress=False)
    audit = found.audit(20, labels=names)
    found.review(tmp_path / "review.html", audit=audit)
    page, expected, wrong = chromium, names.copy(), []
    open_page(page, tmp_path / "review.html")
    for number, row in enumerate(audit.rows.tolist()):
        assert text_of(page, "row-name") == f"Row {row}"
        if page.run("document.getElementById('accept').disabled"):
            assert not found.mask()[row]
            page.press("a")  # there is no suggestion: nothing happens
        else:
            assert found.mask()[row]
        if number % 3 == 0:
            page.press("/")
            page.write("bird")
            page.press("Enter")
            expected[row] = "bird"
        else:
            page.press("k")
        wrong.append(expected[row] != names[row])
    assert text_of(page, "done-text") == "20 of 20 decided"
    table = downloaded(page, tmp_path)
    assert page.complaints() == []
    assert apply_decisions(names, table, issues=found).labels.tolist() == expected.tolist()
    estimate, want = labelsieve.estimate(audit, table), labelsieve.estimate(audit, wrong)
    assert (estimate.error_rate, estimate.low, estimate.high) == (want.error_rate, want.low, want.high)


def test_filters_moves_and_reviewers(tmp_path, chromium):
    _, _, found = find(600, class_names=NAMES)
    found.review(tmp_path / "review.html", images=np.zeros((600, 8, 8), np.uint8))
    page, rows = chromium, found.indices.tolist()
    given, suggested = found.issues.given_labels.tolist(), found.issues.suggested_labels.tolist()
    page.size(1200, 800)
    open_page(page, tmp_path / "review.html")

    def at():
        return int(re.match(r"Row (\d+)", text_of(page, "row-name"))[1])

    for key, place in (
        ("ArrowRight", 1),
        ("n", 2),
        ("ArrowLeft", 1),
        ("End", len(rows) - 1),
        ("n", len(rows) - 1),
        ("Home", 0),
    ):
        page.press(key)
        assert at() == rows[place]
    choose(page, "given-filter", "2")
    of_class = [row for row, k in zip(rows, given, strict=True) if k == 2]
    assert page.run("shown.map((at) => ROWS[at])") == of_class
    choose(page, "given-filter", "")
    pair = given[5], suggested[5]
    choose(page, "pair-filter", f"{pair[0]} {pair[1]}")
    of_pair = [row for row, *both in zip(rows, given, suggested, strict=True) if tuple(both) == pair]
    assert page.run("shown.map((at) => ROWS[at])") == of_pair
    page.run("$('pair-filter').focus()")
    page.press("Escape")
    assert page.run("document.activeElement.id") == "row-name"
    choose(page, "pair-filter", "")
    choose(page, "status", "undecided")
    page.press("Home")
    page.press("k")
    page.press("u")
    assert at() == rows[2]
    assert page.run("shown.map((at) => ROWS[at])") == rows[2:]
    # In the grid the same keys decide about the row that is selected.
    page.press("g")
    assert page.run("document.activeElement.id") == "grid"
    page.press("ArrowRight")
    page.press("a")
    assert page.run("mine().get(ROWS[3]).decision") == "accept"
    assert page.run("document.querySelectorAll('.card').length") == min(60, len(rows) - 3)
    columns = page.run("columnsOfGrid()")
    page.press("Home")
    page.press("ArrowDown")
    assert page.run("ROWS[current]") == [row for at, row in enumerate(rows) if at not in (0, 1, 3)][columns]
    page.press("Enter")
    assert page.run("document.getElementById('many').hidden")
    # Names: decisions without one become those of the first name; each further one has decisions of their own.
    page.run("document.getElementById('reviewer').focus()")
    page.write("Ann")
    page.press("Enter")
    assert text_of(page, "done-text").startswith("3 of")
    page.run("setReviewer('Bob')")
    assert text_of(page, "done-text").startswith("0 of")
    choose(page, "status", "all")
    page.press("Home")
    page.press("a")
    for _ in range(2):
        page.press("z", modifiers=2)  # the second one finds nothing
    assert text_of(page, "done-text").startswith("0 of")
    page.press("a")
    lines = page.run("decisionLines()")[1:]
    assert [(line[0], line[3], line[5]) for line in lines] == [
        (rows[0], "keep", "Ann"),
        (rows[0], "accept", "Bob"),
        (rows[1], "unsure", "Ann"),
        (rows[3], "accept", "Ann"),
    ]
    # Single keys may be turned off; the list of keys opens and closes.
    page.press("?", modifiers=8)
    assert page.run("document.getElementById('keys').open")
    page.run("document.getElementById('single-keys').click()")
    page.press("Escape")
    assert not page.run("document.getElementById('keys').open")
    page.press("u")
    assert page.run("mine().size") == 1
    assert page.complaints() == []


def test_a_table_is_imported_if_all_of_it_fits(tmp_path, chromium):
    _, _, found = find(300, class_names=NAMES)
    found.review(tmp_path / "review.html", top=10)
    page, issues = chromium, found.issues
    open_page(page, tmp_path / "review.html")
    page.run("window.localStorage.clear()")
    open_page(page, tmp_path / "review.html")

    def import_text(text):
        page.run(f"importFile(new File([{json.dumps(text)}], 'd.csv'))")
        return text_of(page, "warning")

    head = "row,id,given_label,decision,label,reviewer,time,result\r\n"
    rows, given, wanted = issues.rows.tolist(), issues.given_labels.tolist(), issues.suggested_labels.tolist()
    good = f"{rows[0]},,{given[0]},accept,{wanted[0]},'=Ann,2026-11-26T09:00:00Z,{found.fingerprint}\r\n"
    other = f"{rows[20]},,{given[20]},keep,,Ann,,\r\n"
    for text, why in [
        (head + good[:-2], "in the middle of a line"),
        (head + good.replace(found.fingerprint, "000000000000-000000000000"), "line 2 is about another result"),
        (head + good + f"{rows[1]},,{given[1]},perhaps,,,,\r\n", "line 3 has another given label, or no decision"),
        (head + f"{rows[1]},,{(given[1] + 1) % 4},keep,,,,\r\n", "another given label"),
        (head + f"{rows[1]},,{given[1]},accept,17,,,\r\n", "another given label, or no decision and label"),
        (head + f"x,,{given[1]},keep,,,,\r\n", "x is not a row"),
        ("row,decision\r\n1,keep\r\n", "no column given_label"),
        (head + "1,2\r\n", "line 2 has 2 cells"),
    ]:
        assert why in import_text(text)
        assert page.run("[...byReviewer.values()].every((own) => own.size === 0)")
    assert "1 decisions are about rows that are not on this page" in import_text(head + good + other)
    # What is accepted here is what this page suggests.
    third = next(k for k in range(4) if k not in (given[1], wanted[1]))
    assert import_text(head + f"{rows[1]},,{given[1]},accept,{third},,,\r\n") == ""
    line, last = page.run("decisionLines()")[1:]
    assert last[2:5] == [given[1], "other", str(third)]
    assert line == [rows[0], "", given[0], "accept", str(wanted[0]), "=Ann", "2026-11-26T09:00:00Z", found.fingerprint]
    # What was changed later stays as it is, and so does another warning.
    page.run("warn('kept', 'No storage.')")
    older = good.replace("accept", "keep").replace(f",{wanted[0]},'", ",,'").replace("09:00", "08:59")
    assert import_text(head + older) == "No storage. 1 decisions were changed here later; they stay as they are here."
    assert page.run("decisionLines()")[1] == line
    newer = older.replace("08:59", "09:01")
    assert import_text(head + newer + older) == (
        "No storage. 1 decisions were changed here later; they stay as they are here."
    )
    assert page.run("decisionLines()")[1][3:] == ["keep", "", "=Ann", "2026-11-26T09:01:00Z", found.fingerprint]


@pytest.mark.parametrize(
    "broken",
    [
        "Object.defineProperty(window, 'localStorage', { get() { throw new Error('none'); } })",
        "Storage.prototype.setItem = () => { throw new DOMException('full', 'QuotaExceededError'); }",
    ],
)
def test_without_storage_a_warning_is_shown_and_decisions_stay_in_memory(tmp_path, chromium, small, broken):
    small[2].review(tmp_path / "review.html")
    page = chromium
    identifier = page.ask("Page.addScriptToEvaluateOnNewDocument", source=broken)["identifier"]
    try:
        open_page(page, tmp_path / "review.html")
        before = page.run("mine().size")
        page.press("a")
        assert text_of(page, "warning").startswith("Decisions are not kept when this page is closed")
        assert not page.run("document.getElementById('warning').hidden")
        assert page.run("mine().size") == before + 1
        # Neither does what another tab stores take them away.
        own = page.run("restore().then(() => [...mine().values()].pop())")
        assert (page.run("mine().size"), own["decision"]) == (before + 1, "accept")
        page.press("z")
        assert page.run("restore().then(() => mine().size)") == before
        page.run("downloaded = true")
    finally:
        page.ask("Page.removeScriptToEvaluateOnNewDocument", identifier=identifier)


def test_another_tab_and_no_rows_at_all(tmp_path, chromium, small):
    found, page = small[2], chromium
    found.review(tmp_path / "review.html")
    open_page(page, tmp_path / "review.html")
    row, given = found.indices[3].tolist(), found.issues.given_labels[3].tolist()
    own = {
        "row": row,
        "given_label": given,
        "decision": "keep",
        "label": "",
        "reviewer": "",
        "time": "2026-11-26T09:00:00Z",
    }
    strangers = [{**own, "row": -1}, {**own, "given_label": given + 1, "row": found.indices[4].tolist()}, 5, None]
    for number, one in enumerate([own, *strangers]):
        key = f"labelsieve-review {found.fingerprint} {number}"
        page.run(f"localStorage.setItem({key!r}, {json.dumps(json.dumps(one))})")
    page.run(f"localStorage.setItem('labelsieve-review {found.fingerprint} broken', '{{')")
    page.run("window.dispatchEvent(new StorageEvent('storage', { key: null }))")
    page.wait_for("mine().size === 1")
    assert page.run("[...mine().keys()]") == [row]
    none = labelsieve.find_label_issues([0, 1], [[0.9, 0.1], [0.2, 0.8]], progress=False)
    none.review(tmp_path / "none.html")
    open_page(page, tmp_path / "none.html")
    assert text_of(page, "nothing") == "There are no rows to review."
    for key in ("a", "k", "u", "o", "z", "ArrowRight", "Home", "g", "1"):
        page.press(key)
    assert page.complaints() == []


@pytest.mark.parametrize(
    ("names", "typed", "wanted"),
    [
        (["á", "A", "a", "ab"], {"a": 2, "A": 1, "á": 0, "ab": 3}, None),  # of others, first what is as it was typed
        (["1", "0", "10", "2"], {"0": 1, "1": 0, "2": 3, "10": 2}, None),  # names before labels that are numbers
        (["cat", "dog", "bird", "ox"], {"2": 2, "CAT": 0, "x": 3}, None),
        (["\u0301", "\u0302", "é", " "], {"\u0301": 0, "\u0302": 1, "e": 2, "3": 3}, "class 3"),  # no letters
        (["cat", "cat", "bird", "ox"], {"cat": 0, "1": 1}, "cat (1)"),  # two of one name are told apart
    ],
)
def test_what_is_typed_is_the_class_that_is_taken(tmp_path, chromium, names, typed, wanted):
    _, _, found = find(300, class_names=names)
    found.review(tmp_path / "review.html")
    page, row = chromium, int(found.indices[0])
    open_page(page, tmp_path / "review.html")
    for text, k in typed.items():
        page.press("Home")
        page.press("o")
        page.ask("Input.insertText", text=text)
        page.press("Enter")
        one = page.run(f"mine().get({row})")
        assert (int(one["label"]) if one["label"] else one["given_label"]) == k, text
    if wanted is not None:
        page.press("o")
        assert wanted in page.run("[...document.querySelectorAll('#other-list bdi')].map((one) => one.textContent)")


def test_what_is_half_typed_is_not_taken_for_another_row(tmp_path, chromium, small):
    small[2].review(tmp_path / "review.html")
    page = chromium
    open_page(page, tmp_path / "review.html")
    page.press("o")
    page.write("3")
    page.run("$('unsure').focus()")
    page.press("ArrowRight")
    page.press("o")
    page.press("ArrowDown")
    page.press("ArrowDown")
    page.run("$('unsure').focus()")
    page.press("o")
    assert page.run("[options[0] === candidates(current, config.rows[current])[0][0], chosenOption]") == [False, 0]
    page.write("2")  # in place of what was there
    assert page.run("$('other').value") == "2"


def test_a_double_click_decides_once(tmp_path, chromium, small):
    small[2].review(tmp_path / "review.html")
    page = chromium
    open_page(page, tmp_path / "review.html")
    for n_decided, place in enumerate(["#keep", "#classes button", "#unsure"], 1):
        box = f"document.querySelector('{place}').getBoundingClientRect()"
        x, y = page.run(f"[{box}.left + 20, {box}.top + 8]")
        for count in (1, 2):
            for kind in ("mousePressed", "mouseReleased"):
                page.ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=count)
        assert page.run("mine().size") == n_decided
    assert page.run("lastClick = -1000, $('keep').click(), mine().size") == 4


def test_the_last_row_that_a_filter_shows_goes_too(tmp_path, chromium, small):
    found, page = small[2], chromium
    row = int(found.indices[0])
    found.review(tmp_path / "review.html")
    open_page(page, tmp_path / "review.html")
    page.press("u")
    choose(page, "status", "unsure")
    page.press("k")
    assert not page.run("$('nothing').hidden || !$('one').hidden || !$('keep').disabled")
    assert text_of(page, "said") == f"Row {row} kept."
    page.press("a")  # about no row
    assert page.run(f"mine().get({row}).decision") == "keep"
    page.press("z")
    assert page.run(f"mine().get({row}).decision") == "unsure"
    assert text_of(page, "row-name") == f"Row {row}"


def test_undo_is_of_ones_own_last_decision(tmp_path, chromium, small):
    found, page = small[2], chromium
    rows = found.indices.tolist()
    found.review(tmp_path / "review.html")
    open_page(page, tmp_path / "review.html")

    def decided():
        return sorted((line[0], line[3], line[5]) for line in page.run("decisionLines()")[1:])

    # A decision that was changed before its reviewer had a name.
    page.press("a")
    page.press("Home")
    page.press("k")
    page.run("setReviewer('Ann')")
    page.press("z")
    assert decided() == [(rows[0], "accept", "Ann")]
    # Without a name again: what is decided later is not lost when the name comes back, and can be undone.
    page.run("setReviewer('')")
    page.press("Home")
    page.press("u")
    page.run("setReviewer('Ann')")
    assert decided() == [(rows[0], "unsure", "Ann")]
    page.press("z")
    assert decided() == [(rows[0], "accept", "Ann")]
    # With filters that show no row, by either key, also after a field had the focus.
    choose(page, "status", "other")
    page.run("$('reviewer').focus()")
    page.press("Enter")
    page.press("Backspace")
    assert decided() == []
    assert page.complaints() == []


def luminance(color):
    parts = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return np.dot([0.2126, 0.7152, 0.0722], linear)


def test_colours_have_contrast_and_controls_have_names(tmp_path, chromium, small):
    style = review_page._beside("review.css")
    for block in re.findall(r":root \{(.*?)\}", style):
        colors = dict(re.findall(r"--([\w-]+): (#\w{6})", block))
        colors.setdefault("on-accent", "#ffffff")
        pairs = [("ink", "paper"), ("ink", "soft"), ("on-accent", "accent"), ("good", "soft"), ("good", "paper")]
        for above, below, least in [*((*pair, 4.5) for pair in pairs), ("line", "paper", 3), ("accent", "paper", 3)]:
            bright, dim = sorted([luminance(colors[above]), luminance(colors[below])], reverse=True)
            assert (bright + 0.05) / (dim + 0.05) >= least, (above, below)
    small[2].review(tmp_path / "review.html", images=np.zeros((100, 8, 8), np.uint8), texts=["a long text " * 40] * 100)
    page = chromium
    open_page(page, tmp_path / "review.html")
    for width, dark in ((1200, False), (400, False), (400, True)):
        page.size(width, 800)
        page.emulate(dark=dark)
        for key in ("", "g", "g"):
            if key:
                page.press(key)
            assert page.run("document.documentElement.scrollWidth") <= width
    # At 200% the list of classes stays in the window; what is chosen shows without colours.
    page.size(640, 500)
    page.press("o")
    assert page.run("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert page.run("$('other-list').getBoundingClientRect().right < innerWidth")
    assert (
        page.run("getComputedStyle(document.querySelector('#other-list [aria-selected=true]')).outlineStyle") == "solid"
    )
    page.press("Escape")
    page.emulate()
    tree = page.ask("Accessibility.getFullAXTree")["nodes"]
    roles = {"button", "textbox", "combobox", "listbox", "checkbox", "progressbar", "image"}
    named = [(one["role"]["value"], one.get("name", {}).get("value", "")) for one in tree if not one["ignored"]]
    assert len([name for role, name in named if role in roles]) > 12
    assert [role for role, name in named if role in roles and not name] == []
    # Every control is reached by the tabulator alone, with a focus that shows.
    page.run("document.activeElement.blur()")
    reached = set()
    for _ in range(40):
        page.press("Tab")
        reached.add(page.run("document.activeElement.id"))
        if page.run("document.activeElement !== document.body"):
            assert (
                page.run("getComputedStyle(document.activeElement).outlineStyle") != "none"
                or page.run("document.activeElement.id") == "import"
            )
    assert {"reviewer", "status", "given-filter", "pair-filter", "view", "download", "import", "help"} <= reached
    assert {"accept", "keep", "other", "unsure", "forward"} <= reached


@pytest.mark.parametrize("in_blocks", [False, True])
def test_chosen_rows_may_be_no_issues(tmp_path, monkeypatch, in_blocks):
    if in_blocks:
        monkeypatch.setattr(review_rows, "_BLOCK_PROBS", 30)
        monkeypatch.setattr(review_page, "_BLOCK_ROWS", 7)
    labels, probs, found = find(400, ignore_label=3)
    wanted = found.lowest(150)
    assert found.num_issues < 150
    assert not np.isin(wanted, np.flatnonzero(labels == 3)).any()
    found.save(tmp_path / "r.zarr")
    path = tmp_path / "review.html"
    for result in (found, labelsieve.load(tmp_path / "r.zarr")):
        result.review(path, rows=wanted[::-1], labels=labels, pred_probs=probs)
        config = config_of(path)
        assert config["index"]["rows"] == wanted[::-1].tolist()
        assert config["index"]["given"] == labels[wanted[::-1]].tolist()
        assert config["index"]["suggested"] == probs[wanted[::-1]].argmax(axis=1).tolist()
        scores = np.asarray(found.scores)[wanted[::-1]]
        np.testing.assert_allclose([row["score"] for row in config["rows"]], scores, rtol=1e-5)
        assert "150 chosen rows" in path.read_text(encoding="utf-8")
    assert run(["review", str(tmp_path / "r.zarr"), "-o", str(path), "--lowest", "140"]) == 2  # without the labels
    np.save(tmp_path / "labels.npy", labels)
    options = ["--lowest", "120", "--labels", str(tmp_path / "labels.npy")]
    assert run(["review", str(tmp_path / "r.zarr"), "-o", str(path), *options]) == 0
    config = config_of(path)
    assert config["index"]["rows"] == wanted[:120].tolist()
    no_issue = ~found.mask()[wanted[:120]]
    assert (np.array(config["index"]["suggested"])[no_issue] == -1).all()


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_labels_may_be_a_column_of_a_table(tmp_path, ending):
    labels, _, found = find(400)
    frame, table = pd.DataFrame({"x": 1, "label": labels}), tmp_path / f"t.{ending}"
    frame.to_parquet(table) if ending == "parquet" else frame.to_csv(table, index=False)
    rows, place, page = found.lowest(150), f"{table}::label", tmp_path / "review.html"
    found.review(page, rows=rows, labels=place)
    config = config_of(page)
    assert config["index"]["given"] == labels[rows].tolist()
    assert config["values"] == [0, 1, 2, 3]
    audit = found.audit(40, labels=place)
    assert list(map(int, audit.given_labels)) == labels[audit.rows].tolist()
    found.review(page, audit=audit)
    assert config_of(page)["index"]["given"] == labels[audit.rows].tolist()
    decisions = {"row": [7], "given_label": [labels[7]], "decision": ["other"], "label": [(labels[7] + 1) % 4]}
    applied = apply_decisions(place, decisions)
    assert int(applied.labels[7]) == (labels[7] + 1) % 4
    assert list(map(int, np.delete(applied.labels, 7))) == np.delete(labels, 7).tolist()
    for action in (lambda: found.review(page, rows=rows, labels=table), lambda: found.audit(40, labels=table)):
        with pytest.raises(InvalidInputError, match=rf"has the columns .*: name the one .* as t\.{ending}::COLUMN"):
            action()
    with pytest.raises(InvalidInputError, match="names a column, and so does column='x'"):
        apply_decisions(place, decisions, column="x")


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ([5, 400], "there is no row 400"),
        ([-1], "there is no row -1"),
        ([5, 7, 5], "row 5 is there twice"),
        ([], "whole numbers"),
        ([0.5], "whole numbers"),
        ([[1]], "whole numbers"),
        ("unlabelled", "has no label"),
    ],
)
def test_rows_that_cannot_be_reviewed(tmp_path, rows, why):
    labels, _, found = find(400, ignore_label=3)
    rows = np.flatnonzero(labels == 3)[:2] if rows == "unlabelled" else rows
    with pytest.raises((InvalidInputError, InputTypeError), match=why):
        found.review(tmp_path / "review.html", rows=rows, labels=labels)
    assert not list(tmp_path.iterdir())


def test_rows_and_an_audit_exclude_each_other(tmp_path):
    labels, _, found = find(400)
    with pytest.raises(InvalidInputError, match="give one of them"):
        found.review(tmp_path / "review.html", rows=[1], audit=found.audit(20), labels=labels)


WORDS = [["He", "saw", "<b>Rome"], [], ["It", "=rained", "on", "us"]]
TAGS = [[0, 0, 1], [], [0, 1, 0, 0]]


def tokens():
    probs = [np.eye(2)[np.array(tags, int)] * 0.8 + 0.1 for tags in TAGS]
    probs[2][1] = [0.95, 0.05]
    probs[0][2] = [0.93, 0.07]
    return labelsieve.token_classification.find_label_issues(TAGS, probs, class_names=["O", "NAME"], progress=False)


def test_tokens_are_shown_in_their_sentences(tmp_path, chromium):
    found, path = tokens(), tmp_path / "review.html"
    pictures = np.arange(3, dtype=np.uint8)[:, None, None] * np.full((3, 4, 4), 50, np.uint8)
    found.review(path, tokens=WORDS, texts=["first", "none", "third"], images=pictures)
    lines = config_of(path)["rows"]
    assert [line["row"] for line in lines] == [4, 2]
    assert [line["marked"] for line in lines] == [["It ", "=rained", " on us"], ["He saw ", "<b>Rome", ""]]
    assert [line["text"] for line in lines] == ["third", "first"]  # of the sentences, as the pictures
    shades = [
        Image.open(io.BytesIO(base64.b64decode(line["picture"].split(",")[1]))).getpixel((0, 0)) for line in lines
    ]
    assert [np.max(shade) for shade in shades] == [100, 0]
    page = chromium
    open_page(page, path)
    assert text_of(page, "text") == "It =rained on us\n\nthird"
    assert page.run("document.querySelector('#text mark').textContent") == "=rained"
    page.press("a")
    page.press("k")
    table = downloaded(page, tmp_path)
    flat = np.concatenate(TAGS).astype(int)
    corrected = apply_decisions(flat, table, issues=found.rows).labels
    assert corrected.tolist() == [0, 0, 1, 0, 0, 0, 0]
    with pytest.raises(InvalidInputError, match="sentence 2 has 4 tokens, but 3 words"):
        found.review(path, tokens=[*WORDS[:2], ["It", "rained", "cats"]])


def test_saved_results_of_tokens_are_reviewed_from_a_shell(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tokens().save("tokens.zarr")
    (tmp_path / "texts.txt").write_text("first\n\nthird\n", encoding="utf-8")
    assert run(["review", "tokens.zarr", "-o", "review.html", "--texts", "texts.txt"]) == 0
    lines = config_of(tmp_path / "review.html")["rows"]
    assert [(line["place"], line["text"]) for line in lines] == [
        ("sentence 2, token 1", "third"),
        ("sentence 0, token 2", "first"),
    ]
