"""Records: what was written comes back, or is refused; cut or altered anywhere, never read as other data."""

import io
import itertools
import json
import struct
import tracemalloc
import zlib

import fsspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from labelsieve.storage.checked import DamagedRecordError, Record, RecordWriter
from labelsieve.storage.folder import LocalFolder, open_folder

DTYPES = ["?", *(f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)), "f2", "f4", "f8"]
HEADER = {"kind": "test", "rows": [3, 8]}


def write(folder, name, blocks, header=HEADER, footer=None):
    with folder.create(name) as file:
        writer = RecordWriter(file, header)
        for block in blocks:
            writer.add(block)
        writer.finish({} if footer is None else footer)


def joined(blocks, names):
    return {name: np.concatenate([block[name] for block in blocks]) for name in names}


def whole(folder, name):
    """Return all that a record says."""
    with Record(folder, name) as record:
        list(record.blocks())
        blocks = [{key: (c.dtype.str, c.tobytes()) for key, c in block.items()} for block in record.blocks()]
        return record.header, record.footer, record.n_rows, blocks


@pytest.fixture
def folder(tmp_path):
    return LocalFolder(tmp_path)


@pytest.fixture(params=["disk", "memory://records/here"])
def any_folder(request, tmp_path):
    """A folder on the disk, and one at a URL."""
    if request.param == "disk":
        yield LocalFolder(tmp_path)
    else:
        yield open_folder(request.param)
        fsspec.filesystem("memory").store.clear()


# Round trips -----------------------------------------------------------------------------------------------------


@pytest.mark.every_value
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("order", ["<", ">"])
def test_every_dtype_comes_back_in_native_order(any_folder, dtype, order):
    rng = np.random.default_rng(1)
    native = np.frombuffer(rng.bytes(8 * 13), np.uint8)[: 13 * np.dtype(dtype).itemsize]
    column = (native > 127)[:13] if dtype == "?" else native.view(dtype)
    write(any_folder, "a", [{"x": column.astype(np.dtype(dtype).newbyteorder(order), copy=False)}])
    with Record(any_folder, "a") as record:
        [block] = record.blocks()
    assert block["x"].dtype == np.dtype(dtype)
    assert block["x"].dtype.isnative
    # Not by value: NaN is a value too.
    assert block["x"].astype(column.dtype).tobytes() == column.tobytes()


@st.composite
def records(draw):
    """Draw blocks of the same columns, with or without rows."""
    dtypes = draw(st.dictionaries(st.text(min_size=1, max_size=5), st.sampled_from(DTYPES), min_size=1, max_size=5))
    lengths = draw(st.lists(st.integers(0, 9), max_size=5))
    return dtypes, [{name: draw(arrays.arrays(d, n)) for name, d in dtypes.items()} for n in lengths]


@given(records(), st.integers(0, 50), st.integers(0, 50))
def test_any_rows_come_back(tmp_path_factory, drawn, start, stop):
    dtypes, blocks = drawn
    folder = LocalFolder(tmp_path_factory.mktemp("records"))
    write(folder, "a", blocks, footer={"n": len(blocks)})
    with Record(folder, "a") as record:
        list(record.blocks())
        assert (record.header, record.footer) == (HEADER, {"n": len(blocks)})
        assert record.n_rows == sum(len(block[next(iter(dtypes))]) for block in blocks)
        every, some = list(record.blocks()), list(record.blocks(start, stop))
    assert all(list(block) and all(len(column) for column in block.values()) for block in every + some)
    for name, dtype in dtypes.items():
        want = np.concatenate([np.empty(0, dtype), *(block[name] for block in blocks)])
        for got, rows in ((every, slice(None)), (some, slice(start, stop))):
            column = np.concatenate([np.empty(0, dtype), *(block[name] for block in got)])
            assert column.dtype == want.dtype
            assert column.tobytes() == want[rows].tobytes()


def test_strided_columns_come_back(folder):
    column = np.arange(20)[::3]
    write(folder, "a", [{"x": column, "y": np.asfortranarray(np.arange(7.0))}])
    with Record(folder, "a") as record:
        [block] = record.blocks()
    assert block["x"].tolist() == column.tolist()


def test_rows_of_a_block_are_views_of_one_read_and_other_blocks_are_not_read(folder, monkeypatch):
    blocks = [{"x": np.arange(10 * i, 10 * i + 10)} for i in range(5)]
    write(folder, "a", blocks)
    taken = []
    inner = Record._read_block
    monkeypatch.setattr(Record, "_read_block", lambda self, *block: taken.append(block) or inner(self, *block))
    with Record(folder, "a") as record:
        assert joined(list(record.blocks(18, 33)), ["x"])["x"].tolist() == list(range(18, 33))
    assert len(taken) == 3


def test_a_block_of_other_columns_is_refused(folder):
    writer = RecordWriter(io.BytesIO(), HEADER)
    writer.add({"x": np.zeros(3, "i4")})
    with pytest.raises(ValueError, match="a block of"):
        writer.add({"x": np.zeros(3, "i8")})
    with pytest.raises(ValueError, match="a block of"):
        writer.add({"y": np.zeros(3, "i4")})


def test_a_record_is_no_pickle_and_says_what_it_is(folder):
    write(folder, "a", [{"x": np.zeros(3)}])
    content = folder.read("a")
    length, checksum, written_format = struct.unpack("<QI20s", content[-32:])
    assert written_format == b"labelsieve record 3\n"
    assert content[: -32 - length] == bytes(24)
    assert zlib.crc32(content[-32 - length : -32]) == checksum
    assert json.loads(content[-32 - length : -32])["header"] == HEADER


