"""The review server: what it answers and refuses, that no confirmed decision is lost, and how it ends."""

import contextlib
import csv
import http.client
import io
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

import labelsieve
from browser import browser
from draws import draw
from labelsieve.errors import InputTypeError, InUseError, InvalidInputError, LabelsieveWarning, UnwritableError
from labelsieve.results.pictures import open_pictures
from labelsieve.review import page as decision_file
from labelsieve.review import page as server
from labelsieve.review.decisions import read_decisions
from labelsieve.review.page import ReviewRows, ReviewServer, is_loopback, open_decisions, serve_page
from processes import PATIENCE_S

# What Chromium says in its console when nobody listens.
REFUSED = "Failed to load resource: net::ERR_CONNECTION_REFUSED"
HEADER = "row,id,given_label,decision,label,reviewer,time,result\r\n"
NAMES = ["=cat", 'a "b", c', "dög", "bird"]
IDS = [f"=id {row}" if row % 7 else f'line 1\nline 2, "{row}"' for row in range(400)]
WHEN = "2026-11-26T08:30:00.123Z"


@pytest.fixture(scope="module")
def found():
    """Issues of labels that are names, with ids that need quotes, and whose text a spreadsheet would run."""
    labels, probs = draw(400, 4, seed=5, noise=0.3)
    return labelsieve.find_label_issues(
        [NAMES[k] for k in labels.tolist()], probs, class_names=NAMES, ids=IDS, progress=False
    )


@pytest.fixture(scope="module")
def labels():
    return np.array([NAMES[k] for k in draw(400, 4, seed=5, noise=0.3)[0].tolist()])


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (400, 40, 60, 3), np.uint8)


@pytest.fixture(scope="module")
def folder(found, images, tmp_path_factory):
    """A saved result and its pictures, for servers that are processes."""
    path = tmp_path_factory.mktemp("review")
    found.save(path / "r.zarr")
    np.save(path / "images.npy", images)
    return path


@pytest.fixture(scope="module")
def rows(found):
    return ReviewRows(found, top=60, texts=[f"text {row}" for row in range(400)])


@pytest.fixture
def served(rows, images, tmp_path):
    with ReviewServer(rows, tmp_path / "d.csv", pictures=open_pictures(images, 400)) as one:
        yield Site(one.url, tmp_path / "d.csv")


class Site:
    """Asks a server as a browser does, and as none would."""

    def __init__(self, url, file):
        self.url, self.file, self.parts = url, file, urlsplit(url)
        self.host, self.path = self.parts.netloc, self.parts.path

    def ask(self, path="", method="GET", body=None, *, whole=False, **headers):
        """Return status, headers and body; `whole` is a path that is sent as it is."""
        connection = http.client.HTTPConnection(self.parts.hostname, self.parts.port, timeout=PATIENCE_S)
        try:
            connection.putrequest(method, path if whole else self.path + path, skip_host=True)
            given = {"Host": self.host} | {name.replace("_", "-"): value for name, value in headers.items()}
            if body is not None:
                given.setdefault("Content-Length", str(len(body)))
            for name, value in given.items():
                if value is not None:
                    connection.putheader(name, value)
            connection.endheaders(body)
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        finally:
            connection.close()

    def json(self, path):
        status, headers, body = self.ask(path)
        assert (status, headers["Content-Type"]) == (200, "application/json"), body
        return json.loads(body)

    def post(self, decision, **headers):
        """Send a decision as the page does; return the status and why it is refused."""
        body = decision if isinstance(decision, bytes) else json.dumps(decision).encode()
        given = {"Origin": f"http://{self.host}", "Content_Type": "application/json"} | headers
        status, _, why = self.ask("decisions", "POST", body, **given)
        return status, why.decode()

    def lines(self):
        """Return what is in the file, after a look at its form."""
        content = self.file.read_bytes()
        assert content.startswith(HEADER.encode())
        assert content.endswith(b"\r\n")
        return [(one.row, one.word, one.label, one.reviewer) for one in read_decisions(self.file)]


def decision_of(rows, place, word="accept", **more):
    """Return a decision about the row at a place, as the page sends it."""
    values = rows.scheme.values
    given, suggested = values[rows.given[place]], values[rows.suggested[place]]
    other = next(value for value in values if value not in (given, suggested))
    label = {"accept": suggested, "other": other}.get(word, "")
    row = int(rows.rows[place])
    return {"row": row, "given_label": given, "decision": word, "label": label, "reviewer": "Ann", "time": WHEN} | more


# What is served --------------------------------------------------------------------------------------------------


def test_the_page_and_what_it_asks_for(served, rows, images):
    status, headers, page = served.ask()
    assert status == 200
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    assert "script-src 'sha256-" in headers["Content-Security-Policy"]
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert b'"mode":"served"' in page
    assert served.json("rows?start=0&stop=60") == json.loads(json.dumps(rows.part(0, 60)))
    assert served.json("rows?start=7&stop=9") == rows.part(7, 9)
    assert served.json("rows?start=58&stop=900") == rows.part(58, 60)
    assert served.json("rows?start=70&stop=80") == served.json("rows?start=5&stop=3") == []
    assert served.json("decisions") == []
    row = int(rows.rows[3])
    for name in ("picture", "thumbnail"):
        status, headers, body = served.ask(f"{name}/{row}")
        assert (status, headers["Content-Type"]) == (200, "image/png")
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(body))), images[row])


def test_rows_of_several_blocks(found, tmp_path, monkeypatch):
    monkeypatch.setattr(server, "_BLOCK_ROWS", 7)
    rows = ReviewRows(found, top=60)
    with ReviewServer(rows, tmp_path / "d.csv") as one:
        site = Site(one.url, tmp_path / "d.csv")
        for start, stop in ((0, 60), (6, 8), (7, 14), (13, 15), (59, 60), (20, 20)):
            assert site.json(f"rows?start={start}&stop={stop}") == rows.part(start, stop), (start, stop)


@pytest.mark.parametrize("path", ["", "rows?start=0&stop=1", "decisions", "decisions.csv", "picture/0", "nothing"])
def test_every_answer_has_the_headers_that_keep_it_private(served, path):
    _, headers, _ = served.ask(path)
    assert headers["Cache-Control"] == "no-store"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert not {"Server", "Etag", "Access-Control-Allow-Origin"} & set(headers)


def test_decisions_are_written_as_they_are_made(served, rows, found, labels):
    for place, word in enumerate(["accept", "keep", "other", "unsure", "accept"]):
        assert served.post(decision_of(rows, place, word)) == (204, "")
        assert len(served.lines()) == place + 1
    values = rows.scheme.values
    want = [
        decision_of(rows, place, word) for place, word in enumerate(["accept", "keep", "other", "unsure", "accept"])
    ]
    assert served.json("decisions") == want
    status, headers, body = served.ask("decisions.csv")
    assert (status, body) == (200, served.file.read_bytes())
    assert headers["Content-Disposition"] == 'attachment; filename="decisions.csv"'
    [first, *_] = csv.DictReader(io.StringIO(body.decode(), newline=""))
    assert first["id"].removeprefix("'") == IDS[want[0]["row"]]
    assert (first["time"], first["result"]) == (WHEN, found.fingerprint)
    expected = labels.copy()
    for one in want:
        if one["decision"] in ("accept", "other"):
            expected[one["row"]] = one["label"]
    applied = labelsieve.apply_decisions(labels, served.file, issues=found, ids=IDS)
    np.testing.assert_array_equal(applied.labels, expected)
    assert applied.counts["changed"] == 3
    assert values[rows.suggested[0]] in NAMES


