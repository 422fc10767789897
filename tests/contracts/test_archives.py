"""Arrays in ``.npz`` archives and safetensors, as inputs; and files of torch.save, which are not."""

import json
import pickle
import struct
import zipfile

import fsspec
import ml_dtypes
import numpy as np
import pytest
from distributed import Client

from draws import assert_same_bits, draw, find
from labelsieve.cli.app import run
from labelsieve.errors import InvalidInputError, WorkdirError
from labelsieve.sources.npy import split_member, with_member
from labelsieve.sources.open import open_labels, open_pred_probs

LABELS, PROBS = draw(600, 6, seed=4, dtype=np.float32)
BFLOAT16 = PROBS.astype(ml_dtypes.bfloat16)
KINDS = {
    np.dtype(np.float16): "F16",
    np.dtype(np.float32): "F32",
    np.dtype(np.float64): "F64",
    np.dtype(ml_dtypes.bfloat16): "BF16",
    np.dtype(np.int64): "I64",
    np.dtype(np.int32): "I32",
    np.dtype(np.int16): "I16",
    np.dtype(np.int8): "I8",
    np.dtype(np.uint8): "U8",
    np.dtype(np.uint16): "U16",
    np.dtype(ml_dtypes.float8_e4m3fn): "F8_E4M3",
}


def safetensors(arrays, **changes):
    """Return a file as the specification says, with wrong facts for some arrays."""
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, array in arrays.items():
        offsets = [len(data), len(data) + array.nbytes]
        header[name] = {"dtype": KINDS[array.dtype], "shape": list(array.shape), "data_offsets": offsets}
        header[name] |= changes.get(name, {})
        data += array.tobytes()
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


def save(form, path, **arrays):
    if form == "safetensors":
        path.write_bytes(safetensors(arrays))
    else:
        np.savez(path, **arrays)


FORMS = {"npz": ".npz", "safetensors": ".safetensors"}


@pytest.fixture(scope="module")
def want():
    return find(LABELS, PROBS)


@pytest.mark.every_value
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("settings", [{}, {"batch_size": 50, "partition_batches": 2, "filter_by": "both"}])
def test_both_inputs_in_one_file(tmp_path, form, settings):
    path = tmp_path / f"all{FORMS[form]}"
    save(form, path, x=np.arange(7), labels=LABELS, pred_probs=PROBS)
    got = find(f"{path}::labels", f"{path}::pred_probs", **settings)
    assert_same_bits(got, find(LABELS, PROBS, **settings))
    assert got.facts.inputs == {"labels": f"{path}::labels", "pred_probs": f"{path}::pred_probs"}


@pytest.mark.parametrize("form", FORMS)
def test_the_name_of_the_only_array_may_be_left_out(want, tmp_path, form):
    labels, probs = (tmp_path / f"{name}{FORMS[form]}" for name in "lp")
    save(form, labels, some=LABELS)
    save(form, probs, other=PROBS)
    assert_same_bits(find(labels, str(probs)), want)
    assert open_pred_probs(probs).where == f"{probs}::other"


@pytest.mark.every_value
@pytest.mark.parametrize("form", ["npz"])
@pytest.mark.parametrize("dtype", [">f4", "f2", "f8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npz_of_every_dtype_and_order(tmp_path, form, dtype, order):
    probs = np.asarray(PROBS.astype(dtype), order=order)
    save(form, tmp_path / "p.npz", **{"a.b/c": probs})
    want = find(LABELS, np.ascontiguousarray(probs))
    assert_same_bits(find(LABELS, f"{tmp_path}/p.npz::a.b/c"), want)
    assert_same_bits(find(LABELS, f"{tmp_path}/p.npz::a.b/c", batch_size=70, partition_batches=1), want)


@pytest.mark.every_value
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ml_dtypes.bfloat16])
@pytest.mark.parametrize("label_dtype", [np.int64, np.int32, np.int16, np.int8, np.uint8, np.uint16])
def test_safetensors_of_every_dtype(tmp_path, dtype, label_dtype):
    path, probs = tmp_path / "a.safetensors", PROBS.astype(dtype)
    save("safetensors", path, **{"head.y": LABELS.astype(label_dtype), "head.p": probs})
    wide = probs.astype(np.float32) if dtype == ml_dtypes.bfloat16 else probs
    assert_same_bits(find(f"{path}::head.y", f"{path}::head.p"), find(LABELS, wide))


