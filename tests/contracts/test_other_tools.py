"""Other tools: Label Studio out and in again, cleanlab's own classes; refusals."""

import copy
import json
import xml.etree.ElementTree as ET

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression

import labelsieve
from draws import draw, find
from labelsieve import InputTypeError, InvalidInputError, apply_decisions, read_label_studio
from labelsieve.cli.app import run
from labelsieve.results.result import read_class_names
from labelsieve.review.label_studio import label_studio_config

HOSTILE = ["=1+1", "<img src=x onerror=alert(1)>", "a\nb\t\"c\" 'd' & é", "$given_choice", "]]><!--", "ünïcode 💥"]
K = len(HOSTILE)


def dataset(names=None, n_rows=400, **choices):
    """Return labels as numbers or names, the result, and the labels as numbers."""
    labels, probs = draw(n_rows, K, seed=2, noise=0.3)
    if names is None:
        return labels, find(labels, probs, **choices), labels
    named = np.array(names, object)[labels]
    return named, find(named.tolist(), probs, class_names=names, **choices), labels


def annotate(tasks, rng, classes, reviewers=(1,)):
    """Annotate tasks at random, as Label Studio exports them; return them with the expected decisions."""
    expected, clock = [], 0
    for number, task in enumerate(tasks, 1):
        data = task["data"]
        annotations = []
        for reviewer in reviewers:
            clock += 1
            kind = ("accept", "keep", "other", "skipped", "empty", "none")[rng.integers(6)]
            others = [name for name in classes if name not in (data["given_choice"], data["suggested_choice"])]
            other = others[rng.integers(len(others))]
            chosen = {"accept": data["suggested_choice"], "keep": data["given_choice"], "other": other}.get(kind)
            region = {"id": "x", "from_name": "label", "to_name": "text", "type": "choices", "origin": "manual"}
            if kind == "none":
                continue
            time = f"2026-11-26T10:{clock // 60:02}:{clock % 60:02}.5Z"
            annotations.append(
                {
                    "id": 100 + clock,
                    "completed_by": reviewer,
                    "result": [] if chosen is None else [region | {"value": {"choices": [chosen]}}],
                    "was_cancelled": kind == "skipped",
                    "ground_truth": False,
                    "created_at": "2026-11-26T09:00:00Z",
                    "updated_at": time,
                    "lead_time": 3.1,
                }
            )
            who = reviewer["email"] if isinstance(reviewer, dict) else str(reviewer)
            word = kind if chosen is not None else "unsure"
            expected.append((data["row"], word, chosen if word in ("accept", "other") else "", who, time))
        task |= {"id": 1000 + number, "annotations": annotations, "drafts": [{"result": [region]}], "meta": {}}
        task["created_at"] = task["updated_at"] = "2026-11-26T09:00:00Z"
    return tasks, expected


def json_min(tasks):
    """Return tasks as JSON-MIN: the data and the choice of each annotation that was not skipped."""
    records = []
    for task in tasks:
        if not task["annotations"]:
            records.append(task["data"] | {"id": task["id"], "annotator": "{}", "annotation_id": None})
        for one in task["annotations"]:
            if one["was_cancelled"]:
                continue
            record = task["data"] | {"id": task["id"]}
            if one["result"]:
                record["label"] = one["result"][0]["value"]["choices"][0]
            by = one["completed_by"]
            record |= {"annotator": by["email"] if isinstance(by, dict) else by, "annotation_id": one["id"]}
            records.append(record | {name: one[name] for name in ("created_at", "updated_at", "lead_time")})
    return records


def written(path, content):
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return path


def exported(found, folder, rng=None, reviewers=(1,), **choices):
    """Write tasks and annotate them; return the export's path, its tasks and the expected decisions."""
    found.to_label_studio(folder / "tasks.json", **choices)
    tasks = json.loads((folder / "tasks.json").read_text(encoding="utf-8"))
    names = found.class_names or [str(k) for k in range(found.n_classes)]
    tasks, expected = annotate(tasks, rng or np.random.default_rng(0), names, reviewers)
    return written(folder / "export.json", tasks), tasks, expected


