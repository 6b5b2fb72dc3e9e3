"""Heads that a checkpoint does not store because they are its embedding, while another of the merge stores one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from sta_kernels.checkpoint import Checkpoint, TensorEntry
from sta_kernels.checkpoint.folder import read_json

_HEAD = re.compile(
    r"((.+\.)?(lm_head|lm_head\.decoder|cls\.predictions\.decoder|embed_out|vocab_projector)|output)\.weight"
)
_EMBEDDING = re.compile(r"(.+\.)?(embed_tokens|embed_in|embeddings|shared|tok_embeddings|word_embeddings|wte)\.weight")
_SHARED = "shared.weight"
"""What all of an encoder's and a decoder's embeddings are tied to."""
_KEY = "tie_word_embeddings"


def heads(checkpoints: Iterable[Checkpoint]) -> dict[str, TensorEntry]:
    """Heads by name, as the first checkpoint has them that stores them."""
    found: dict[str, TensorEntry] = {}
    for checkpoint in checkpoints:
        for name, entry in checkpoint.entries.items():
            if _HEAD.fullmatch(name):
                found.setdefault(name, entry)
    return found


def tied_heads(checkpoint: Checkpoint, known: Mapping[str, TensorEntry]) -> dict[str, str]:
    """Heads that others store and this checkpoint does not, with the embedding that each is tied to.

    None where its ``config.json`` says that they are not tied, or no one embedding has the head's shape: the head is
    missing then.

    Args:
        checkpoint: a model.
        known: heads of all models.
    """
    missing = [name for name in known if name not in checkpoint.entries and name not in checkpoint.aliases]
    if not missing or _tie_word_embeddings(checkpoint) is False:
        return {}
    tied = {}
    for head in missing:
        found = [
            name
            for name, entry in checkpoint.entries.items()
            if _EMBEDDING.fullmatch(name) and entry.shape == known[head].shape
        ]
        if len(found) == 1 or _SHARED in found:
            tied[head] = _SHARED if _SHARED in found else found[0]
    return tied


def _tie_word_embeddings(checkpoint: Checkpoint) -> bool | None:
    """What ``config.json`` says, at its top or for its text model; None where it leaves that to the architecture."""
    file = next((file for file in checkpoint.side_files() if file.name == "config.json"), None)
    config = None if file is None else read_json(file)
    parts = [config, *config.values()] if config is not None else []
    said = (part[_KEY] for part in parts if isinstance(part, dict) and isinstance(part.get(_KEY), bool))
    return next(said, None)