def test_the_last_decision_about_a_row_is_the_one_in_the_file(served, rows):
    first, second = (int(row) for row in rows.rows[:2])
    assert served.post(decision_of(rows, 0, "keep"))[0] == 204
    assert served.post(decision_of(rows, 1, "accept"))[0] == 204
    assert served.post(decision_of(rows, 0, "unsure", reviewer=" Bob "))[0] == 204
    accepted = rows.scheme.values[rows.suggested[1]]
    assert served.lines() == [(second, "accept", accepted, "Ann"), (first, "unsure", "", "Bob")]
    assert served.post({"row": second, "decision": None})[0] == 204
    assert served.post({"row": second, "decision": None})[0] == 204  # it is not there any more
    assert served.lines() == [(first, "unsure", "", "Bob")]
    assert [one["row"] for one in served.json("decisions")] == [first]
    assert served.post(decision_of(rows, 2, "keep"))[0] == 204  # after the file was written anew
    assert [row for row, *_ in served.lines()] == [first, int(rows.rows[2])]


def test_a_decision_that_its_page_does_not_know_is_not_replaced(served, rows):
    ann = decision_of(rows, 0, "keep", time="2026-11-26T08:30:00Z")
    bob = decision_of(rows, 0, "unsure", reviewer="Bob", time="2026-11-26T08:31:00Z")
    undo = {"row": ann["row"], "decision": None}
    for _ in range(2):  # the answer may be lost
        assert served.post(ann | {"replaces": ""}) == (204, "")
    assert served.post(bob | {"replaces": ""}) == (409, "Ann decided keep meanwhile: look at it again")
    assert served.post(bob | {"replaces": 7})[0] == 409
    assert served.post(bob | {"replaces": ann["time"]}) == (204, "")
    assert served.post(undo | {"replaces": ann["time"]}) == (409, "Bob decided unsure meanwhile: look at it again")
    assert served.lines() == [(ann["row"], "unsure", "", "Bob")]
    for _ in range(2):
        assert served.post(undo | {"replaces": bob["time"]}) == (204, "")
    assert served.post(ann | {"replaces": bob["time"]}) == (
        409,
        "its decision was taken back meanwhile: look at it again",
    )
    assert served.lines() == []


def test_two_browsers_at_one_server_lose_nothing(served, rows, tmp_path):
    row, last = int(rows.rows[0]), int(rows.rows[2])

    def shown(page):
        return page.run("[...mine().values()].map((one) => [one.row, one.decision, one.reviewer])")

    with browser() as page:
        page.open(served.url)
        page.wait_for("document.documentElement.dataset.ready && drawn === current")
        # As of a page that is not seen, which does not ask what others decide.
        page.run("Object.defineProperty(document, 'hidden', { get: () => true })")
        page.run("setReviewer('Ann')")
        page.press("a")
        page.wait_for("!source.isBehind() && drawn === current")
        known = served.json("decisions")[0]["time"]
        # Somebody else changes it, and decides another row.
        for place, more in ((0, {"replaces": known}), (2, {"replaces": ""})):
            assert served.post(decision_of(rows, place, "unsure", reviewer="Bob") | more) == (204, "")
        page.press("z")
        page.wait_for("!source.isBehind() && !$('warning').hidden")
        assert page.run("$('warning').textContent") == (
            f"The server refused the decision about row {row}: Bob decided unsure meanwhile: look at it again"
        )
        theirs = [(row, "unsure", "", "Bob"), (last, "unsure", "", "Bob")]
        assert served.lines() == theirs
        assert shown(page) == [[row, "unsure", "Bob"], [last, "unsure", "Bob"]]
        page.press("z")  # there is nothing of Ann's
        assert page.run("$('undo').disabled")
        page.press("Home")
        page.press("k")  # now that it is seen
        page.wait_for("!source.isBehind()")
        assert [line[1:] for line in served.lines()] == [("unsure", "", "Bob"), ("keep", "", "Ann")]
        assert page.run("$('warning').hidden")
        page.press("z")  # which restores Bob's
        page.wait_for("!source.isBehind()")
        assert sorted(served.lines()) == sorted(theirs)
        # Of a page that is opened anew, nobody else's name is taken; the own one is known.
        page.open(served.url)
        page.wait_for("document.documentElement.dataset.ready && drawn === current")
        assert page.run("$('reviewer').value") == "Ann"
        page.run("localStorage.clear()")
        page.open(served.url)
        page.wait_for("document.documentElement.dataset.ready && drawn === current")
        assert page.run("$('reviewer').value") == ""
        page.run("Object.defineProperty(document, 'hidden', { get: () => true })")
        # What is not saved is counted, and what the server could not take is downloaded from the page.
        page.run("window.fetch = () => new Promise((_, reject) => (window.fail = () => reject(new Error('gone'))))")
        page.press("End")
        page.press("k")
        assert page.run("$('done-text').textContent").startswith("3 of 60 decided")
        page.wait_for("$('done-text').textContent === '3 of 60 decided, 1 not saved yet'")
        page.run("fail()")
        page.wait_for("!$('warning').hidden")
        page.download(tmp_path / "downloads", "d")
        there = [(one.row, one.word, one.id) for one in read_decisions(tmp_path / "downloads" / "decisions.csv")]
        ids = {int(one): IDS[one] for one in rows.rows}
        assert there == [(r, w, ids[r]) for r, w in ((row, "unsure"), (last, "unsure"), (int(rows.rows[59]), "keep"))]


def test_what_was_decided_since_a_version(served, rows, tmp_path):
    def since(version=None):
        status, headers, body = served.ask("decisions" if version is None else f"decisions?after={version}")
        assert status == 200
        return int(headers["Decisions-Version"]), json.loads(body)

    assert since() == since(0) == (0, [])
    first, second, third = (decision_of(rows, place, "keep") for place in range(3))
    for one in (first, second):
        assert served.post(one) == (204, "")
    assert since() == since(0) == (2, [first, second])
    assert since(1) == (2, [second])
    assert since(2) == since(99) == (2, [])
    again = first | {"decision": "unsure", "reviewer": "Bob"}
    assert served.post(again) == (204, "")
    assert since(2) == (3, [again])
    assert since(0) == (3, [second, again])
    assert served.post(third | {"label": "no such label"})[0] == 400  # what is refused changes nothing
    assert served.post({"row": second["row"], "decision": None}) == (204, "")
    assert since(3) == (4, [{"row": second["row"], "decision": None}])
    assert since(0) == (4, [again, {"row": second["row"], "decision": None}])
    assert since() == (4, [again])
    for query in ("after=", "after=-1", "after=x", "before=1"):
        assert served.ask(f"decisions?{query}")[::2] == (400, b"after must be a whole number")


def test_decisions_of_an_earlier_server_are_no_changes(rows, tmp_path):
    file = tmp_path / "d.csv"
    with ReviewServer(rows, file) as one:
        assert Site(one.url, file).post(decision_of(rows, 0, "keep")) == (204, "")
    with ReviewServer(rows, file) as one:
        site = Site(one.url, file)
        assert site.json("decisions?after=0") == []
        assert site.json("decisions") == [decision_of(rows, 0, "keep")]
        assert site.post(decision_of(rows, 1, "unsure")) == (204, "")
        assert site.json("decisions?after=0") == [decision_of(rows, 1, "unsure")]


