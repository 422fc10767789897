"""The recipes for contributors, each followed from outside the package, in as few lines as it promises."""

import json
from functools import partial

import numpy as np
import pytest

import naive
from draws import assert_same_bits, draw, find
from labelsieve import InvalidInputError, apply_decisions
from labelsieve.cli.app import run
from labelsieve.confident_learning.filters import FILTERS, Filter
from labelsieve.confident_learning.scores import SCORES, Score
from labelsieve.confident_learning.select import Where
from labelsieve.execution.executor import Executor
from labelsieve.execution.graph import blocks_of
from labelsieve.results.store import WRITERS, check_output
from labelsieve.review.labels import FORMS, ArrayLabels
from labelsieve.sources.places import FORMATS, Format
from labelsieve.sources.source import FileSource, ReadFacts, Rows

LABELS, PROBS = draw(600, 4, signal=1.5, dtype=np.float32)


# A file format of arrays: rows of four float32, one after the other.
class RawSource(FileSource):
    def __init__(self, path, n_rows):
        super().__init__((n_rows, 4), "f4", ReadFacts(forkable=True))
        self.path = path

    @property
    def where(self):
        return str(self.path)

    def open(self, start=0, stop=None):
        return RawRows(self)


class RawRows(Rows):
    def __init__(self, source):
        super().__init__(source)
        self._read = partial(np.fromfile, source.path, source.dtype)

    def read(self, start, stop):
        return self._read((stop - start) * 4, offset=start * 16).reshape(-1, 4)


