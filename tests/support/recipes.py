"""The notebooks as recipes: their cells, the files that they write, and this machine in place of their clusters.

`sbatch` and `scancel` that run a job at once; a local cluster in place of the one of a Kubernetes manifest.
"""

import os
import sys
from pathlib import Path

import nbformat

FOLDER = Path(__file__).parents[2] / "notebooks"
NIGHTLY, KUBERNETES, SLURM = (FOLDER / f"{name}.ipynb" for name in ("08_every_night", "09_kubernetes", "10_slurm"))

_SBATCH = """\
#!/bin/sh
job=$(mktemp) && cp "$1" "$job"  # dask-jobqueue deletes its own
setsid bash "$job" > /dev/null 2>&1 &
echo "Submitted batch job $!"
"""
_SCANCEL = """\
#!/bin/sh
kill -TERM -- "-$1"
"""
# In place of the cell with the tag "cluster", whose class needs Kubernetes.
_LOCAL_CLUSTER = """\
import yaml
from dask.utils import parse_bytes
from distributed import LocalCluster

with open("cluster.yaml") as file:
    [container] = yaml.safe_load(file)["spec"]["worker"]["spec"]["containers"]
options = dict(zip(container["args"], container["args"][1:]))
cluster = LocalCluster(
    n_workers=0,
    threads_per_worker=int(options["--nthreads"]),
    memory_limit=int(float(options["--memory-limit"]) * parse_bytes(container["resources"]["limits"]["memory"] + "B")),
    dashboard_address="127.0.0.1:0",
)
"""


def cells(path, kind):
    """Return the sources of all cells of a kind, ``code`` or ``markdown``."""
    return [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == kind]


def written_file(path, name):
    """Return the file `name` that a cell of a notebook writes."""
    first = f"%%writefile {name}\n"
    [text] = [source.removeprefix(first) for source in cells(path, "code") if source.startswith(first)]
    return text + "\n"


def runnable(path):
    """Return a notebook to run on this machine: with a local cluster where the class of its own needs Kubernetes."""
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if "cluster" in cell.metadata.get("tags", []):
            cell.source = _LOCAL_CLUSTER
    return notebook


def path_with_slurm(folder):
    """Write `sbatch` and `scancel` that run jobs on this machine; return a PATH with them and this Python."""
    folder.mkdir()
    for name, script in (("sbatch", _SBATCH), ("scancel", _SCANCEL)):
        (folder / name).write_text(script, encoding="utf-8")
        (folder / name).chmod(0o755)
    return os.pathsep.join([str(folder), str(Path(sys.executable).parent), os.environ["PATH"]])
