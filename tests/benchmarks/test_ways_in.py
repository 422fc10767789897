"""What each form of predictions costs beside the plain one: logits, half precision, ensembles, Parquet, a recorder.

Tiny with ``--benchmarks``, so that it cannot rot; ``pytest tests/benchmarks -s --real-size`` runs it on gigabytes and
prints ratios of medians, measured in turn. What is asserted is the result, and the size on disk: no wall time.
"""

import statistics
import time
from functools import partial

import dask.array as da
import numpy as np
import pytest

import draws
import labelsieve

pytestmark = pytest.mark.slow
RUNS = 7


@pytest.fixture
def real(request):
    return request.config.getoption("--real-size")


def in_turn(runs, **functions):
    """Return the median seconds of each function, all called `runs` times in turn, and its last result."""
    seconds, results = {name: [] for name in functions}, {}
    for _ in range(runs):
        for name, function in functions.items():
            started = time.perf_counter()
            results[name] = function()
            seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(taken) for name, taken in seconds.items()}, results


def compared(name, seconds, other, base):
    print(f"\n{name}: {seconds[other]:.3f} s beside {seconds[base]:.3f} s, {seconds[other] / seconds[base]:.2f}")


def logits_of(n_rows, n_classes, seed=0):
    rng = np.random.default_rng(seed)
    true = rng.integers(0, n_classes, n_rows)
    logits = rng.standard_normal((n_rows, n_classes), dtype=np.float32)
    logits[np.arange(n_rows), true] += 3 + np.log(n_classes)
    return np.where(rng.random(n_rows) < 0.05, rng.integers(0, n_classes, n_rows), true), logits


def softmax(logits, dtype=np.float32):
    out = np.empty(logits.shape, dtype)
    for rows in np.split(np.arange(len(logits)), range(10_000, len(logits), 10_000)):
        exp = np.exp(logits[rows].astype(np.float64) - logits[rows].max(axis=1, keepdims=True))
        out[rows] = exp / exp.sum(axis=1, keepdims=True)
    return out


def find(*places, **choices):
    return partial(labelsieve.find_label_issues, *places, progress=False, **choices)


def test_logits(tmp_path, real):
    labels, logits = logits_of(*((400_000, 500) if real else (3000, 50)))
    for name, array in {"labels": labels, "logits": logits, "probs": softmax(logits)}.items():
        np.save(tmp_path / f"{name}.npy", array)
    labels, logits, probs = (tmp_path / f"{name}.npy" for name in ("labels", "logits", "probs"))
    seconds, found = in_turn(
        RUNS if real else 1, logits=find(labels, logits, from_logits=True), probs=find(labels, probs)
    )
    compared("logits", seconds, "logits", "probs")
    # Probabilities that were rounded to float32 may be on the other side of a cut.
    assert len(np.setxor1d(found["logits"].indices, found["probs"].indices)) <= 1e-4 * len(found["probs"].scores)


def test_bfloat16(tmp_path, real):
    labels, probs = draws.draw_part(np.random.default_rng(0), *((1_000_000, 500) if real else (3000, 50)))[::-1]
    np.save(tmp_path / "labels.npy", labels)
    np.save(tmp_path / "half.npy", probs.astype(np.float16))
    bits = probs.view(np.uint32)
    np.save(tmp_path / "bfloat16.npy", ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16))
    widened = (np.load(tmp_path / "bfloat16.npy").astype(np.uint32) << 16).view(np.float32)
    want = find(labels, widened)()
    del widened
    labels = tmp_path / "labels.npy"
    seconds, found = in_turn(
        RUNS if real else 1,
        bfloat16=find(labels, tmp_path / "bfloat16.npy", dtype="bfloat16"),
        half=find(labels, tmp_path / "half.npy"),
    )
    compared("bfloat16", seconds, "bfloat16", "half")
    draws.assert_same_bits(found["bfloat16"], want)


