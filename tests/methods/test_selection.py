from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sta_kernels.errors import InputError
from sta_kernels.methods.selection import Selection, check_split, segments, select, select_importances


@dataclass(frozen=True)
class Entry:
    dtype: str = "F32"
    shape: tuple[int, ...] = (4, 3)


BASE = {
    "w": Entry(),
    "head.w": Entry("BF16"),
    "bn.running_mean": Entry("F32", (4,)),
    "bn.num_batches_tracked": Entry("I64", ()),
    "mask": Entry("BOOL"),
}


def test_what_becomes_of_each_entry() -> None:
    selection = select(BASE, {"a": BASE}, exclude=["head.*"])
    assert selection.merged == ("w",)
    assert selection.excluded == ("head.w",)
    assert selection.copied == ("bn.running_mean", "bn.num_batches_tracked", "mask")


def test_patterns_match_whole_names_with_their_case() -> None:
    assert select(BASE, {}, exclude=["?"]).excluded == ("w",)
    with pytest.raises(InputError, match="exclude: 'W' matches no tensor"):
        select(BASE, {}, exclude=["W"])


@pytest.mark.parametrize("name", ["mask", "bn.running_mean"])
def test_a_copied_entry_may_be_missing_or_differ_in_a_model(name: str) -> None:
    without = {key: entry for key, entry in BASE.items() if key != name}
    assert select(BASE, {"a": without, "b": {**BASE, name: Entry("I64", (7,))}}).merged == ("w", "head.w")


def test_an_excluded_entry_may_be_missing_differ_or_be_extra() -> None:
    models = {"a": {"w": Entry()}, "b": {"w": Entry(), "head.w": Entry("F8_E4M3", (9,)), "head.b": Entry()}}
    assert select(BASE, models, exclude=["head.*"]).merged == ("w",)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"head.w": Entry()}, "^a.st: no entry 'w', which base has; exclude it to copy it"),
        ({}, r"^a.st: no entry 'w' \(and 1 more\), which base has"),
        ({"w": Entry("F32", (3, 4)), "head.w": Entry()}, r"^a.st: 'w' has shape \[3, 4\], base has \[4, 3\]"),
        ({"w": Entry("I64"), "head.w": Entry()}, "^a.st: 'w' is I64, which no kernel reads"),
        ({"w": Entry("F8_E4M3"), "head.w": Entry()}, "^a.st: 'w' is F8_E4M3, which no kernel reads; convert it"),
        ({**BASE, "extra": Entry()}, "^a.st: 'extra' is not in base; exclude it to leave it out"),
    ],
)
def test_a_model_that_does_not_fit_is_named(model: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        select(BASE, {"good.st": BASE, "a.st": model})


def test_a_base_that_no_kernel_reads_is_named() -> None:
    with pytest.raises(InputError, match=r"^base/: 'w' is F8_E5M2"):
        select({"w": Entry("F8_E5M2")}, {}, label="base/")
    assert select({"w": Entry("F8_E5M2")}, {}, exclude=["w"]).excluded == ("w",)


def test_integer_entries_that_only_a_model_has_are_left_out() -> None:
    assert select(BASE, {"a": {**BASE, "position_ids": Entry("I64")}}).merged == ("w", "head.w")


def test_tied_entries_are_decided_once() -> None:
    base = {"embed": Entry(), "lm_head": Entry(), "w": Entry()}
    tied = {"lm_head": "embed"}
    assert select(base, {}, aliases=tied).merged == ("embed", "w")
    assert select(base, {}, aliases=tied, exclude=["lm_head"]).excluded == ("embed",)


@pytest.mark.parametrize("stored", ["embed", "lm_head"])
def test_a_model_may_hold_a_tied_entry_under_either_name(stored: str) -> None:
    base = {"embed": Entry(), "lm_head": Entry()}
    selection = select(base, {"a": {stored: Entry()}}, aliases={"lm_head": "embed"})
    assert selection.stored_name({stored: Entry()}, "embed") == stored
    with pytest.raises(InputError, match=r"a: 'lm_head' has shape \[1\]"):
        select(base, {"a": {"lm_head": Entry("F32", (1,))}}, aliases={"lm_head": "embed"})


SELECTION = Selection(("w", "head.w"), (), ())


def test_entries_without_importance_are_reported() -> None:
    files = {"a.imp": {"w": Entry()}, "b.imp": {"w": Entry("BF16")}}
    assert select_importances(SELECTION, BASE, files) == ("head.w",)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ({"head.w": Entry()}, "^b.imp: no importance for 'w'; compute it again"),
        ({"w": Entry("F32", (4,))}, r"^b.imp: 'w' has shape \[4\], its parameter has \[4, 3\]"),
        ({"w": Entry("I64")}, "^b.imp: 'w' is I64"),
        ({"w": Entry(), "v": Entry()}, "^b.imp: importance of 'v', but there is no such entry"),
    ],
)
def test_an_importance_that_does_not_fit_is_named(file: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        select_importances(SELECTION, BASE, {"a.imp": {"w": Entry()}, "b.imp": file})


def test_importances_of_copied_and_excluded_entries_are_left_alone() -> None:
    file = {"w": Entry(), "head.w": Entry(), "bn.running_mean": Entry("F32", (9,)), "gone": Entry()}
    assert select_importances(SELECTION, BASE, {"a": file}, exclude=["gone"]) == ()


def test_segments_of_a_split() -> None:
    q, k, v = segments("attn.in_proj_weight", (6, 5), {"*.in_proj_weight": 3, "attn.*": 2})
    assert (q.name, q.rows, q.start, q.stop, q.shape) == ("attn.in_proj_weight[0:2]", (0, 2), 0, 10, (2, 5))
    assert (k.start, k.stop, v.start, v.stop) == (10, 20, 20, 30)
    assert v.tensor == "attn.in_proj_weight"
    (whole,) = segments("other", (6, 5), {"*.in_proj_weight": 3})
    assert (whole.name, whole.rows, whole.start, whole.stop, whole.shape) == ("other", None, 0, 30, (6, 5))


@given(st.lists(st.integers(0, 6), max_size=4), st.integers(1, 5))
def test_segments_cover_the_entry_or_are_refused(shape: list[int], parts: int) -> None:
    if parts > 1 and (not shape or shape[0] % parts):
        with pytest.raises(InputError, match=rf"split: 'w' of shape .* does not divide into {parts}"):
            segments("w", tuple(shape), {"w": parts})
        return
    cut = segments("w", tuple(shape), {"w": parts})
    assert len(cut) == parts
    assert [piece.start for piece in cut[1:]] == [piece.stop for piece in cut[:-1]]
    assert (cut[0].start, cut[-1].stop) == (0, math.prod(shape))
    assert all(math.prod(piece.shape) == piece.stop - piece.start for piece in cut)


@pytest.mark.parametrize("parts", [0, -1, 1.5, "3", True])
def test_a_number_of_parts_is_a_positive_integer(parts: Any) -> None:
    with pytest.raises(InputError, match="split: 'w': expected a number of parts"):
        check_split({"w": parts}, ["w"])


def test_patterns_that_match_nothing_are_refused() -> None:
    with pytest.raises(InputError, match="split: 'in_proj' matches no tensor"):
        check_split({"in_proj": 3}, ["attn.in_proj"])
    with pytest.raises(InputError, match="exclude: expected a list of patterns, got the string 'w'"):
        select(BASE, {}, exclude="w")
