"""The filters of cleanlab, out of core: its rows in its order, what loops find, the same bits however work is cut."""

import os
import signal
import types
import warnings

import cleanlab.count
import cleanlab.dataset
import cleanlab.filter
import cleanlab.rank
import dask
import dask.array as da
import numpy as np
import pytest
from distributed import Client, LocalCluster
from hypothesis import given
from hypothesis import strategies as st

import labelsieve
import naive
from draws import SHAPES, bits, datasets, draw, few_of_many, in_turn, n_calls, odd, pieces
from labelsieve import InvalidInputError, LabelsieveWarning, MemoryLimitError, find_label_issues
from labelsieve.confident_learning import select as radix_select_by_class
from labelsieve.confident_learning import select as top_k_by_pair
from labelsieve.execution.cluster import ClusterExecutor
from labelsieve.job import scan
from labelsieve.job import scan as rescan
from naive_joint import FILTERS, PRUNING, filtered
from workdirs import record_files

N_ROWS = 600
LABELS, PROBS = draw(N_ROWS, 5, seed=51, noise=0.3, signal=1.5)
CUT = {"batch_size": 20, "partition_batches": 2}  # fifteen partitions of 40 rows
OPTIONS = [
    {},
    {"frac_noise": 0.37},
    {"frac_noise": 0.0},
    {"min_examples_per_class": 0},
    {"min_examples_per_class": 60, "frac_noise": 0.9},
    {"num_to_remove_per_class": "some"},
]
every_filter = pytest.mark.parametrize("filter_by", FILTERS)


def find(labels=LABELS, probs=PROBS, **choices):
    return find_label_issues(labels, probs, progress=False, **choices)


class StableSorts(types.ModuleType):
    """NumPy whose argsort is stable, so that of rows that tie the lower one comes first."""

    def __getattr__(self, name):
        return getattr(np, name)

    @staticmethod
    def argsort(values):
        return np.argsort(values, kind="stable")


