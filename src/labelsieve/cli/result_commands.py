"""Commands about a result that was found: to report, review, correct, audit, estimate and compare."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from labelsieve.cli.options import EXIT_CODES, PAGE, FilePath, LabelValue, option
from labelsieve.cli.text import (
    apply_answer,
    apply_text,
    audit_answer,
    compare_answer,
    compare_text,
    estimate_answer,
    estimate_text,
    label_studio_answer,
    review_answer,
)
from labelsieve.errors import InvalidInputError, size
from labelsieve.options import CONFLICT_RULES, NOTHING, TASKS, UNSURE_RULES
from labelsieve.results.label_issues import LabelIssues, load, load_rows
from labelsieve.results.result import read_class_names
from labelsieve.results.store import check_ending, check_output, check_writable, replacing
from labelsieve.review.audit import Audit, check_new_table, estimate
from labelsieve.storage.folder import LocalFolder
from labelsieve.storage.remote import without_query

# Options of several commands.
_texts = option("--texts", metavar="FILE", help="Texts of the rows, one per line.")
_audit = option("--audit", metavar="AUDIT.json", help="Review the rows of this audit.")
_lowest = option(
    "--lowest",
    type=click.IntRange(min=1),
    metavar="N",
    help="Review the N rows of lowest score, issues or not; needs --labels.",
)
_pred_probs = option(
    "--pred-probs",
    metavar="FILE",
    help="The predicted probabilities: next classes, and suggestions for rows that are not issues.",
)
_labels = option(
    "--labels",
    metavar="FILE",
    help="The given labels, for rows that are not issues: .npy, Zarr, or a column: table.parquet::label.",
)
_class_names = option(
    "--class-names",
    type=FilePath(),
    metavar="FILE",
    help="What to show of each class: one name per line, or a JSON list.",
)
_conflicts = option(
    "--conflicts", type=click.Choice(CONFLICT_RULES), default="error", help="What counts where reviewers differ."
)
_json = option("--json", is_flag=True, help="Print one JSON object on stdout, and all else on stderr.")


@click.command(epilog=EXIT_CODES)
@click.argument("labels")
@click.argument("decisions", nargs=-1)
@option(
    "-o",
    "--output",
    required=True,
    help="The corrected labels, in the form of LABELS; .npy or .zarr for shards and URLs, a folder for PNG files.",
)
@option("--column", metavar="NAME", help="Column of the labels in a Parquet or CSV file.")
@option(
    "--task",
    type=click.Choice(TASKS),
    metavar="TASK",
    help="What a label belongs to: classification, segmentation, tokens or tags, as in labelsieve find; by default "
    "the task of --issues, or what the form of LABELS says.",
)
@option(
    "--unsure", type=click.Choice(UNSURE_RULES), default="keep", help="What becomes of rows whose decision is unsure."
)
@option(
    "--ignore-label",
    type=LabelValue(),
    default=NOTHING,
    show_default=False,
    metavar="LABEL",
    help="With --unsure ignore: the label that means none.",
)
@_conflicts
@option("--class-names", type=FilePath(), metavar="FILE", help="All classes: one name per line, or a JSON list.")
@option(
    "--ids",
    metavar="FILE",
    help="Your own names of the rows, or of the images, sentences or examples, to compare with the column id.",
)
@option("--issues", metavar="RESULT.zarr", help="The result that the decisions are about.")
@option("--auto", type=click.Choice(["accept"]), help="Accept suggestions of --issues that nobody has reviewed.")
@option(
    "--margin",
    type=float,
    metavar="SHARE",
    help="With --auto: by how much the suggested class must be more probable, 0 to 1.",
)
@option("--overwrite", is_flag=True, help="Replace an output that exists, even LABELS itself.")
@_json
def apply(
    labels: str,
    decisions: Sequence[str],
    *,
    class_names: Path | None,
    issues: str | None,
    json: bool,
    **choices: Any,
) -> dict[str, Any] | None:
    """Correct labels by the decisions of reviewers.

    LABELS is a .npy file, a Zarr array, a .parquet or .csv file; or shards, an array in an archive, or a URL. Arrays of
    three axes and PNG files are masks; for a matrix of tags or a column of lists give --task. DECISIONS are CSV files
    with the columns row, given_label, decision and label, or exports of Label Studio (.json). What was changed, and by
    whom, is written to OUTPUT.log.json.

    Example: labelsieve apply labels.npy decisions.csv -o corrected.npy
    """
    from labelsieve.review.apply import apply_decisions

    began = time.perf_counter()
    applied = apply_decisions(
        labels,
        list(decisions) or None,
        issues=None if issues is None else load_rows(issues),
        class_names=None if class_names is None else read_class_names(class_names),
        **choices,
    )
    if json:
        return apply_answer(applied, time.perf_counter() - began)
    click.echo(apply_text(applied))
    return None


@click.command(epilog=EXIT_CODES)
@click.argument("result")
@option("-o", "--output", required=True, type=FilePath(), help="The page: review.html.")
@option("--top", type=click.IntRange(min=1), metavar="N", default=500, help="Number of issues, from the worst.")
@option(
    "--images",
    metavar="FILE|PATTERN",
    help="Pictures of the rows: .npy, Zarr, 'images/*.png', or a .txt file of paths or URLs.",
)
@_texts
@_audit
@_lowest
@_pred_probs
@_labels
@_class_names
@option("--title", help="Name of the dataset, for the heading.")
@_json
def review(
    result: str,
    *,
    output: Path,
    top: int,
    audit: str | None,
    lowest: int | None,
    class_names: Path | None,
    json: bool,
    **choices: Any,
) -> dict[str, Any] | None:
    """Write a page on which a person decides about the issues of RESULT, or about the rows of an audit.

    The page is one file that works offline. Its decisions are downloaded as CSV, for labelsieve apply and labelsieve
    estimate. Teams use Label Studio: see labelsieve label-studio.

    Example: labelsieve review result.zarr -o review.html --images images.npy
    """
    began = time.perf_counter()
    found = load_rows(result)
    choices |= _shown(found, audit, lowest, class_names)
    found.review(output, top=top, **choices)
    n_rows = _n_shown(found, top, choices)
    n_bytes = output.stat().st_size
    if json:
        return review_answer(str(output), n_rows, n_bytes, time.perf_counter() - began)
    click.echo(f"{n_rows:,} row{'' if n_rows == 1 else 's'} to review, written to {output} ({size(n_bytes)})")
    return None


@click.command("label-studio", epilog=EXIT_CODES)
@click.argument("result")
@option("-o", "--output", required=True, type=FilePath(), help="The tasks: tasks.json.")
@option("--config", type=FilePath(), help="Write the labelling configuration of the project to this file.")
@option("--images", metavar="FILE|PATTERN", help="URLs of the pictures: one per line, or a pattern with {row} or {id}.")
@_texts
@option("--top", type=click.IntRange(min=0), metavar="N", help="Number of issues, from the worst; all by default.")
@_audit
@_lowest
@_pred_probs
@_labels
@_class_names
@_json
def label_studio(
    result: str,
    *,
    output: Path,
    config: Path | None,
    top: int | None,
    audit: str | None,
    lowest: int | None,
    class_names: Path | None,
    json: bool,
    **choices: Any,
) -> dict[str, Any] | None:
    """Write the issues of RESULT, or the rows of an audit, as tasks for Label Studio.

    The labelling configuration of the project is printed, or written with --config. labelsieve apply and labelsieve
    estimate take what Label Studio exports as JSON.

    Example: labelsieve label-studio result.zarr -o tasks.json --images 'https://example.org/{row}.png'
    """
    began = time.perf_counter()
    found = _issues_at(result)
    if config is not None:
        if config.absolute() == output.absolute():
            raise click.UsageError("--config and -o are the same file")
        check_writable(config)
    shown = _shown(found, audit, lowest, class_names)
    text = found.to_label_studio(output, top=top, **shown, **choices)
    if config is not None:
        with replacing(LocalFolder(config)) as made:
            made.write_text(f"{text}\n", encoding="utf-8")
    if json:
        n_tasks = _n_shown(found, top, shown)
        return label_studio_answer(output, config, text, n_tasks, time.perf_counter() - began)
    click.echo(text if config is None else f"written to {output}, the configuration to {config}")
    return None


@click.command(epilog=EXIT_CODES)
@click.argument("before")
@click.argument("after")
@option(
    "-o", "--output", metavar="TABLE.csv", help="Write all issues of both results, and what became of each, as a table."
)
@option("--top", type=click.IntRange(min=0), metavar="N", default=20, help="Classes to print, from the most issues.")
@_json
def compare(before: str, after: str, *, output: str | None, top: int, json: bool) -> dict[str, Any] | None:
    """Compare two saved results of the same rows: which issues were resolved, which are still there, which are new.

    BEFORE and AFTER are .zarr groups that `labelsieve find -o issues.zarr` or `LabelIssues.save` wrote.

    Example: labelsieve compare before.zarr after.zarr -o table.csv
    """
    from labelsieve.review.compare import compare_results

    began = time.perf_counter()
    if output is not None:
        check_ending("output", output, ".csv")
        check_output(output, [before, after])
    comparison = compare_results(load_rows(before), load_rows(after))
    if output is not None:
        comparison.to_csv(output)
    if json:
        return compare_answer(comparison, output, time.perf_counter() - began)
    click.echo(compare_text(comparison, top))
    if output is not None:
        click.echo(f"written to {without_query(output)}")
    return None


@click.command("audit", epilog=EXIT_CODES)
@click.argument("result")
@option("-o", "--output", required=True, metavar="AUDIT.json", help="The audit, which ends in .json.")
@option("--budget", type=click.IntRange(min=20), metavar="N", default=200, help="Rows to review.")
@option("--seed", type=click.IntRange(min=0), metavar="N", default=0, help="Equal seeds draw equal rows.")
@option("--labels", metavar="FILE", help="The given labels, for estimates by class: .npy, or table.parquet::label.")
@option("--table", type=FilePath(), metavar="FILE.csv", help="Write a table to fill in with decisions too.")
@_json
def draw(
    result: str, output: str, budget: int, seed: int, labels: str | None, table: Path | None, *, json: bool
) -> dict[str, Any] | None:
    """Draw rows to review, so that the number of wrong labels can be estimated.

    RESULT is the .zarr group that `labelsieve find -o issues.zarr` or `LabelIssues.save` wrote. Decide about the rows
    in the page of labelsieve review --audit, or in the file of --table; labelsieve estimate takes the decisions.

    Example: labelsieve audit issues.zarr --budget 200 -o audit.json
    """
    began = time.perf_counter()
    if table is not None:
        check_new_table(table)
    drawn = load_rows(result).audit(budget, seed, labels=labels)
    drawn.save(output)
    if table is not None:
        drawn.to_csv(table)
    if json:
        return audit_answer(drawn, without_query(output), table, time.perf_counter() - began)
    click.echo(f"{len(drawn):,} of {drawn.stratum_rows.sum():,} rows to review, written to {without_query(output)}")
    if table is not None:
        click.echo(f"a table to fill in with decisions, written to {table}")
    return None


@click.command("estimate", epilog=EXIT_CODES)
@click.argument("audit")
@click.argument("decisions", nargs=-1, required=True)
@_conflicts
@option(
    "--width",
    type=float,
    metavar="SHARE",
    help="Say how many more rows to review until the interval is this wide: 0.01.",
)
@option("--top", type=click.IntRange(min=0), metavar="N", default=20, help="Classes to print, from the most wrong.")
@option(
    "--cuts",
    multiple=True,
    type=click.IntRange(min=1),
    metavar="N",
    help="Say how many of the N rows of lowest score are wrong, and which share of all wrong labels they hold; may be "
    "given several times.",
)
@_json
def print_estimate(
    audit: str,
    decisions: Sequence[str],
    conflicts: str,
    width: float | None,
    top: int,
    cuts: Sequence[int],
    *,
    json: bool,
) -> dict[str, Any] | None:
    """Estimate how many labels are wrong, from decisions about the rows of an audit.

    AUDIT is what labelsieve audit wrote. DECISIONS are CSV files with the columns row and decision, of the review page
    or of a table that was filled in, or exports of Label Studio. Intervals are of 95%.

    Example: labelsieve estimate audit.json decisions.csv

    Example: labelsieve estimate audit.json decisions.csv --cuts 500 --cuts 1000
    """
    began = time.perf_counter()
    found = estimate(_audit_at(audit), list(decisions), conflicts=conflicts, cuts=cuts or None)
    more = None if width is None else found.rows_for_width(width)
    if json:
        return estimate_answer(found, more, time.perf_counter() - began)
    click.echo(estimate_text(found, top, of_rows=bool(cuts)))
    if more is not None:
        click.echo(f"{more:,} more rows to review until the interval is {width:g} wide")
    return None


@click.command(epilog=EXIT_CODES)
@click.argument("result")
@option("-o", "--output", type=FilePath(), default=Path("report.html"), help="The page.")
@PAGE
@option(*("--top", "--rows", "rows"), type=click.IntRange(min=0), metavar="N", default=100, help="Worst rows to show.")
@option("--before", metavar="EARLIER.zarr", help="Say what became of the issues of this earlier result.")
@option("--audit", metavar="AUDIT.json", help="Say how many labels are wrong by this audit and --decisions.")
@option("--decisions", multiple=True, metavar="FILE.csv", help="Decisions about the rows of --audit.")
@_conflicts
def report(
    result: str,
    output: Path,
    images: str | None,
    texts: str | None,
    rows: int,
    before: str | None,
    audit: str | None,
    decisions: Sequence[str],
    conflicts: str,
) -> None:
    """Write a report for a browser about a saved result.

    RESULT is the .zarr group that `labelsieve find -o issues.zarr` or `LabelIssues.save` wrote, as a path or URL.

    Example: labelsieve report issues.zarr -o report.html
    """
    if (audit is None) != (not decisions):
        raise click.UsageError("--audit and --decisions belong together")
    found = load(result)
    if isinstance(found, Audit):
        raise InvalidInputError(f"{result} is an audit: a report is about a result: give it with --audit")
    if audit is None:
        found.report(output, top=rows, images=images, texts=texts, before=before)
    elif isinstance(found, LabelIssues):
        rate = estimate(_audit_at(audit), list(decisions), conflicts=conflicts)
        found.report(output, top=rows, images=images, texts=texts, before=before, estimate=rate)
    else:
        raise InvalidInputError("--audit is for reports about rows, not about pixels, tokens or tags")
    click.echo(f"written to {output}")


def _shown(found: LabelIssues, audit: str | None, lowest: int | None, class_names: Path | None) -> dict[str, Any]:
    """Return which rows are reviewed, and the names of their classes, by the options of several commands."""
    return {
        "audit": None if audit is None else _audit_at(audit),
        "rows": None if lowest is None else found.lowest(lowest),
        "class_names": None if class_names is None else read_class_names(class_names),
    }


def _n_shown(found: LabelIssues, top: int | None, shown: Mapping[str, Any]) -> int:
    """Return the number of rows to review: those that are chosen, or the `top` issues."""
    chosen = shown["rows"] if shown["audit"] is None else shown["audit"]
    if chosen is not None:
        return len(chosen)
    return found.num_issues if top is None else min(top, found.num_issues)


def _audit_at(path: str) -> Audit:
    """Open a saved audit."""
    found = load(path)
    if not isinstance(found, Audit):
        raise InvalidInputError(f"{path} is not an audit")
    return found


def _issues_at(path: str) -> LabelIssues:
    """Open a saved result of classification."""
    found = load(path)
    if not isinstance(found, LabelIssues):
        raise InvalidInputError(f"{path} is not a result of classification")
    return found
