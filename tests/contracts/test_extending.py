"""The recipes for contributors, each followed from outside the package, in as few lines as it promises."""

import json
from functools import partial

import numpy as np
import pytest

from draws import assert_same_bits, draw, find
from labelsieve import InvalidInputError, apply_decisions
from labelsieve.cli.app import run
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