def test_records_of_the_same_rows_are_the_same_bytes(folder):
    for name in "ab":
        write(folder, name, [{"x": np.arange(5), "y": np.ones(5)}], footer={"b": 1, "a": 2})
    assert folder.read("a") == folder.read("b")


# Damaged ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def small(folder):
    """A record of two blocks with columns of two widths, and its bytes."""
    blocks = [
        {"label": np.array([1, 2, 3], np.uint8), "p": np.array([0.25, 0.5, 0.75], np.float32)},
        {"label": np.array([7], np.uint8), "p": np.array([0.125], np.float32)},
    ]
    write(folder, "a", blocks, footer={"sums": [1, 2]})
    return whole(folder, "a"), folder.read("a")


def assert_damaged(folder, content, want):
    """Hold that `content` is no record; or, at the very least, never one that says something else than `want`."""
    folder.write("b", content)
    with pytest.raises(DamagedRecordError, match="is not a whole record: ") as caught:
        whole(folder, "b")
    assert str(folder.path / "b") in str(caught.value)


def test_cut_at_every_length_it_is_damaged(folder, small):
    want, content = small
    for length in range(len(content)):
        assert_damaged(folder, content[:length], want)


def test_with_every_byte_flipped_it_is_damaged(folder, small):
    want, content = small
    for at, flip in itertools.product(range(len(content)), (0x01, 0x80, 0xFF)):
        altered = bytearray(content)
        altered[at] ^= flip
        assert_damaged(folder, bytes(altered), want)


def test_with_zeros_for_what_was_not_written_it_is_damaged(folder, small):
    # A power cut leaves a file of the right length with holes.
    want, content = small
    for start, length in itertools.product(range(len(content)), (1, 7, len(content))):
        altered = (content[:start] + bytes(length) + content[start + length :])[: len(content)]
        if altered != content:
            assert_damaged(folder, altered, want)


def test_with_anything_behind_or_before_it_it_is_damaged(folder, small):
    want, content = small
    for more in (b"\0", b"more", content):
        assert_damaged(folder, content + more, want)
        assert_damaged(folder, more[:4] + content, want)


@given(st.binary(max_size=200), st.data())
def test_alien_files_are_damaged(tmp_path_factory, content, data):
    folder = LocalFolder(tmp_path_factory.mktemp("alien"))
    if data.draw(st.booleans()):
        content += data.draw(st.sampled_from([b"labelsieve record 2\n", b"labelsieve record 3\n"]))
    folder.write("b", content)
    with pytest.raises(DamagedRecordError):
        whole(folder, "b")


@pytest.mark.parametrize(
    "footer",
    [
        {},
        {"blocks": []},
        {"header": {}, "blocks": [], "footer": {}, "columns": [["x", "no dtype"]]},
        {"header": {}, "blocks": [], "footer": {}, "columns": "xy"},
        {"header": {}, "blocks": [], "footer": {}, "columns": None},
        {"header": {}, "blocks": 7, "footer": {}, "columns": []},
        {"header": {}, "blocks": [[1, 0]], "footer": {}, "columns": [["x", "u1"]]},
        [],
        None,
        7,
    ],
)
def test_a_footer_that_lacks_something_is_damaged(folder, footer):
    content = json.dumps(footer).encode()
    folder.write("b", content + struct.pack("<QI20s", len(content), zlib.crc32(content), b"labelsieve record 3\n"))
    with pytest.raises(DamagedRecordError):
        whole(folder, "b")


@pytest.mark.parametrize("n_blocks", [1, 20, 5000])
def test_a_footer_of_any_length_is_read(any_folder, n_blocks):
    write(any_folder, "a", [{"x": np.array([i])} for i in range(n_blocks)], footer={"long": "x" * n_blocks})
    with Record(any_folder, "a") as record:
        assert joined(list(record.blocks()), "x")["x"].tolist() == list(range(n_blocks))
        assert record.footer == {"long": "x" * n_blocks}


def test_a_record_that_was_never_finished_is_damaged(folder):
    with folder.create("a") as file:
        RecordWriter(file, HEADER).add({"x": np.arange(3)})
    with pytest.raises(DamagedRecordError):
        Record(folder, "a")


def test_a_record_that_is_not_there_is_not_found(any_folder):
    with pytest.raises(FileNotFoundError):
        Record(any_folder, "none")


def test_a_record_whose_writing_fails_is_not_there(any_folder):
    def failing():
        with any_folder.create("a") as file:
            RecordWriter(file, HEADER).add({"x": np.arange(3)})
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        failing()
    assert any_folder.names() == []


def test_a_damaged_record_is_closed(folder, small, recwarn):
    _, content = small
    folder.write("b", content[:-3])
    with pytest.raises(DamagedRecordError):
        Record(folder, "b")
    assert not recwarn.list, "no file was left to the garbage collector"


def test_a_length_that_is_nonsense_costs_nothing(folder, small):
    _, content = small
    altered = bytearray(content)
    altered[-32:-24] = b"\xff" * 8  # the footer's length
    folder.write("b", bytes(altered))
    tracemalloc.start()
    with pytest.raises(DamagedRecordError):
        whole(folder, "b")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10_000_000
