from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lewm_agent.tools.replacing import part_of, remove, replacing, write_atomically


def _file(path: Path) -> None:
    path.write_text("left over")


def _folder(path: Path) -> None:
    path.mkdir()
    (path / "inside").write_text("left over")


def _link(path: Path) -> None:
    path.symlink_to("elsewhere")


@pytest.mark.parametrize("leave", [_file, _folder, _link])
def test_whatever_a_killed_write_left_does_not_block_the_next(tmp_path: Path, leave: Callable[[Path], None]) -> None:
    path = tmp_path / "result.json"
    leave(part_of(path))
    write_atomically(path, "whole")
    assert path.read_text() == "whole"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failing_write_leaves_what_was_there_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_text("before")
    with pytest.raises(OSError, match="full"), replacing(path) as part:
        part.write_text("half")
        raise OSError("disk full")
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_takes_the_place_of_none_or_an_empty_one(tmp_path: Path) -> None:
    for path in (tmp_path / "new", tmp_path / "empty"):
        if path.name == "empty":
            path.mkdir()
        with replacing(path) as part:
            _folder(part)
        assert (path / "inside").is_file()


def test_removing_a_link_leaves_what_it_points_to(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    _folder(target)
    link.symlink_to(target)
    remove(link)
    assert not link.exists()
    assert (target / "inside").is_file()
