"""Offline pixel episodes: collecting, storing and reading them as clips."""

from __future__ import annotations

from lewm_agent.datasets.clips import Clips, clip_batches
from lewm_agent.datasets.collection import collect
from lewm_agent.datasets.metadata import DatasetMetadata, ShardRecord
from lewm_agent.datasets.offline import OfflineDataset
from lewm_agent.datasets.rollout import BehaviorPolicy, episode_seed, policy_seed, rollout
from lewm_agent.datasets.shard_reader import ShardReader
from lewm_agent.datasets.shards import ShardWriter

__all__ = [
    "BehaviorPolicy",
    "Clips",
    "DatasetMetadata",
    "OfflineDataset",
    "ShardReader",
    "ShardRecord",
    "ShardWriter",
    "clip_batches",
    "collect",
    "episode_seed",
    "policy_seed",
    "rollout",
]

if __name__ == "datasets":  # the repository root is on sys.path: hand over to the Hugging Face package of this name
    from lewm_agent._checkout import hand_over

    hand_over(__name__)
