"""Our small schema checker against jsonschema, on thousands of mutated documents."""

from __future__ import annotations

import copy
import random
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from catflap.artifacts.schema import faults, load_schema
from catflap.evaluation.metrics import measure
from tests.artifacts.samples import FILES, small_head
from tests.matrix import mostly_slow

STRANGE: list[Any] = [None, True, False, 0, 1, -1, 2, 10**6, 10**12, 0.5, -0.5, 1e-9, 1e9 + 0.5]
STRANGE += ["", "x", "cat", "a" * 600, "\x1f", "é猫", [], ["cat"], ["cat", "cat"], [1, True]]
STRANGE += [{}, {"cat": 1}, {"cat": {"file": "x"}}]
SCHEMA = load_schema("bundle")
KNOWN = {"$schema", "$ref", "$defs", "title", "description", "type", "enum", "pattern"}
KNOWN |= {"minimum", "maximum", "exclusiveMinimum", "items", "minItems", "maxItems", "uniqueItems"}
KNOWN |= {"properties", "required", "additionalProperties", "minProperties"}


def document() -> dict[str, Any]:
    listed = {name: {"sha256": "0" * 64, "bytes": len(data)} for name, data in FILES.items()}
    head = small_head()
    head["variants"]["int8"]["metrics"] = measure(
        [[2, 0], [0, 1], [1, 0]], [0, 1, 1], [0, 1, 2], head["labels"]
    )
    return {"catflap_bundle": "1.0", **head, "files": listed}


def mutate(value: Any, dice: random.Random) -> None:
    """Change one thing somewhere: put something strange, take something away, add, rename."""
    places = []
    stack = [value]
    while stack:
        node = stack.pop()
        keys = list(node) if isinstance(node, dict) else range(len(node))
        places += [(node, key) for key in keys]
        stack += [node[key] for key in keys if isinstance(node[key], dict | list)]
    node, key = dice.choice(places)
    kind = dice.randrange(4)
    if kind == 0:
        del node[key]
    elif kind == 1 and isinstance(node, dict):
        node[dice.choice(["extra", "", "file", "int8"])] = copy.deepcopy(dice.choice(STRANGE))
    elif kind == 2 and isinstance(node, list):
        node.append(copy.deepcopy(dice.choice(STRANGE)))
    else:
        node[key] = copy.deepcopy(dice.choice(STRANGE))


def test_the_sample_conforms() -> None:
    assert faults(document(), SCHEMA) == []
    Draft202012Validator(SCHEMA).validate(document())


@pytest.mark.parametrize("seed", mostly_slow(range(8), 2))
def test_it_agrees_with_jsonschema(seed: int) -> None:
    dice, judge = random.Random(seed), Draft202012Validator(SCHEMA)
    verdicts = set()
    for _ in range(100):
        changed = document()
        for _ in range(dice.randint(1, 3)):
            mutate(changed, dice)
        ours, theirs = not faults(changed, SCHEMA), judge.is_valid(changed)
        assert ours == theirs, changed
        verdicts.add(ours)
    assert verdicts == {True, False}


@pytest.mark.parametrize("value", STRANGE, ids=repr)
def test_a_document_of_another_kind_is_a_fault(value: Any) -> None:
    assert faults(value, SCHEMA)
    assert not Draft202012Validator(SCHEMA).is_valid(value)


def test_every_fault_names_its_place() -> None:
    changed = document()
    changed["frame"]["width"] = 1
    changed["labels"] = ["cat", 5]
    assert faults(changed, SCHEMA) == [
        "$.labels[1] is not of the type string",
        "$.frame.width is out of range",
    ]


def test_integers_are_written_without_a_fraction() -> None:
    """Stricter than jsonschema: 32.0 is not a width."""
    changed = document()
    changed["frame"]["width"] = 32.0
    assert faults(changed, SCHEMA) == ["$.frame.width is not of the type integer"]


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_a_finite_number_is_a_fault(number: float) -> None:
    changed = document()
    changed["variants"]["int8"]["temperature"] = number
    assert faults(changed, SCHEMA) == ["$.variants.int8.temperature is out of range"]


def test_the_schemas_use_only_what_the_checker_knows() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    stack: list[Any] = [SCHEMA]
    while stack:
        schema = stack.pop()
        assert set(schema) <= KNOWN
        stack += [*schema.get("properties", {}).values(), *schema.get("$defs", {}).values()]
        stack += [
            schema[name] for name in ("items", "additionalProperties") if isinstance(schema.get(name), dict)
        ]


def test_a_whole_number_that_no_double_holds_is_a_fault() -> None:
    """JSON Schema has no such limit, but wherever it meets a fraction it could not be one."""
    changed = document()
    changed["variants"]["int8"]["fidelity"]["photos"] = 10**400
    assert faults(changed, SCHEMA) == ["$.variants.int8.fidelity.photos is out of range"]