LOOK = "document.dispatchEvent(new Event('visibilitychange'))"


def open_as(page, served, name):
    page.open(served.url)
    page.wait_for("document.documentElement.dataset.ready && drawn === current")
    page.run(f"setReviewer('{name}')")


def test_two_tabs_show_each_others_decisions(served, rows):
    row, second, third = (int(one) for one in rows.rows[:3])
    accepted = rows.scheme.values[rows.suggested[0]]

    def shown(page):
        return page.run("[...mine().values()].map((one) => [one.row, one.decision, one.reviewer])")

    def sees(page, expression):
        page.wait_for(f"({expression}) || ({LOOK}, false)")

    with browser() as ann, ann.another() as bob:
        for page, name in ((ann, "Ann"), (bob, "Bob")):
            open_as(page, served, name)
        ann.press("a")
        bob.wait_for("mine().size === 1")  # by itself
        assert shown(bob) == [[row, "accept", "Ann"]]
        assert bob.run("$('done-text').textContent") == "1 of 60 decided"
        # It is the row on Bob's screen. A key that he presses at this moment was meant for what he saw before.
        assert bob.run("ROWS[current]") == row
        assert bob.run("$('decided').textContent").startswith(f"Decided: accepted: {accepted} by Ann")
        assert bob.run("$('said').textContent") == f"Row {row} accepted: {accepted} by Ann."
        bob.run("lastNews = Infinity")
        bob.press("u")
        assert bob.run("$('said').textContent") == (
            f"Row {row} has just been decided by somebody else: look at it again."
        )
        assert shown(bob) == [[row, "accept", "Ann"]]
        bob.run("lastNews = -Infinity")
        bob.press("k")  # now that he has seen it
        bob.wait_for("!source.isBehind()")
        assert bob.run("$('warning').hidden")
        sees(ann, "[...mine().values()][0].reviewer === 'Bob'")
        assert shown(ann) == [[row, "keep", "Bob"]]
        assert ann.run("$('undo').disabled")  # there is nothing of hers
        assert ann.run("ROWS[current]") == second  # where she was
        bob.press("z")  # which restores Ann's
        bob.wait_for("!source.isBehind()")
        sees(ann, "[...mine().values()][0].reviewer === 'Ann'")
        assert served.lines() == [(row, "accept", accepted, "Ann")]
        ann.press("z")
        ann.wait_for("!source.isBehind()")
        sees(bob, "mine().size === 0")
        assert bob.run("$('decided').hidden")
        assert bob.run("$('said').textContent") == f"Row {row} is not decided any more."
        # Among undecided rows, that on the screen stays until Bob moves on; others that are decided are not shown.
        bob.run("$('status').value = 'undecided'; refilter(); lastNews = -Infinity")
        for place in (0, 1):
            assert served.post(decision_of(rows, place, "keep", reviewer="Cem") | {"replaces": ""}) == (204, "")
        sees(bob, "mine().size === 2")
        sees(ann, "mine().size === 2")
        assert bob.run("[ROWS[current], shown.length, ROWS[shown[1]]]") == [row, 59, third]
        assert bob.run("$('row-about').textContent").startswith("1 of 59 shown")
        bob.press("ArrowRight")
        assert bob.run("ROWS[current]") == third
        bob.press("k")
        bob.wait_for("!source.isBehind()")
        assert bob.run("shown.length") == 57
        sees(ann, "mine().size === 3")
        # Another row than that on the screen: only numbers change.
        bob.press("Tab")
        bob.run("$('classes').querySelector('button').focus()")
        assert served.post(decision_of(rows, 9, "accept", reviewer="Cem") | {"replaces": ""}) == (204, "")
        sees(bob, "mine().size === 4")
        assert bob.run("$('classes').contains(document.activeElement)")
        assert bob.run("$('row-about').textContent").startswith("1 of 56 shown")
        assert bob.run("$('done-text').textContent") == "4 of 60 decided"
        # Grid.
        ann.press("g")
        ann.wait_for("$('grid').children.length === 60")
        assert served.post(decision_of(rows, 20, "keep", reviewer="Cem") | {"replaces": ""}) == (204, "")
        sees(ann, "document.querySelectorAll('.card.done').length === 5")
        assert ann.run("$('card-20').querySelector('.state').textContent") == "kept"
        sees(bob, "mine().size === 5")
        assert sorted(shown(ann)) == sorted(shown(bob))
        assert ann.complaints() == bob.complaints() == []


def test_what_others_decide_is_asked_for_while_the_page_is_seen(served, rows):
    with browser() as page:
        open_as(page, served, "Ann")
        asked = f"""((seen) => {{
            window.asked = 0;
            window.own ??= window.fetch;
            window.fetch = (...of) => {{ asked += 1; return own(...of); }};
            Object.defineProperty(document, 'hidden', {{ configurable: true, get: () => !seen }});
            {LOOK};
            return asked;
        }})"""
        assert page.run(f"{asked}(false)") == 0
        page.run(f"{asked}(true)")
        page.wait_for("asked > 0")
        # Until the server answers, it is said that it does not.
        page.run("window.fetch = () => Promise.reject(new Error('gone'))")
        page.wait_for(f"!$('warning').hidden || ({LOOK}, false)")
        assert page.run("$('warning').textContent") == (
            "What others decide is not shown, since the server cannot be reached (gone). Trying again."
        )
        assert served.post(decision_of(rows, 0, "keep", reviewer="Bob")) == (204, "")
        page.run("window.fetch = own")
        page.wait_for(f"$('warning').hidden || ({LOOK}, false)")
        assert page.run("[...mine().values()].map((one) => one.reviewer)") == ["Bob"]
        assert page.complaints() == []


def test_an_answer_that_is_older_than_the_own_decision_is_not_taken(served, rows):
    row = int(rows.rows[0])
    with browser() as page:
        open_as(page, served, "Ann")
        page.press("a")
        page.wait_for("!source.isBehind()")
        page.press("Home")
        # Bob's decision is in an answer that comes late.
        known = served.json("decisions")[0]["time"]
        bob = decision_of(rows, 0, "unsure", reviewer="Bob", time="2026-11-26T08:31:00Z")
        page.run("""
            window.own = window.fetch;
            window.held = [];
            window.fetch = async (path, options) => {
                const answer = await own(path, options);
                if (path.startsWith('decisions?') && held.length < 2) await new Promise((go) => held.push(go));
                return answer;
            };
        """)
        page.wait_for(f"held.length || ({LOOK}, false)")
        page.run("held[0]()")  # which was asked for before Bob's
        assert served.post(bob | {"replaces": known}) == (204, "")
        page.wait_for(f"held.length === 2 || ({LOOK}, false)")
        page.press("k")
        page.wait_for("!source.isBehind() && !$('warning').hidden")
        assert page.run("$('warning').textContent").endswith("Bob decided unsure meanwhile: look at it again")
        page.press("Home")
        page.press("k")
        page.wait_for("!source.isBehind() && $('warning').hidden")
        page.press("Home")
        page.run("""
            window.texts = [];
            new MutationObserver(() => texts.push($('said').textContent)).observe($('said'), { childList: true });
            held[1]();
        """)
        assert served.post(decision_of(rows, 4, "keep", reviewer="Cem") | {"replaces": ""}) == (204, "")
        page.wait_for(f"mine().size === 2 || ({LOOK}, false)")
        assert page.run("texts") == []  # nothing was shown of it in between
        assert page.run(f"mine().get({row}).reviewer") == "Ann"
        assert served.lines()[0] == (row, "keep", "", "Ann")
        assert [one["entry"]["text"][-17:] for one in page.complaints()] == ["of 409 (Conflict)"]


