"""What `mkdocs build` does besides: a page of the API for each room, and a look at what pages would fetch.

The pages of the API are made from the folders that are there, so that a room that is moved or added needs no line here.
"""

import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "melano_tf"
OPTIONAL = {"coverage.md": "Coverage of the intervals"}  # pages that other work brings, under "Measured"
FETCHED = re.compile(
    r"""<(?:script|img|iframe|source|video|audio|embed)\b[^>]*\bsrc=["']?(?:https?:)?//[^"'\s>]+"""
    r"""|<link\b(?=[^>]*\brel=["']?(?:stylesheet|preload|preconnect|dns-prefetch|icon|modulepreload))"""
    r"""[^>]*\bhref=["']?(?:https?:)?//[^"'\s>]+""",
    re.IGNORECASE,
)
FETCHED_BY_CSS = re.compile(r"""(?:@import\s+|url\()\s*["']?(?:https?:)?//[^"')\s]+""", re.IGNORECASE)


def rooms() -> dict[str, list[str]]:
    """{room: its public modules, dotted} of the package; modules that stand in no room are "melano_tf" itself."""
    found: dict[str, list[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts[-1] == "__init__" or any(part.startswith("_") for part in parts):
            continue
        depth = 2 if parts[0] == "papers" and len(parts) > 2 else 1
        room = ".".join(("melano_tf", *parts[: min(depth, len(parts) - 1)]))
        found.setdefault(room, []).append(".".join(("melano_tf", *parts)))
    return found


def on_config(config: Any) -> Any:
    """Put the rooms of the API, and optional pages that are there, into the navigation."""
    config["nav"].append({"API": [{room: f"api/{room}.md"} for room in rooms()]})
    for name, title in OPTIONAL.items():
        if (Path(config["docs_dir"]) / name).is_file():
            measured = next(entry["Measured"] for entry in config["nav"] if "Measured" in entry)
            measured.append({title: name})
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add a page for each room."""
    for room, modules in rooms().items():
        text = f"# {room}\n\n" + "\n".join(f"::: {name}\n" for name in modules)
        files.append(File.generated(config, f"api/{room}.md", content=text))
    return files


def on_post_build(config: Any) -> None:
    """End the build where a page or a style sheet would fetch something from elsewhere.

    Raises:
        PluginError: naming each file and address.
    """
    site = Path(config["site_dir"])
    faults = [
        f"{path.relative_to(site)}: {match.group(0)[-120:]}"
        for pattern, suffix in ((FETCHED, "*.html"), (FETCHED_BY_CSS, "*.css"))
        for path in sorted(site.rglob(suffix))
        for match in pattern.finditer(path.read_text(encoding="utf-8"))
    ]
    if faults:
        raise PluginError("pages that need the network:\n" + "\n".join(faults))
