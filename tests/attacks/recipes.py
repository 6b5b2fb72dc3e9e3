"""Hostile recipes, and names of models that are no paths."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from attacks.victim import Attack, Victim


def text(name: str, message: str, content: str | bytes) -> Attack:
    """A recipe of any bytes."""

    def plant(victim: Victim) -> None:
        victim.recipe.write_bytes(content.encode() if isinstance(content, str) else content)

    return Attack("recipe", name, plant, message)


def keyed(name: str, message: str, code: int = 2, **keys: object) -> Attack:
    """The usual recipe with further keys."""
    return Attack("recipe", name, lambda victim: victim.write_recipe(**keys), message, code)


def device(victim: Victim) -> Sequence[str]:
    return ["merge", "/dev/zero", str(victim.out)]


def code(name: str, tag: str, message: str = "not valid YAML|the tag") -> Attack:
    """A tag that an unsafe loader obeys."""

    def plant(victim: Victim) -> None:
        victim.recipe.write_text(tag.replace("CANARY", f"touch {victim.canary}"))

    return Attack("recipe", name, plant, message)


LAUGHS = "a0: &a0 [x, x]\n" + "".join(f"a{i + 1}: &a{i + 1} [*a{i}, *a{i}]\n" for i in range(40))
MERGES = "a0: &a0 {x: 1}\n" + "".join(f"a{i + 1}: &a{i + 1} {{<<: [*a{i}, *a{i}], y{i}: 1}}\n" for i in range(14))

RECIPES = [
    code("runs a command", "merge_method: !!python/object/apply:os.system ['CANARY']\n"),
    code("makes an object", "base_model: !!python/object/new:subprocess.Popen [['sh', '-c', 'CANARY']]\n"),
    code("names a function", "base_model: !!python/name:os.system x\n"),
    code("imports a module", "base_model: !!python/module:antigravity x\n"),
    code("a tag of its own", "merge_method: !exec 'CANARY'\n"),
    text("alias bomb", "aliases expand beyond", LAUGHS),
    text("merge-key bomb", "aliases expand beyond", MERGES),
    text("an alias of itself", "aliases expand beyond", "models: &a [*a]\n"),
    text("depth bomb", "nested deeper than", "models: " + "[" * 200_000),
    text("depth bomb of mappings", "nested deeper than", "{a: " * 200_000),
    text("longer than a mebibyte", "a recipe has at most", "#" * (1 << 20) + "\n"),
    text("a key given twice", "given twice", "merge_method: sta\nmerge_method: linear\n"),
    text("an unknown key", "run_after: not understood", "merge_method: sta\nrun_after: rm\n"),
    text("a key that clears the terminal", r"\\x1b\[2J", 'merge_method: sta\n"\\e[2J": 1\n'),
    text("two documents", "not valid YAML", "merge_method: sta\n---\nmerge_method: linear\n"),
    text("an integer of 100,000 digits", "merge_method", "merge_method: " + "9" * 100_000),
    text("a NUL", "not valid YAML", "merge_method: st\0a\n"),
    text("not UTF-8", "not UTF-8", b"merge_method: \xff\xfe\n"),
    text("a list", "a recipe is a mapping", "- sta\n"),
    text("nothing", "a recipe is a mapping", ""),
    Attack("recipe", "an endless device", device, "a recipe has at most"),
    keyed("a weight that is no number", "weight|number", parameters={"weight": float("nan")}),
    keyed("a weight beyond float32", "weight", parameters={"weight": 1e300}),
    keyed("p beyond its range", "p: ", parameters={"p": 7}),
    keyed("p that is not a number", "p: ", parameters={"p": float("nan")}),
    keyed("a pattern that backtracks", "matches no tensor", exclude=["*a" * 40 + "b"]),
]


def model(name: str, reference: str, message: str, prepare: Callable[[Victim], None] = lambda victim: None) -> Attack:
    """Something that is named as a model."""

    def plant(victim: Victim) -> None:
        prepare(victim)
        victim.write_recipe(reference.replace("VICTIM", str(victim.folder)))

    return Attack("names of models", name, plant, message)


def referring(commit: str) -> Callable[[Victim], None]:
    """A cached repository whose branch names this commit."""

    def prepare(victim: Victim) -> None:
        refs = victim.folder / "cache" / "models--owner--name" / "refs"
        refs.mkdir(parents=True)
        (refs / "main").write_text(commit)

    return prepare


NOT_THERE = "no such file or folder|nor a hub id in the local cache"

NAMES = [
    model("a hub id that is not in the cache", "owner/name", "nor a hub id in the local cache .* fetch it first"),
    model("a hub id with a revision that climbs", "owner/name@../../x", NOT_THERE),
    model("a branch that leads out of the cache", "owner/name", NOT_THERE, referring("../../../model")),
    model("an address", "https://example.com/model.safetensors", NOT_THERE),
    model("an address of a bucket", "s3://bucket/model", NOT_THERE),
    model("a file's address", "file:///etc/passwd", NOT_THERE),
    model("a command", "$(touch canary)", NOT_THERE),
    model("an option", "--help", NOT_THERE),
    model("a system file", "/etc/passwd", "expected .safetensors"),
    model("a folder without weights", "VICTIM/private", "not a zip checkpoint"),
    model("a name with a control character", "a\x1b[2J", NOT_THERE),
    model("a name of 100,000 characters", "a" * 100_000, NOT_THERE),
]
