"""The review page: decisions by keyboard in a real browser become labels; nothing of a user's runs; refusals."""

import csv
import json
import re

import numpy as np

import labelsieve
from browser import browser
from draws import draw
from labelsieve import apply_decisions

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
    page.downloads_to(folder)
    page.press("d")
    while not (folder / name).exists():
        page.run("0")
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