# Label Studio -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [None, HOSTILE])
def test_tasks_and_configuration_are_those_that_label_studio_documents(tmp_path, names):
    _, found, numbers = dataset(names, ids=[f"<{row}>" for row in range(400)])
    texts = [f"text {row}" for row in range(400)]
    config = found.to_label_studio(tmp_path / "t.json", images="https://x.org/{row}/{id}", texts=texts, top=20)
    tasks = json.loads((tmp_path / "t.json").read_text(encoding="utf-8"))
    assert [task["data"]["row"] for task in tasks] == found.indices[:20].tolist()
    shown = names or [str(k) for k in range(K)]
    issues = found.issues
    for place, task in enumerate(tasks):
        row, data = int(issues.rows[place]), task["data"]
        given, suggested = int(issues.given_labels[place]), int(issues.suggested_labels[place])
        assert given == numbers[row]
        assert (data["given_choice"], data["suggested_choice"]) == (shown[given], shown[suggested])
        stored = [given, suggested] if names is None else [names[given], names[suggested]]
        assert [data["given_label"], data["suggested_label"]] == stored
        assert (data["row_id"], data["image"], data["text"]) == (
            f"<{row}>",
            f"https://x.org/{row}/<{row}>",
            f"text {row}",
        )
        assert data["score"] == pytest.approx(float(issues.scores[place]), rel=1e-5)
        assert data["result"] == found.fingerprint
        [prediction] = task["predictions"]
        [region] = prediction["result"]
        assert prediction["model_version"] == f"labelsieve-{found.fingerprint}"
        assert prediction["score"] == pytest.approx(float(issues.p_suggested[place]), rel=1e-5)
        assert region == {
            "from_name": "label",
            "to_name": "image",
            "type": "choices",
            "value": {"choices": [shown[suggested]]},
        }
    view = ET.fromstring(config)
    assert [one.tag for one in view] == ["Header", "Image", "Text", "Choices"]
    choices = view.find("Choices")
    assert choices.attrib | {"name": "label", "toName": "image"} == choices.attrib
    assert [one.get("alias", one.get("value")) for one in choices] == shown
    assert all("$" not in one.get("value") for one in choices), "it would stand for data of the task"
    assert config == label_studio_config(shown, images=True)


def test_without_images_and_texts_a_task_shows_the_id_or_the_row(tmp_path):
    for ids, shown in ((None, "row {}"), ([f"#{row}" for row in range(400)], "#{}")):
        _, found, _ = dataset(ids=ids)
        config = found.to_label_studio(tmp_path / "t.json", top=3)
        data = [task["data"] for task in json.loads((tmp_path / "t.json").read_text())]
        assert [one["text"] for one in data] == [shown.format(one["row"]) for one in data]
        assert '<Text name="text" value="$text"/>' in config


def test_places_of_pictures_are_passed_on(tmp_path):
    _, found, _ = dataset()
    places = [f"s3://bucket/{row}.png" for row in range(400)]
    (tmp_path / "places.txt").write_text("\n".join(places))
    for images in (places, pd.Series(places, index=range(7, 407)), tmp_path / "places.txt", "s3://bucket/{row}.png"):
        found.to_label_studio(tmp_path / "t.json", images=images, top=5)
        data = [task["data"] for task in json.loads((tmp_path / "t.json").read_text())]
        assert [one["image"] for one in data] == [places[one["row"]] for one in data]


