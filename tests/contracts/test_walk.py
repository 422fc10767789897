"""How much of the package a call of `find_label_issues` goes through. The figures may only fall."""

import json
import subprocess
import sys

# Functions, files that they stand in, and functions before the first chunk of pred_probs is opened.
N_FUNCTIONS, N_FILES, N_BEFORE = 271, 32, 149

WALK = """
import inspect, json, os, sys, threading
import numpy as np
import zarr
import labelsieve

root = os.path.dirname(labelsieve.__file__) + os.sep
seen, before = {}, []

def entered(frame, event, arg):
    code = frame.f_code
    named = code.co_flags & inspect.CO_OPTIMIZED and not code.co_name.startswith("<")  # no module, lambda or generator
    if event == "call" and named and code.co_filename.startswith(root):
        seen.setdefault((code.co_filename, code.co_qualname))

def opened(event, args):
    if event == "open" and not before and "pred_probs.zarr/c/" in str(args[0]) and not os.path.isdir(args[0]):
        before.append(len(seen))

def find():
    settings = {"partition_batches": 2, "progress": False}
    return labelsieve.find_label_issues("labels.zarr", "pred_probs.zarr", **settings)

rng = np.random.default_rng(0)
true = rng.integers(0, 5, 4000)
probs = (0.7 * np.eye(5)[true] + 0.3 * rng.dirichlet(np.ones(5), 4000)).astype(np.float32)
labels = np.where(rng.random(4000) < 0.05, (true + 1) % 5, true)
for name, array in (("labels", labels), ("pred_probs", probs)):
    chunks = (1000, *array.shape[1:])
    zarr.create_array(f"{name}.zarr", shape=array.shape, chunks=chunks, dtype=array.dtype)[:] = array
find()  # what imports do does not count
sys.addaudithook(opened)
threading.setprofile(entered)
sys.setprofile(entered)
issues = find()
sys.setprofile(None)
print(json.dumps([len(seen), len({path for path, _ in seen}), before[0], len(issues)]))
"""


def test_the_main_call_goes_through_few_functions(tmp_path):
    done = subprocess.run([sys.executable, "-c", WALK], cwd=tmp_path, capture_output=True, text=True, check=True)
    n_functions, n_files, n_before, n_issues = json.loads(done.stdout)
    assert n_issues == 161
    assert 100 < n_before < n_functions
    assert n_functions <= N_FUNCTIONS
    assert n_files <= N_FILES
    assert n_before <= N_BEFORE
