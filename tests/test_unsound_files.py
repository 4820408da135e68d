"""An index, a link or a size that a file states is checked before it is believed."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from lewm_agent.datasets import OfflineDataset, ShardWriter
from lewm_agent.datasets.metadata import DatasetMetadata
from lewm_agent.inspection import describe
from lewm_agent.tools import strict_json

LENGTHS = (6, 4, 5)
ROWS = sum(LENGTHS)


def written(path: Path, **replaced: Any) -> Path:
    """A published file of three episodes, some of whose contents are replaced or added."""
    action = np.ones((ROWS, 2), np.float32)
    content = {"pixels": np.full((ROWS, 8, 8, 3), 7, np.uint8), "action": action}
    content |= {"ep_len": np.array(LENGTHS), "ep_offset": np.cumsum(LENGTHS) - LENGTHS}
    with h5py.File(path, "w") as file:
        for name, values in {**content, **replaced}.items():
            file[name] = values
    return path


@pytest.mark.parametrize(
    ("replaced", "sentence"),
    [
        ({"ep_len": [4, 6, 5]}, "episodes 0 and 1 share rows|episodes 1 and 2 share rows"),
        ({"ep_len": [5, 4, 6]}, "episode 2 has rows outside"),
        ({"ep_offset": [0, 0, 0]}, "episodes 0 and 1 share rows"),
        ({"ep_offset": [0, 6, 2**63 - 1]}, "episode 2 has rows outside of the 15"),
        ({"ep_offset": np.array([0, 6, 2**64 - 1], np.uint64)}, "episode 2 has rows outside of the 15"),
        ({"ep_len": [6, 4, -5]}, "episode 2 has rows outside"),
        ({"ep_len": [6, 4, 2**62]}, "episode 2 has rows outside"),
        ({"ep_len": [6.0, 4.0, np.nan]}, "as many whole numbers, got float64"),
        ({"ep_len": [6, 4]}, r"as many whole numbers, got int64 \(2,\) and int64 \(3,\)"),
        ({"ep_len": 6}, "ep_len is a single number"),
        ({"action": np.ones((ROWS, 0), np.float32)}, r"action has rows of shape \(0,\), with nothing in them"),
        ({"action": np.ones((ROWS, 2), np.int64)}, r"action must be floats of shape \(rows, A\), got int64"),
        ({"action": np.ones((5, 2), np.float32)}, "action has 5 rows instead of 15"),
        ({"action": ["left"] * ROWS}, "action holds object, not numbers"),
        ({"pixels": np.ones((ROWS, 8, 0, 3), np.uint8)}, "pixels must be uint8 of shape"),
        ({"pixels": 3}, "pixels is a single number"),
        ({"ep_len": [0, 0, 0]}, "holds no episode"),
    ],
)
def test_an_index_that_cannot_be_true(tmp_path: Path, replaced: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence) as caught:
        OfflineDataset(written(tmp_path / "data.h5", **replaced))
    assert "delete" not in str(caught.value)


def test_what_is_no_column_of_rows_is_left_out_and_told(tmp_path: Path) -> None:
    others = {"success": np.ones(3), "fps": 30, "meta/fps": 30, "task": ["push"] * ROWS}
    path = written(tmp_path / "data.h5", state=np.zeros((ROWS, 4)), **others)
    dataset = OfflineDataset(path)
    assert dataset.columns == ["action", "pixels", "state"]
    assert set(dataset.left_out) == {"success", "fps", "meta", "task"}
    assert "success (has 3 rows instead of 15)" in describe(str(path))["left out"]


def test_episodes_without_rows_are_none(tmp_path: Path) -> None:
    path = written(tmp_path / "data.h5", ep_len=[6, 0, 4, 5], ep_offset=[0, 6, 6, 10])
    assert OfflineDataset(path).episode_lengths.tolist() == [6, 4, 5]


def external(file: h5py.File, name: str, elsewhere: Path) -> None:
    values = file[name][()]
    del file[name]
    file.create_dataset(name, values.shape, values.dtype, external=[(str(elsewhere), 0, values.nbytes)])


def linked(file: h5py.File, name: str, elsewhere: Path) -> None:
    del file[name]
    file[name] = h5py.ExternalLink(str(elsewhere), name)


def virtual(file: h5py.File, name: str, elsewhere: Path) -> None:
    values = file[name][()]
    layout = h5py.VirtualLayout(values.shape, values.dtype)
    layout[...] = h5py.VirtualSource(str(elsewhere), name, values.shape)
    del file[name]
    file.create_virtual_dataset(name, layout)


@pytest.mark.parametrize("change", [external, linked, virtual])
@pytest.mark.parametrize("name", ["pixels", "action", "ep_len", "state"])
def test_no_other_file_is_read(tmp_path: Path, change: Callable[[h5py.File, str, Path], None], name: str) -> None:
    """Neither where the column is needed, which is an error, nor where it is not, which leaves it out."""
    state = np.zeros((ROWS, 4))
    elsewhere = written(tmp_path / "other.h5", state=state)
    path = written(tmp_path / "data.h5", state=state)
    with h5py.File(path, "a") as file:
        change(file, name, elsewhere)
    if name == "state":
        assert set(OfflineDataset(path).left_out) == {"state"}
    else:
        with pytest.raises(ValueError, match=rf"data.h5 cannot be used: {name} is (stored in other files|a link)"):
            OfflineDataset(path)


def grown(path: Path, name: str, shape: tuple[int, ...], dtype: str, chunks: tuple[int, ...] | None) -> None:
    """Declare a column of which nothing is written."""
    with h5py.File(path, "a") as file:
        del file[name]
        file.create_dataset(name, shape, dtype, chunks=chunks)


@pytest.mark.parametrize(
    ("name", "shape", "dtype", "chunks", "sentence"),
    [
        ("action", (ROWS, 10**9), "f4", (1, 1024), "action asks for 60.0 GB, and the whole file has 0.0 MB"),
        ("pixels", (ROWS, 10**5, 10**5, 3), "u1", (1, 64, 64, 3), "pixels asks for 30.0 GB"),
        ("pixels", (ROWS, 8, 8, 3), "u1", (1, 8, 8, 3), None),
        ("pixels", (ROWS, 8, 8, 3), "u1", (5, 8, 8, 3), "frames that were never written"),
        ("pixels", (ROWS, 8, 8, 3), "u1", None, "frames that were never written"),
        ("action", (ROWS, 2), "f4", (4, 2), "action has rows that were never written"),
        ("ep_len", (10**10,), "i8", (1024,), "ep_len asks for 80.0 GB"),
    ],
)
def test_what_was_never_written(
    tmp_path: Path, name: str, shape: tuple[int, ...], dtype: str, chunks: tuple[int, ...] | None, sentence: str | None
) -> None:
    path = written(tmp_path / "data.h5")
    grown(path, name, shape, dtype, chunks)
    if sentence is None:  # one frame per chunk: found when it is read
        with pytest.raises(ValueError, match="frame 3 cannot be read"):
            OfflineDataset(path).read_frames(np.array([3]))
    else:
        with pytest.raises(ValueError, match=sentence):
            OfflineDataset(path)


def packed(path: Path, name: str, chunks: tuple[int, ...], content: bytes, **filters: Any) -> None:
    """Put other content into the first chunk of a compressed column."""
    with h5py.File(path, "a") as file:
        values = file[name][()]
        del file[name]
        column = file.create_dataset(name, values.shape, values.dtype, chunks=chunks, compression="gzip", **filters)
        column[...] = values
        column.id.write_direct_chunk((0,) * values.ndim, content)


@pytest.fixture(scope="module")
def bomb() -> bytes:
    """300 MB of zeros in 300 kB."""
    packer = zlib.compressobj(9)
    return b"".join(packer.compress(bytes(2**20)) for _ in range(300)) + packer.flush()


@pytest.mark.parametrize(("name", "chunks"), [("pixels", (1, 8, 8, 3)), ("pixels", (2, 8, 8, 3)), ("action", (4, 2))])
def test_a_chunk_that_unpacks_to_more_than_it_should(
    tmp_path: Path, bomb: bytes, name: str, chunks: tuple[int, ...]
) -> None:
    resource = pytest.importorskip("resource")
    path = written(tmp_path / "data.h5")
    packed(path, name, chunks, bomb)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=r"unpacks to more|frame 0 cannot be read"):
        OfflineDataset(path).read_frames(np.array([0]))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


def test_a_file_that_is_being_written(tmp_path: Path) -> None:
    path = written(tmp_path / "data.h5")
    code = "import h5py, sys; f = h5py.File(sys.argv[1], 'a'); print(1, flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", code, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        with pytest.raises(BlockingIOError, match=r"data.h5 is being written by another program"):
            OfflineDataset(path)
        writer.communicate("")
    assert len(OfflineDataset(path)) == 3


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two shards of two episodes of 4 and 5 rows."""
    path, records = tmp_path / "data", []
    path.mkdir()
    for index in range(2):
        with ShardWriter(path / f"shard-{index:05d}.h5") as writer:
            for rows in (4, 5):
                action = np.full((rows, 2), 0.5, np.float32)
                action[-1] = np.nan
                writer.append({"pixels": np.full((rows, 8, 8, 3), index, np.uint8), "action": action})
        records.append(writer.record())
    spaces = "Box", "Box"
    metadata = DatasetMetadata("a/Env-v0", {}, "random", 0, 4, 2, (8, 8, 3), *spaces, {}, shards=tuple(records))
    dataclasses.replace(metadata, action_mean=(0.5, 0.5), action_std=(0.0, 0.0)).save(path)
    return path