@pytest.mark.every_value
@pytest.mark.parametrize("form", ["json", "json-min"])
@pytest.mark.parametrize("labels_are", ["numbers", "names", "numbers with names"])
def test_decisions_come_back(tmp_path, form, labels_are):
    names = None if labels_are == "numbers" else HOSTILE
    labels, found, numbers = dataset(names if labels_are == "names" else None)
    if labels_are == "numbers with names":
        labels, probs = draw(400, K, seed=2, noise=0.3)
        found = find(labels, probs, class_names=HOSTILE)
    path, tasks, expected = exported(found, tmp_path, top=60)
    if form == "json-min":
        written(path, json_min(tasks))
        skipped = {task["data"]["row"] for task in tasks if any(one["was_cancelled"] for one in task["annotations"])}
        expected = [one for one in expected if one[0] not in skipped]
    shown = names or [str(k) for k in range(K)]
    stored = {choice: HOSTILE[k] if labels_are == "names" else k for k, choice in enumerate(shown)} | {"": ""}
    frame = read_label_studio(path, class_names=names)
    assert {word for _, word, *_ in expected} == {"accept", "keep", "other", "unsure"}
    got = frame[["row", "decision", "label", "reviewer", "time"]].values.tolist()
    assert got == [[row, word, stored[label], who, time] for row, word, label, who, time in expected]
    assert frame["given_label"].tolist() == [labels[row] for row in frame["row"]]
    assert set(frame["result"]) == {found.fingerprint}
    want = np.array(labels, object)
    for row, _, label, *_ in expected:
        if label:
            want[row] = stored[label]
    for decisions in (frame, path):
        applied = apply_decisions(labels.tolist(), decisions, issues=found)
        assert applied.labels.tolist() == want.tolist()
        assert applied.counts["unsure"] == sum(word == "unsure" for _, word, *_ in expected)
    assert numbers.shape == want.shape


def test_several_reviewers_are_compared(tmp_path):
    labels, found, _ = dataset()
    reviewers = (3, {"id": 4, "email": "ann@example.org", "first_name": "Ann"})
    path, _, expected = exported(found, tmp_path, reviewers=reviewers, top=40)
    applied = apply_decisions(labels, path, conflicts="keep")
    by_row = {}
    for row, word, label, who, _ in expected:
        by_row.setdefault(row, {})[who] = (word == "unsure", label)
    both = [one for one in by_row.values() if len(one) == 2]
    same = sum(one["3"] == one["ann@example.org"] for one in both)
    assert len(applied.conflicts) == len(both) - same


def test_an_audit_goes_out_and_an_estimate_comes_back(tmp_path):
    rng = np.random.default_rng(0)
    true, probs = draw(800, 3, seed=1, noise=0)
    is_wrong = rng.random(800) < 0.1
    labels = np.where(is_wrong, (true + 1) % 3, true)
    found = find(labels, probs)
    audit = found.audit(budget=100, labels=labels)
    found.to_label_studio(tmp_path / "tasks.json", audit=audit)
    tasks = json.loads((tmp_path / "tasks.json").read_text())
    assert [task["data"]["row"] for task in tasks] == audit.rows.tolist()
    assert {"predictions" in task for task in tasks} == {True, False}
    for task in tasks:
        choice = {"from_name": "label", "type": "choices", "value": {"choices": [str(true[task["data"]["row"]])]}}
        task["annotations"] = [{"completed_by": 1, "result": [choice]}]
    path = written(tmp_path / "export.json", tasks)
    got, want = labelsieve.estimate(audit, path), labelsieve.estimate(audit, is_wrong[audit.rows])
    assert str(got) == str(want)
    assert labelsieve.estimate(audit, read_label_studio(path)) == got
    # A class that no task has as the given or the suggested one: its label does not matter.
    task = next(task for task in tasks if is_wrong[task["data"]["row"]])
    task["annotations"][0]["result"][0]["value"]["choices"] = ["something else"]
    written(path, tasks)
    with pytest.raises(InvalidInputError, match="the choice 'something else' is not a class"):
        read_label_studio(path)
    assert str(labelsieve.estimate(audit, path)) == str(want)