def test_what_a_decision_may_leave_out(served, rows):
    row = int(rows.rows[0])
    assert served.post({"row": row, "decision": "keep"})[0] == 204
    [one] = read_decisions(served.file)
    assert (one.given, one.reviewer) == (rows.scheme.values[rows.given[0]], "")
    assert one.time.endswith("Z")
    # A label may stand beside `keep` if it is the given one.
    assert served.post(decision_of(rows, 0, "keep", label=rows.scheme.values[rows.given[0]]))[0] == 204
    assert served.lines() == [(row, "keep", "", "Ann")]


def test_decisions_of_several_connections_are_all_there(served, rows):
    codes = []

    def decide(part):
        codes.extend(served.post(decision_of(rows, place, reviewer=f"R{part}"))[0] for place in range(part, 60, 6))

    threads = [threading.Thread(target=decide, args=[part]) for part in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == [204] * 60
    assert sorted(row for row, *_ in served.lines()) == sorted(rows.rows.tolist())


def test_an_audit_is_reviewed_and_estimated(tmp_path):
    values, probs = draw(400, 4, seed=5, noise=0.3)
    issues = labelsieve.find_label_issues(values, probs, progress=False)
    audit = issues.audit(budget=40, labels=values)
    rows = ReviewRows(issues, audit=audit)
    with ReviewServer(rows, tmp_path / "d.csv") as one:
        site = Site(one.url, tmp_path / "d.csv")
        for place, row in enumerate(audit.rows.tolist()):
            label = int(values[row] + 1) % 4
            decision = {"row": row, "given_label": int(values[row]), "decision": "other", "label": label}
            assert site.post(decision if place % 4 == 0 else decision | {"decision": "keep", "label": ""}) == (204, "")
        assert site.json("decisions")[0]["label"] == int(values[audit.rows[0]] + 1) % 4  # a number, as it is stored
        known = labelsieve.estimate(audit, tmp_path / "d.csv")
    assert known.n_reviewed == 40
    assert known.error_rate == labelsieve.estimate(audit, np.arange(40) % 4 == 0).error_rate


@pytest.mark.slow
def test_a_hundred_thousand_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(decision_file.os, "fsync", lambda _: None)  # a millisecond each time
    n_rows = 100_000
    values = np.arange(n_rows) % 10
    probs = np.full((n_rows, 10), 0.01)
    probs[np.arange(n_rows), (values + 1) % 10] = 0.91 - np.arange(n_rows) / 1e7
    with pytest.warns(LabelsieveWarning):
        issues = labelsieve.find_label_issues(values, probs, filter_by="predicted_neq_given", progress=False)
    assert issues.num_issues == n_rows
    rows = ReviewRows(issues, top=n_rows)
    with ReviewServer(rows, tmp_path / "d.csv") as one:
        assert len(one.page) < 2_000_000
        site = Site(one.url, tmp_path / "d.csv")
        assert site.json("rows?start=99950&stop=100000") == rows.part(99_950, 100_000)
        for place in range(n_rows):
            one.requests.decide(json.dumps(decision_of(rows, place)).encode())
        assert site.post(decision_of(rows, 7, "keep")) == (204, "")
        assert len(site.json("decisions")) == n_rows
    applied = labelsieve.apply_decisions(values, tmp_path / "d.csv", issues=issues)
    assert np.flatnonzero(applied.labels != (values + 1) % 10).tolist() == [rows.rows[7]]


# What is refused -------------------------------------------------------------------------------------------------


REFUSED_PATHS = [
    "nothing",
    "rows/",
    "../rows",
    "..",
    "./",
    "picture/",
    "picture/1/2",
    "picture/-1",
    "picture/1e3",
    "picture/../../../../etc/passwd",
    "picture/%2e%2e%2f%2e%2e%2fetc%2fpasswd",
    "thumbnail/99999999999999999999",
    "picture/399999",
    "/etc/passwd",
    "decisions.csv/../labels.npy",
    "static/labels.npy",
    "favicon.ico",
    "%00",
]


@pytest.mark.parametrize("path", REFUSED_PATHS)
def test_other_paths_are_not_there(served, path):
    status, _, body = served.ask(path)
    assert status == 404
    assert b"root:" not in body


def test_pictures_of_rows_that_are_not_shown_are_not_there(served, rows, found):
    hidden = next(row for row in range(400) if row not in set(rows.rows.tolist()))
    for name in ("picture", "thumbnail"):
        assert served.ask(f"{name}/{hidden}")[0] == 404


@pytest.mark.parametrize(
    "change",
    [
        lambda path: "/",
        lambda path: "/rows?start=0&stop=1",
        lambda path: path[:-2] + "/",
        lambda path: path[:-2] + ("A" if path[-2] != "A" else "B") + "/",
        lambda path: path.swapcase(),
        lambda path: path.rstrip("/"),
        lambda path: "/" + path,
        lambda path: "/%2e%2e" + path,
        lambda path: "*",
    ],
)
def test_without_the_token_nothing_is_there(served, change):
    status, _, body = served.ask(change(served.path), whole=True)
    assert status in (400, 404)
    assert b"review" not in body.lower() or status == 404
    assert served.path.strip("/").encode() not in body


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "evil.127.0.0.1", "192.168.0.1:{port}", "[fe80::1]", "a:b", ""]
)
def test_another_host_name_is_refused(served, rows, host):
    host = host.format(port=served.parts.port)
    assert served.ask(Host=host)[0] in (400, 403)
    assert served.post(decision_of(rows, 0), Host=host, Origin=f"http://{host}")[0] in (400, 403)
    assert served.lines() == []


@pytest.mark.parametrize(
    "request_",
    [
        b"GET {path} HTTP/1.1\r\n\r\n",
        b"GET {path} HTTP/1.1\r\nHost: {host}\r\nHost: evil.example\r\n\r\n",
        b"GET /\xc3\xa9{path} HTTP/1.1\r\nHost: {host}\r\n\r\n",
        b"GET /\xff{path} HTTP/1.1\r\nHost: {host}\r\n\r\n",
        b"GET http://evil.example{path} HTTP/1.1\r\nHost: evil.example\r\n\r\n",
        b"GET {path} HTTP/9.9\r\nHost: {host}\r\n\r\n",
        b"GET {path}\r\n\r\n",
        b"\0\0\0\0\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET {path} HTTP/1.1\r\nHost: {host}\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
        b"POST {path}decisions HTTP/1.1\r\nHost: {host}\r\nContent-Length: -5\r\n\r\n",
        b"POST {path}decisions HTTP/1.1\r\nHost: {host}\r\nContent-Length: 5, 6\r\n\r\nabcde",
    ],
)
def test_requests_that_no_browser_sends(served, request_):
    sent = request_.replace(b"{path}", served.path.encode()).replace(b"{host}", served.host.encode())
    with socket.create_connection((served.parts.hostname, served.parts.port), PATIENCE_S) as connection:
        answer = b""
        with contextlib.suppress(OSError):  # the server may close it while this is still sending
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
            while part := connection.recv(65_536):
                answer += part
    assert not answer or answer.split(maxsplit=2)[1] in (b"400", b"403", b"404", b"431")
    assert b"review" not in answer
    assert served.ask()[0] == 200