def theirs(labels, probs, filter_by, rank_by="self_confidence", adjust=False, **options):
    """Return the rows of cleanlab's in-memory filter on a float64 copy, with ties at a cut in row order."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of few rows, and of what it divides by 0
        patch.setattr(cleanlab.filter, "np", StableSorts("numpy"))
        patch.setattr(cleanlab.rank, "np", StableSorts("numpy"))
        return cleanlab.filter.find_label_issues(
            np.asarray(labels),
            np.asarray(probs, np.float64),
            filter_by=filter_by,
            return_indices_ranked_by=rank_by,
            rank_by_kwargs={"adjust_pred_probs": adjust},
            n_jobs=1,
            **options,
        )


# Against cleanlab --------------------------------------------------------------------------------------------------


@pytest.fixture(params=["digits", "wine", "breast_cancer"])
def dataset(request, real_datasets):
    return real_datasets[request.param]


def of_filter(options, filter_by, labels, n_classes):
    """Return the options that a filter has, with as many numbers as there are classes."""
    options = dict(options) if filter_by in PRUNING else {}
    if options.get("num_to_remove_per_class") == "some":
        sizes = np.bincount(labels, minlength=n_classes)
        options["num_to_remove_per_class"] = [int(size) // (k + 4) for k, size in enumerate(sizes)]
    return options


def assert_cleanlab(labels, probs, filter_by, rank=("self_confidence", False), **options):
    n_classes = probs.shape[1]
    options = of_filter(options, filter_by, labels, n_classes)
    want = theirs(labels, probs, filter_by, *rank, **options)
    got = find(
        labels, probs, filter_by=filter_by, rank_by=rank[0], adjust_pred_probs=rank[1], batch_size=100, **options
    )
    if rank in naive.EXACT:
        assert want.tolist() == got.indices.tolist()
    else:  # sums over a row may differ in the last bit
        assert sorted(want.tolist()) == sorted(got.indices.tolist())
        scores = np.asarray(got.scores)
        np.testing.assert_allclose(scores[want], scores[got.indices], rtol=1e-12, atol=1e-12)
    return got


@pytest.mark.every_pair
@every_filter
@pytest.mark.parametrize("rank", naive.CLEANLAB_METHODS, ids=str)
def test_rows_and_order_are_those_of_cleanlab(dataset, filter_by, rank):
    found = assert_cleanlab(*dataset, filter_by, rank)
    assert found.num_issues > 0


@pytest.mark.every_pair
@pytest.mark.parametrize("filter_by", PRUNING)
@pytest.mark.parametrize("options", OPTIONS[1:], ids=str)
@pytest.mark.filterwarnings("ignore:.* no more than:labelsieve.LabelsieveWarning")
def test_options_of_the_pruning_filters_are_those_of_cleanlab(dataset, filter_by, options):
    assert_cleanlab(*dataset, filter_by, **options)


@every_filter
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.filterwarnings("ignore:.* no more than:labelsieve.LabelsieveWarning")
def test_odd_data_gives_the_rows_of_cleanlab(filter_by, shape):
    labels, probs = odd(shape)
    for options in OPTIONS if filter_by in PRUNING else [{}]:
        assert_cleanlab(labels, probs, filter_by, ("normalized_margin", False), **options)


# Against loops -----------------------------------------------------------------------------------------------------


@given(data=datasets(), filter_by=st.sampled_from(FILTERS), frac_noise=st.sampled_from([1.0, 0.5, 0.3]))
@pytest.mark.filterwarnings("ignore:.* no more than:labelsieve.LabelsieveWarning")
def test_every_filter_finds_what_loops_find(data, filter_by, frac_noise):
    options = {"frac_noise": frac_noise} if filter_by in PRUNING else {}
    want = filtered(*data, filter_by, **options)
    with pieces():
        got = find(*data, filter_by=filter_by, **CUT, **options)
    assert want == got.indices.tolist()


@pytest.mark.parametrize("filter_by", [None, *FILTERS])
@pytest.mark.filterwarnings("ignore:.* no more than:labelsieve.LabelsieveWarning")
def test_classes_without_rows_are_no_work(filter_by):
    found = {}

    def run(k):
        found[k] = find(*few_of_many(k), filter_by=filter_by)
        found[k].class_summary()
        found[k].confused_pairs()

    with dask.config.set(scheduler="synchronous"):  # calls are counted in this thread
        run(40)  # imports
        # A loop over all classes would be 10,000 calls and more.
        assert abs(n_calls(lambda: run(10_000)) - n_calls(lambda: run(40))) < 1000
    assert found[40].indices.tolist() == found[10_000].indices.tolist() != []


@pytest.fixture
def small_rounds(monkeypatch):
    """Make small data large: cuts of classes and candidates of pairs go through all their rounds."""
    monkeypatch.setattr(radix_select_by_class, "_BINS", 16)
    monkeypatch.setattr(
        "labelsieve.confident_learning.select.find_cuts",
        lambda cuts, within, find_cuts=radix_select_by_class.find_cuts: find_cuts(cuts, within, max_candidates=3),
    )
    monkeypatch.setattr(top_k_by_pair, "_PIECE", 7)
    monkeypatch.setattr(top_k_by_pair, "_MOST_CANDIDATES", 16)


@pytest.mark.parametrize(
    ("shape", "filter_by", "few_pairs"), in_turn([None, *SHAPES], PRUNING, [0, 4096], times=2), ids=str
)
@pytest.mark.filterwarnings("ignore:.* no more than:labelsieve.LabelsieveWarning")
def test_rounds_change_no_row(monkeypatch, small_rounds, few_pairs, filter_by, shape):
    monkeypatch.setattr(top_k_by_pair, "_FEW_PAIRS", few_pairs)
    labels, probs = (LABELS, PROBS) if shape is None else odd(shape)
    want = filtered(labels, probs, filter_by)
    with pieces():
        assert want == find(labels, probs, filter_by=filter_by, **CUT).indices.tolist()


def test_rows_whose_label_is_predicted_take_the_places_that_are_theirs():
    # Few rows labelled 0 are confident, half of them as 1: after calibration 42 rows are wanted of this pair, and most
    # of those are rows predicted as 0, which are no issues. They come before five that are predicted as 2.
    kinds = [
        (0, 10, (0.9, 0.05, 0.05)),
        (0, 10, (0.05, 0.9, 0.05)),
        (0, 5, (0.35, 0.25, 0.4)),
        (0, 60, (0.44, 0.42, 0.14)),
        (1, 40, (0.1, 0.85, 0.05)),
        (2, 40, (0.02, 0.02, 0.96)),
    ]
    labels = np.repeat([label for label, _, _ in kinds], [n for _, n, _ in kinds])
    probs = np.repeat([row for _, _, row in kinds], [n for _, n, _ in kinds], axis=0)
    want = theirs(labels, probs, "prune_by_noise_rate")
    assert sorted(want.tolist()) == list(range(10, 20))
    with pieces():
        assert want.tolist() == find(labels, probs, filter_by="prune_by_noise_rate", **CUT).indices.tolist()


# What must not matter ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def want():
    return {by: bits(find(filter_by=by)) for by in FILTERS}


def all_bits(found):
    """Return `bits` with the counts that the tables rest on."""
    counts = found.confident
    return bits(found) | {"joint": [counts.diagonal.tolist(), counts.pairs.tolist(), counts.counts.tolist()]}


@pytest.mark.parametrize(
    ("filter_by", "rank"),
    [
        *in_turn(FILTERS, [("self_confidence", False), ("normalized_margin", True)]),
        ("predicted_neq_given", ("self_confidence", False)),
    ],
    ids=str,
)
def test_no_way_of_working_changes_a_bit(tmp_path, filter_by, rank):
    choices = {"filter_by": filter_by, "rank_by": rank[0], "adjust_pred_probs": rank[1]}
    whole = all_bits(find(**choices))
    probs32 = PROBS.astype(np.float32)
    np.save(tmp_path / "labels.npy", LABELS)
    np.save(tmp_path / "probs.npy", PROBS)
    files = [tmp_path / "labels.npy", tmp_path / "probs.npy"]
    ways = {
        "cut": find(**choices, **CUT),
        "one row a batch": find(**choices, batch_size=1, partition_batches=100),
        "layout": find(LABELS.astype(np.uint8), np.asfortranarray(PROBS), **choices),
        "byte order": find(LABELS.astype(">i4"), PROBS.astype(">f8"), **choices),
        "dask": find(da.from_array(LABELS, chunks=77), da.from_array(PROBS, chunks=(50, 2)), **choices),
        "files": find(*files, **choices, **CUT),
        "forks": find(*files, **choices, **CUT, n_jobs=2),
        "workdir": find(**choices, **CUT, workdir=tmp_path / "work"),
        "the same workdir": find(**choices, **CUT, workdir=tmp_path / "work"),
        "output": find(**choices, **CUT, output=tmp_path / "found.zarr"),
        "loaded": labelsieve.load(tmp_path / "found.zarr"),
    }
    with dask.config.set(scheduler="synchronous"):
        ways["one thread"] = find(**choices, **CUT)
    for name, found in ways.items():
        assert whole == all_bits(found), name
    assert all_bits(find(LABELS, probs32.astype(">f4"), **choices)) == all_bits(find(LABELS, probs32, **choices))
    narrow = find(LABELS, probs32, **choices)
    assert all_bits(narrow) == all_bits(find(LABELS, probs32.astype(np.float64), **choices))


@pytest.mark.parametrize("filter_by", ["predicted_neq_given", "both"])  # of one read and of all three
def test_processes_change_no_bit(filter_by, want):
    with dask.config.set(scheduler="processes", num_workers=2):
        assert want[filter_by] == bits(find(filter_by=filter_by, batch_size=200, partition_batches=1))


def cluster_of(*, processes):
    """Start two workers of one thread."""
    return LocalCluster(n_workers=2, threads_per_worker=1, processes=processes, dashboard_address="127.0.0.1:0")


@pytest.fixture(scope="module")
def in_one_process():
    with cluster_of(processes=False) as cluster, Client(cluster, set_as_default=False) as client:
        yield client


@pytest.fixture(scope="module")
def in_processes():
    with cluster_of(processes=True) as cluster, Client(cluster, set_as_default=False) as client:
        yield client


@pytest.fixture(params=["in_one_process", pytest.param("in_processes", marks=pytest.mark.slow)])
def client(request):
    return request.getfixturevalue(request.param)


@every_filter
def test_clusters_change_no_bit(client, filter_by, want, tmp_path):
    ways = {
        "cluster": find(filter_by=filter_by, client=client, **CUT),
        "workdir": find(filter_by=filter_by, client=client, workdir=tmp_path / "work", **CUT),
        "output": find(filter_by=filter_by, client=client, output=tmp_path / "found.zarr", **CUT),
    }
    for name, found in ways.items():
        assert want[filter_by] == bits(found), name


# Reads -------------------------------------------------------------------------------------------------------------

READS = dict.fromkeys(FILTERS, 2) | {"predicted_neq_given": 1, "prune_by_noise_rate": 3, "both": 3}


@every_filter
@pytest.mark.parametrize("rank_by", ["self_confidence", "normalized_margin"])
def test_pred_probs_is_read_as_often_as_planned_and_no_row_more(filter_by, rank_by):
    read = []

    def block(values):
        read.append(len(values))
        return values

    probs = da.from_array(PROBS, chunks=(50, -1)).map_blocks(block, meta=np.empty((0, 0)))
    choices = {"filter_by": filter_by, "rank_by": rank_by, "adjust_pred_probs": rank_by == "normalized_margin"}
    n_reads = READS[filter_by] + (rank_by == "normalized_margin" and filter_by == "predicted_neq_given")
    with pytest.MonkeyPatch.context() as patch, dask.config.set(scheduler="synchronous"):
        patch.setattr("labelsieve.job.inputs.kept_bytes", lambda *_: 0)
        plan = labelsieve.plan_label_issues(LABELS, probs, **choices)
        if n_reads > 1:
            with pytest.warns(LabelsieveWarning, match=f"computed {'twice' if n_reads == 2 else '3 times'}"):
                found = find(LABELS, probs, **choices)
        else:
            found = find(LABELS, probs, **choices)
    assert sum(read) == n_reads * N_ROWS
    assert plan.n_reads == found.facts.n_reads == n_reads
    assert plan.bytes_read == found.facts.bytes_read == n_reads * PROBS.nbytes


# Going on ----------------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """What a killed run ends with."""


@pytest.mark.parametrize("n_done", [0, 1, 6, 14])
@pytest.mark.parametrize("step", ["scan", "rescan", "pair_candidates"])
def test_a_killed_run_goes_on_where_it_was(tmp_path, monkeypatch, want, step, n_done):
    choices = {"filter_by": "both", "workdir": tmp_path / "work", **CUT}
    module = {
        "scan": scan,
        "rescan": rescan,
        "pair_candidates": rescan,
    }[step]
    inner, done = getattr(module, step), []

    def counting(partition, *args, **kwargs):
        if len(done) == n_done:
            raise Killed
        done.append(partition.index)
        return inner(partition, *args, **kwargs)

    with monkeypatch.context() as patch, dask.config.set(scheduler="synchronous", num_workers=1):
        patch.setattr(module, step, counting)
        with pytest.raises(Killed):
            find(**choices)
    assert len(done) == n_done
    with dask.config.set(num_workers=1):
        found = find(**choices)
    assert bits(found) == want["both"]
    rows = PROBS.nbytes // N_ROWS
    before = {"scan": 0, "rescan": 600, "pair_candidates": 1200}[step]
    # Of the third read whole rounds are kept: of one partition each, fifteen being few for one thread.
    assert found.facts.bytes_read == rows * (3 * 600 - before - 40 * n_done)


@pytest.mark.parametrize("kind", ["rescan", "margins"])
def test_a_damaged_record_of_a_later_read_is_made_again(tmp_path, want, kind):
    choices = {"filter_by": "both", "workdir": tmp_path / "work", **CUT}
    find(**choices)
    path = tmp_path / "work" / kind / record_files(tmp_path / "work", kind)[0]
    path.write_bytes(path.read_bytes()[:-7])
    found = find(**choices)
    assert bits(found) == want["both"]
    assert found.facts.bytes_read == {"rescan": 40, "margins": 600}[kind] * 5 * 8


def test_a_workdir_of_another_filter_is_refused_with_the_difference(tmp_path):
    find(filter_by="confident_learning", workdir=tmp_path / "work")
    with pytest.raises(labelsieve.WorkdirError, match=r"settings.filter_by was confident_learning, is both"):
        find(filter_by="both", workdir=tmp_path / "work")


@pytest.mark.filterwarnings("ignore:labels and pred_probs do not seem to belong together:UserWarning")
@pytest.mark.parametrize("filter_by", ["prune_by_noise_rate", "both"])
def test_more_candidates_than_fit_are_refused_before_they_are_looked_for(filter_by, monkeypatch):
    monkeypatch.setattr(rescan, "pair_candidates", lambda *_args, **_options: pytest.fail("it reads a third time"))
    labels = np.random.default_rng(0).integers(0, 5, 20_000)
    probs = np.random.default_rng(1).dirichlet(np.ones(5), 20_000)
    planned = labelsieve.plan_label_issues(labels, probs, filter_by=filter_by).process_bytes
    with pytest.raises(
        MemoryLimitError, match=r"the 1\d,\d\d\d rows of largest margin of all pairs would take [\d.]+ MB"
    ):
        find(labels, probs, filter_by=filter_by, max_memory=planned)


# Choices -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("choices", "says"),
    [
        ({"filter_by": "prune"}, "filter_by must be one of both, .*; not 'prune'"),
        ({"rank_by": "normalized_margin"}, "rank_by needs filter_by"),
        (
            {"filter_by": "both", "rank_by": "self_confidence", "method": "normalized_margin"},
            "two scores to rank by",
        ),
        ({"filter_by": "both", "rank_by": "margin"}, "method must be one of"),
        ({"filter_by": "both", "rule": "predicted_class"}, "counts by rule='confident_joint' only"),
        ({"rule": "argmax"}, "rule must be one of predicted_class, confident_joint"),
        ({"frac_noise": 0.5}, "filter_by=None does not use frac_noise"),
        ({"min_examples_per_class": 2}, "does not use min_examples_per_class"),
        (
            {"filter_by": "confident_learning", "num_to_remove_per_class": [1] * 5},
            "filter_by='confident_learning' does not use num_to_remove_per_class",
        ),
        ({"filter_by": "both", "num_to_remove_per_class": [1] * 4}, "has 4 numbers, pred_probs 5 classes"),
        ({"filter_by": "both", "num_to_remove_per_class": 3}, "must be a list of K whole numbers, not 3"),
        ({"filter_by": "both", "num_to_remove_per_class": [1, 2, -1, 0, 0]}, "whole number of at least 0, not -1"),
        ({"filter_by": "both", "num_to_remove_per_class": "11111"}, "must be a list of K whole numbers"),
        ({"filter_by": "both", "num_to_remove_per_class": np.ones((5, 1), int)}, "must be a list of K whole numbers"),
        ({"filter_by": "both", "num_to_remove_per_class": np.array(3)}, "must be a list of K whole numbers"),
        ({"filter_by": "both", "num_to_remove_per_class": dict.fromkeys(range(5), 1)}, "must be a list of K whole"),
        ({"filter_by": "both", "num_to_remove_per_class": [10**25] * 5}, "more rows than can be counted"),
        ({"filter_by": "both", "frac_noise": 1.5}, "frac_noise must be a number from 0 to 1, not 1.5"),
        ({"filter_by": "both", "frac_noise": float("nan")}, "frac_noise must be a number from 0 to 1"),
        ({"filter_by": "both", "frac_noise": True}, "frac_noise must be a number from 0 to 1, not True"),
        ({"filter_by": "both", "min_examples_per_class": -1}, "min_examples_per_class must be a whole number"),
        (
            {"filter_by": "both", "rank_by": "confidence_weighted_entropy", "adjust_pred_probs": True},
            "not defined for confidence_weighted_entropy",
        ),
    ],
    ids=lambda value: str(value)[:60],
)
def test_choices_that_mean_nothing_are_refused_before_anything_is_read(choices, says):
    for function in (find_label_issues, labelsieve.plan_label_issues):
        with pytest.raises(InvalidInputError, match=says):
            function(LABELS, PROBS, **choices)


@pytest.mark.parametrize("filter_by", FILTERS[:4])
def test_choices_that_do_nothing_are_said_to(filter_by):
    with pytest.warns(LabelsieveWarning, match=f"filter_by='{filter_by}' does not use frac_noise"):
        found = find(filter_by=filter_by, frac_noise=0.5)
    assert bits(found) == bits(find(filter_by=filter_by))


def test_classes_of_few_rows_are_left_alone_and_said_to():
    labels, probs = odd("single row")
    with pytest.warns(LabelsieveWarning, match=r"1 class has no more than 1 labelled rows"):
        found = find(labels, probs, filter_by="prune_by_class", min_examples_per_class=0)
    assert 17 not in found.indices


@pytest.mark.parametrize("by", ["self_confidence", "normalized_margin"])
@pytest.mark.parametrize("estimation_method", naive.COUNTS)
def test_as_many_of_the_lowest_are_taken_as_are_counted(by, estimation_method):
    labels, probs = draw(300, 3, seed=4, noise=0.4, signal=0.3)  # the calibrated count exceeds the rows predicted else
    found = find(labels, probs, filter_by=f"low_{by}", rank_by=by, estimation_method=estimation_method, **CUT)
    want = labelsieve.count.num_label_issues(labels, probs, estimation_method=estimation_method)
    assert found.num_issues == found.estimated_num_issues == want
    scores = naive.answer(labels, probs, by).scores
    assert naive.ranked(scores, want) == found.indices.tolist()


def test_margins_that_are_not_kept_are_not_asked():
    with pytest.raises(InvalidInputError, match="their margins are kept only with rank_by='normalized_margin'"):
        find(filter_by="low_normalized_margin", estimation_method="off_diagonal_calibrated")


@pytest.mark.parametrize("filter_by", ["confident_learning", "both"])
def test_tables_rest_on_the_exact_joint(dataset, filter_by):
    labels, probs = dataset
    found = find(labels, probs, filter_by=filter_by)
    joint = cleanlab.count.compute_confident_joint(labels, probs, calibrate=False)
    counts = found.confident
    assert np.diag(joint).tolist() == counts.diagonal.tolist()
    assert joint[counts.given, counts.predicted].tolist() == counts.counts.tolist()
    assert joint.sum() == counts.diagonal.sum() + counts.counts.sum()
    want = cleanlab.dataset.rank_classes_by_label_quality(labels=labels, pred_probs=probs).set_index("Class Index")
    got = found.class_summary().set_index("class")
    np.testing.assert_allclose(want["Label Noise"].reindex(got.index), got["label_noise"], rtol=0, atol=1e-12)
    np.testing.assert_allclose(want["Inverse Label Noise"].reindex(got.index), got["inverse_label_noise"], atol=1e-12)
    pairs = cleanlab.dataset.find_overlapping_classes(labels=labels, pred_probs=probs, asymmetric=True)
    theirs_ = pairs[["Class Index A", "Class Index B", "Num Overlapping Examples"]].to_numpy().tolist()
    ours = found.confused_pairs(top=None)[["given_label", "suggested_label", "estimated_rows"]].to_numpy().tolist()
    assert sorted(row for row in theirs_ if row[2]) == sorted(row for row in ours if row[2])


def test_numbers_of_numpy_are_numbers(tmp_path):
    numpy = {
        "min_examples_per_class": np.int64(2),
        "frac_noise": np.float32(0.5),
        "num_to_remove_per_class": np.ones(5, int),
    }
    plain = {"min_examples_per_class": 2, "frac_noise": 0.5, "num_to_remove_per_class": [1] * 5}
    found = find(filter_by="both", workdir=tmp_path / "work", output=tmp_path / "found.zarr", **numpy)
    assert bits(found) == bits(find(filter_by="both", **plain))
    assert labelsieve.load(tmp_path / "found.zarr").settings == found.settings


@pytest.mark.parametrize("filter_by", ["prune_by_noise_rate", "both"])
def test_where_no_pair_takes_a_row_there_is_no_third_read(filter_by):
    labels = np.arange(30) % 3
    found = find(labels, np.eye(3)[labels] * 0.97 + 0.01, filter_by=filter_by)
    assert (found.num_issues, found.facts.n_reads, found.facts.bytes_read) == (0, 2, 2 * 30 * 3 * 8)


@pytest.mark.slow
@pytest.mark.parametrize("layer", ["scan", "rescan", "issue-counts", "margins", "select"])
def test_arrays_in_memory_are_handed_out_again_where_a_worker_dies(monkeypatch, layer):
    choices = {"filter_by": "both", "rank_by": "normalized_margin"}
    whole = bits(find(**choices))
    killed = []
    with (
        cluster_of(processes=True) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        hold = ClusterExecutor.hold

        def killing(executor, array, *args):
            if not killed and array.name.startswith(layer):
                killed.append(next(iter(cluster.workers.values())).pid)
                os.kill(killed[0], signal.SIGKILL)
            return hold(executor, array, *args)

        monkeypatch.setattr(ClusterExecutor, "hold", killing)
        found = find(client=client, **choices, **CUT)
        assert bits(found) == whole
    assert killed


@pytest.mark.slow
@pytest.mark.parametrize(("filter_by", "step"), [("prune_by_noise_rate", "the third read"), ("both", "selecting")])
def test_a_worker_that_dies_with_what_it_was_handed_is_made_up_for(tmp_path, monkeypatch, want, filter_by, step):
    np.save(tmp_path / "labels.npy", LABELS)
    np.save(tmp_path / "probs.npy", PROBS)
    killed = []
    with (
        cluster_of(processes=True) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        handed = ClusterExecutor.scatter

        def killing(executor, parts):
            handles = handed(executor, parts)
            if not killed and isinstance(parts[0], top_k_by_pair.MarginSearch) is (step == "the third read"):
                holders = {address for where in client.who_has(handles).values() for address in where}
                workers = {worker.worker_address: worker for worker in cluster.workers.values()}
                killed.append(workers[min(holders)].pid)
                os.kill(killed[0], signal.SIGKILL)
            return handles

        monkeypatch.setattr(ClusterExecutor, "scatter", killing)
        found = find(tmp_path / "labels.npy", tmp_path / "probs.npy", filter_by=filter_by, client=client, **CUT)
        assert bits(found) == want[filter_by]
    assert killed


@pytest.mark.parametrize("k", [2, 3, 5])
def test_the_rules_are_not_said_to_part_where_they_count_alike(k, recwarn):
    for seed in range(30):
        labels, probs = draw(500, k, seed=seed, signal=2.5, noise=0.1)
        batched, exact = find(labels, probs), find(labels, probs, filter_by="low_self_confidence")
        if k == 2:
            assert batched.estimated_num_issues == exact.estimated_num_issues
            assert batched.confident.undecided == 0
        else:
            assert exact.estimated_num_issues - batched.estimated_num_issues <= batched.confident.undecided + 2
    assert [str(w.message) for w in recwarn if issubclass(w.category, LabelsieveWarning)] == []


def zipf(n=4000, k=200, seed=0):
    """Return labels of many rare classes, a twentieth of them wrong."""
    rng = np.random.default_rng(seed)
    share = 1 / np.arange(1, k + 1)
    true = rng.choice(k, n, p=share / share.sum())
    logits = rng.normal(size=(n, k)) + np.log(share)
    logits[np.arange(n), true] += 4
    odds = np.exp(logits)
    return np.where(rng.random(n) < 0.05, rng.integers(0, k, n), true), odds / odds.sum(axis=1, keepdims=True)


def test_where_the_rules_part_a_run_says_so():
    labels, probs = zipf()
    with pytest.warns(LabelsieveWarning, match=r"[\d,]+ rows are counted by their predicted class; another "):
        batched = find(labels, probs)
    exact = find(labels, probs, filter_by="low_self_confidence")
    extra = exact.num_issues - batched.estimated_num_issues
    assert 0.1 * exact.num_issues < extra <= batched.confident.undecided
    assert len(np.intersect1d(batched.indices, exact.indices)) < 0.9 * exact.num_issues
    [note] = batched.facts.notes
    assert note.startswith(f"{batched.estimated_num_issues:,} rows are counted by their predicted class")


def test_where_the_rules_agree_nothing_is_said(dataset, recwarn):
    batched, exact = find(*dataset), find(*dataset, filter_by="low_self_confidence")
    assert set(exact.indices) >= set(batched.indices)
    assert exact.num_issues - batched.num_issues <= 0.1 * exact.num_issues
    assert [str(w.message) for w in recwarn if issubclass(w.category, LabelsieveWarning)] == []