def open_raw(name, path, member):
    return RawSource(path, path.stat().st_size // 16)


def test_an_array_format(tmp_path, monkeypatch):
    monkeypatch.setitem(FORMATS, ".raw", Format(open_raw))
    want, cut = find(LABELS, PROBS), {"batch_size": 70, "partition_batches": 2}
    for number, part in enumerate((PROBS[:250], PROBS[250:270], PROBS[270:])):
        part.tofile(tmp_path / f"p-{number}.raw")
    PROBS.tofile(tmp_path / "all.raw")
    shards = [tmp_path / f"p-{number}.raw" for number in range(3)]
    for given in (tmp_path / "all.raw", shards, f"{tmp_path}/p-*.raw", (tmp_path / "all.raw").as_uri()):
        assert_same_bits(find(LABELS, given, **cut), want)
    (tmp_path / "all.raw").unlink()
    assert_same_bits(find(LABELS, tmp_path, workdir=tmp_path.parent / "work", **cut), want)
    assert find(LABELS, tmp_path, workdir=tmp_path.parent / "work", **cut).facts.rows_read == 0
    with pytest.raises(InvalidInputError, match=r"all\.raw is not read from a URL: give a copy on a disk"):
        find(LABELS, "memory://bucket/all.raw")


def test_an_output(tmp_path, monkeypatch):
    def write_jsonl(result, path):
        path.write_text("".join(f"{json.dumps({'row': row})}\n" for row in result.indices.tolist()))

    monkeypatch.setitem(WRITERS, ".jsonl", write_jsonl)
    monkeypatch.chdir(tmp_path)
    np.save("labels.npy", [0, 1, 0])
    np.save("probs.npy", [[0.9, 0.1], [0.2, 0.8], [0.1, 0.9]])
    assert run(["find", "labels.npy", "probs.npy", "-o", "issues.jsonl", "--quiet"]) == 0
    assert (tmp_path / "issues.jsonl").read_text() == '{"row": 2}\n'
    with pytest.raises(InvalidInputError, match=r"\.txt must end in one of .*, \.jsonl"):
        check_output("issues.txt")


def test_a_form_of_labels(tmp_path, monkeypatch):
    class LinesOfText(ArrayLabels):
        suffixes = (".txt",)

        @classmethod
        def open(cls, path, column, asked):
            found = cls(np.array(path.read_text().split()))
            found.where = str(path)
            return found

        def write(self, path, rows, values):
            path.write_text("\n".join(self.corrected(rows, values)) + "\n")

    monkeypatch.setitem(FORMS, ".txt", LinesOfText)
    (tmp_path / "labels.txt").write_text("cat\ndog\ncat\n")
    decided = {"row": [2], "given_label": ["cat"], "decision": ["accept"], "label": ["horse"]}
    labels = tmp_path / "labels.txt"
    apply_decisions(labels, decided, tmp_path / "new.txt", class_names=["cat", "dog", "horse"])
    assert (tmp_path / "new.txt").read_text() == "cat\ndog\nhorse\n"
    with pytest.raises(InvalidInputError, match=r"output: .*\.npy must end in \.txt"):
        apply_decisions(labels, decided, tmp_path / "new.npy")


# A score: the Brier score, from 0 to 1.
def brier(probs, labels):
    off = probs.astype(np.float64)
    off[np.arange(len(labels)), labels] -= 1
    return 1 - (off**2).sum(axis=1) / 2


def test_a_score(tmp_path, monkeypatch):
    monkeypatch.setitem(SCORES, "brier", Score(brier))
    labels, probs = naive.plain(LABELS, PROBS)
    cuts, scores = naive.thresholds(labels, probs), []
    for label, row in zip(labels, probs, strict=True):
        scores.append(1 - sum((p - (k == label)) ** 2 for k, p in enumerate(row)) / 2)
    worst = naive.ranked(scores, naive.num_issues(labels, probs, cuts, "off_diagonal"))
    for how in ({}, {"batch_size": 70, "partition_batches": 2}, {"workdir": tmp_path}):
        found = find(LABELS, PROBS, method="brier", **how)
        assert found.indices.tolist() == naive.without_near(worst, labels, probs)
        assert np.allclose(found.scores, scores, rtol=0, atol=1e-15)
    with pytest.raises(InvalidInputError, match="adjust_pred_probs is not defined for brier"):
        find(LABELS, PROBS, method="brier", adjust_pred_probs=True)


# A filter: the rows in which the predicted class has at least half more than the label.
class FarBelow(Filter):
    name, advice = "far_below", "To review the plainest errors."
    exact_rule, counts_rows = False, True

    def chooses(self, block):
        return block.p_predicted - block.p_label >= 0.5

    def select(self, table, totals, dtype, *, exactly):
        return table.select_where(Where(self.chooses), totals.n_counted)


def test_a_filter(tmp_path, monkeypatch):
    monkeypatch.setitem(FILTERS, "far_below", FarBelow)
    labels, probs = naive.plain(LABELS, PROBS)
    rows = [row for row, p in enumerate(probs) if np.float32(max(p)) - np.float32(p[labels[row]]) >= 0.5]
    want = sorted(rows, key=lambda row: (probs[row][labels[row]], row))
    assert 0 < len(want) < 600
    for how in ({}, {"batch_size": 70, "partition_batches": 2}, {"workdir": tmp_path}):
        assert find(LABELS, PROBS, filter_by="far_below", **how).indices.tolist() == want
    with pytest.raises(InvalidInputError, match=r"filter_by='far_below' does not use num_to_remove_per_class"):
        find(LABELS, PROBS, filter_by="far_below", num_to_remove_per_class=[1, 1, 1, 1])


# An executor: one task after the other, in this thread.
class OneByOne(Executor):
    def __init__(self):
        super().__init__(n_threads=1)
        self.names = []

    def hold(self, array, progress=None, priority=None, describe=str):
        self.names.append(array.name.rpartition("-")[0])
        return blocks_of(array.persist(scheduler="synchronous"))


@pytest.mark.parametrize("choices", [{}, {"filter_by": "both"}], ids=str)
@pytest.mark.parametrize("kept", ["in memory", "in a workdir"])
def test_an_executor(tmp_path, choices, kept):
    executor = OneByOne()
    if kept == "in a workdir":
        choices = choices | {"workdir": tmp_path / "work"}
    cut = {"batch_size": 70, "partition_batches": 2}
    assert_same_bits(find(LABELS, PROBS, client=executor, **choices, **cut), find(LABELS, PROBS, **choices))
    assert executor.names[0].startswith("scan")
