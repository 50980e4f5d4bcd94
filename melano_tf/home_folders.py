"""Names of files as people write them in settings and tables, where no shell has read them."""

from pathlib import Path


def written_path(written: str | Path) -> Path:
    """The file of this name, `~` and `~user` replaced as a shell does; it stays where no user is called so."""
    try:
        return Path(written).expanduser()
    except RuntimeError:
        return Path(written)