def first_shard(content: dict[str, Any], **values: Any) -> None:
    content["shards"][0].update(values)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda content: content["shards"].append(content["shards"][0]), "names a shard twice"),
        (lambda content: first_shard(content, file="shard-00001.h5"), "names a shard twice"),
        (lambda content: content.update(episodes=3), r"more episodes \(4\) than there are \(3\)"),
        (lambda content: first_shard(content, episodes=1), "has episodes 2, metadata.json says 1"),
        (lambda content: first_shard(content, frames=8), "has rows of episodes 9, metadata.json says 8"),
        (lambda content: content.update(frame_shape=[9, 8, 3]), r"has frame_shape \(8, 8, 3\), metadata.json says"),
        (lambda content: content.update(frame_interval=2), "has frame_interval 1, metadata.json says 2"),
        (lambda content: content.update(action_mean=[0.5]), "action_mean must be 2 finite numbers"),
        (lambda content: content.update(action_std=[0.5, float("inf")]), "action_std must be 2 finite numbers"),
        (lambda content: content.update(action_std=[0.5, 10**400]), "action_std must be 2 finite numbers"),
    ],
)
def test_metadata_that_the_shards_contradict(
    folder: Path, change: Callable[[dict[str, Any]], None], sentence: str
) -> None:
    OfflineDataset(folder)
    content = json.loads((folder / "metadata.json").read_text())
    change(content)
    (folder / "metadata.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=sentence):
        OfflineDataset(folder)


@pytest.mark.parametrize("content", ["[" * 100_000, '{"seed": ' + "9" * 5000 + "}"])
def test_metadata_that_json_cannot_take(folder: Path, content: str) -> None:
    (folder / "metadata.json").write_text(content)
    with pytest.raises(ValueError, match=r"metadata.json is damaged, it is not valid JSON"):
        OfflineDataset(folder)


def test_a_shard_that_leads_out_of_the_folder(folder: Path, tmp_path: Path) -> None:
    shard, elsewhere = folder / "shard-00001.h5", tmp_path / "elsewhere.h5"
    shard.rename(elsewhere)
    shard.symlink_to(elsewhere)
    with pytest.raises(ValueError, match=r"shard-00001.h5 leads out of .*data, to .*elsewhere.h5"):
        OfflineDataset(folder)


def test_links_into_the_cache_of_the_hub_and_to_the_whole_folder(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(folder)
    assert len(OfflineDataset(tmp_path / "link")) == 4
    blobs, snapshot = tmp_path / "repo" / "blobs", tmp_path / "repo" / "snapshots" / "abc"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for file in folder.iterdir():
        (blobs / f"hash-of-{file.name}").write_bytes(file.read_bytes())
        (snapshot / file.name).symlink_to(blobs / f"hash-of-{file.name}")
    assert len(OfflineDataset(snapshot)) == 4


def test_our_shards_hold_nothing_but_columns(folder: Path) -> None:
    shard = folder / "shard-00000.h5"
    with h5py.File(shard, "a") as file:
        file["note"] = 1
    content = json.loads((folder / "metadata.json").read_text())
    content["shards"][0]["bytes"] = shard.stat().st_size
    (folder / "metadata.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"has content that is no column \{'note': 'is a single number"):
        OfflineDataset(folder)


@pytest.mark.parametrize("column", ["action", "state", "ep_len", "ep_offset"])
def test_a_flipped_bit_is_said_when_it_is_read(column: str, tmp_path: Path) -> None:
    """Frames are compressed, which has a checksum in itself."""
    with ShardWriter(tmp_path / "x.h5") as writer:
        pixels, action = np.zeros((6, 8, 8, 3), np.uint8), np.ones((6, 2), np.float32)
        writer.append({"pixels": pixels, "action": action, "state": np.ones((6, 3))})
    with h5py.File(tmp_path / "x.h5") as file:
        start = file[column].id.get_chunk_info(0).byte_offset
    content = bytearray((tmp_path / "x.h5").read_bytes())
    content[start] ^= 1
    (tmp_path / "x.h5").write_bytes(content)
    with pytest.raises(ValueError, match=f"x.h5 is damaged, .*{column}"):
        OfflineDataset(tmp_path / "x.h5").episode(0)


def test_shards_are_listed_in_order(tmp_path: Path) -> None:
    recorded = [{"file": f"shard-0000{n}.h5", "episodes": 1, "frames": 6, "bytes": 1, "sha256": ""} for n in (1, 0)]
    values = {field.name: None for field in dataclasses.fields(DatasetMetadata)}
    given = {"environment_id": "x", "environment_kwargs": {}, "policy": "x", "seed": 0, "episodes": 2}
    given |= {"shard_episodes": 1, "frame_shape": [8, 8, 3], "observation_space": "x", "action_space": "x"}
    given |= {"versions": {}, "frame_interval": 1, "format_version": 1, "shards": recorded}
    (tmp_path / "metadata.json").write_text(json.dumps({**values, **given}))
    with pytest.raises(ValueError, match="shards must be listed in order"):
        DatasetMetadata.load(tmp_path)


def test_a_whole_number_that_no_float_holds_is_refused() -> None:
    with pytest.raises(ValueError, match="is not a finite number"):
        strict_json.parse(f'{{"x": {10**400}}}')
