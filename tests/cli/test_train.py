"""What `train` and `build` tell people."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest

from catflap.cli.build import build_text
from catflap.cli.train import hint, plan_arguments, plan_of

TOLD_BY = """
import sys
from catflap.cli.main import main
code = main(sys.argv[1:])
sys.exit(code if "torch" not in sys.modules else 99)
"""


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
    plan_arguments(parser)
    trained = {"recipe": recipe, "validation_accuracy": {"value": accuracy}}
    assert ("--recipe finetune" in hint(trained, parser.parse_args(words))) == told


def test_no_recipe_is_left_to_the_plan() -> None:
    parser = argparse.ArgumentParser()
    plan_arguments(parser)
    assert plan_of(parser.parse_args([])).recipe is None
    assert plan_of(parser.parse_args(["--recipe", "head"])).recipe == "head"


@pytest.mark.parametrize("verb", ["build", "train", "export"])
def test_a_wrong_path_is_told_before_torch_is_there(verb: str, tmp_path: Path) -> None:
    """Its import takes seconds."""
    words = [verb, str(tmp_path / "nowhere"), "-o", str(tmp_path / "made.catflap"), "--json"]
    made = subprocess.run(
        [sys.executable, "-c", TOLD_BY, *words], capture_output=True, text=True, check=False
    )
    assert made.returncode == 2, made.stderr
    assert "nowhere" in json.loads(made.stdout)["error"]["what"]


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
        "report": "x",
        "page": "x.html",
    }
    lines = build_text(fields).splitlines()
    assert lines[0] == "efficientnet_lite0 at 96 × 64 px, crop, recipe head"
    assert lines[-1].endswith("report: x.html")
