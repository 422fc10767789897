"""Print the lower bounds of the core dependencies as pip constraints."""

import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
for dependency in project["dependencies"]:
    name, _, bound = dependency.partition(">=")
    print(f"{name.partition('[')[0]}=={bound}")
