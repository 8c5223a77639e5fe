"""Hooks of MkDocs: the README is the first page, results/ a part of the site, and all figures are one page."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
SHOWN = (".md", ".png", ".csv")


def on_files(files: Files, config: Any) -> Files:
    """Adds the README, the tables and figures of results/, and the gallery."""
    readme = (ROOT / "README.md").read_text().replace("](docs/", "](")
    files.append(File.generated(config, "index.md", content=_linked(readme, "", config.repo_url)))
    files.append(File.generated(config, "gallery.md", content=gallery()))
    for path in sorted((ROOT / "results").rglob("*")):
        if path.suffix in SHOWN and "runs" not in path.relative_to(ROOT).parts:
            name = path.relative_to(ROOT).as_posix()
            files.append(File(name, str(ROOT), config.site_dir, config.use_directory_urls))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Turns links out of docs/ into links within the site, or to the repository."""
    if page.file.src_uri.startswith("results/"):
        return markdown.replace("](../docs/", "](../")
    markdown = re.sub(r"\]\(#([\w-]+)-(\d)\)", r"](#\1_\2)", markdown)  # the second heading of a name, as MkDocs counts
    return _linked(markdown.replace("](../results/", "](results/"), "../", config.repo_url)


def _linked(markdown: str, up: str, repository: str) -> str:
    """Returns a page with links to files that the site does not have leading to the repository."""

    def target(found: re.Match[str]) -> str:
        name = found[1]
        here = (ROOT / "docs" / name).exists() or name.startswith("results/")
        return found[0] if here or not (ROOT / name).exists() else f"]({repository}/blob/main/{name})"

    return re.sub(rf"\]\({re.escape(up)}([\w./-]+)\)", target, markdown)


def gallery() -> str:
    """Returns a page with every figure of results/."""
    lines = [
        "# Gallery",
        "",
        "All figures of the committed results. Each has its numbers as CSV beside it in the repository.",
    ]
    for folder in sorted({path.parent.parent for path in (ROOT / "results").glob("*/figures/*.png")}):
        about = json.loads((folder / "sweep.json").read_text())
        lines += [
            "",
            f"## {about['name']}",
            "",
            f"{about['description']} ([tables](results/{folder.name}/tables.md))",
            "",
        ]
        for path in sorted(folder.glob("figures/*.png")):
            lines += [f"![{about['name']}, {path.stem}](results/{folder.name}/figures/{path.name})", ""]
    lines += ["", "## How fast", "", "![Time of a step against models, samples and batch](results/bench/one_d.png)", ""]
    return "\n".join(lines)
