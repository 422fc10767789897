"""README and the guides: what their blocks of code do when they are typed as they stand.

Blocks of ``python``, ``pycon`` (with what is printed) and ``bash`` (commands of Labelsieve) are run, one after the
other. ``py`` needs packages that are not installed here, ``console`` a cluster: they have tests of their own, or none.
"""

import doctest
import re
import shlex
from pathlib import Path

from labelsieve.cli.app import run

ROOT = Path(__file__).parents[2]
GUIDES = sorted((ROOT / "docs").glob("*.md"))


def guide(name):
    """Return the text of a guide."""
    return (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")


def all_blocks(text):
    """Return the language and the code of each block."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def blocks(text, language):
    """Return the code of the blocks in a language."""
    return [code for found, code in all_blocks(text) if found == language]


def type_in(language, code, names, title):
    """Do what a block of code says, with the names of the blocks before it."""
    if language == "python":
        exec(compile(code, title, "exec"), names)
    elif language == "pycon":
        example = doctest.DocTestParser().get_doctest(code, names, title, title, 0)
        problems = []
        doctest.DocTestRunner().run(example, clear_globs=False, out=problems.append)
        names.update(example.globs)
        assert not problems, "".join(problems)
    elif language == "bash":
        for line in code.splitlines():
            if line.startswith("labelsieve "):
                assert run(shlex.split(line)[1:]) == 0, line


def anchors(text):
    """Return the anchors of all headings, as GitHub makes them."""
    bare = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.*)", bare, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(path):
    """Return the links of a page that lead nowhere in this repository."""
    text, broken = path.read_text(encoding="utf-8"), []
    for link in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)):
        if link.startswith("https://"):
            continue
        place, _, anchor = link.partition("#")
        target = path.parent / place if place else path
        if not target.exists() or (anchor and anchor not in anchors(target.read_text(encoding="utf-8"))):
            broken.append(link)
    return broken