def test_own_names_are_taken(served):
    for host in ("127.0.0.1", "localhost", "LOCALHOST", "[::1]"):
        for port in (f":{served.parts.port}", ":9000", ""):  # at the end of a tunnel it is another
            assert served.ask(Host=host + port)[0] == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": None},
        {"Origin": ""},
        {"Origin": "http://127.0.0.1"},
        {"Origin": "https://{host}"},
        {"Origin": "http://{host}.evil.example"},
        {"Origin": "http://localhost:{port}"},
    ],
)
def test_another_origin_decides_nothing(served, rows, headers):
    given = {k: v and v.format(host=served.host, port=served.parts.port) for k, v in headers.items()}
    assert served.post(decision_of(rows, 0), **given) == (403, "decisions are taken from the page of this server only")
    assert served.lines() == []


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", None])
def test_a_form_of_another_site_decides_nothing(served, rows, kind):
    assert served.post(decision_of(rows, 0), Content_Type=kind)[0] == 400
    assert served.lines() == []


@pytest.mark.parametrize("method", ["HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "NOTHING"])
def test_other_methods_are_refused(served, method):
    status, headers, _ = served.ask("decisions", method)
    assert status == 405
    assert "Access-Control-Allow-Origin" not in headers


def test_only_decisions_are_posted(served, rows):
    for path in ("", "rows", "decisions.csv", "picture/1"):
        status, *_ = served.ask(path, "POST", b"{}", Origin=f"http://{served.host}", Content_Type="application/json")
        assert status == 404


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"row": -1}, "row: -1 is not one of the rows"),
        ({"row": 400}, "row: 400 is not one of the rows"),
        ({"row": 1.0}, "row: 1.0 is not"),
        ({"row": True}, "row: True is not"),
        ({"row": "3"}, "row: '3' is not"),
        ({"row": None}, "row: None is not"),
        ({"row": [1]}, r"row: \[1\] is not"),
        ({"row": 10**400}, "row: 1000"),
        ({"decision": "delete"}, "decision: 'delete' is not one of accept, keep, other, unsure"),
        ({"decision": ["accept"]}, "decision: "),
        ({"decision": ""}, "decision: '' is not"),
        ({"given_label": "another"}, "given_label: row .* has .*, not 'another'"),
        ({"given_label": 1}, "given_label: "),
        ({"given_label": {"a": 1}}, "given_label: "),
        ({"label": "unknown"}, "label: 'unknown' is not one of the 4 labels"),
        ({"label": 1}, "label: 1 is not one of the 4 labels"),
        ({"label": ""}, "label: '' is not one of"),
        ({"label": None}, "label: None is not one of"),
        ({"label": ["=cat"]}, "label: "),
        ({"decision": "keep", "label": "unknown"}, "label: there is none for keep"),
        ({"reviewer": 7}, "reviewer: 7 is not text"),
        ({"reviewer": "a\nb"}, "reviewer: .* is not text of one line"),
        ({"reviewer": "\x00"}, "reviewer: "),
        ({"reviewer": "\ud800"}, "reviewer: "),
        ({"reviewer": "x" * 201}, "reviewer: "),
        ({"time": "yesterday"}, "time: 'yesterday' is not a time"),
        ({"time": 7}, "time: 7 is not text"),
        ({"more": 1}, "the body must be an object with"),
    ],
)
def test_a_decision_that_cannot_be_right_is_refused(served, rows, changes, why):
    before = served.file.read_bytes()
    status, said = served.post(decision_of(rows, 0) | changes)
    assert status == 400
    assert re.match(why, said), said
    assert len(said) < 300
    assert served.file.read_bytes() == before


def test_accepting_another_label_than_the_suggested_one_is_refused(served, rows):
    given = rows.scheme.values[rows.given[0]]
    status, why = served.post(decision_of(rows, 0, label=given))
    assert status == 400
    assert why.endswith(
        f"is suggested for row {rows.rows[0]}, and not {given!r}".encode("ascii", "backslashreplace").decode()
    )


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"7",
        b'"x"',
        b"\xff\xfe",
        b"[" * 60_000,
        b'{"row": NaN}',
        b'{"row": 1e999}',
        b"\0" * 100,
    ],
)
def test_bodies_that_are_no_decision(served, body):
    status, why = served.post(body)
    assert status == 400
    assert why
    assert served.lines() == []


@pytest.mark.parametrize(
    "query", ["", "?start=0", "?start=-1&stop=2", "?start=a&stop=2", "?start=0&stop=1e2", "?start=0&stop=%00"]
)
def test_rows_that_are_no_range(served, query):
    status, _, why = served.ask(f"rows{query}")
    assert (status, why.partition(b" ")[2]) == (400, b"must be a whole number")


def test_too_many_rows_at_a_time(found, tmp_path, monkeypatch):
    monkeypatch.setattr(server, "_MOST_ROWS", 20)
    with ReviewServer(ReviewRows(found, top=60), tmp_path / "d.csv") as one:
        status, _, why = Site(one.url, None).ask("rows?start=10&stop=31")
    assert (status, why) == (400, b"at most 20 rows are sent at a time")


def test_a_huge_body_is_not_read(served):
    # The connection is closed as soon as the length is known.
    for headers in ({"Content_Length": "1000000000000"}, {"Transfer_Encoding": "chunked", "Content_Length": None}):
        connection = http.client.HTTPConnection(served.parts.hostname, served.parts.port, timeout=PATIENCE_S)
        connection.putrequest("POST", served.path + "decisions", skip_host=True)
        given = {"Host": served.host, "Origin": f"http://{served.host}", "Content_Type": "application/json"} | headers
        for name, value in given.items():
            if value is not None:
                connection.putheader(name.replace("_", "-"), value)
        connection.endheaders()
        chunk = b"10000\r\n" + b"x" * 65_536 + b"\r\n"
        try:
            for _ in range(1000 if "Transfer_Encoding" in headers else 0):
                connection.send(chunk)
            assert connection.getresponse().status == 400
        except (ConnectionError, http.client.BadStatusLine):
            pass  # it was closed while this was still sending
        connection.close()
    assert served.ask()[0] == 200
    assert served.lines() == []


def test_texts_that_are_gone_hold_up_no_decision(found, tmp_path):
    texts = tmp_path / "texts.txt"
    texts.write_text("text\n" * 400)
    rows = ReviewRows(found, top=3, texts=texts)
    with ReviewServer(rows, tmp_path / "d.csv") as one:
        texts.unlink()
        site = Site(one.url, tmp_path / "d.csv")
        status, _, why = site.ask("rows?start=0&stop=3")
        assert (status, b"texts.txt is not readable" in why) == (500, True)
        assert site.post(decision_of(rows, 1)) == (204, "")
        [line] = read_decisions(site.file)
    assert line.id == IDS[rows.rows[1]]


