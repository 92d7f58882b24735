"""What the documents name exists."""

import ast
import importlib
import re
from pathlib import Path

import pytest

HOME = Path(__file__).parents[1]
EQUATIONS = (HOME / "docs" / "equations.md").read_text(encoding="utf-8")
CODE = re.findall(r"`((?:text|segment|train|models|detection|evaluate|data)\.[\w.]+)`", EQUATIONS)
TESTS = re.findall(r"`([\w/]+\.py)(?:::(\w+))?`", EQUATIONS)


@pytest.mark.parametrize("name", sorted(set(CODE)))
def test_the_code_of_an_equation_is_where_the_table_says(name):
    parts = name.split(".")
    found = importlib.import_module("denseclip." + ".".join(parts[:2]))
    for part in parts[2:]:
        found = getattr(found, part)


@pytest.mark.parametrize(("file", "function"), sorted(set(TESTS)))
def test_the_proof_of_an_equation_is_there(file, function):
    path = HOME / file if file.startswith("tests/") else HOME / "tests" / file
    names = {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)}
    assert not function or function in names


def test_there_are_as_many_as_the_papers_have():
    assert len(CODE) >= 25
    assert sum("fixtures" in line or " * |" in line for line in EQUATIONS.splitlines()) >= 25
