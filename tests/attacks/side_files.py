"""Hostile adapters and side files: configurations that bomb, patterns that never end, code beside weights."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable

from attacks.pickles import Calls, archive
from attacks.victim import Attack, Victim, floats, linked, safetensors

GOOD = {"peft_type": "LORA", "r": 1, "lora_alpha": 1}
FACTORS = {
    "base_model.model.layer.lora_A.weight": ("F32", (1, 3), floats(1, 2, 3)),
    "base_model.model.layer.lora_B.weight": ("F32", (2, 1), floats(1, 2)),
}


def adapted(victim: Victim) -> None:
    """A good adapter, added to the first model."""
    folder = victim.folder / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps(GOOD))
    (folder / "adapter_model.safetensors").write_bytes(safetensors(FACTORS))
    victim.write_recipe(f"{victim.model}+{folder}")


def adapter(name: str, message: str, change: Callable[[Victim], object], code: int = 2) -> Attack:
    """An adapter that was changed."""

    def plant(victim: Victim) -> None:
        adapted(victim)
        change(victim)

    return Attack("adapters", name, plant, message, code)


def config(name: str, message: str, **keys: object) -> Attack:
    """An adapter whose configuration says something else."""
    return adapter(name, message, lambda v: _config(v).write_text(json.dumps({**GOOD, **keys})))


def config_text(name: str, message: str, text: str) -> Attack:
    """An adapter whose configuration is any text."""
    return adapter(name, message, lambda v: _config(v).write_text(text))


def _config(victim: Victim) -> os.PathLike[str]:
    return victim.folder / "adapter" / "adapter_config.json"


def pickled(victim: Victim) -> None:
    weights = victim.folder / "adapter" / "adapter_model.safetensors"
    weights.unlink()
    weights.with_suffix(".bin").write_bytes(archive(Calls(os.system, f"touch {victim.canary}")))


def factors(**tensors: tuple[str, tuple[int, ...], bytes]) -> Callable[[Victim], object]:
    """Other tensors than the good adapter's."""

    def change(victim: Victim) -> None:
        content = safetensors({**FACTORS, **{f"base_model.model.{name}": each for name, each in tensors.items()}})
        (victim.folder / "adapter" / "adapter_model.safetensors").write_bytes(content)

    return change


def huge(victim: Victim) -> None:
    with open(_config(victim), "wb") as stream:
        stream.truncate(2_000_000_000)


NEVER_ENDS = "no pattern of names needs"

ADAPTERS = [
    config("a pattern that repeats a group", NEVER_ENDS, rank_pattern={"(a+)+$": 1}),
    config("a pattern of optional letters", NEVER_ENDS, rank_pattern={"a?" * 40 + "a" * 40: 1}),
    config("a pattern of stars", NEVER_ENDS, alpha_pattern={".*" * 30 + "x": 1}),
    config("a pattern of alternatives", NEVER_ENDS, alpha_pattern={"(a|a)" * 40 + "x": 1}),
    config("a pattern that looks back", NEVER_ENDS, rank_pattern={r"(?=(a+))\1": 1}),
    config("a pattern that is none", "is no pattern", rank_pattern={"(": 1}),
    config("a rank of 0", "expected a whole number from 1", r=0),
    config("a negative rank", "expected a whole number from 1", r=-1),
    config("a rank that does not fit", "factors of rank", r=2),
    config("a rank of 2^70", "expected a whole number", r=2**70),
    config("a rank that is text", "expected a whole number", r="1"),
    config("an α beyond float64", "not valid JSON|expected a number", lora_alpha=10**400),
    config_text("an α that is NaN", "NaN is not JSON", '{"peft_type": "LORA", "r": 1, "lora_alpha": NaN}'),
    config_text("an α that is infinite", "expected a number", '{"peft_type": "LORA", "r": 1, "lora_alpha": 1e999}'),
    config_text("depth bomb", "nested too deep", '{"peft_type":' * 500_000),
    config_text("not JSON", "not a JSON object", "peft_type"),
    config("another kind of adapter", "only LORA adapters", peft_type="IA3"),
    config("weights that initialise code", "changes the model's own weights", init_lora_weights="pissa"),
    adapter("a configuration of 2 GB", "exceeds", huge),
    adapter("a configuration that is a link", "leads outside", lambda v: linked(_config(v), v.secret)),
    adapter("a pickle that runs a command", "no code of a checkpoint is run", pickled),
    adapter("a tensor that the model lacks", "has no tensor", factors(ghost=("F32", (1,), floats(1)))),
    adapter("a factor of another shape", "do not fit|rank", factors(**{
        "layer.lora_B.weight": ("F32", (3, 1), floats(1, 2, 3))})),
    adapter("a factor of integers", "cannot be multiplied", factors(**{
        "layer.lora_B.weight": ("I32", (2, 1), bytes(8))})),
    adapter("a factor that is NaN", "is nan at", factors(**{
        "layer.lora_B.weight": ("F32", (2, 1), floats(1, float("nan")))})),
]  # fmt: skip


def beside(name: str, file: str, content: Callable[[Victim], bytes], message: str = "tensors", code: int = 0) -> Attack:
    """A file beside the base's weights that is copied, never obeyed."""

    def plant(victim: Victim) -> None:
        (victim.base / file).write_bytes(content(victim))

    def copied(victim: Victim) -> bool:
        return code != 0 or (victim.out / file).read_bytes() == content(victim)

    return Attack("files beside weights", name, plant, message, code, copied)


def large_config(victim: Victim) -> None:
    """Which would have to be parsed to be edited."""
    with (victim.base / "config.json").open("wb") as stream:
        stream.truncate(300_000_000)
    victim.write_recipe(dtype="float32", chat_template="auto")


SIDE_FILES = [
    beside("a module of Python", "modeling_toy.py", lambda v: f"open({str(v.canary)!r}, 'w')".encode()),
    beside("a configuration that names code", "config.json",
           lambda v: b'{"auto_map": {"AutoModel": "modeling_toy.Model"}, "trust_remote_code": true}'),
    beside("a configuration as depth bomb", "config.json", lambda v: b'{"a":' * 200_000),
    beside("a configuration that is not UTF-8", "config.json", lambda v: b'{"\xff": 1}'),
    beside("a configuration of digits", "config.json", lambda v: b'{"a": ' + b"9" * 100_000 + b"}"),
    beside("a chat template that climbs", "chat_template.jinja", lambda v: b"{{ ''.__class__.__mro__ }}"),
    beside("a pickle that is no weights", "extra.dat", lambda v: pickle.dumps(Calls(os.system, f"touch {v.canary}"))),
    Attack("files beside weights", "a configuration of 300 MB", large_config, "tensors", 0),
]  # fmt: skip
