"""Checkpoints on disk: read, laid out, written, digested. Only opening a ``.pt`` file imports torch."""

from __future__ import annotations

from sta_kernels.checkpoint.digest import BLOCK, TensorDigest, block_digest, combine, hash_file, model_digest
from sta_kernels.checkpoint.entry import TensorEntry
from sta_kernels.checkpoint.importance import ImportanceMetadata
from sta_kernels.checkpoint.layout import Layout, Placement, Shard, plan_shards
from sta_kernels.checkpoint.names import plain_names, state_dict_of, wrapping_prefix
from sta_kernels.checkpoint.reader import Checkpoint, open_checkpoint
from sta_kernels.checkpoint.writer import ShardWriter, atomic_write

__all__ = [
    "BLOCK",
    "Checkpoint",
    "ImportanceMetadata",
    "Layout",
    "Placement",
    "Shard",
    "ShardWriter",
    "TensorDigest",
    "TensorEntry",
    "atomic_write",
    "block_digest",
    "combine",
    "hash_file",
    "model_digest",
    "open_checkpoint",
    "plain_names",
    "plan_shards",
    "state_dict_of",
    "wrapping_prefix",
]
