"""What a user may choose, and what it means for the run."""

import re

import pytest

import naive
from labelsieve import find_label_issues
from labelsieve.errors import InvalidInputError, LabelsieveError
from labelsieve.settings import ESTIMATION_METHODS, METHODS, Settings


def test_the_choices_are_those_of_the_contract():
    assert METHODS == ("self_confidence", "normalized_margin", "confidence_weighted_entropy")
    assert tuple(naive.COUNTS) == ESTIMATION_METHODS
    assert Settings() == Settings("self_confidence", False, "off_diagonal")


@pytest.mark.parametrize(("method", "adjust"), naive.METHODS)
@pytest.mark.parametrize("count", naive.COUNTS)
def test_what_a_choice_needs(method, adjust, count):
    settings = Settings.from_kwargs({"method": method, "adjust_pred_probs": adjust}, {"estimation_method": count})
    assert settings == Settings(method, adjust, count)
    assert settings.calibrated == (count == "off_diagonal_calibrated")
    assert settings.scores_need_reread == (method == "normalized_margin" and adjust)
    assert settings.plain_self_confidence == (method == "self_confidence" and not adjust)


@pytest.mark.parametrize("nothing", [None, {}])
def test_no_keywords_are_the_defaults(nothing):
    assert Settings() == Settings.from_kwargs(nothing, nothing)


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


@pytest.mark.parametrize("name", ["adjust_pred_probs", "allow_zero_rows"])
@pytest.mark.parametrize("bad", ["yes", 1, None])
def test_switches_are_true_or_false(name, bad):
    with pytest.raises(InvalidInputError, match=f"{name} must be True or False"):
        find_label_issues([0, 1], [[0.9, 0.1], [0.1, 0.9]], **{name: bad})


def test_entropy_cannot_be_adjusted():
    with pytest.raises(ValueError, match="adjust_pred_probs is not defined for confidence_weighted_entropy"):
        Settings("confidence_weighted_entropy", adjust_pred_probs=True)


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
        Settings.from_kwargs(quality, counting)


def test_an_error_of_settings_is_also_a_value_error():
    assert issubclass(InvalidInputError, ValueError)
    assert issubclass(InvalidInputError, LabelsieveError)
