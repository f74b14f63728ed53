"""Long lists of deep networks made short, without a word lost on what repeats."""

import torch
from rich.console import Console
from torch import nn

from isthmus import discover
from isthmus.report.grouping import braced, folded, pattern, pinned_lines, symmetry_lines
from isthmus.report.terminal import pinned_table, symmetry_table


class Block(nn.Module):
    def __init__(self, inner: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(6, inner), nn.Linear(inner, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(torch.relu(self.up(x)))


class Deep(nn.Module):
    """Residual blocks of these inner widths, between a stem and a head."""

    def __init__(self, *widths: int) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(3, 6), nn.Linear(6, 2)
        self.layers = nn.ModuleList(Block(width) for width in widths)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


def shown(table: object) -> str:
    console = Console(width=200)
    with console.capture() as capture:
        console.print(table)
    return " ".join(capture.get().split())


def test_names_differ_in_the_numbers_of_named_parts_alone() -> None:
    assert pattern("model.layers.12.mlp.up.weight[0]") == "model.layers.*.mlp.up.weight[0]"
    assert pattern("0.weight[0]") == "0.weight[0]", "a first number says which part is meant"
    assert pattern("conv2.weight[1]") == "conv2.weight[1]"
    assert folded(["h.0.a", "h.1.a", "h.0.b"]) == ("h.*.a", "h.0.b")
    assert braced(["a.weight[0]", "a.bias[0]", "a.weight[1]", "cls[2]"]) == (
        "a.{weight,bias}[0]",
        "a.weight[1]",
        "cls[2]",
    )


def test_every_axis_is_in_one_line() -> None:
    symmetry = discover(Deep(*[9] * 8), torch.zeros(1, 3))
    lines = symmetry_lines(symmetry)
    assert sorted(n for line in lines for n in line.members) == list(range(len(symmetry.axes)))
    assert {(line.name, len(line.members), line.size) for line in lines} == {
        ("stem.weight[0]", 1, 6),
        ("layers.*.up.weight[0]", 8, 9),
    }
    assert "layers.*.{up.bias[0]" not in shown(symmetry_table(symmetry))
    assert "layers.*.up.weight[0] 8 9 9 0" in shown(symmetry_table(symmetry))
    few = discover(Deep(9, 9), torch.zeros(1, 3))
    assert [line.name for line in symmetry_lines(few)] == [axis.name for axis in few.axes]


def test_reasons_count_the_parameters_they_hold() -> None:
    symmetry = discover(Deep(9), torch.zeros(1, 3), freeze=["layers.0.up.weight", "layers.0.up.bias"])
    lines = {line.reason: line for line in pinned_lines(symmetry)}
    frozen = lines["frozen by the caller"]
    assert frozen.parameters >= 9 * 6 + 9
    head = lines["the output output: its units have an order"]
    assert "head.{weight,bias}[0]" in shown(pinned_table(symmetry))
    assert (head.axes, head.parameters) == (2, 2 * 6 + 2)
    counts = [line.parameters for line in pinned_lines(symmetry)]
    assert counts == sorted(counts, reverse=True)


def test_a_list_that_is_cut_says_how_to_see_the_rest() -> None:
    symmetry = discover(Deep(*range(7, 32)), torch.zeros(1, 3), verify=False)
    text = shown(symmetry_table(symmetry))
    assert "6 further kinds of axes are not shown: --json prints all." in text


def test_a_group_of_one_element() -> None:
    symmetry = discover(nn.Linear(3, 2), torch.zeros(1, 3))
    assert "The group has 1 element; 0 % of the 8 parameters" in shown(symmetry_table(symmetry))
