"""Hostile folders: an index that lies, links that lead away, files that are none."""

from __future__ import annotations

import json
import os
from collections.abc import Callable

from attacks.victim import SECRET, Attack, Victim, linked, safetensors, weights, without_weights

INDEX = "model.safetensors.index.json"
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


def sharded(victim: Victim) -> dict[str, str]:
    """The first model in two shards; returns the weight map that describes them."""
    folder = without_weights(victim.model)
    tensors = weights(1)
    first = {name: tensors[name] for name in ("layer.weight",)}
    rest = {name: tensors[name] for name in ("layer.bias", "steps")}
    for shard, part in zip(SHARDS, (first, rest), strict=True):
        (folder / shard).write_bytes(safetensors(part))
    return {**dict.fromkeys(first, SHARDS[0]), **dict.fromkeys(rest, SHARDS[1])}


def index(name: str, message: str, change: Callable[[Victim, dict[str, object]], object]) -> Attack:
    """An index that was changed."""

    def plant(victim: Victim) -> None:
        table: dict[str, object] = dict(sharded(victim))
        (victim.model / INDEX).write_text(json.dumps({"weight_map": change(victim, table)}))

    return Attack("index of shards", name, plant, message)


def index_text(name: str, message: str, text: str | bytes) -> Attack:
    """An index of any bytes."""

    def plant(victim: Victim) -> None:
        sharded(victim)
        (victim.model / INDEX).write_bytes(text.encode() if isinstance(text, str) else text)

    return Attack("index of shards", name, plant, message)


def huge_index(victim: Victim) -> None:
    """An index of 2 GB, without a byte on the disk."""
    sharded(victim)
    with (victim.model / INDEX).open("wb") as stream:
        stream.truncate(2_000_000_000)


def missing_shard(victim: Victim) -> None:
    table = sharded(victim)
    (victim.model / INDEX).write_text(json.dumps({"weight_map": table}))
    (victim.model / SHARDS[1]).unlink()


def twice(victim: Victim) -> None:
    table = sharded(victim)
    (victim.model / SHARDS[1]).write_bytes(safetensors(weights(1)))
    (victim.model / INDEX).write_text(json.dumps({"weight_map": table}))


PLAIN = "which is no plain file name in its own folder"

INDICES = [
    index("a shard outside its folder", PLAIN, lambda v, table: {**table, "steps": "../other/model.safetensors"}),
    index("a shard by its absolute path", PLAIN, lambda v, table: {**table, "layer.weight": str(v.secret)}),
    index("a shard with backslashes", PLAIN, lambda v, table: {**table, "layer.weight": "..\\other\\x.safetensors"}),
    index("a shard on a drive", PLAIN, lambda v, table: {**table, "layer.weight": "C:x.safetensors"}),
    index("a shard named ..", PLAIN, lambda v, table: {**table, "layer.weight": ".."}),
    index("a shard with a control character", PLAIN, lambda v, table: {**table, "layer.weight": "a\x1b[2J"}),
    index("a shard that is a number", PLAIN, lambda v, table: {**table, "layer.weight": 3}),
    index("a shard that is a folder", "not a regular file|expected .safetensors", lambda v, table: {
        **table, "layer.weight": (v.model / "x.safetensors").mkdir() or "x.safetensors"}),
    index("a tensor in the wrong shard", "but it is in", lambda v, table: {**table, "layer.weight": SHARDS[1],
          "steps": SHARDS[0]}),
    index("a tensor that no shard holds", "but no shard holds it", lambda v, table: {**table, "ghost": SHARDS[0]}),
    index("a tensor kept quiet", "does not list 'steps'", lambda v, table: {
        name: shard for name, shard in table.items() if name != "steps"}),
    index("no tensors", "must map tensor names", lambda v, table: {}),
    index("a list", "must map tensor names", lambda v, table: list(table)),
    Attack("index of shards", "a missing shard", missing_shard, "no such file"),
    Attack("index of shards", "two shards that hold the same tensor", twice, "and so does"),
    Attack("index of shards", "2 GB long", huge_index, "exceeds 100000000"),
    index_text("not JSON", "not a JSON object", "weight_map"),
    index_text("no weight map", "must map tensor names", "{}"),
    index_text("a weight map given twice", "stands there twice", '{"weight_map": {}, "weight_map": {}}'),
    index_text("a tensor given twice", "stands there twice", '{"weight_map": {"a": "x", "a": "y"}}'),
    index_text("depth bomb", "nested too deep", '{"weight_map":' * 500_000),
    index_text("invalid UTF-8", "not UTF-8", b'{"weight_map": {"\xff": "x"}}'),
]  # fmt: skip


def link(name: str, message: str, path: str, target: Callable[[Victim], object], code: int = 2) -> Attack:
    """A link in the place of one of the first model's, or the base's, files."""

    def plant(victim: Victim) -> None:
        linked(victim.folder / path, str(target(victim)))

    return Attack("links and special files", name, plant, message, code)


def pipe(victim: Victim) -> None:
    """Reading it would wait for ever."""
    os.mkfifo(without_weights(victim.model) / "model.safetensors")


def pipe_beside(victim: Victim) -> None:
    os.mkfifo(victim.base / "tokenizer.json")


def controlling_name(victim: Victim) -> None:
    (victim.base / "a\x1b[2Jb.json").write_text("{}")


def hub_escape(victim: Victim) -> None:
    """A cache of the hub's layout whose link leads out of it, to a sibling of the folder it may lead to."""
    snapshot = victim.folder / "hub" / "models--a--b" / "snapshots" / "abc"
    outside = victim.folder / "hub" / "models--a--b" / "blobs-of-another"
    snapshot.mkdir(parents=True)
    outside.mkdir()
    (outside / "0").write_bytes((victim.model / "model.safetensors").read_bytes())
    (snapshot / "model.safetensors").symlink_to(outside / "0")
    victim.write_recipe(str(snapshot))


def not_copied(victim: Victim) -> bool:
    return not any(SECRET in path.read_bytes() for path in victim.out.rglob("*") if path.is_file())


AWAY = "leads outside its folder"

LINKS = [
    link("weights that are somebody else's file", AWAY, "model/model.safetensors", lambda v: v.secret),
    link("weights of another model", AWAY, "model/model.safetensors", lambda v: v.other / "model.safetensors"),
    link("weights by a relative climb", AWAY, "model/model.safetensors", lambda v: "../private/secret.bin"),
    link("weights that are a device", AWAY, "model/model.safetensors", lambda v: "/dev/zero"),
    link("weights that are this process's memory", AWAY, "model/model.safetensors", lambda v: "/proc/self/mem"),
    link("weights that are a link to themselves", "cannot be followed|no such file|holds no model",
         "model/model.safetensors", lambda v: "model.safetensors"),
    link("weights that lead nowhere", "no such file|holds no model", "model/model.safetensors", lambda v: "gone"),
    link("a side file that would be copied", AWAY, "base/tokenizer.json", lambda v: v.secret),
    link("a configuration that would be copied", AWAY, "base/config.json", lambda v: v.secret),
    Attack("links and special files", "weights that are a pipe", pipe, "not a regular file"),
    Attack("links and special files", "a pipe beside the weights", pipe_beside, "tensors merged|merged", 0,
           lambda victim: not (victim.out / "tokenizer.json").exists()),
    Attack("links and special files", "a side file whose name clears the terminal", controlling_name, "unprintable"),
    Attack("links and special files", "a hub cache whose link leaves it", hub_escape, AWAY),
]  # fmt: skip
