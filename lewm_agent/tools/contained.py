"""Files that a dataset's index names must lie in the dataset."""

from __future__ import annotations

from pathlib import Path


def inside(folder: Path, name: str | Path) -> Path:
    """The file ``name`` of ``folder``.

    Raises:
        ValueError: it leads out of the folder, by its name or by a symbolic link. In the cache of the Hugging Face Hub,
            where all files are links, out of the cached repository.
    """
    file, root = folder / name, folder.resolve()
    for parent in root.parents:
        if parent.name == "snapshots" and (parent.parent / "blobs").is_dir():
            root = parent.parent
    if not file.resolve().is_relative_to(root):
        raise ValueError(f"{file} leads out of {folder}, to {file.resolve()}: an index may only name files of its own")
    return file
