"""Relative depth, with the facts of mergekit 0.1.5: 0 outside layers, 1 for a single layer, each stack by itself."""

from __future__ import annotations

from fractions import Fraction

from sta_kernels.recipe import relative_depths


def test_layers_of_one_stack():
    names = ["embed.weight", "model.layers.0.q", "model.layers.1.q", "model.layers.2.mlp.experts.7.w", "lm_head.weight"]
    assert list(relative_depths(names).values()) == [0, 0, Fraction(1, 2), 1, 0]


def test_two_towers_are_two_stacks():
    names = [f"visual.blocks.{i}.w" for i in range(3)] + [f"text.blocks.{i}.w" for i in range(5)]
    depths = relative_depths(names)
    assert depths["visual.blocks.1.w"] == Fraction(1, 2)
    assert depths["text.blocks.1.w"] == Fraction(1, 4)


def test_a_single_layer_stands_at_the_end():
    assert relative_depths(["h.0.w"]) == {"h.0.w": 1}


def test_only_numbers_between_dots_are_layers():
    names = ["0.weight", "conv1.weight", "head.12", "a.b2.c"]
    assert set(relative_depths(names).values()) == {Fraction(0)}


def test_gaps_count():
    assert relative_depths(["h.0.w", "h.3.w", "h.4.w"])["h.3.w"] == Fraction(3, 4)
