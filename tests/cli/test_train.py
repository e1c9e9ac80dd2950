"""What `train` and `build` tell people."""

from __future__ import annotations

import argparse

import pytest

from catflap.cli.build import build_text
from catflap.cli.train import hint, plan_of, teaching


@pytest.mark.parametrize(
    ("recipe", "accuracy", "words", "told"),
    [
        ("head", 0.8, [], True),
        ("head", 0.96, [], False),
        ("finetune", 0.8, [], False),
        ("head", 0.8, ["--minutes", "5"], False),
        ("head", 0.8, ["--budget", "2"], False),
        ("head", 0.8, ["--budget", "0"], True),
    ],
)
def test_a_poor_head_says_what_to_try(recipe: str, accuracy: float, words: list[str], told: bool) -> None:
    parser = argparse.ArgumentParser()
    teaching(parser)
    trained = {"recipe": recipe, "validation_accuracy": {"value": accuracy}}
    assert ("--recipe finetune" in hint(trained, parser.parse_args(words))) == told


def test_no_recipe_is_left_to_the_plan() -> None:
    parser = argparse.ArgumentParser()
    teaching(parser)
    assert plan_of(parser.parse_args([])).recipe is None
    assert plan_of(parser.parse_args(["--recipe", "head"])).recipe == "head"


def test_a_build_tells_what_it_trained() -> None:
    fields = {
        "trained": {
            "backbone": "efficientnet_lite0",
            "frame": {"width": 96, "height": 64, "fit": "crop"},
            "recipe": "head",
        },
        "variants": {},
        "steps": {},
        "verdict": "pass",
        "bundle": "x.catflap",
        "report": "x.html",
    }
    assert build_text(fields).splitlines()[0] == "efficientnet_lite0 at 96 × 64 px, crop, recipe head"