def test_too_many_connections_are_waited_out(rows, tmp_path, monkeypatch, caplog):
    accept, n_refused = socket.socket.accept, []

    def full(listener):
        if len(n_refused) < 3:
            n_refused.append(1)
            raise OSError(24, "Too many open files")
        return accept(listener)

    monkeypatch.setattr(socket.socket, "accept", full)
    with ReviewServer(rows, tmp_path / "d.csv") as one:
        assert Site(one.url, None).ask()[0] == 200
    assert (len(n_refused), caplog.text) == (3, "")


def test_a_picture_that_cannot_be_read_is_an_answer(found, tmp_path):
    rows = ReviewRows(found, top=3)
    (tmp_path / "page.png").write_text("<script>alert(1)</script>")
    places = [str(tmp_path / "none.png")] * 400
    places[rows.rows[1]] = str(tmp_path / "page.png")
    with ReviewServer(rows, tmp_path / "d.csv", pictures=open_pictures(places, 400)) as one:
        site = Site(one.url, None)
        for place, why in ((0, b"is not there"), (1, b"is not a PNG or JPEG picture")):
            for name in ("picture", "thumbnail"):
                status, headers, body = site.ask(f"{name}/{rows.rows[place]}")
                assert (status, headers["Content-Type"]) == (404, "text/plain; charset=utf-8")
                assert why in body
                assert b"script" not in body


def test_a_failure_inside_is_an_answer_without_its_cause(served, monkeypatch, caplog):
    monkeypatch.setattr(ReviewServer, "lines", lambda *_: 1 / 0)
    status, _, why = served.ask("rows?start=0&stop=1")
    assert (status, why) == (500, b"Internal Server Error")
    assert "ZeroDivisionError" in caplog.text
    assert served.path.strip("/") not in caplog.text


# The file --------------------------------------------------------------------------------------------------------


def written(path, rows, places=range(4)):
    """Return the content of a file with decisions about the rows at some places."""
    with ReviewServer(rows, path) as one:
        for place in places:
            assert Site(one.url, path).post(decision_of(rows, place))[0] == 204
    return path.read_bytes()


def test_a_last_line_that_is_cut_off_anywhere_is_taken_away(rows, found, tmp_path, caplog):
    path = tmp_path / "d.csv"
    # The id in the last line has line breaks and quotes.
    first, last = (
        next(k for k, row in enumerate(rows.rows.tolist()) if bool(row % 7) == is_plain) for is_plain in (1, 0)
    )
    whole, one = written(path, rows, [first, last]), written(tmp_path / "one.csv", rows, [first])
    assert b'line 1\nline 2, ""' in whole
    for n_bytes in range(len(one), len(whole)):
        path.write_bytes(whole[:n_bytes])
        caplog.clear()
        with open_decisions(path, found.fingerprint) as file:
            assert list(file.decisions) == [int(rows.rows[first])]
        assert path.read_bytes() == one
        assert ("cut off" in caplog.text) == (n_bytes > len(one))


def test_a_file_is_continued(rows, found, tmp_path):
    path = tmp_path / "d.csv"
    content = written(path, rows)
    with ReviewServer(rows, path) as one:
        site = Site(one.url, path)
        assert [one["row"] for one in site.json("decisions")] == rows.rows[:4].tolist()
        assert site.post(decision_of(rows, 5))[0] == 204
        assert path.read_bytes().startswith(content)
        assert site.post(decision_of(rows, 1, "keep"))[0] == 204
    assert [row for row, *_ in site.lines()] == rows.rows[[0, 2, 3, 5, 1]].tolist()
    # As a spreadsheet saves it, and as an empty file.
    path.write_bytes(b"\xef\xbb\xbf" + content.replace(b"\r\n", b"\n"))
    with open_decisions(path, found.fingerprint) as file:
        assert list(file.decisions) == rows.rows[:4].tolist()
    path.write_bytes(b"")
    with open_decisions(path, found.fingerprint) as file:
        assert file.decisions == {}
    assert path.read_bytes() == HEADER.encode()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("row,decision\r\n1,keep\r\n", "does not begin with row,id,given_label"),
        ("name,age\r\n", "does not begin with"),
        (HEADER.strip(), "does not begin with"),
        ("\0" * 50, "does not begin with"),
        (HEADER + "1,,a,keep,,Ann,,other-result\r\n", "is about another result, other-result, and not"),
        (HEADER + "1,,a,keep,,Ann,,other-result\r\n1,,a,ke", "is about another result"),
        (HEADER + "1,,a,keep,,Ann,,\r\n", "is about an unknown result"),
        (HEADER + "1,,a,keep,,Ann\r\n", "line 2 of .* has 6 cells"),
        (HEADER + "1,,a,delete,,Ann,,{result}\r\n", "'delete' is not a decision"),
        (HEADER + "x,,a,keep,,Ann,,{result}\r\n", "'x' is not a row"),
        (
            HEADER + "1,,a,keep,,Ann,,{result}\r\n2,,a,keep,,Ann,,{result}\r\n1,,a,unsure,,Bob,,{result}\r\n",
            "has several decisions about row 1, in lines 2 and 4, of which this server would keep one",
        ),
    ],
)
def test_a_file_of_something_else_is_refused_and_left_alone(found, tmp_path, content, why):
    path = tmp_path / "d.csv"
    path.write_bytes(content.replace("{result}", found.fingerprint).encode())
    before = path.read_bytes()
    with pytest.raises(InvalidInputError, match=why), open_decisions(path, found.fingerprint):
        pass
    assert path.read_bytes() == before
    assert [one.name for one in tmp_path.iterdir() if not one.name.startswith(".")] == ["d.csv"]


def test_places_that_are_none_for_a_file(found, tmp_path):
    (tmp_path / "folder.csv").mkdir()
    os.mkfifo(tmp_path / "pipe.csv")
    for name, why in (
        ("d.txt", "must end in .csv"),
        ("none/d.csv", "there is no folder"),
        ("folder.csv", "is a folder"),
        ("pipe.csv", "is not a file"),
    ):
        with pytest.raises(InvalidInputError, match=why), open_decisions(tmp_path / name, found.fingerprint):
            pass
    assert sorted(one.name for one in tmp_path.iterdir()) == ["folder.csv", "pipe.csv"]


def test_a_server_that_cannot_listen_makes_no_file(rows, tmp_path):
    with ReviewServer(rows, tmp_path / "d.csv") as one:
        port = Site(one.url, None).parts.port
        for host, other in (("127.0.0.1", port), ("no.host.invalid", 0), ("192.0.2.1", 0), ("127.0.0.1", 99_999)):
            with (
                pytest.raises(InvalidInputError, match=r"cannot listen at|port must be 0\.\.65,535"),
                ReviewServer(rows, tmp_path / "e.csv", host=host, port=other),
            ):
                pass
    assert [one.name for one in tmp_path.iterdir()] == ["d.csv"]


def test_a_full_disk_confirms_nothing(served, rows, monkeypatch):
    assert served.post(decision_of(rows, 0))[0] == 204
    before = served.file.read_bytes()
    write = os.write

    def full(file, data):
        if b"accept" in bytes(data) and not full.is_over:
            full.is_over = True
            return write(file, bytes(data)[:10])
        raise OSError(28, "No space left on device")

    full.is_over = False
    for place in (1, 0):  # a new decision, and a changed one
        full.is_over = False
        monkeypatch.setattr(decision_file.os, "write", full)
        status, why = served.post(decision_of(rows, place))
        monkeypatch.undo()
        assert status == 507
        assert why.endswith("d.csv cannot be written: No space left on device")
        assert served.file.read_bytes() == before
    assert [one["row"] for one in served.json("decisions")] == [int(rows.rows[0])]
    assert served.post(decision_of(rows, 1))[0] == 204
    assert len(served.lines()) == 2


