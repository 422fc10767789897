"""The recipes for contributors, each followed from outside the package, in as few lines as it promises."""

from functools import partial

import numpy as np
import pytest

from draws import assert_same_bits, draw, find
from labelsieve import InvalidInputError
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
