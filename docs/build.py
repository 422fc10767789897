"""Build the documentation site, API pages and guides, into a folder: ``python docs/build.py FOLDER``.

Each guide becomes a page of pdoc, as the docstring of a module that exists only here.
"""

import re
import sys
import tempfile
from pathlib import Path

import pdoc

GUIDES = sorted(Path(__file__).parent.glob("*.md"))


def page_of(guide: Path) -> str:
    """Return the text of a guide with links that hold in the site: to other guides, or to nothing."""
    text = guide.read_text(encoding="utf-8")
    text = re.sub(r"\]\((\w+)\.md(#[\w-]+)?\)", r"](\1.html\2)", text)  # another guide
    return re.sub(r"\[([^]]+)\]\(\.\./[^)]+\)", r"\1", text)  # a file of the repository


def build(folder: Path) -> None:
    """Write the site."""
    with tempfile.TemporaryDirectory() as made:
        package = Path(made) / "guides"
        package.mkdir()
        titles = {guide.stem: guide.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ") for guide in GUIDES}
        contents = "\n".join(f"- [{title}](guides/{name}.html)" for name, title in titles.items())
        pages = {"__init__": f"# Guides\n\n{contents}\n"} | {guide.stem: page_of(guide) for guide in GUIDES}
        for name, text in pages.items():
            code = f'__docformat__ = "markdown"\n__doc__ = {text!r}\n'
            (package / f"{name}.py").write_text(code, encoding="utf-8")
        pdoc.render.configure(docformat="numpy")
        pdoc.pdoc("labelsieve", package, output_directory=folder)
    for page in folder.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        up = "../" * (len(page.relative_to(folder).parts) - 1)
        text = re.sub(r"<code>docs/(\w+)\.md</code>", rf'<a href="{up}guides/\1.html">\1</a>', text)
        if page.parent.name == "guides":  # the source of a guide is what it shows
            text = re.sub(r'<input id="mod-\w+-view-source".*?(?=<div class="docstring">)', "", text, flags=re.DOTALL)
        page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    [target] = sys.argv[1:]
    build(Path(target))