def test_a_decision_is_on_the_disk_before_it_is_confirmed(served, rows, monkeypatch):
    done = []

    def logged(name, function):
        def call(*arguments):
            if threading.current_thread().name.startswith("labelsieve-review-write"):
                done.append(name)
            return function(*arguments)

        return call

    for name in ("write", "fsync", "replace"):
        monkeypatch.setattr(decision_file.os, name, logged(name, getattr(os, name)))
    monkeypatch.setattr(server._Handler, "set_status", lambda handler, status: done.append(status))
    served.post(decision_of(rows, 0))
    assert done == ["write", "fsync", 204]
    done.clear()
    for decision in (decision_of(rows, 0, "keep"), {"row": int(rows.rows[0]), "decision": None}):
        served.post(decision)
        assert done == ["write", "fsync", "replace", "fsync", 204]  # the file, its name, and the folder
        done.clear()


@pytest.mark.parametrize("change", ["append", "replace", "remove"])
def test_a_file_that_another_program_changed_is_not_written(served, rows, change):
    assert served.post(decision_of(rows, 0))[0] == 204
    if change == "append":
        with served.file.open("a") as file:
            file.write("more")
    elif change == "remove":
        served.file.unlink()
    else:
        other = served.file.with_name("other")
        other.write_bytes(served.file.read_bytes())
        other.replace(served.file)
    for decision in (decision_of(rows, 1), decision_of(rows, 0, "keep"), {"row": int(rows.rows[0]), "decision": None}):
        status, why = served.post(decision)
        assert (status, "was changed or removed by another program" in why) == (507, True)


def test_one_server_writes_to_a_file(served, rows, found, tmp_path):
    (tmp_path / "link.csv").symlink_to(served.file)
    for path in (served.file, tmp_path / "link.csv"):
        with pytest.raises(InUseError, match=rf"the file of decisions .*d\.csv is in use by process {os.getpid()}"):
            serve_page(rows, path)
    assert served.post(decision_of(rows, 0))[0] == 204


