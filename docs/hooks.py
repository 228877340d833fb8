"""What `make docs` does beside rendering the Markdown of this folder.

- A navigation entry that ends in "/" becomes all pages of that folder, so that a page is added by one file.
- Pages are made of files elsewhere: notebooks (probes/notebooks/*.ipynb, with their outputs), the reference (a page for
  each module), the results that are kept (results/).
- Links may be written as they work in the repository, such as ../interp/cost.py; they are turned to the page that is
  made of the file. A link to a file that does not exist is a warning, which fails the build.
- `<!-- experiments -->` becomes the list of experiments; commands of docs/paper.md link to the page of theirs.
- What an experiment's page has between `<!-- result -->` and `<!-- /result -->` is shown where results/<name>/ is kept,
  or a folder of that name one level down, with its README.md (or summary.md) below; where it is not, the command that
  makes it is.
"""

import base64
import importlib.util
import json
import logging
import posixpath
import re
from collections.abc import Callable, Iterator
from html import escape
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
DOCS, NOTEBOOKS, RESULTS = ROOT / "docs", ROOT / "probes" / "notebooks", ROOT / "results"
DOCUMENTED = ("interp", "probes", "figures")
LINK = re.compile(r"(!?)\[([^\[\]]*)\]\(([^)\s#]+)(#[^)\s]*)?\)")
FENCED = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"`(python -m experiments\.(\w+)[^`\n]*)`")
RESULT = re.compile(r"<!-- result -->\n(.*?)<!-- /result -->\n", re.DOTALL)

