"""Which files a source names."""

from __future__ import annotations

from pathlib import Path

from anefast.data.error import DataError


def files(path: Path) -> list[Path]:
    """The files of a source, in name order: all of a folder's, hidden ones aside, or the one
    named."""
    if path.is_dir():
        files = sorted(
            p
            for p in path.rglob("*")
            if p.is_file() and not any(s.startswith(".") for s in p.relative_to(path).parts)
        )
        if not files:
            raise DataError("files to read", f"the folder {path} has none", "put text files in it")
        if len({p.suffix == ".bin" for p in files}) > 1:
            raise DataError(
                "only text or only .bin shards",
                f"the folder {path} has both",
                "keep them in folders of their own",
            )
        return files
    if not path.is_file():
        raise DataError(
            "stories, a text file, a folder or a .bin",
            f"there is no {path}",
            "check the path; it is taken from the current folder",
        )
    return [path]