def test_an_ensemble_of_three(tmp_path, real):
    shape = (400_000, 500) if real else (3000, 50)
    members = [tmp_path / f"{name}.npy" for name in "abc"]
    for seed, member in enumerate(members):
        labels, logits = logits_of(*shape)
        logits += np.random.default_rng(seed + 1).standard_normal(shape, dtype=np.float32)
        np.save(member, softmax(logits))
    np.save(tmp_path / "labels.npy", labels)
    labels = tmp_path / "labels.npy"
    seconds, found = in_turn(
        RUNS if real else 1, three=find(labels, labelsieve.Ensemble(members)), one=find(labels, members[0])
    )
    compared("ensemble of three", seconds, "three", "one")
    rows = slice(0, 3000)
    a, b, c = (np.load(member, mmap_mode="r")[rows].astype(np.float64) for member in members)
    np.testing.assert_array_equal(
        found["three"].scores[rows], ((a + b + c) / 3)[np.arange(3000), np.load(labels)[rows]]
    )


def test_parquet(tmp_path, real):
    import pyarrow as pa
    import pyarrow.parquet as pq

    n_rows, n_classes = (10_000_000, 100) if real else (20_000, 10)
    rng, step = np.random.default_rng(0), 100_000
    schema = pa.schema([("label", pa.int64()), ("probs", pa.list_(pa.float32(), n_classes))])
    probs = np.lib.format.open_memmap(tmp_path / "probs.npy", "w+", np.float32, (n_rows, n_classes))
    labels = np.empty(n_rows, np.int64)
    with pq.ParquetWriter(tmp_path / "p.parquet", schema, compression="zstd", use_dictionary=False) as writer:
        for start in range(0, n_rows, step):
            rows = slice(start, min(start + step, n_rows))
            probs[rows], labels[rows] = draws.draw_part(rng, rows.stop - start, n_classes)
            column = pa.FixedSizeListArray.from_arrays(pa.array(probs[rows].ravel()), n_classes)
            writer.write_table(pa.table([pa.array(labels[rows]), column], schema=schema))
    np.save(tmp_path / "labels.npy", labels)
    del probs

    def read_and_drop():
        from concurrent.futures import ThreadPoolExecutor

        def read(thread):
            with pq.ParquetFile(tmp_path / "p.parquet", pre_buffer=False) as file:
                for group in range(thread, file.num_row_groups, 2):
                    for _ in file.iter_batches(10_000, row_groups=[group], use_threads=False):
                        pass

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(read, range(2)))

    seconds, found = in_turn(
        3 if real else 1,
        parquet=find(data=tmp_path / "p.parquet", labels="label", pred_probs="probs"),
        pyarrow=read_and_drop,
    )
    compared("Parquet", seconds, "parquet", "pyarrow")
    draws.assert_same_bits(found["parquet"], find(tmp_path / "labels.npy", tmp_path / "probs.npy")())


def test_recorder(tmp_path, real):
    n_classes, batch, n_batches = (1000, 1000, 2000) if real else (20, 500, 20)
    probs, labels = draws.draw_part(np.random.default_rng(0), batch, n_classes)
    seconds, cpu = time.perf_counter(), time.thread_time()
    with labelsieve.Recorder(tmp_path / "record", n_classes=n_classes) as recorder:
        for number in range(n_batches):
            recorder.update(labels, probs, rows=np.arange(number * batch, (number + 1) * batch))
    seconds, cpu = time.perf_counter() - seconds, time.thread_time() - cpu
    n_bytes = sum(file.stat().st_size for file in (tmp_path / "record").rglob("*") if file.is_file())
    read = probs.nbytes * n_batches / 1e9
    print(
        f"\nrecorder: {read / seconds:.1f} GB/s ({read / cpu:.1f} of CPU), "
        f"{n_bytes / batch / n_batches:.1f} bytes per row"
    )
    found = find(summaries=tmp_path / "record")()
    # The same batch each time: the array has it once, and a Dask array repeats it.
    repeated = da.concatenate([da.from_array(probs, chunks=-1)] * n_batches)
    draws.assert_same_bits(found, find(np.tile(labels, n_batches), repeated)())
    if real:
        assert n_bytes <= 24 * batch * n_batches