logger = logging.getLogger("mkdocs.hooks")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Fills in the folders of the navigation."""
    folders = {"notebooks/": notebook_pages(), "experiments/": experiment_pages(), "reference/": reference_pages()}
    config.nav = [
        {title: folders.get(entry, entry) if isinstance(entry, str) else entry for title, entry in item.items()}
        for item in config.nav or []
    ]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages and pictures that are made of files elsewhere."""
    for uri, content in [*notebook_files(), *reference_files()]:
        files.append(File.generated(config, uri, content=content))
    for path in sorted(RESULTS.rglob("*")):
        if path.is_file():
            files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Fills in the list of experiments and turns links to files of the repository."""
    uri = page.file.src_uri
    if uri.startswith("experiments/"):
        markdown = RESULT.sub(lambda found: result(found[1], Path(uri).stem, markdown), markdown)
    if uri == "experiments/index.md":
        markdown = markdown.replace("<!-- experiments -->", experiment_table())
    if uri == "paper.md":
        known = {Path(entry).stem for entry in experiment_pages()}
        markdown = COMMAND.sub(
            lambda found: f"[`{found[1]}`](experiments/{found[2]}.md)" if found[2] in known else found[0], markdown
        )
    return outside_code(markdown, lambda text: LINK.sub(lambda found: turned(found, uri, files), text))


def outside_code(markdown: str, change: Callable[[str], str]) -> str:
    """Markdown with everything but its code blocks changed."""
    parts = FENCED.split(markdown)
    parts[::2] = [change(part) for part in parts[::2]]
    return "".join(parts)


def turned(link: re.Match[str], uri: str, files: Files) -> str:
    """A link as it works in the site; one to a file that has no page becomes its text."""
    sign, text, target, anchor = link[1], link[2], link[3], link[4] or ""
    if re.match(r"[a-z]+:", target):
        return link[0]
    here = posixpath.dirname(origin(uri))
    place = posixpath.normpath(posixpath.join(here, target))
    found = site_uri(place)
    if (ROOT / place).is_dir():
        found = posixpath.join(found, "README.md")
    if files.get_file_from_path(found) is not None:
        return f"{sign}[{text}]({posixpath.relpath(found, posixpath.dirname(uri) or '.')}{anchor})"
    if not (ROOT / place).exists():
        logger.warning("%s links to %s, which does not exist", uri, place)
    return text


def origin(uri: str) -> str:
    """The file of the repository that a page is made of."""
    if uri.startswith("notebooks/") and uri != "notebooks/index.md":
        return f"probes/{uri}"
    return uri if uri.startswith("results/") else f"docs/{uri}"


def site_uri(place: str) -> str:
    """Where in the site a file of the repository is shown."""
    if place.startswith("docs/"):
        return place.removeprefix("docs/")
    if place.startswith("probes/notebooks/"):
        name = posixpath.basename(place)
        return f"notebooks/{name if name.endswith('.png') else posixpath.splitext(name)[0] + '.md'}"
    if place.startswith(DOCUMENTED) and place.endswith(".py"):
        return f"reference/{place.removesuffix('.py').removesuffix('/__init__')}.md"
    return place


# Experiments


def experiment_pages() -> list[str]:
    """The index first, then the pages by name."""
    pages = sorted(f"experiments/{path.name}" for path in (DOCS / "experiments").glob("*.md") if path.stem != "index")
    return ["experiments/index.md", *pages]


def experiment_table() -> str:
    """Every experiment with what its module says in one line."""
    spec = importlib.util.spec_from_file_location("listing", ROOT / "experiments" / "__main__.py")
    assert spec is not None
    assert spec.loader is not None
    listing = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(listing)
    rows = [f"| [{name}]({name}.md) | {line.replace('|', '&#124;')} |" for name, line in listing.experiments().items()]
    return "\n".join(["| experiment | what it does |", "|---|---|", *rows])


def result(block: str, name: str, page: str) -> str:
    """The kept result of an experiment, or how to make it: the first command of its page."""
    folder = kept(name)
    if folder is None:
        command = page.split("```")[1].strip().splitlines()[0]
        return (
            '!!! note "No reference result is kept yet"\n'
            f"    Make it with `{command}`; its last line says where the figures and tables described below are.\n"
        )
    for summary in (folder / "README.md", folder / "summary.md"):
        if summary.exists():
            return f"{block}\n{quoted(summary)}\n"
    return block


def kept(name: str) -> Path | None:
    """Where the result of an experiment is kept: results/<name>, or results/<study>/<name>."""
    folders = (RESULTS / name, *sorted(RESULTS.glob(f"*/{name}")))
    return next((folder for folder in folders if any(path.is_file() for path in folder.rglob("*"))), None)


def quoted(path: Path) -> str:
    """A result's text as a part of an experiment's page: without its title, headings a level down, links from there."""

    def change(text: str) -> str:
        text = re.sub(r"\A# .*\n", "", text)
        text = re.sub(r"^(#+ )", r"#\1", text, flags=re.MULTILINE)
        folder = posixpath.join("..", "..", path.parent.relative_to(ROOT).as_posix())
        return LINK.sub(lambda found: moved(found, folder), text)

    return outside_code(path.read_text(encoding="utf-8"), change).strip()


def moved(link: re.Match[str], folder: str) -> str:
    """A relative link as it is written in another folder."""
    target = link[3] if re.match(r"[a-z]+:", link[3]) else posixpath.join(folder, link[3])
    return f"{link[1]}[{link[2]}]({target}{link[4] or ''})"


# Notebooks


def notebook_pages() -> list[str]:
    """The index first, then the notebooks by name."""
    return ["notebooks/index.md", *(f"notebooks/{path.stem}.md" for path in sorted(NOTEBOOKS.glob("*.ipynb")))]


def notebook_files() -> Iterator[tuple[str, str | bytes]]:
    """Each notebook as a page, and its pictures."""
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        parts = [f"*The notebook `probes/notebooks/{path.name}`, with what it printed and drew.*"]
        for number, cell in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"]):
            source = "".join(cell["source"])
            parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
            for place, output in enumerate(cell.get("outputs", [])):
                picture = output.get("data", {}).get("image/png")
                if picture is not None:
                    name = f"{path.stem}_{number}_{place}.png"
                    yield f"notebooks/{name}", base64.b64decode(picture)
                    parts.append(f"![Output of the cell above]({name})")
                else:
                    parts.append(shown(output))
        title = next(i for i, part in enumerate(parts) if part.startswith("# "))
        parts.insert(title + 1, parts.pop(0))
        yield f"notebooks/{path.stem}.md", "\n\n".join(parts) + "\n"


def shown(output: dict[str, Any]) -> str:
    """An output that is no picture: HTML as it is, everything else as text."""
    data = output.get("data", {})
    if "text/html" in data:
        lines = "".join(data["text/html"]).splitlines()
        return "<div class='output'>\n" + "\n".join(line for line in lines if line.strip()) + "\n</div>"
    text = "".join(output.get("text", data.get("text/plain", ""))).rstrip("\n")
    return f"<div class='output'><pre>{escape(text)}</pre></div>"


# Reference


def modules() -> list[Path]:
    """Documented modules, relative to the repository."""
    found = [path.relative_to(ROOT) for top in DOCUMENTED for path in sorted((ROOT / top).rglob("*.py"))]
    return [path for path in found if path.name != "__main__.py" and NOTEBOOKS not in (ROOT / path).parents]


def reference_files() -> Iterator[tuple[str, str]]:
    """A page for each module."""
    for path in modules():
        name = ".".join(path.with_suffix("").parts).removesuffix(".__init__")
        yield site_uri(path.as_posix()), f"# {name}\n\n::: {name}\n    options:\n      show_root_heading: false\n"


def reference_pages() -> list[Any]:
    """The pages of the modules, nested as their folders."""
    tree: list[Any] = ["reference/index.md"]
    for path in modules():
        branch = tree
        for folder in path.parts[:-1]:
            known = next((item[folder] for item in branch if isinstance(item, dict) and folder in item), None)
            if known is None:
                known = []
                branch.append({folder: known})
            branch = known
        branch.append({path.stem.replace("__init__", "overview"): site_uri(path.as_posix())})
    return tree
