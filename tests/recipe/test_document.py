"""YAML as marked values: lines, limits, and what is refused."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from sta_kernels.errors import InputError
from sta_kernels.recipe.document import MAX_BYTES, Node, from_object, from_text, to_object


def at(node: Node, *keys: str | int) -> Node:
    for key in keys:
        node = node.value[key]
    return node


def test_every_value_knows_its_key_and_line():
    root = from_text("a: 1\nb:\n  - x: 2\n    y: [3,\n      4]\n", "r.yaml")
    assert (root.path, root.line) == ("", 1)
    assert at(root, "b", 0, "y").where == "r.yaml:4: b[0].y"
    assert at(root, "b", 0, "y", 1).where == "r.yaml:5: b[0].y[1]"
    assert to_object(root) == {"a": 1, "b": [{"x": 2, "y": [3, 4]}]}


def test_scalars_are_those_of_yaml_and_dates_stay_text():
    text = "i: 0x10\nf: 1.5\nt: yes\nn:\ns: 'a'\nday: 2024-01-02\n"
    assert to_object(from_text(text, "r")) == {"i": 16, "f": 1.5, "t": True, "n": None, "s": "a", "day": "2024-01-02"}


def test_aliases_and_merge_keys():
    text = "common: &c {p: 1, q: 2}\nlist:\n  - <<: *c\n    q: 3\n  - *c\n"
    assert to_object(from_text(text, "r"))["list"] == [{"p": 1, "q": 3}, {"p": 1, "q": 2}]


def test_earlier_merged_mappings_win():
    text = "a: &a {p: 1}\nb: &b {p: 2, q: 2}\nc: {<<: [*a, *b]}\n"
    assert to_object(from_text(text, "r"))["c"] == {"p": 1, "q": 2}


BILLION_LAUGHS = "a0: &a0 [x, x]\n" + "".join(f"a{i + 1}: &a{i + 1} [{'*a' + str(i)}, *a{i}]\n" for i in range(30))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("p: 1\nq: 2\np: 3\n", "r:3: p: given twice, first in line 1"),
        ("a: {b: 1,\n    b: 2}", "r:2: a.b: given twice"),
        ("a: [1, 2\nb: 3", "r:2: not valid YAML"),
        ("a: 1\n---\nb: 2\n", "r:2: not valid YAML"),
        ("a: *nowhere", "r:1: not valid YAML"),
        ("a: \x00", "r: not valid YAML"),
        ("a: !!python/object/apply:os.system ['true']", "r:1: a: the tag"),
        ("a: !!python/name:os.system x", "not valid YAML"),
        ("a: !!set {x}", "r:1: a: the tag"),
        ("? [a, b]\n: 1", "a key must be a plain word"),
        ("a: " + "[" * 20 + "]" * 20, "r:1: nested deeper than"),
        ("[" * 100_000, "nested deeper than"),
        (BILLION_LAUGHS, "aliases expand beyond"),
        ("a: &a [*a]", "aliases expand beyond"),
        ("a: " + "9" * 5000, "r:1: a: "),
        ("#" * (MAX_BYTES + 1), "characters; a recipe has at most"),
        ("a: {<<: 3}", "r:1: a: expected a mapping"),
    ],
)
def test_refused(text: str, message: str):
    with pytest.raises(InputError) as caught:
        from_text(text, "r")
    assert message in str(caught.value)


def test_the_pure_python_loader_reads_and_refuses_the_same(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delattr(yaml, "CSafeLoader")
    assert at(from_text("a:\n  b: [1, {c: 2}]\n", "r"), "a", "b", 1, "c").where == "r:2: a.b[1].c"
    with pytest.raises(InputError, match="r:2: p: given twice"):
        from_text("p: 1\np: 2\n", "r")


def test_an_empty_document_is_null():
    assert from_text("", "r").value is None
    assert from_text("# only words\n", "r").value is None


SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
TREES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)


@given(TREES)
def test_data_survives_the_way_through_text(tree: object):
    """Whatever safe_dump writes is read as safe_load reads it, and as the data itself would be."""
    text = yaml.safe_dump(tree)
    assert to_object(from_text(text, "r")) == yaml.safe_load(text)
    assert to_object(from_object(tree, "r")) == tree


def test_objects_that_are_no_data_are_refused():
    with pytest.raises(InputError, match=r"recipe: models\[0\]: expected a number"):
        from_object({"models": [object()]}, "recipe")