def test_files_of_the_package_itself(want, tmp_path):
    numpy_form = pytest.importorskip("safetensors.numpy")
    numpy_form.save_file({"labels": LABELS, "probs": PROBS}, tmp_path / "a.safetensors", {"about": "a test"})
    assert_same_bits(find(f"{tmp_path}/a.safetensors::labels", f"{tmp_path}/a.safetensors::probs"), want)


def test_bfloat16_in_npz(tmp_path):
    np.savez(tmp_path / "p.npz", BFLOAT16)
    got = find(LABELS, tmp_path / "p.npz", dtype="bfloat16")
    assert_same_bits(got, find(LABELS, BFLOAT16.astype(np.float32)))
    save("safetensors", tmp_path / "p.safetensors", p=BFLOAT16)
    assert_same_bits(find(LABELS, tmp_path / "p.safetensors", dtype="bfloat16"), got)


@pytest.mark.parametrize("form", FORMS)
def test_shards(want, tmp_path, form):
    for number, rows in enumerate((slice(100), slice(100, 107), slice(107, None))):
        suffix = FORMS[form]
        save(form, tmp_path / f"one-{number}{suffix}", p=PROBS[rows])
        save(form, tmp_path / f"two-{number}{suffix}", labels=LABELS[rows], p=PROBS[rows])
    settings = {"batch_size": 30, "partition_batches": 2}
    got = find(f"{tmp_path}/two-*{suffix}::labels", f"{tmp_path}/one-*{suffix}", **settings)
    assert_same_bits(got, want)
    listed = [f"{tmp_path}/two-{number}{suffix}::p" for number in range(3)]
    assert_same_bits(find(LABELS, listed, **settings), want)
    (tmp_path / "folder").mkdir()
    for number in range(3):
        (tmp_path / f"one-{number}{suffix}").rename(tmp_path / "folder" / f"one-{number}{suffix}")
    assert_same_bits(find(LABELS, tmp_path / "folder", **settings), want)
    with pytest.raises(InvalidInputError, match="holds several arrays"):
        find(LABELS, f"{tmp_path}/two-*{suffix}")


