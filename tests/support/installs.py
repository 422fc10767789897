"""What a pip line brings: the packages that can be imported after it, and a Python in which no others can.

The extras of pyproject.toml and what they rest on, by the metadata of what is installed here.
"""

import ast
import json
import os
import re
import shlex
import sys
import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]


def pip_lines(text):
    """Return what each ``pip install`` in a text installs, as lists of words."""
    lines = re.findall(r"pip install ((?:-\S+ )*(?:\"[^\"]+\"(?: |$))+|\S+)", text.replace("`", "\n"), re.MULTILINE)
    return [[word for word in shlex.split(line) if not word.startswith("-")] for line in lines]


def extras_of(words):
    """Return the extras that a line installs from the clone, and the names of the other packages."""
    [clone] = [word for word in words if word.startswith(".")]
    extras = re.fullmatch(r"\.\[([\w,]+)\]", clone).group(1).split(",")
    return extras, [word for word in words if word is not clone]


def distributions(words):
    """Return all packages that a line brings, by their canonical names."""
    extras, others = extras_of(words)
    found = {"labelsieve", "pip"}
    todo = [Requirement(text) for text in [*PROJECT["dependencies"], *others]] + _of_extras(extras)
    seen = set()
    while todo:
        wanted = todo.pop()
        name = canonicalize_name(wanted.name)
        if name == "labelsieve":
            todo += _of_extras(wanted.extras - seen)
            seen |= wanted.extras
            continue
        for extra in {"", *wanted.extras}:
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            found.add(name)
            try:
                needs = [Requirement(text) for text in metadata.requires(name) or []]
            except metadata.PackageNotFoundError:  # not needed on this machine
                continue
            todo += [one for one in needs if one.marker is None or one.marker.evaluate({"extra": extra})]
    return found


def _of_extras(extras):
    return [Requirement(text) for extra in extras for text in EXTRAS[extra]]


def missing_modules(words):
    """Return the modules that are installed here and are not after a line."""
    there = distributions(words)
    return {
        module
        for module, names in metadata.packages_distributions().items()
        if not there & {canonicalize_name(name) for name in names}
    }


def imports_of(code):
    """Return the packages that code imports, without files that it writes and lines for the shell and for IPython."""
    if code.startswith("%%writefile "):
        return set()
    plain = "\n".join(line for line in code.splitlines() if not line.startswith(("!", "%")))
    nodes = list(ast.walk(ast.parse(plain)))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom)]
    return {name.partition(".")[0] for name in names} - sys.stdlib_module_names


_ONLY = """\
import sys
from importlib.machinery import PathFinder

MISSING = frozenset({missing})


class Only(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name in MISSING else PathFinder.find_spec(name, path, target)


sys.meta_path[sys.meta_path.index(PathFinder)] = Only
"""


def environment_after(words, folder):
    """Return environment variables under which Python finds what a line has installed, and nothing else."""
    folder.mkdir()
    text = _ONLY.format(missing=json.dumps(sorted(missing_modules(words))))
    (folder / "sitecustomize.py").write_text(text, encoding="utf-8")
    paths = [str(folder), str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
