"""What a user may choose, and what it means for the run."""

import dataclasses
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Literal, get_args, get_origin, get_type_hints

import pytest

import naive
from labelsieve import count, find_label_issues, plan_label_issues
from labelsieve.cli.options import cli
from labelsieve.confident_learning.filters import FILTERS, chosen_filter
from labelsieve.confident_learning.matrices import PY_METHODS
from labelsieve.confident_learning.scores import Settings
from labelsieve.errors import InvalidInputError, LabelsieveError
from labelsieve.options import ESTIMATION_METHODS, FILTER_NAMES, METHODS, OPTIONS, RULES, JobSettings, batched_choices
from pages import guide

ROOT = Path(__file__).parents[2]


def test_the_choices_are_those_of_the_contract():
    assert METHODS == ("self_confidence", "normalized_margin", "confidence_weighted_entropy", "logit_margin")
    assert tuple(naive.COUNTS) == ESTIMATION_METHODS
    assert Settings() == Settings("self_confidence", False, "off_diagonal")


@pytest.mark.parametrize("name", FILTER_NAMES)
def test_a_filter_is_described_where_users_look(name):
    table = guide("which_filter_and_score").partition("| `filter_by` | The issues |")[2].partition("\n\n")[0]
    assert f"`{name}`" in table
    assert f'``"{name}"``' in find_label_issues.__doc__
    assert FILTERS[name].advice.endswith(".")


@pytest.mark.every_value
@pytest.mark.parametrize(("method", "adjust"), naive.METHODS)
@pytest.mark.parametrize("count", naive.COUNTS)
def test_what_a_choice_needs(method, adjust, count):
    choices = batched_choices({"method": method, "adjust_pred_probs": adjust}, {"estimation_method": count})
    settings = Settings(**choices)
    assert settings == Settings(method, adjust, count)
    assert settings.calibrated == (count == "off_diagonal_calibrated")
    assert settings.scores_need_rescan == (method == "normalized_margin" and adjust)
    assert settings.plain_self_confidence == (method == "self_confidence" and not adjust)


@pytest.mark.parametrize("nothing", [None, {}])
def test_no_keywords_are_the_defaults(nothing):
    assert batched_choices(nothing, nothing) == {}


@pytest.mark.parametrize("bad", ["Self_confidence", "", None, 1, ["self_confidence"]])
def test_an_unknown_method_is_refused_with_what_is_allowed(bad):
    with pytest.raises(
        InvalidInputError, match=f"method must be one of {', '.join(METHODS)}; not {re.escape(repr(bad))}"
    ):
        Settings(method=bad)


@pytest.mark.parametrize("bad", ["off_diagonal_custom", "", None, 0])
def test_an_unknown_count_is_refused_with_what_is_allowed(bad):
    with pytest.raises(
        InvalidInputError, match="estimation_method must be one of off_diagonal, off_diagonal_calibrated"
    ):
        Settings(estimation_method=bad)


@pytest.mark.every_value
@pytest.mark.parametrize("name", ["adjust_pred_probs", "allow_zero_rows"])
@pytest.mark.parametrize("bad", ["yes", 1, None])
def test_switches_are_true_or_false(name, bad):
    with pytest.raises(InvalidInputError, match=f"{name} must be True or False"):
        find_label_issues([0, 1], [[0.9, 0.1], [0.1, 0.9]], **{name: bad})


@pytest.mark.parametrize("method", ["confidence_weighted_entropy", "logit_margin"])
def test_some_scores_cannot_be_adjusted(method):
    with pytest.raises(ValueError, match=f"adjust_pred_probs is not defined for {method}"):
        Settings(method, adjust_pred_probs=True)


@pytest.mark.parametrize(
    ("quality", "counting", "message"),
    [
        ({"metod": "x", "a": 1}, None, "quality_score_kwargs has unknown keys a, metod; allowed: method, adjust_pred"),
        (None, {"method": "x"}, "num_issue_kwargs has unknown keys method; allowed: estimation_method"),
        ({1: 2}, None, "unknown keys 1"),
        ("self_confidence", None, "quality_score_kwargs must be a dictionary"),
        (None, ["off_diagonal"], "num_issue_kwargs must be a dictionary"),
    ],
)
def test_unknown_keywords_are_refused_with_what_is_allowed(quality, counting, message):
    with pytest.raises(InvalidInputError, match=message):
        batched_choices(quality, counting)


def test_an_error_of_settings_is_also_a_value_error():
    assert issubclass(InvalidInputError, ValueError)
    assert issubclass(InvalidInputError, LabelsieveError)


# As parameters of the public functions, fields, and options ---------------------------------------------------------


def defaults(function):
    """Return the defaults of the keyword-only parameters by name."""
    parameters = inspect.signature(function).parameters.values()
    return {one.name: one.default for one in parameters if one.kind is one.KEYWORD_ONLY}


def without(choices, names):
    """Return the choices without `names`, all of which must be there."""
    assert set(names) <= set(choices), "a name is listed that is not a choice any more"
    return {name: default for name, default in choices.items() if name not in names}


