"""Bad input over all ways in: one clear error that names what and where, and never one of another library.

Good input beside it has the bits of the plain array.
"""

import json
import re
import struct
import zipfile

import ml_dtypes
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
import safetensors.numpy

import labelsieve
from draws import assert_same_bits, draw, find
from labelsieve import Ensemble, Folds, Recorder, summarize_batch
from labelsieve.errors import LabelsieveError

LABELS, PROBS = draw(200, 4, seed=1)
N, K = PROBS.shape
ROWS = np.arange(N)
NAMES = ["ant", "bee", "cat", "dog"]
NAMED = np.array(NAMES)[LABELS]


def changed(array, row, value, dtype=None):
    array = np.array(array, dtype)
    array[row] = value
    return array


@pytest.fixture(scope="module")
def want():
    return find(LABELS, PROBS)


# Ways in, each with something to change -----------------------------------------------------------------------------


def record(folder, labels=LABELS, probs=PROBS, rows=None, *, part=0, then=None, **settings):
    """Record in batches, change the folder with `then`, and find."""
    settings = {"flush_rows": 50} | settings
    with Recorder(folder / "r", K, part=part, **settings) as recorder:
        for start in range(0, len(labels), 50):
            some = slice(start, start + 50)
            recorder.update(labels[some], probs[some], None if rows is None else rows[some])
    if then:
        then(folder / "r")
    return labelsieve.find_label_issues(summaries=folder / "r", progress=False)


def batch(folder, labels=LABELS, probs=PROBS, rows=None, *, part=3, **settings):
    with Recorder(folder / "r", K, part=part, **settings) as recorder:
        recorder.update(labels, probs, rows)


def two_recorders(folder):
    with Recorder(folder / "r", K), Recorder(folder / "r", K):
        pass


def left_open(folder):
    recorder = Recorder(folder / "r", K, part=2)
    recorder.update(LABELS, PROBS)
    recorder.flush()
    return labelsieve.find_label_issues(summaries=folder / "r", progress=False)


def cut_off(name):
    def cut(folder):
        file = folder / "part-00000" / name
        file.write_bytes(file.read_bytes()[:-10])

    return cut


def summaries(changes=None, n_classes=K, *, file=None, **choices):
    table = summarize_batch(LABELS, PROBS) | (changes or {})
    if file:
        pq.write_table(pa.table(table), file)
    return labelsieve.find_label_issues(summaries=file or table, n_classes=n_classes, progress=False, **choices)


def table(folder, labels="label", pred_probs="p", *, rows=64, then=None, choices=None, **columns):
    """Find in a Parquet file, with other columns, and changed bytes."""
    columns = {"label": pa.array(LABELS), "p": pa.array(PROBS.tolist())} | columns
    pq.write_table(pa.table(columns), folder / "t.parquet", row_group_size=rows)
    if then:
        (folder / "t.parquet").write_bytes(then(bytearray((folder / "t.parquet").read_bytes())))
    return find(labels, pred_probs, data=folder / "t.parquet", **(choices or {}))


def nulls(values, row):
    return pa.array([None if i == row else value for i, value in enumerate(values)])


def in_memory(data, labels="label", pred_probs="p", **choices):
    return find(labels, pred_probs, data=data, **choices)


def archive(folder, member="", **arrays):
    np.savez(folder / "a.npz", **arrays)
    return find(LABELS, f"{folder}/a.npz{member}")


def tensors(folder, header, length=None, body=b""):
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    n_bytes = len(header) if length is None else length
    (folder / "p.safetensors").write_bytes(struct.pack("<Q", n_bytes) + header + body)
    return find(LABELS, folder / "p.safetensors")


def npy(folder, array, then=None, **choices):
    np.save(folder / "p.npy", array)
    if then:
        (folder / "p.npy").write_bytes(then(bytearray((folder / "p.npy").read_bytes())))
    return find(LABELS, folder / "p.npy", **choices)


def torch_file(folder):
    with zipfile.ZipFile(folder / "p.pt", "w") as file:
        file.writestr("p/data.pkl", b"")
    return find(LABELS, folder / "p.pt")


def overwritten(begin, values):
    def change(octets):
        octets[begin : begin + len(values)] = values
        return octets

    return change