def test_chosen_rows_become_tasks(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    labels, probs = draw(400, K, seed=2, noise=0.3)
    found = find(labels, probs)
    rows = found.lowest(found.num_issues + 50)
    found.to_label_studio("tasks.json", rows=rows, labels=labels, pred_probs=probs)
    tasks = json.loads((tmp_path / "tasks.json").read_text())
    data = [task["data"] for task in tasks]
    assert [one["row"] for one in data] == rows.tolist()
    assert [one["given_label"] for one in data] == labels[rows].tolist()
    assert [one["suggested_label"] for one in data] == probs[rows].argmax(axis=1).tolist()
    assert [one["p_given"] for one in data] == [float(f"{probs[row, labels[row]]:.6g}") for row in rows]
    found.save("r.zarr")
    np.save("labels.npy", labels)
    np.save("probs.npy", probs)
    lowest = ["--lowest", str(len(rows)), "--labels", "labels.npy", "--pred-probs", "probs.npy"]
    assert run(["label-studio", "r.zarr", "-o", "own.json", *lowest]) == 0
    assert (tmp_path / "own.json").read_bytes() == (tmp_path / "tasks.json").read_bytes()


def test_pictures_of_sentences_are_those_of_their_tokens(tmp_path):
    labels = [np.array([0, 0, 1]), np.array([0, 1])]
    probs = [np.array([[0.9, 0.1], [0.1, 0.9], [0.1, 0.9]]), np.array([[0.9, 0.1], [0.9, 0.1]])]
    rows = labelsieve.token_classification.find_label_issues(labels, probs, progress=False).rows
    assert sorted(rows.indices.tolist()) == [1, 4]
    places = {1: "first.png", 4: "second.png"}
    rows.to_label_studio(tmp_path / "tasks.json", images=["first.png", "second.png"])
    data = [task["data"] for task in json.loads((tmp_path / "tasks.json").read_text())]
    assert [one["image"] for one in data] == [places[one["row"]] for one in data]


def test_early_exports_and_other_controls_are_read(tmp_path):
    _, found, _ = dataset()
    path, tasks, _ = exported(found, tmp_path, top=30)
    want = read_label_studio(path)
    for task in tasks:
        task["completions"] = task.pop("annotations")
        for one in task["completions"]:
            one["skipped"] = one.pop("was_cancelled")
            for region in one["result"]:
                region["from_name"] = "class_of_mine"
    assert read_label_studio(written(path, tasks)).equals(want)


def test_the_command_line_writes_tasks_and_takes_an_export(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    labels, found, _ = dataset()
    path, _, _ = exported(found, tmp_path, top=30)
    found.save("r.zarr")
    assert run(["label-studio", "r.zarr", "-o", "own.json", "--top", "30"]) == 0
    config = found.to_label_studio("tasks.json", top=30)
    assert capsys.readouterr().out == f"{config}\n"
    assert (tmp_path / "own.json").read_bytes() == (tmp_path / "tasks.json").read_bytes()
    audit = found.audit(budget=50, labels=labels)
    audit.save("audit.json")
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(f"text {row}" for row in range(400)))
    what = ["--audit", "audit.json", "--texts", "texts.txt", "--images", "{row}.png"]
    assert run(["label-studio", "r.zarr", "-o", "own.json", "--config", "c.xml", *what]) == 0
    assert capsys.readouterr().out == "written to own.json, the configuration to c.xml\n"
    config = found.to_label_studio("tasks.json", audit=audit, texts=texts, images="{row}.png")
    assert (tmp_path / "c.xml").read_text() == f"{config}\n"
    assert (tmp_path / "own.json").read_bytes() == (tmp_path / "tasks.json").read_bytes()
    many = ["a\u00a0", "b $x", *map(str, range(2, found.n_classes))]
    (tmp_path / "names.txt").write_text("\n".join(many))
    named = {"class_names": read_class_names(tmp_path / "names.txt")}
    for where, options, n_tasks, choices in (
        ("c.xml", what, 50, {"audit": audit, "texts": texts, "images": "{row}.png"}),
        (None, ["--class-names", "names.txt"], found.num_issues, named),
        (None, ["--top", "7"], 7, {"top": 7}),
        (None, ["--top", "0"], 0, {"top": 0}),
        (None, ["--top", "9999"], found.num_issues, {"top": 9999}),
        (None, ["--lowest", "9", "--labels", "labels.npy"], 9, {"rows": found.lowest(9), "labels": labels}),
    ):
        np.save("labels.npy", labels)
        given = [] if where is None else ["--config", where]
        assert run(["label-studio", "r.zarr", "-o", "own.json", *options, *given, "--json"]) == 0
        answer = json.loads(capsys.readouterr().out)
        assert answer.pop("total_s") >= 0
        assert answer == {
            "output": "own.json",
            "config": where,
            "label_config": found.to_label_studio("tasks.json", **choices),
            "n_tasks": n_tasks,
            "warnings": [],
            "version": labelsieve.__version__,
        }
        tasks = json.loads((tmp_path / "own.json").read_text(encoding="utf-8"))
        assert (len(tasks), tasks) == (n_tasks, json.loads((tmp_path / "tasks.json").read_text(encoding="utf-8")))
        assert where is None or (tmp_path / where).read_text(encoding="utf-8") == answer["label_config"] + "\n"
    assert run(["label-studio", "none.zarr", "-o", "own.json", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"] == "InvalidInputError"
    assert run(["label-studio", "r.zarr", "-o", "more.json", "--audit", "r.zarr"]) == 2
    assert "r.zarr is not an audit" in capsys.readouterr().err
    assert run(["label-studio", "audit.json", "-o", "more.json"]) == 2
    assert "audit.json is not a result of classification" in capsys.readouterr().err
    assert not (tmp_path / "more.json").exists()
    np.save("labels.npy", labels)
    assert run(["apply", "labels.npy", "export.json", "-o", "corrected.npy"]) == 0
    assert np.array_equal(np.load("corrected.npy"), apply_decisions(labels, path).labels)


# Exports that are refused -----------------------------------------------------------------------------------------


def truncated(text, tasks):
    return text[: len(text) // 2]


def changed(change):
    def spoil(_text, tasks):
        tasks = copy.deepcopy(tasks)
        change(tasks)
        return json.dumps(tasks)

    return spoil


def choose(choices):
    region = {"from_name": "label", "to_name": "text", "type": "choices", "value": {"choices": choices}}
    return changed(lambda tasks: tasks[1].update(annotations=[{"id": 1, "completed_by": 1, "result": [region]}]))


BAD = {
    "truncated": (truncated, r"is not JSON \(.*\): is it cut off\?"),
    "empty": (lambda *_: "", "is not JSON"),
    "not UTF-8": (lambda *_: b"\xff\xfe[]", "is not JSON"),
    "nested": (lambda *_: "[" * 100_000, "is not (JSON|an export)"),
    "an object": (lambda *_: "{}", "which is a list of tasks"),
    "a number in the list": (lambda *_: "[1]", "task 1 of .* has no row, given_label, given_choice, result"),
    "tasks of somebody else": (
        lambda *_: '[{"id": 1, "data": {"text": "a"}, "annotations": []}]',
        "task 1 of .* has no row, .* only exports of tasks that LabelIssues.to_label_studio wrote",
    ),
    "no annotations": (changed(lambda tasks: tasks[2].pop("annotations")), "task 3 of .* has no annotations"),
    "annotations of another kind": (changed(lambda tasks: tasks[2].update(annotations=[3])), "are not a list of obj"),
    "results of another kind": (
        changed(lambda tasks: tasks[0].update(annotations=[{"result": "a"}])),
        "task 1 of .*: the result of an annotation is not a list",
    ),
    "no choices of that name": (
        lambda _, tasks: json.dumps([one | {"mine": one.pop("label", "3")} for one in json_min(tasks)]),
        "task 1 of .* has no choice named 'label', but mine",
    ),
    "labels in place of choices": (
        changed(
            lambda tasks: tasks[0].update(
                annotations=[{"result": [{"from_name": "label", "type": "labels", "value": {"labels": ["1"]}}]}]
            )
        ),
        "task 1 of .* are not choices",
    ),
    "choices of another kind": (choose([3]), "task 2 of .* are not choices"),
    "two choices": (choose(["0", "1"]), "task 2 of .* has 2 choices, and a row has one label"),
    "unknown class": (choose(["cat"]), "task 2 of .*: the choice 'cat' is not a class"),
    "unknown number": (choose(["77"]), "77"),
    "a row that is a text": (changed(lambda tasks: tasks[0]["data"].update(row="3")), "task 1 of .*: '3' is not a row"),
    "a huge row": (changed(lambda tasks: tasks[0]["data"].update(row=10**30)), "000000 is not a row"),
    "half a letter": (choose(["\ud800"]), "the choice .* is not a class"),
    "a negative row": (changed(lambda tasks: tasks[0]["data"].update(row=-1)), "-1 is not a row"),
    "unknown row": (changed(lambda tasks: tasks[0]["data"].update(row=4000)), "there is no such row"),
    "a label that is a list": (changed(lambda tasks: tasks[0]["data"].update(given_label=[1])), "which is not a label"),
    "another given label": (changed(lambda tasks: None), "given labels? differs? from labels"),
    "tasks of several results": (
        changed(lambda tasks: tasks[0]["data"].update(given_label=5)),
        "the choice .* stands for .* here and for .* elsewhere: are these tasks of several results",
    ),
    "another fingerprint": (
        changed(lambda tasks: [task["data"].update(result="0123456789ab-0123456789ab") for task in tasks]),
        "which is not one of these labels",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_exports_are_refused(tmp_path, what):
    labels, found, _ = dataset()
    labels = np.where(labels == 5, 4, labels) if what == "another given label" else labels
    path, tasks, _ = exported(found, tmp_path, top=12)
    for task in tasks:  # all decided
        task["annotations"] = [{"id": 1, "completed_by": 1, "was_cancelled": False, "result": []}]
        task["annotations"][0] |= dict.fromkeys(("created_at", "updated_at", "lead_time"))
    spoil, message = BAD[what]
    text = spoil(path.read_text(encoding="utf-8"), tasks)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    before = sorted(tmp_path.iterdir())
    with pytest.raises(InvalidInputError, match=message):
        apply_decisions(labels, path, tmp_path / "out.npy")
    assert sorted(tmp_path.iterdir()) == before


def test_half_letters_of_reviewers_can_be_written(tmp_path):
    labels, found, _ = dataset()
    path, tasks, _ = exported(found, tmp_path, top=3)
    for task in tasks:
        task["annotations"] = [{"completed_by": {"email": "\ud800"}, "result": task["predictions"][0]["result"]}]
    path.write_text(json.dumps(tasks))
    apply_decisions(labels, path, tmp_path / "out.npy")
    log = json.loads((tmp_path / "out.npy.log.json").read_text(encoding="utf-8"))
    assert {one["reviewer"] for one in log["changes"]} == {"\\ud800"}


def test_a_class_of_no_task_needs_the_names(tmp_path):
    labels, probs = draw(400, K, seed=2, noise=0.3)
    found = find(labels, probs, class_names=HOSTILE)
    found.to_label_studio(tmp_path / "t.json", top=1)
    [task] = json.loads((tmp_path / "t.json").read_text())
    known = {task["data"]["given_choice"], task["data"]["suggested_choice"]}
    other = next(k for k, name in enumerate(HOSTILE) if name not in known)
    region = {"from_name": "label", "type": "choices", "value": {"choices": [HOSTILE[other]]}}
    path = written(tmp_path / "e.json", [task | {"annotations": [{"completed_by": 1, "result": [region]}]}])
    with pytest.raises(InvalidInputError, match="is not a class: if it is a class, give class_names"):
        apply_decisions(labels, path)
    for more in ({"class_names": HOSTILE}, {"issues": found}):
        assert apply_decisions(labels, path, **more).labels[task["data"]["row"]] == other


def test_names_in_another_order_are_refused_and_blanks_around_names_come_back(tmp_path):
    names = [" lead", "cat", "dog", "trail "]
    codes, probs = draw(400, len(names), seed=2, noise=0.3)
    for labels in (codes, np.array(names)[codes]):
        found = find(labels, probs, class_names=names)
        found.to_label_studio(tmp_path / "t.json", top=1)
        [task] = json.loads((tmp_path / "t.json").read_text())
        known = {task["data"]["given_choice"], task["data"]["suggested_choice"]}
        for other in (k for k in range(len(names)) if names[k] not in known):
            region = {"from_name": "label", "type": "choices", "value": {"choices": [names[other].strip()]}}
            path = written(tmp_path / "e.json", [task | {"annotations": [{"completed_by": 1, "result": [region]}]}])
            got = apply_decisions(labels, path, class_names=names).labels[task["data"]["row"]]
            assert got == (other if labels is codes else names[other])
            if labels is codes:
                with pytest.raises(InvalidInputError, match="in another order"):
                    apply_decisions(labels, path, class_names=names[::-1])


def test_names_that_are_given_do_not_hide_numbers(tmp_path):
    labels, found, _ = dataset()
    found.to_label_studio(tmp_path / "t.json", top=1)
    [task] = json.loads((tmp_path / "t.json").read_text())
    other = next(k for k in range(K) if k not in (task["data"]["given_label"], task["data"]["suggested_label"]))
    region = {"from_name": "label", "type": "choices", "value": {"choices": [str(other)]}}
    path = written(tmp_path / "e.json", [task | {"annotations": [{"completed_by": 1, "result": [region]}]}])
    for more in ({}, {"class_names": HOSTILE}):
        assert apply_decisions(labels, path, **more).labels[task["data"]["row"]] == other


def test_missing_files_are_refused(tmp_path):
    with pytest.raises(InvalidInputError, match="there is no file"):
        read_label_studio(tmp_path / "nothing.json")
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(InvalidInputError, match="is not readable"):
        read_label_studio(tmp_path / "folder.json")


def test_an_export_without_annotations_has_no_decisions(tmp_path):
    labels, found, _ = dataset()
    _, tasks, _ = exported(found, tmp_path, top=5)
    path = written(tmp_path / "e.json", [task | {"annotations": []} for task in tasks])
    assert read_label_studio(path).empty
    assert len(apply_decisions(labels, path).changed) == 0


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"path": "t.csv"}, r"must end in \.json"),
        ({"path": "nothing/t.json"}, "there is no folder"),
        ({"images": ["a"]}, "images: there are 1, and there must be 400"),
        ({"images": "pictures/*.png"}, r"nor a pattern with \{row\} or \{id\}"),
        ({"images": "https://x/{id}"}, "names ids, and the result has none"),
        ({"texts": ["a"]}, "there are 1 texts, and there must be 400"),
    ],
)
def test_tasks_that_cannot_be_are_refused_and_nothing_is_written(tmp_path, monkeypatch, choices, message):
    monkeypatch.chdir(tmp_path)
    _, found, _ = dataset()
    with pytest.raises(InvalidInputError, match=message):
        found.to_label_studio(**{"path": "t.json"} | choices)
    assert list(tmp_path.iterdir()) == []


def test_pictures_themselves_are_refused(tmp_path):
    _, found, _ = dataset()
    with pytest.raises(InputTypeError, match=r"must be URLs or paths, which are passed on: row .* has a ndarray"):
        found.to_label_studio(tmp_path / "t.json", images=np.zeros((400, 2, 2)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a", " "], "class 1 has an empty name"),
        (["a", "b", "a "], "classes 0 and 2 are both named 'a'"),
        (["a", "b\x00"], "class 1 has the name .* whose control characters XML cannot hold"),
    ],
)
def test_names_that_no_choice_can_have_are_refused(names, message):
    with pytest.raises(InvalidInputError, match=message):
        label_studio_config(names)
    with pytest.raises(InvalidInputError, match="images or texts"):
        label_studio_config(["a", "b"], images=False, texts=False)


# cleanlab ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [None, ["a", "b", "c"]])
def test_cleanlearning_takes_the_frame(names):
    from cleanlab.classification import CleanLearning

    labels, probs = draw(300, 3, seed=1)
    features = np.random.default_rng(0).normal(size=(300, 3)) + probs
    found = find(labels, probs, class_names=names)
    frame = found.to_cleanlab()
    assert frame["is_label_issue"].tolist() == found.mask().tolist()
    assert frame["label_quality"].tolist() == found.scores.tolist()
    suggested = dict(zip(found.indices.tolist(), found.issues.suggested_labels.tolist(), strict=True))
    assert [None if pd.isna(k) else k for k in frame["predicted_label"]] == [suggested.get(row) for row in range(300)]
    model = CleanLearning(LogisticRegression()).fit(features, labels, label_issues=frame)
    assert model.get_label_issues()["is_label_issue"].sum() == found.num_issues
    kept = found.clean_rows()
    want = LogisticRegression().fit(features[kept], labels[kept])
    assert model.predict(features).tolist() == want.predict(features).tolist()
