"""One door to all kinds of sources."""

from __future__ import annotations

from pathlib import Path

from catflap.data.sources.archives import list_tars, list_zip
from catflap.data.sources.folders import child_folders, list_folders
from catflap.data.sources.listing import Listing
from catflap.data.sources.lists import SUFFIXES, USUAL, Columns, list_metadata, list_table, refuse_embedded
from catflap.data.sources.stores import is_url, list_store
from catflap.errors import CatflapError

DEFAULT_COLUMNS = Columns()


def open_source(source: str | Path, columns: Columns) -> Listing:
    """List the photos of a source, whatever it is: a folder, a list, an archive or an address.

    Raises CatflapError where columns are named and there is no list.
    """
    check_there(source)
    listed = None if is_url(str(source)) else _open_list(Path(source), columns)
    if listed:
        return listed
    if columns != DEFAULT_COLUMNS:
        named = ", ".join(f"--{field}-column" for field in USUAL if getattr(columns, field))
        raise CatflapError(f"{source} is no list, so it has no columns to name.", f"Leave out {named}.")
    name, path = str(source), Path(source)
    suffix = path.suffix.lower()
    if is_url(name) and suffix not in (".zip", ".tar"):
        return list_store(name)
    if path.is_dir():
        return _open_folder(path)
    if suffix == ".zip":
        return list_zip(name if is_url(name) else str(path.absolute()))
    if ".tar" in (suffix, *path.suffixes[-2:-1]) or suffix == ".tgz":
        return list_tars([name if is_url(name) else str(path.absolute())])
    raise CatflapError(
        f"{name} is no source of photos that is known here.",
        f"Name a folder, a .zip or .tar archive, or a list: {', '.join(SUFFIXES)}.",
    )


def check_there(source: str | Path) -> None:
    """Raise CatflapError for a path that does not exist; addresses are not looked up."""
    if not str(source):  # an unset variable of a shell, which must not mean the folder one is in
        raise CatflapError("The name of the source is empty.", 'Name it, or "." for the current folder.')
    if not is_url(str(source)) and not Path(source).exists():
        raise CatflapError(f"{source} does not exist.", "Name a folder, list, archive or address of photos.")


def _open_list(path: Path, columns: Columns) -> Listing | None:
    """A list, be it the metadata of a folder, which says more than the folders' names do."""
    if path.is_dir():
        return list_metadata(path, columns)
    return list_table(path, columns) if path.suffix.lower() in SUFFIXES else None


def _open_folder(path: Path) -> Listing:
    """Shards come before class folders, because they say what the folders mean."""
    folders = child_folders(str(path))
    refuse_embedded([str(path), *(folder.path for folder in folders)])
    shards = sorted(path.glob("*.tar"))
    if shards and not folders:
        return list_tars([str(shard.absolute()) for shard in shards])
    if not folders:
        raise CatflapError(
            f"{path} holds no folders of photos.",
            "Put the photos into one folder a label, such as cat/ and not_cat/.",
        )
    return list_folders(path)