def arrow_file(folder, change):
    """Find in an Arrow file, the header of whose first record batch is changed."""
    data = pa.table({"label": LABELS, "p": PROBS.tolist()})
    pyarrow.feather.write_feather(data, folder / "t.feather", compression="uncompressed")
    octets = bytearray((folder / "t.feather").read_bytes())
    change(octets)
    (folder / "t.feather").write_bytes(octets)
    return find("label", "p", data=folder / "t.feather")


def negative(number):
    """Return a change that makes a number of 8 bytes, the last such one in the file's messages, negative."""

    def change(octets):
        at = octets.index(struct.pack("<q", number))
        octets[at : at + 8] = struct.pack("<q", -number)

    return change


LOGITS = np.log(PROBS)
BITS = PROBS.astype(ml_dtypes.bfloat16).view(np.uint16)
F64 = {"dtype": "F64", "shape": [N, K], "data_offsets": [0, 8 * N * K]}
HALVES = [(PROBS[:100], ROWS[:100]), (PROBS[100:], ROWS[100:])]

BAD = {
    # The recorder.
    "a batch of another width": (lambda at: batch(at, probs=PROBS[:, :3]), r"part 3 of .*\(n, 4\), not \(200, 3\)"),
    "a batch of two lengths": (lambda at: batch(at, LABELS[1:]), "part 3 of .*199 labels and 200 rows"),
    "a label out of range": (
        lambda at: batch(at, changed(LABELS, 7, 4)),
        r"part 3 of .*1 label outside 0\.\.3 in row 7",
    ),
    "a recorded NaN": (lambda at: batch(at, probs=changed(PROBS, (9, 1), np.nan)), "part 3 of .*1 NaN.* row 9"),
    "recorded logits": (lambda at: batch(at, probs=LOGITS * 3), "part 3 of .*are these logits.*from_logits=True"),
    "a recorded logit of inf": (
        lambda at: batch(at, probs=changed(LOGITS, (3, 1), np.inf), from_logits=True),
        r"part 3 of .*1 logit of \+inf in row 3",
    ),
    "masked labels": (
        lambda at: batch(at, np.ma.masked_equal(LABELS, 3)),
        "part 3 of .*labels is a masked array with 62",
    ),
    "masked probabilities": (
        lambda at: batch(at, probs=np.ma.masked_less(PROBS, 0.1)),
        "part 3 of .*pred_probs is a masked array with 342",
    ),
    "masked rows": (
        lambda at: batch(at, rows=np.ma.masked_equal(ROWS, 3)),
        "part 3 of .*rows is a masked array with 1",
    ),
    "names in a batch": (lambda at: batch(at, NAMED), r"part 3 of .*integers 0\.\.K-1, not of dtype <U3"),
    "a batch of float8": (
        lambda at: batch(at, probs=PROBS.astype(ml_dtypes.float8_e5m2)),
        "part 3 of .*not float8_e5m2",
    ),
    "a part that is open": (left_open, "part 2 of .* is open: .*resume=True"),
    "a part that is cut off": (lambda at: record(at, then=cut_off("000001.rec")), "part 0 of .* is torn: .*000001.rec"),
    "a mark that is cut off": (
        lambda at: record(at, then=cut_off("closed.json")),
        r"closed\.json is not what a recorder",
    ),
    "a lost segment": (
        lambda at: record(at, then=lambda folder: (folder / "part-00000/000002.rec").unlink()),
        "part 0 of .* is torn: .*000002.rec is missing",
    ),
    "two writers": (two_recorders, "part 0 of .* is in use by process"),
    "another number of classes": (lambda at: record(at, then=lambda to: Recorder(to, 5, part=1)), "n_classes=5, not 4"),
    "other settings": (
        lambda at: record(at, then=lambda to: Recorder(to, K, part=1, from_logits=True)),
        "part 1 has from_logits=True, not False",
    ),
    "a row with other values": (
        lambda at: record(at, rows=changed(ROWS, 150, 7)),
        "row 7 was given twice with different values|row 7 .*part 0",
    ),
    "a gap with n_rows": (
        lambda at: record(at, LABELS[:-2], PROBS[:-2], ROWS[:-2], n_rows=N),
        r"2 rows were not recorded in .*: rows 198\.\.199 of 200",
    ),
    "no recorded label": (
        lambda at: record(at, np.full(N, -1), ignore_label=-1),
        "no row has a label: all 200 were recorded without one$",
    ),
    # Tables of summaries.
    "a missing column": (
        lambda _: labelsieve.find_label_issues(summaries={"label": LABELS, "predcted": LABELS}, n_classes=K),
        r"no column 'predicted'. Did you mean 'predcted'\? It has the columns label, predcted",
    ),
    "a null": (
        lambda at: summaries({"label": nulls(LABELS.tolist(), 77)}, file=at / "s.parquet"),
        r"nulls in column 'label' of .*s\.parquet, in row 77",
    ),
    "p_predicted below p_label": (
        lambda _: summaries({"p_label": np.ones(N)}),
        "rows whose p_predicted is not the largest probability in rows",
    ),
    "a first class that is not": (
        lambda _: summaries({"p_label": np.full(N, 0.5), "p_predicted": np.full(N, 0.5)}),
        "not the first with the largest",
    ),
    "rows twice": (
        lambda at: summaries({"row": changed(ROWS, 199, 5)}, file=at / "s.parquet"),
        "row 5 is given twice, in places 5 and 199",
    ),
    "no n_classes": (lambda _: summaries(n_classes=None), "give n_classes="),
    "n_classes too small": (lambda _: summaries(n_classes=3), r"62 labels outside 0\.\.2 in rows 2\.\.3"),
    "a column alone": (
        lambda _: labelsieve.find_label_issues(summaries=pl.Series(LABELS), n_classes=K),
        "summaries: the polars Series has no columns",
    ),
    "no table of summaries": (
        lambda at: labelsieve.find_label_issues(summaries=np.save(at / "s.npy", PROBS) or at / "s.npy", n_classes=K),
        r"^summaries: .*s\.npy is neither a Parquet nor an Arrow file",
    ),
    "no files of summaries": (
        lambda at: labelsieve.find_label_issues(summaries=at, n_classes=K),
        r"^summaries: .* has no files whose names end in \.parquet",
    ),
    # Tables.
    "no such column": (lambda at: table(at, "lable"), r"labels: .*no column 'lable'. Did you mean 'label'"),
    "ragged lists": (
        lambda at: table(at, p=pa.array([p[: 3 if i == 9 else 4] for i, p in enumerate(PROBS.tolist())])),
        "row 9 has 3 values, others have 4",
    ),
    "a null in a list": (
        lambda at: table(at, p=pa.array([[None if i == 9 else v for v in p] for i, p in enumerate(PROBS.tolist())])),
        "nulls in the lists of column 'p' .* in row 9",
    ),
    "a null label": (lambda at: table(at, label=nulls(LABELS.tolist(), 9)), "nulls in column 'label' .* in row 9"),
    "probabilities of text": (lambda at: table(at, p=pa.array([["0.5"] * K] * N)), "list<element: string>: prob"),
    "a map": (
        lambda at: table(at, p=pa.array([[("a", 0.5)]] * N, pa.map_(pa.string(), pa.float64()))),
        "has the type map<",
    ),
    "nothing but nulls": (lambda at: table(at, label=pa.nulls(N)), "column 'label' .* has the type null, not integers"),
    "an empty file": (lambda at: table(at, then=lambda _: b""), r"t\.parquet is neither a Parquet nor an Arrow file"),
    "a footer that is damaged": (
        lambda at: table(at, then=lambda octets: octets[:-60] + b"\xff" * 40 + octets[-20:]),
        r"t\.parquet is not a readable Parquet file: [^\n]*$",
    ),
    "rows of an Arrow file below 0": (
        lambda at: arrow_file(at, negative(N)),
        r"t\.feather is not a readable Arrow file",
    ),
    "columns of two lengths": (
        lambda _: in_memory({"label": LABELS[1:], "p": PROBS}),
        "the columns of the dict differ in their number of rows: 'label' has 199, 'p' has 200",
    ),
    "a masked column": (
        lambda _: in_memory({"label": np.ma.masked_equal(LABELS, 3), "p": PROBS}),
        "nulls in column 'label'",
    ),
    "a series as a table": (lambda _: in_memory(pl.Series(LABELS)), "the polars Series has no columns"),
    "a chunked array as a table": (lambda _: in_memory(pa.chunked_array([LABELS])), "ChunkedArray has no columns"),
    # Names, and rows without a label.
    "variants of a name": (
        lambda _: find(changed(changed(NAMED, 7, "cat ", object), 9, "Dog"), PROBS, class_names=NAMES),
        r"in rows 7, 9: 'cat ' \(nearest: 'cat'\), 'Dog' \(nearest: 'dog'\)",
    ),
    "a variant of a name without class_names": (
        lambda _: find(changed(NAMED, 7, "cat ", object), PROBS),
        "more than 4 distinct names, such as 'ant', 'bee', 'cat', 'cat ', 'dog'",
    ),
    "a name twice": (
        lambda _: find(NAMED, PROBS, class_names=["ant", "ant", "cat", "dog"]),
        "'ant' for several classes",
    ),
    "an enum that is not sorted": (
        lambda _: in_memory(categories(pl.Enum(NAMES[::-1]))),
        "categories of labels are in the order 'dog', 'cat', 'bee', 'ant', which is not the sorted one",
    ),
    "an ordered dictionary that is not sorted": (
        lambda _: find(pa.array(pd.Categorical(NAMED, NAMES[::-1], ordered=True)), PROBS),
        "categories of labels are in the order 'dog', 'cat', 'bee', 'ant', which is not the sorted one",
    ),
    "all rows ignored": (lambda _: find(np.full(N, -1), PROBS, ignore_label=-1), "no row has a label: all 200 are -1"),
    "a list of ignored labels": (lambda _: find(LABELS, PROBS, ignore_label=[-1]), "ignore_label must be one label"),
    # Logits and half precision.
    "a logit of NaN": (
        lambda _: find(LABELS, changed(LOGITS, (9, 2), np.nan), from_logits=True),
        "1 NaN logit in row 9",
    ),
    "logits of -inf": (
        lambda _: find(LABELS, changed(LOGITS, 9, -np.inf), from_logits=True),
        "1 row of logits that is all -inf in row 9",
    ),
    "bits of bfloat16": (lambda at: npy(at, BITS), "dtype='bfloat16'"),
    "bits of float16": (
        lambda at: npy(at, PROBS.astype(np.float16).view(np.uint16), dtype="bfloat16"),
        "200 rows of pred_probs do not sum to 1",
    ),
    "float8": (lambda _: find(LABELS, PROBS.astype(ml_dtypes.float8_e4m3fn)), "float8_e4m3fn, which has too few bits"),
    # Files of arrays.
    "no such member": (lambda at: archive(at, "::x", p=PROBS), r"a\.npz has no array 'x' \(it has p\)"),
    "several members": (lambda at: archive(at, p=PROBS, q=PROBS), r"holds several arrays \(it has p, q\)"),
    "objects in an archive": (
        lambda at: archive(at, p=PROBS.astype(object)),
        "Python objects, which are never unpickled",
    ),
    "a header cut off": (lambda at: tensors(at, b'{"p":{"dty'), "its header is damaged"),
    "a header of 2**60 bytes": (lambda at: tensors(at, {}, 2**60), "does not begin with the length of its header"),
    "shape and bytes": (
        lambda at: tensors(at, {"p": F64 | {"shape": [N, 5]}}, body=bytes(8 * N * K)),
        "shape and bytes of p",
    ),
    "a header that is open": (lambda at: npy(at, PROBS, overwritten(100, b"(")), "not a readable .npy file"),
    "a header that is no Python": (lambda at: npy(at, PROBS, overwritten(10, b"$")), "not a readable .npy file"),
    "a negative shape": (
        lambda at: npy(at, PROBS, lambda octets: octets.replace(b"(200, 4), }  ", b"(-200, -4), }")),
        r"not a readable \.npy file: its shape is \(-200, -4\)",
    ),
    "a file of torch": (torch_file, "torch.save, which holds a pickle"),
    # Ensembles and folds.
    "members of other shapes": (lambda _: find(LABELS, Ensemble([PROBS, PROBS[:, :3]])), r"member 1 .* has \(200, 3\)"),
    "NaN in a member": (
        lambda _: find(LABELS, Ensemble([PROBS, changed(PROBS, (33, 1), np.nan)])),
        "1 NaN probability in row 33 of member 1",
    ),
    "rows that cancel out": (
        lambda _: find(LABELS, Ensemble([changed(PROBS, 33, [-1, 2, 0, 0]), changed(PROBS, 33, [2, -1, 0, 0])])),
        "below 0 in row 33 of member 0 .*below 0 in row 33 of member 1",
    ),
    "weights of 0": (lambda _: find(LABELS, Ensemble([PROBS, PROBS], weights=[0, 0])), "add up to 0"),
    "a masked member": (
        lambda _: find(LABELS, Ensemble([PROBS, np.ma.masked_less(PROBS, 0.1)])),
        "member 1 of the ensemble: .*masked",
    ),
    "a row in no fold": (
        lambda _: find(LABELS, Folds([HALVES[0], (PROBS[100:], ROWS[100:] + 1)])),
        "fold 1 .* has row number 200.*no fold has row 100",
    ),
    "a row in two folds": (
        lambda _: find(LABELS, Folds([HALVES[0], (PROBS[100:], changed(ROWS[100:], 0, 99))])),
        "given twice: row 99 in fold 0 .* and fold 1",
    ),
    "a mask as rows": (
        lambda _: find(LABELS, Folds([(PROBS[:100], ROWS < 100)])),
        r"fold 0: .*np\.flatnonzero\(mask\)",
    ),
    "masked rows of a fold": (
        lambda _: find(LABELS, Folds([(PROBS, np.ma.masked_equal(ROWS, 3))])),
        "fold 0: rows is a masked array",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_clear_error(tmp_path, case):
    run, message = BAD[case]
    with pytest.raises(LabelsieveError) as caught:
        run(tmp_path)
    text = str(caught.value)
    assert re.search(message, text, re.DOTALL), text
    assert "Traceback" not in text


def categories(kind):
    return pl.DataFrame({"label": NAMED, "p": PROBS.tolist()}).with_columns(pl.col("label").cast(kind))


def parquet_with_empty_groups(folder):
    data = pa.table({"label": LABELS, "p": PROBS.tolist()})
    with pq.ParquetWriter(folder / "t.parquet", data.schema) as writer:
        for start, stop in [(0, 0), (0, 90), (90, 90), (90, N), (N, N)]:
            writer.write_table(data.slice(start, stop - start))
    return in_memory(folder / "t.parquet")


def folder_with_an_empty_file(folder):
    data = pa.table({"label": LABELS, "p": PROBS.tolist()})
    for name, (start, stop) in {"0": (0, 90), "1": (90, 90), "2": (90, N)}.items():
        pq.write_table(data.slice(start, stop - start), folder / f"{name}.parquet")
    return in_memory(folder)


GOOD = {
    "categories of Polars": lambda _: in_memory(categories(pl.Categorical), class_names=NAMES),
    "an enum of Polars": lambda _: in_memory(categories(pl.Enum(NAMES))),
    "an enum in another order": lambda _: in_memory(categories(pl.Enum(NAMES[::-1])), class_names=NAMES),
    "a dictionary of integers": lambda at: table(at, label=pa.array(LABELS).dictionary_encode()),
    "a dictionary of names": lambda at: table(
        at, label=pa.array(NAMED).dictionary_encode(), choices={"class_names": NAMES}
    ),
    "row groups without rows": parquet_with_empty_groups,
    "a file without rows": folder_with_an_empty_file,
    "columns in another layout": lambda _: in_memory(
        {"label": np.repeat(LABELS, 2)[::2], "p": np.asfortranarray(PROBS)}
    ),
    "a fold without rows": lambda _: find(LABELS, Folds([(PROBS[:0], ROWS[:0]), *HALVES])),
    "an array without masked values": lambda at: record(at, np.ma.array(LABELS), np.ma.array(PROBS)),
}


@pytest.mark.parametrize("case", GOOD)
def test_unusual_input_has_the_bits_of_the_array(tmp_path, want, case):
    assert_same_bits(GOOD[case](tmp_path), want)


def npz_file(path):
    np.savez(path, p=PROBS[:20])


def safetensors_file(path):
    safetensors.numpy.save_file({"p": PROBS[:20]}, path)


@pytest.mark.parametrize(
    ("name", "write", "member"),
    [
        ("p.npy", lambda path: np.save(path, PROBS[:20]), ""),
        ("p.npz", npz_file, "::p"),
        ("p.safetensors", safetensors_file, "::p"),
    ],
)
def test_a_flipped_bit_is_no_error_of_another_library(tmp_path, name, write, member):
    path = tmp_path / name
    write(path)
    octets, rng = path.read_bytes(), np.random.default_rng(0)
    places = sorted({*range(0, 130, 6), *range(len(octets) - 120, len(octets), 6)})
    n_errors = 0
    for place in places:
        damaged = bytearray(octets)
        damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        try:
            find(LABELS[:20], f"{path}{member}")
        except LabelsieveError:
            n_errors += 1
    assert n_errors > 5
