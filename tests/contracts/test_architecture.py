"""The house: what imports what, the names that are promised, and the shape of the files."""

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import cleanlab.experimental.label_issues_batched as theirs
import numpy as np
import pytest

import labelsieve
from labelsieve import label_issues_batched as ours

SOURCE = Path(labelsieve.__file__).parent
MODULES = {
    ".".join(("labelsieve", *path.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in sorted(SOURCE.rglob("*.py"))
}
# From the bottom up: a package, or a module beside the packages, imports only from its own line and from those above.
ORDER = (
    {"errors"},
    {"options"},
    {"confident_learning"},
    {"storage"},
    {"sources"},
    {"results"},
    {"execution"},
    {"job"},
    {"find", "count", "inspector", "label_issues_batched", "recorder"},
    {"segmentation", "token_classification", "multilabel_classification"},
    {"review"},
    {"cleanlab"},
    {"cli", "__main__"},
)
LINE_OF_TASKS = ORDER[9]
LINE = {part: line for line, parts in enumerate(ORDER) for part in parts}
PUBLIC = [
    "find_label_issues",
    "LabelIssues",
    "load",
    "Audit",
    "estimate",
    "ErrorEstimate",
    "plan_label_issues",
    "Plan",
    "apply_decisions",
    "AppliedDecisions",
    "read_label_studio",
    "compare",
    "Comparison",
    "Recorder",
    "summarize_batch",
    "Ensemble",
    "Folds",
    "get_label_quality_ensemble_scores",
    "RowSummaries",
    "IssueRows",
    "unescape_formula",
    "find_label_issues_batched",
    "LabelInspector",
    "split_arr",
    "find",
    "segmentation",
    "token_classification",
    "multilabel_classification",
    "count",
    "label_issues_batched",
    "cleanlab",
    "recorder",
    "inspector",
    "errors",
    "cli",
    "LabelsieveError",
    "InvalidInputError",
    "InputTypeError",
    "UnreadableDataError",
    "ChangedDataError",
    "UnwritableError",
    "MissingDependencyError",
    "MemoryLimitError",
    "WorkdirError",
    "InUseError",
    "TaskFailedError",
    "ForkedWorkerError",
    "LabelsieveWarning",
]


def short(module):
    return module.removeprefix("labelsieve").removeprefix(".")


def tree_of(module):
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


def imports_of(module):
    """Return all modules that `module` imports, anywhere but for types alone; of the package's own, the very module."""
    found, tree = set(), tree_of(module)
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "relative imports hide where a name comes from"
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            submodules = inner & set(MODULES)
            found |= submodules
            if len(submodules) < len(inner):
                found.add(node.module)
    return found


def part_of(module):
    """Return the package of a module, or its own name beside the packages."""
    return short(module).partition(".")[0]


def of_part(part):
    return {module for module in MODULES if part_of(module) == part}


def test_the_folder_shows_the_packages():
    entries = [path for path in SOURCE.iterdir() if path.name != "__pycache__"]
    assert len(entries) <= 22, "one idea, one package"
    assert len(MODULES) <= 110
    assert {part_of(module) for module in MODULES} - {""} == set(LINE)
    for module, path in MODULES.items():
        assert (ast.get_docstring(tree_of(module)) or "").strip(), f"{module} says what it is"
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 1250, f"{module}: is it one topic?"


# The package itself names all that a user may import, and imports it when it is used.
def test_imports_run_one_way():
    up = {
        f"{module} imports {name}"
        for module in set(MODULES) - {"labelsieve"}
        for name in imports_of(module) & set(MODULES) - {"labelsieve"}
        if LINE[part_of(name)] > LINE[part_of(module)]
    }
    assert not up
    left = {module: imports_of(module) & set(MODULES) for module in MODULES}
    while left:
        free = {module for module, imported in left.items() if not imported & set(left) - {module}}
        assert free, f"a cycle among {sorted(left)}"
        left = {module: imported for module, imported in left.items() if module not in free}


def test_what_follows_a_result_is_imported_in_one_place():
    # `LabelIssues.review` and its like import it by name, when they are called (`later`); the core does not know it.
    # `find` and the layouts so import tasks, `errors` so imports optional packages of others.
    named = {short(module) for module in MODULES if "import_module(" in MODULES[module].read_text(encoding="utf-8")}
    named = {name for name in named if name.partition(".")[0] not in ("", "cleanlab", "cli")}
    assert named == {"errors", "find", "results.units", "results.label_issues"}
    after = {name for name, path in MODULES.items() if 'later("review.' in path.read_text(encoding="utf-8")}
    assert {part_of(name) for name in after} <= {"results", *LINE_OF_TASKS}


def test_the_method_imports_numpy_only():
    outer = {name.partition(".")[0] for module in of_part("confident_learning") for name in imports_of(module)}
    assert outer - set(sys.stdlib_module_names) == {"labelsieve", "numpy", "scipy"}


def test_the_method_runs_where_dask_and_storage_are_missing():
    # The package's own __init__ imports everything, so an empty stand-in takes its place.
    blocked = ["dask", "distributed", "zarr", "h5py", "tqdm", "click", "pandas", "psutil", "scipy"]
    method = sorted(of_part("confident_learning"))
    code = f"""
import importlib, sys, types
sys.modules.update(dict.fromkeys({blocked!r}))
package = types.ModuleType("labelsieve")
package.__path__ = [{str(SOURCE)!r}]
sys.modules["labelsieve"] = package
for name in {method!r}:
    importlib.import_module(name)
print(sorted(name for name in sys.modules if name.startswith("labelsieve.")))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert str(sorted([*method, "labelsieve.errors", "labelsieve.options"])) == done.stdout.strip()


def test_a_run_on_files_imports_nothing_slow(tmp_path):
    # Dask's arrays bring pandas, SciPy and xarray along where they are installed: more than many a job takes.
    np.save(tmp_path / "labels.npy", np.array([0, 1, 0]))
    np.save(tmp_path / "probs.npy", np.array([[0.9, 0.1], [0.2, 0.8], [0.1, 0.9]]))
    code = """
import sys, labelsieve
print(labelsieve.find_label_issues_batched(labels_file="labels.npy", pred_probs_file="probs.npy", verbose=False))
print([name for name in ("dask.array", "distributed", "pandas", "scipy", "zarr", "click") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "[2]\n[]\n"


def test_only_two_packages_build_graphs():
    # `store` makes a lazy array of a stored one where a user asks for it, which is no part of a run.
    allowed = {"labelsieve.results.store": {"from_array"}}
    building = {
        "delayed",
        "Delayed",
        "from_delayed",
        "from_array",
        "map_blocks",
        "blockwise",
        "HighLevelGraph",
        "compute",
    }
    for module in {module for module in MODULES if part_of(module) not in ("execution", "job")}:
        names = {
            alias.name
            for node in ast.walk(tree_of(module))
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("dask")
            for alias in node.names
        }
        used = {
            node.attr
            for node in ast.walk(tree_of(module))
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in ("da", "dask")
        }
        assert (names | used) & building == allowed.get(module, set()), module


def test_importing_the_package_leaves_slow_and_optional_packages_alone():
    # pandas and xarray are not here: Dask itself imports them where they are installed.
    slow = ["distributed", "zarr", "h5py", "sklearn", "cleanlab", "click"]
    code = f"import sys, labelsieve; print([name for name in {slow!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_help_imports_nothing_slow():
    code = """
import sys
from labelsieve.cli.app import run
print(run(["--help"]), [name for name in ("numpy", "dask", "labelsieve.results", "zarr") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 []"


def test_commands_about_a_result_import_no_dask():
    code = "import sys, labelsieve.cli.commands; print([name for name in ('dask', 'zarr') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_public_names_are_what_type_checkers_are_told():
    [told] = [node for node in tree_of("labelsieve").body if isinstance(node, ast.If)]
    names = {alias.name: node.module for node in told.body for alias in node.names}
    assert sorted(names) == sorted(PUBLIC)
    for name, module in names.items():
        assert getattr(labelsieve, name) is getattr(importlib.import_module(module), name)
    assert dir(labelsieve) == sorted(PUBLIC)
    assert labelsieve.label_issues_batched is ours
    with pytest.raises(AttributeError, match="module 'labelsieve' has no attribute 'nothing'"):
        labelsieve.nothing  # noqa: B018  # the access is the test


def test_dir_shows_the_public_names_and_the_promised_submodules():
    importlib.import_module("labelsieve.results.report")  # other modules do not show, imported or not
    submodules = ["count", "find", "inspector", "label_issues_batched", "recorder"]
    assert dir(labelsieve) == sorted({*PUBLIC, *submodules})
    assert all(getattr(labelsieve, name) is importlib.import_module(f"labelsieve.{name}") for name in submodules)


def test_importing_the_package_is_next_to_nothing():
    code = "import sys; before = set(sys.modules); import labelsieve.cli.app; print(*set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"numpy", "dask", "typing", "logging", "labelsieve.errors"} & set(done.stdout.split())


def test_the_public_names_are_pinned():
    assert labelsieve.__all__ == PUBLIC
    assert ours.__all__ == ["LabelInspector", "find_label_issues_batched", "split_arr"]
    assert all(hasattr(labelsieve, name) for name in PUBLIC)
    for name in ours.__all__:
        assert getattr(labelsieve, name) is getattr(ours, name)


def test_the_shared_arrays_are_module_data_and_empty_while_no_pool_runs():
    for name in ("adj_confident_thresholds_shared", "labels_shared", "pred_probs_shared"):
        assert getattr(ours, name) is None
    with pytest.raises(AttributeError, match="no attribute 'something_else'"):
        ours.something_else  # noqa: B018  # the access is the test


METHODS = [
    "__init__",
    "update_confident_thresholds",
    "score_label_quality",
    "get_confident_thresholds",
    "get_num_issues",
    "get_quality_scores",
    "get_label_issues",
]


def parameters(function):
    return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]


@pytest.mark.parametrize(
    "name", ["find_label_issues_batched", "split_arr", "LabelInspector", *(f"LabelInspector.{m}" for m in METHODS)]
)
def test_signatures_are_those_of_the_documented_module(name):
    want, got = theirs, ours
    for part in name.split("."):
        want, got = getattr(want, part), getattr(got, part)
    assert parameters(want) == parameters(got)


def test_label_inspector_has_no_other_public_methods():
    documented = {name for name, _ in inspect.getmembers(theirs.LabelInspector, inspect.isfunction) if name[0] != "_"}
    got = {name for name, _ in inspect.getmembers(ours.LabelInspector, inspect.isfunction) if name[0] != "_"}
    assert documented == got


def test_the_modern_entry_takes_its_choices_by_keyword():
    kinds = {p.name: p.kind for p in inspect.signature(labelsieve.find_label_issues).parameters.values()}
    positional = [name for name, kind in kinds.items() if kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    assert positional == ["labels", "pred_probs"]
    assert set(kinds.values()) == {inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY}


@pytest.mark.parametrize("name", [n for n in PUBLIC if n.endswith(("Error", "Warning"))])
def test_errors_are_one_tree_drawn_in_the_docstring(name):
    errors = importlib.import_module("labelsieve.errors")
    kind = getattr(labelsieve, name)
    assert kind is getattr(errors, name)
    assert issubclass(kind, labelsieve.LabelsieveError if name.endswith("Error") else UserWarning)
    assert f"{name} (" in errors.__doc__ or name == "LabelsieveError"