# What the command line makes of --quiet and --scheduler, and what only Python offers.
NOT_ON_THE_COMMAND_LINE = ["progress", "client", "partition_batches"]
# The arguments; with --data the options of these names are columns.
PLACES = ["label_place", "prob_place", "labels", "pred_probs"]
# What is printed and shown, and the cluster that the command starts.
ONLY_ON_THE_COMMAND_LINE = [
    *("top", "quiet", "json", "progress", "log_level", "report", "images", "texts", "rows"),
    *("scheduler", "workers", "threads", "worker_memory"),
    "task",
]


def test_a_plan_takes_the_choices_of_a_run():
    assert defaults(plan_label_issues) == defaults(find_label_issues)


def test_settings_have_the_choices_of_a_run():
    settings = {name: option.default for name, option in OPTIONS.items()}
    assert settings.pop("confident_joint") is None  # only cleanlab's functions take one
    assert settings == defaults(find_label_issues)
    declared, shown = JobSettings.__annotations__, inspect.get_annotations(find_label_issues)
    assert all(shown[name] in (declared[name], "bool", "Any") or "Any" in declared[name] for name in settings)


def test_what_changes_the_answer_has_the_names_of_a_run():
    names = {field.name for field in dataclasses.fields(Settings)}
    assert names < set(OPTIONS)
    assert chosen_filter(JobSettings(method="normalized_margin")).settings == Settings("normalized_margin")


def test_every_filter_has_one_name():
    assert set(FILTERS) == {None, *FILTER_NAMES}
    assert all(kind.name == name for name, kind in FILTERS.items())
    with pytest.raises(InvalidInputError, match="filter_by must be one of both"):
        chosen_filter(JobSettings(filter_by="eighth"))


@pytest.mark.parametrize("command", ["find", "plan"])
def test_the_command_line_has_the_choices_of_a_run(command):
    with cli.commands[command].make_context(command, ["labels.npy", "pred_probs.npy"]) as context:
        options = without(context.params, [*PLACES, *ONLY_ON_THE_COMMAND_LINE])
    assert options == without(defaults(find_label_issues), NOT_ON_THE_COMMAND_LINE)


# As types ---------------------------------------------------------------------------------------------------------


def names_in(hint):
    """Return the names that a type hint allows, through unions."""
    if get_origin(hint) is Literal:
        return list(get_args(hint))
    return [name for part in get_args(hint) for name in names_in(part)]


@pytest.mark.parametrize("function", [find_label_issues, Settings.__init__])
def test_what_a_type_checker_allows_is_what_a_run_allows(function):
    allowed = {name: names_in(hint) for name, hint in get_type_hints(function).items() if names_in(hint)}
    lists = {"method": METHODS, "estimation_method": ESTIMATION_METHODS, "filter_by": FILTER_NAMES, "rule": RULES}
    if function is not Settings.__init__:
        lists |= {"rank_by": METHODS, "batch_size": ["auto"], "partition_batches": ["auto"]}
    assert allowed == {name: list(names) for name, names in lists.items()}


def test_what_a_type_checker_allows_of_the_counts():
    hints = get_type_hints(count.num_label_issues)
    assert names_in(hints["estimation_method"]) == [*ESTIMATION_METHODS, "off_diagonal_custom"]
    assert names_in(get_type_hints(count.estimate_latent)["py_method"]) == list(PY_METHODS)


TYPED = """\
import numpy as np
from labelsieve import count, find_label_issues, plan_label_issues

y, p = np.zeros(3, int), np.zeros((3, 2))
find_label_issues(y, p, method="normalized_margin", filter_by="both", rank_by="self_confidence", rule="confident_joint")
plan_label_issues(y, p, batch_size="auto", estimation_method="off_diagonal_calibrated")
count.num_label_issues(y, p, estimation_method="off_diagonal_custom", confident_joint=np.eye(2))
rows: np.ndarray = find_label_issues(y, p).indices
for row in find_label_issues(y, p):
    whole: int = row
find_label_issues(y, p, method="normalised_margin")  # wrong
find_label_issues(y, p, filter_by="prune_by_noise")  # wrong
find_label_issues(y, p, filter_by="both", rank_by="margin")  # wrong
find_label_issues(y, p, rule="predicted")  # wrong
find_label_issues(y, p, batch_size="automatic")  # wrong
find_label_issues(y, p, rank_by_kwargs={})  # wrong
plan_label_issues(y, p, estimation_method="off_diagonal_custom")  # wrong
count.estimate_latent(np.eye(2), y, py_method="count")  # wrong
"""


@pytest.mark.slow
def test_a_type_checker_finds_misspelt_names(tmp_path):
    (tmp_path / "typed.py").write_text(TYPED)
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml")]
    command += ["--cache-dir", str(tmp_path / "cache"), "--no-error-summary", str(tmp_path / "typed.py")]
    environment = os.environ | {"MYPYPATH": str(ROOT / "src")}
    said = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    wrong = [number for number, line in enumerate(TYPED.splitlines(), 1) if line.endswith("# wrong")]
    errors = [line for line in said.stdout.splitlines() if ": error: " in line]
    assert [int(line.split(":")[1]) for line in errors] == wrong, said.stdout + said.stderr
    assert all("[arg-type]" in line or "[call-arg]" in line for line in errors)