@pytest.mark.parametrize("form", FORMS)
def test_cluster_forks_and_workdir(want, tmp_path, form):
    path = tmp_path / f"all{FORMS[form]}"
    save(form, path, labels=LABELS, p=PROBS, q=PROBS)
    settings = {"batch_size": 50, "partition_batches": 2}
    with Client(n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0") as client:
        assert_same_bits(find(f"{path}::labels", f"{path}::p", client=client, **settings), want)
    got = find(f"{path}::labels", f"{path}::p", n_jobs=2, **settings)
    assert_same_bits(got, want)
    assert got.facts.scheduler == "2 forked processes"
    settings["workdir"] = tmp_path / "work"
    assert_same_bits(find(f"{path}::labels", f"{path}::p", **settings), want)
    again = find(f"{path}::labels", f"{path}::p", **settings)
    assert again.facts.rows_read == 0
    assert_same_bits(again, want)
    with pytest.raises(WorkdirError, match="pred_probs"):
        find(f"{path}::labels", f"{path}::q", **settings)


@pytest.mark.parametrize("form", ["npz", "safetensors"])
def test_remote_files(want, tmp_path, form):
    fs, suffix = fsspec.filesystem("memory"), FORMS[form]
    save(form, tmp_path / f"all{suffix}", labels=LABELS, p=PROBS)
    data = (tmp_path / f"all{suffix}").read_bytes()
    try:
        fs.pipe({f"/in/all{suffix}": data})
        url = f"memory://in/all{suffix}"
        got = find(f"{url}::labels", f"{url}::p", batch_size=50, partition_batches=2)
        assert_same_bits(got, want)
        assert got.facts.inputs["pred_probs"].endswith(f"all{suffix}::p")
        assert_same_bits(find(LABELS, f"memory://in/*{suffix}::p"), want)
        save(form, tmp_path / f"one{suffix}", p=PROBS)
        fs.pipe({f"/one/one{suffix}": (tmp_path / f"one{suffix}").read_bytes()})
        assert_same_bits(find(LABELS, "memory://one"), want)
        fs.pipe({f"/in/cut{suffix}": data[: len(data) // 2]})
        with pytest.raises(InvalidInputError, match=r"is not a readable"):
            open_pred_probs(f"memory://in/cut{suffix}::p")
    finally:
        fs.store.clear()


def test_remote_bfloat16_and_what_cannot_be_read_by_ranges(tmp_path):
    fs = fsspec.filesystem("memory")
    np.savez_compressed(tmp_path / "c.npz", PROBS)
    np.savez(tmp_path / "f.npz", np.asfortranarray(PROBS))
    try:
        fs.pipe({f"/in/{name}.npz": (tmp_path / f"{name}.npz").read_bytes() for name in "cf"})
        fs.pipe({"/in/b.safetensors": safetensors({"p": BFLOAT16})})
        assert_same_bits(find(LABELS, "memory://in/b.safetensors"), find(LABELS, BFLOAT16.astype(np.float32)))
        for name, message in {"c": "is compressed, so that its rows cannot be read", "f": "Fortran order"}.items():
            with pytest.raises(InvalidInputError, match=message):
                find(LABELS, f"memory://in/{name}.npz")
    finally:
        fs.store.clear()


def test_a_compressed_array_is_refused(tmp_path):
    np.savez_compressed(tmp_path / "c.npz", labels=LABELS, p=PROBS)
    for labels, probs, name in ((f"{tmp_path}/c.npz::labels", PROBS, "labels"), (LABELS, f"{tmp_path}/c.npz::p", "p")):
        with pytest.raises(InvalidInputError, match=rf"c\.npz::{name} is compressed, .*save it with np.save or np"):
            find(labels, probs)


def test_command_line(want, tmp_path, capsys):
    np.savez(tmp_path / "all.npz", labels=LABELS, p=PROBS)
    assert run(["find", f"{tmp_path}/all.npz::labels", f"{tmp_path}/all.npz::p", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["num_issues"] == want.num_issues


@pytest.mark.parametrize("form", FORMS)
def test_a_wrong_name_is_answered_with_those_that_there_are(tmp_path, form):
    path = tmp_path / f"a{FORMS[form]}"
    save(form, path, labels=LABELS, probs=PROBS, **{f"x{i}": LABELS for i in range(20)})
    with pytest.raises(InvalidInputError) as raised:
        open_pred_probs(f"{path}::prob")
    message = str(raised.value)
    assert f"pred_probs: {path} has no array 'prob' (it has labels, probs, x0, " in message
    assert f"and 12 more): give one, such as {path}::probs" in message
    with pytest.raises(InvalidInputError, match=rf"holds several arrays .* such as {path}::labels$"):
        open_labels(path)
    with pytest.raises(InvalidInputError, match=r"pred_probs must have two axes"):
        open_pred_probs(f"{path}::labels")


def test_damaged_archives(tmp_path):
    path = tmp_path / "p.npz"
    np.savez(path, p=PROBS)
    whole = path.read_bytes()
    central = whole.rindex(b"PK\x01\x02")
    for data, message in {
        whole[:-30]: "not a readable .npz archive",
        b"": "not a readable .npz archive",
        b"XX" + whole[2:]: "the header of p is damaged",
        whole[: central - 400] + whole[central:]: "not a readable .npz archive",
    }.items():
        path.write_bytes(data)
        with pytest.raises(InvalidInputError, match=message):
            open_pred_probs(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("p.npy", b"no array")
    with pytest.raises(InvalidInputError, match=r"p\.npz::p is not a readable \.npy file"):
        open_pred_probs(path)
    with zipfile.ZipFile(path, "w"):
        pass
    with pytest.raises(InvalidInputError, match="holds no arrays"):
        open_pred_probs(path)
    np.savez(path, p=PROBS.astype(object))
    with pytest.raises(InvalidInputError, match="Python objects, which are never unpickled"):
        open_pred_probs(path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "does not begin with the length"),
        (b"\x02", "does not begin with the length"),
        (struct.pack("<Q", 1 << 60) + b"{}", "does not begin with the length"),
        (struct.pack("<Q", 100) + b"{}", "cut off: 10 bytes, its header alone takes 108"),
        (struct.pack("<Q", 2) + b"{]", "its header is damaged"),
        (struct.pack("<Q", 2) + b"[]", "its header is damaged"),
        (struct.pack("<Q", 8) + b'{"p": 1}', "its header is damaged"),
        (struct.pack("<Q", 4) + b"\xff\xfe\xfd\xfc", "its header is damaged"),
        (struct.pack("<Q", 2) + b"{}", "holds no arrays"),
        (safetensors({"p": PROBS})[:-1], "cut off"),
        (safetensors({"p": PROBS}, p={"data_offsets": [-4, 14396]}), "shape and bytes of p differ"),
        (safetensors({"p": PROBS}, p={"data_offsets": [0, 14396]}), "shape and bytes of p differ"),
        (safetensors({"p": PROBS}, p={"shape": [600, 7]}), "shape and bytes of p differ"),
        (safetensors({"p": PROBS}, p={"shape": [-600, -6]}), "shape and bytes of p differ"),
        (safetensors({"p": PROBS}, p={"dtype": "C64"}), "p is C64, which is not read"),
        (safetensors({"p": PROBS.astype(ml_dtypes.float8_e4m3fn)}), "F8_E4M3, which is not read: too few bits"),
    ],
)
def test_damaged_safetensors(tmp_path, data, message):
    path = tmp_path / "p.safetensors"
    path.write_bytes(data)
    with pytest.raises(InvalidInputError, match=message):
        open_pred_probs(path)


def test_places_that_do_not_exist(tmp_path):
    with pytest.raises(InvalidInputError, match=r"there is no file .*gone\.npz"):
        open_pred_probs(f"{tmp_path}/gone.npz::p")
    with pytest.raises(InvalidInputError, match="no file matches"):
        open_pred_probs(f"{tmp_path}/gone-*.npz::p")


@pytest.mark.parametrize(
    ("place", "parts"),
    [
        ("a.npz::p", ("a.npz", "p")),
        ("a.NPZ::p q/r.s", ("a.NPZ", "p q/r.s")),
        ("s3://b/a-*.safetensors::p", ("s3://b/a-*.safetensors", "p")),
        ("https://h/a.npz?X=1&s=a%3A::p", ("https://h/a.npz?X=1&s=a%3A", "p")),
        ("simplecache::s3://b/a.npz::p", ("simplecache::s3://b/a.npz", "p")),
        ("zip://a.npz::s3://b/all.zip", ("zip://a.npz::s3://b/all.zip", "")),
        ("zip://a.npz::/tmp/all.zip", ("zip://a.npz::/tmp/all.zip", "")),
        ("a.npy::p", ("a.npy::p", "")),
        ("a.npz", ("a.npz", "")),
        ("a.npz::", ("a.npz::", "")),
    ],
)
def test_names_of_arrays_in_places(place, parts):
    assert split_member(place) == parts
    assert with_member(*parts) == place


def torch_file(path):
    """Write what torch.save writes, as far as it shows."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data.pkl", pickle.dumps({}))
        archive.writestr("model/data/0", PROBS.tobytes())


@pytest.mark.every_value
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".ckpt", ""])
@pytest.mark.parametrize("is_old", [False, True])
def test_files_of_torch_are_refused_with_the_reason(tmp_path, suffix, is_old):
    path = tmp_path / f"p{suffix}"
    if is_old:
        path.write_bytes(pickle.dumps(PROBS))
    else:
        torch_file(path)
    with pytest.raises(InvalidInputError) as raised:
        find(LABELS, path)
    message = str(raised.value)
    assert "torch.save, which holds a pickle, and a pickle can run any code" in message
    assert message.endswith("load it and give the array, or save that with np.save and give the file")