def test_a_read_only_folder_is_refused(rows, tmp_path, monkeypatch):
    def refused(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("labelsieve.results.store.tempfile.mkdtemp", refused)
    with pytest.raises(UnwritableError, match=r"d\.csv cannot be written: Permission denied"):
        serve_page(rows, tmp_path / "d.csv")


# Where it listens ------------------------------------------------------------------------------------------------


def test_which_addresses_are_of_this_machine_alone():
    assert all(map(is_loopback, ("127.0.0.1", "127.1.2.3", "::1", "localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "", "192.168.0.1", "localhost.evil.example")))


def test_an_open_server_takes_its_addresses_but_no_other_name(rows, tmp_path):
    with ReviewServer(rows, tmp_path / "d.csv", host="0.0.0.0") as one:
        port = urlsplit(one.url).port
        site = Site(f"http://127.0.0.1:{port}{urlsplit(one.url).path}", tmp_path / "d.csv")
        for host in ("127.0.0.1", "192.168.7.7", "[fe80::1]", os.uname().nodename):
            assert site.ask(Host=f"{host}:{port}")[0] == 200, host
        assert site.ask(Host=f"evil.example:{port}")[0] == 403


def test_it_is_a_method_of_the_result(found, images, tmp_path, monkeypatch):
    """Holds that all arguments arrive; it is ended as Ctrl-C does as soon as it runs."""
    seen = []

    def wait(one):
        site = Site(one.url, tmp_path / "d.csv")
        seen.append(site.json("rows?start=0&stop=100"))
        seen.append(site.ask(f"picture/{seen[0][0]['row']}")[0])
        assert b"<title>Review: the worst 3 of 77 label issues of my data</title>" in site.ask()[2]
        raise KeyboardInterrupt

    monkeypatch.setattr(ReviewServer, "wait", wait)
    texts = [f"text {row}" for row in range(400)]
    _, probs = draw(400, 4, seed=5, noise=0.3)
    with pytest.raises(KeyboardInterrupt):
        found.serve_review(
            tmp_path / "d.csv",
            top=3,
            images=images,
            texts=texts,
            pred_probs=probs,
            class_names=list("abcd"),
            title="my data",
        )
    [lines, status] = seen
    assert ([line["text"] for line in lines], status) == ([f"text {line['row']}" for line in lines], 200)
    assert [len(line["top"]) for line in lines] == [4, 4, 4]
    assert (tmp_path / "d.csv").read_bytes() == HEADER.encode()
    with pytest.raises(InputTypeError, match="host must be a name or an address as text, not 5"):
        found.serve_review(tmp_path / "e.csv", host=5)
    for wrong in ({"top": 0}, {"port": -1}, {"host": "no.host.invalid"}, {"images": images[:3]}, {"texts": texts[:3]}):
        with pytest.raises(InvalidInputError):
            found.serve_review(tmp_path / "e.csv", **wrong)
    assert not (tmp_path / "e.csv").exists()


def test_an_open_server_warns(rows, tmp_path):
    said = []

    def say(line):
        said.append(line)
        if len(said) == 2:
            raise KeyboardInterrupt

    with pytest.warns(LabelsieveWarning, match="without encryption"), pytest.raises(KeyboardInterrupt):
        serve_page(rows, tmp_path / "d.csv", host="0.0.0.0", say=say)
    assert "60 rows to review" in said[1]


# Processes -------------------------------------------------------------------------------------------------------


class Command:
    """``labelsieve review --serve`` as a process, which is killed as the block ends if it still runs."""

    def __init__(self, folder, file, *options):
        command = [
            sys.executable,
            "-m",
            "labelsieve",
            "review",
            "r.zarr",
            "--serve",
            "--decisions",
            str(file),
            *options,
        ]
        self._errors = folder / f"{Path(file).stem}.errors"
        with self._errors.open("wb") as errors:
            self.process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=errors, text=True)
        url = self.process.stdout.readline().strip()
        assert url, self._errors.read_text()
        self.site, self.said = Site(url, Path(file)), self.process.stdout.readline()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def ends(self, number):
        """Send a signal, and return the exit code and what was printed and said."""
        self.process.send_signal(number)
        said = self.process.stdout.read()
        return self.process.wait(PATIENCE_S), said, self._errors.read_text()


@pytest.mark.parametrize(
    ("number", "code", "line"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_it_ends_cleanly(folder, rows, tmp_path, number, code, line):
    file = tmp_path / "d.csv"
    with Command(folder, file, "--images", "images.npy", "--top", "60") as command:
        assert "60 rows to review; decisions are written to" in command.said
        assert command.site.post(decision_of(rows, 0)) == (204, "")
        keep_alive = http.client.HTTPConnection(command.site.parts.hostname, command.site.parts.port)
        keep_alive.request("GET", command.site.path)  # a connection that stays open holds up nothing
        assert keep_alive.getresponse().status == 200
        got, said, errors = command.ends(number)
        keep_alive.close()
    assert (got, errors.lstrip()) == (code, f"labelsieve: {line}\n")
    assert said == f"1 decision is in {file}\n"
    assert [one.name for one in tmp_path.iterdir()] == ["d.csv"]
    assert len(command.site.lines()) == 1


def test_no_confirmed_decision_is_lost_if_it_is_killed_at_any_moment(folder, found, tmp_path):
    file, rows, random_ = tmp_path / "d.csv", ReviewRows(found), random.Random(0)
    confirmed: dict[int, str] = {}
    for turn in range(4):
        with Command(folder, file) as command:
            assert (f"({len(confirmed)} decision" in command.said) == bool(confirmed)
            there = {one["row"]: one["decision"] for one in command.site.json("decisions")}
            assert {row: there.get(row) for row in confirmed} == confirmed
            # One that was sent may be there, confirmed or not.
            assert len(there) - len(confirmed) in (0, 1)
            confirmed = there
            timer = threading.Timer(0.05 + 0.2 * random_.random(), command.process.kill)
            try:
                while True:
                    place, word = random_.randrange(len(rows)), random_.choice(["accept", "keep", "other", "unsure"])
                    decision = decision_of(rows, place, word)
                    if command.site.post(decision)[0] != 204:
                        break
                    confirmed[decision["row"]] = word
                    if timer.ident is None:
                        timer.start()
            except (OSError, http.client.HTTPException):
                pending = decision["row"]
            timer.join()
            command.process.wait()
        # What was sent last may have been written, although it was not confirmed.
        before = confirmed.pop(pending, None)
        lines = {row: word for row, word, *_ in whole_lines(file)}
        assert {row: lines.get(row) for row in confirmed} == confirmed, turn
        assert lines.get(pending) in (before, decision["decision"])
        if pending in lines:
            confirmed[pending] = lines[pending]
        assert len(lines) == len(confirmed)
    assert confirmed


def whole_lines(file):
    """Return the decisions in the whole lines of a file."""
    content = file.read_bytes()
    part = file.with_name("part.csv")
    part.write_bytes(content[: decision_file._n_whole_bytes(content)])
    return [(one.row, one.word) for one in read_decisions(part)]


def test_thirty_decisions_in_a_browser_survive_a_kill(folder, found, labels, tmp_path):
    file, rows = tmp_path / "d.csv", ReviewRows(found)
    values, expected = rows.scheme.values, labels.copy()

    def decide(page, first, last):
        for place in range(first, last):
            name = json.dumps(f"Row {rows.rows[place]}: {IDS[rows.rows[place]]}")
            page.wait_for(f"document.getElementById('row-name').textContent === {name}")
            word = ("a", "k", "u", "a")[place % 4]
            page.press(word)
            if word == "a":
                expected[rows.rows[place]] = values[rows.suggested[place]]
        page.wait_for(f"document.getElementById('done-text').textContent.startsWith('{last} of')")

    def open_page(page, url):
        page.open(url)
        page.wait_for("document.documentElement.dataset.ready")

    with browser() as page:
        with Command(folder, file, "--images", "images.npy") as command:
            open_page(page, command.site.url)
            page.run("document.getElementById('reviewer').focus()")
            page.write("Ann")
            page.press("Enter")
            hosts = {command.site.host}
            decide(page, 0, 30)
            page.wait_for("fetch('decisions').then((answer) => answer.json()).then((all) => all.length === 30)")
            assert page.run("document.getElementById('picture').naturalWidth") == 60
            command.process.kill()
            command.process.wait()
        assert len(command.site.lines()) == 30
        page.wait_for("$('warning').textContent.startsWith('What others decide is not shown, since the server')")
        assert {one["entry"]["text"] for one in page.complaints()} == {REFUSED}
        with Command(folder, file, "--images", "images.npy") as command:
            assert "(30 decisions are there)" in command.said
            open_page(page, command.site.url)
            assert page.run("document.getElementById('done-text').textContent").startswith("30 of")
            decide(page, 30, 40)
            page.wait_for("fetch('decisions').then((answer) => answer.json()).then((all) => all.length === 40)")
            assert {one["entry"]["text"] for one in page.complaints()} == {REFUSED}
            hosts.add(command.site.host)
            page.download(tmp_path / "downloads", "d")
            assert (tmp_path / "downloads" / "decisions.csv").read_bytes() == file.read_bytes()
            assert {urlsplit(url).netloc for url in page.requests()} == hosts
            assert command.ends(signal.SIGINT)[0] == 130
    applied = labelsieve.apply_decisions(labels, file, issues=found)
    np.testing.assert_array_equal(applied.labels, expected)


def test_a_second_server_on_one_file_is_refused(folder, found, tmp_path):
    file = tmp_path / "d.csv"
    with open_decisions(file, found.fingerprint):
        command = [sys.executable, "-m", "labelsieve", "review", "r.zarr", "--serve", "--decisions", str(file)]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert (done.returncode, done.stdout) == (75, "")
    assert "is in use by process" in done.stderr


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ([], "give either -o for a page that is a file, or --serve"),
        (["--serve", "-o", "x.html"], "give either -o"),
        (["--serve"], "--serve writes to a file: --decisions decisions.csv"),
        (["-o", "x.html", "--decisions", "x.csv"], "--decisions is for --serve"),
        (["--serve", "--decisions", "x.csv", "--json"], "--json is for -o"),
        (["--serve", "--decisions", "x.txt"], "must end in .csv"),
        (["--serve", "--decisions", "x.csv", "--port", "70000"], "70000 is not in the range"),
        (["--serve", "--decisions", "x.csv", "--host", "192.0.2.1"], "cannot listen at 192.0.2.1"),
        (["--serve", "--decisions", "x.csv", "--images", "none.npy"], "there is no file"),
        (["--serve", "--decisions", "x.csv", "--images", "labels.png"], "there are 1 pictures, and there must be 400"),
    ],
)
def test_the_command_line_refuses_in_one_line(folder, tmp_path, monkeypatch, capsys, options, why):
    from labelsieve.cli.app import run

    monkeypatch.chdir(tmp_path)
    assert run(["review", str(folder / "r.zarr"), *options]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert why in said
    assert list(tmp_path.iterdir()) == []


def test_pictures_of_tokens_are_those_of_their_sentences(tmp_path):
    labels = [[0, 1], [1, 0, 0]]
    probs = [np.eye(2)[np.array(tags)] * 0.8 + 0.1 for tags in labels]
    probs[1][2] = [0.1, 0.9]
    found = labelsieve.token_classification.find_label_issues(labels, probs, progress=False)
    shown = ReviewRows(found.rows, marked=lambda row: ("a", str(row), "b"))
    pictures = open_pictures(np.array([0, 200], np.uint8)[:, None, None] * np.ones((2, 3, 3), np.uint8), shown.n_things)
    with ReviewServer(shown, tmp_path / "d.csv", pictures=pictures) as one:
        site = Site(one.url, tmp_path / "d.csv")
        for kind in ("picture", "thumbnail"):
            image = Image.open(io.BytesIO(site.ask(f"{kind}/4")[2]))
            assert np.max(image.getpixel((0, 0))) == 200
        [line] = site.json("rows?start=0&stop=5")
        assert (line["row"], line["marked"], line["place"]) == (4, ["a", "4", "b"], "sentence 1, token 2")
