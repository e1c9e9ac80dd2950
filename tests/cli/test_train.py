"""What `train` and `build` tell people."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest

from catflap.cli.build import build_text
from catflap.cli.train import plan_arguments, plan_of
from tests.matrix import mostly_slow

TOLD_BY = """
import sys
from catflap.cli.main import main
code = main(sys.argv[1:])
sys.exit(code if "torch" not in sys.modules else 99)
"""


def test_no_recipe_is_left_to_the_plan() -> None:
    parser = argparse.ArgumentParser()
    plan_arguments(parser)
    assert plan_of(parser.parse_args([])).recipe is None
    assert plan_of(parser.parse_args(["--recipe", "head"])).recipe == "head"
    limited = plan_of(parser.parse_args(["--budget", "8", "--max-ms", "20", "--max-mb", "4"]))
    assert (limited.trials, limited.max_ms, limited.max_mb) == (8, 20.0, 4.0)


@pytest.mark.parametrize("verb", mostly_slow(["build", "train", "export"]))
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
        "outcome": {"sentences": ["It is right for 9 of 10."], "next": "catflap run x.catflap"},
        "bundle": "x.catflap",
        "report": "x",
        "page": "x.html",
    }
    lines = build_text(fields).splitlines()
    assert lines[:2] == ["It is right for 9 of 10.", ""]
    assert lines[2] == "efficientnet_lite0 at 96 × 64 px, crop, recipe head"
    assert lines[-2:] == ["Report: x.html", "Next: catflap run x.catflap"]
