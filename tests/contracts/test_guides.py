"""The guides in docs/: examples are typed as they stand, links and names lead somewhere, and the site builds."""

import importlib
import re
import subprocess
import sys
import types

import pytest

import labelsieve
from pages import GUIDES, ROOT, all_blocks, broken_links, guide, type_in

LANGUAGES = {"python", "pycon", "bash", "py", "console", "sql"}


@pytest.mark.parametrize("path", GUIDES, ids=lambda path: path.stem)
@pytest.mark.filterwarnings("ignore::labelsieve.LabelsieveWarning")
def test_examples_run_in_order(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks, names = all_blocks(path.read_text(encoding="utf-8")), {}
    assert {language for language, _ in blocks} <= LANGUAGES
    assert any(language in ("python", "pycon", "bash") for language, _ in blocks)
    for language, code in blocks:
        type_in(language, code, names, path.name)


def test_an_example_whose_result_is_another_one_fails():
    with pytest.raises(AssertionError, match="Got:"):
        type_in("pycon", ">>> 1 + 1\n3\n", {}, "a page")


@pytest.mark.parametrize(
    "path", [ROOT / "README.md", ROOT / "tests/README.md", *GUIDES], ids=lambda path: path.relative_to(ROOT).as_posix()
)
def test_links_lead_to_files_and_headings(path):
    assert broken_links(path) == []


def test_every_promise_of_readme_is_held_by_the_tests_it_shows():
    readme, table = ((ROOT / place).read_text(encoding="utf-8") for place in ("README.md", "tests/README.md"))
    rows = re.findall(r"^\| (.*?) \| (.*) \|$", table, re.MULTILINE)
    held = {promise: set(re.findall(r"\]\((.*?\.py)\)", files)) for promise, files in rows}
    guaranteed = re.findall(r"^\| \*\*(.*?)\*\* \|.*\| (.*) \|$", readme, re.MULTILINE)
    assert len(guaranteed) >= 9
    for promise, files in guaranteed:
        shown = {place.removeprefix("tests/") for place in re.findall(r"\]\((.*?\.py)\)", files)}
        assert shown
        assert {place for place in shown if not place.startswith("benchmarks/")} <= held[promise]


def test_readme_leads_to_every_guide():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert {path.name for path in GUIDES} == set(re.findall(r"\]\(docs/(\w+\.md)", text))


@pytest.mark.parametrize("path", GUIDES, ids=lambda path: path.stem)
def test_names_are_those_of_the_package(path):
    for name in set(re.findall(r"`(labelsieve\.[\w.]+)(?:`|\()", path.read_text(encoding="utf-8"))):
        if name == "labelsieve.max-requests":
            continue
        found = labelsieve
        for part in name.split(".")[1:]:
            if isinstance(found, types.ModuleType) and not hasattr(found, part):
                importlib.import_module(f"{found.__name__}.{part}")
            if not hasattr(found, part):
                assert part in found.__annotations__, name  # a field of a dataclass
                break
            found = getattr(found, part)


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_has_every_guide(tmp_path):
    command = [sys.executable, "-W", "error", str(ROOT / "docs" / "build.py"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "labelsieve" / "find.html").is_file()
    pages = {path.stem: path.read_text(encoding="utf-8") for path in (tmp_path / "guides").glob("*.html")}
    assert set(pages) == {path.stem for path in GUIDES}
    for text in pages.values():
        for place, anchor in re.findall(r'href="(\w+)\.html(?:#([\w-]+))?"', text):
            assert place in pages or place == "guides"
            assert not anchor or f'id="{anchor}"' in pages[place]
    assert "guides/inputs.html" in (tmp_path / "labelsieve.html").read_text(encoding="utf-8")


# Recipes for tools that are not installed ----------------------------------------------------------------------------


class Made(types.SimpleNamespace):
    """What a stand-in's class was called with."""

    def __init__(self, *args, **choices):
        super().__init__(args=args, **choices)
        self.added = []

    def create(self):
        return self

    def add_sample(self, sample):
        self.added.append(sample)

    @property
    def records(self):
        return self

    def log(self, records):
        self.added += records


@pytest.mark.parametrize("tool", ["fiftyone", "argilla"])
def test_recipes_for_other_tools_take_the_frame(tool, monkeypatch):
    module = types.ModuleType(tool)
    classes = "Sample Classification Dataset Settings TextField LabelQuestion Record Suggestion"
    for name in classes.split():
        setattr(module, name, type(name, (Made,), {}))
    monkeypatch.setitem(sys.modules, tool, module)
    [code] = [code for _, code in all_blocks(guide("from_found_to_fixed")) if f"import {tool}" in code]
    assert len([line for line in code.splitlines() if line]) <= 8
    issues = labelsieve.find_label_issues([0, 1, 0], [[0.9, 0.1], [0.2, 0.8], [0.1, 0.9]])
    names = {"issues": issues, "paths": ["0.png", "1.png", "2.png"], "texts": ["no", "one", "two"]}
    exec(code, names)
    [added] = names["dataset"].added
    if tool == "fiftyone":
        assert (added.filepath, added.row, added.ground_truth.label, added.suggestion.label) == ("2.png", 2, "0", "1")
        assert added.suggestion.confidence == 0.9
    else:
        assert (added.id, added.fields) == ("2", {"text": "two"})
        assert added.suggestions[0].args == ("label", "1")
