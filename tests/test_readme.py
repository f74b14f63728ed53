"""What the README promises runs."""

import re
from pathlib import Path

from typer.main import get_command

from isthmus.cli.main import app

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_the_python_example_runs_and_the_wall_goes() -> None:
    (code,) = (block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "digits" in block)
    names: dict = {}
    exec(code, names)
    im, land = names["im"], names["land"]
    before = im.barrier(im.profile(im.Segment(names["a"], names["b"]), land), of="error")
    after = im.barrier(im.profile(im.Segment(names["a"], names["b2"]), land), of="error")
    assert before.low > 0.1
    assert after.high < 0.02
    assert im.barrier(im.profile(names["curve"].path, land), of="error").height < 0.01


def test_the_table_of_commands_is_complete() -> None:
    told = set(re.findall(r"^\| `isthmus ([\w-]+)", README, re.MULTILINE))
    assert told == set(get_command(app).commands)


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)]+)\)|`((?:docs|benchmarks)/[\w./-]+)`", README):
        path = target[0] or target[1]
        assert (Path(__file__).parents[1] / path).exists(), path
