"""Finding the changes of basis of a module: trace, read streams and circuits, prove."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from torch import nn

from isthmus.errors import SymmetryWarning
from isthmus.network import Network
from isthmus.symmetry.export import Inputs, beside, evaluation_copy, trace, undisturbed_generators
from isthmus.symmetry.linear.bases import Basis
from isthmus.symmetry.linear.circuits import Circuits
from isthmus.symmetry.linear.folding import Fold
from isthmus.symmetry.linear.group import LinearSymmetry
from isthmus.symmetry.linear.layers import Parameters
from isthmus.symmetry.linear.proof import basis_error, fold_error, lively, prove, random_map
from isthmus.symmetry.linear.streams import Streams
from isthmus.symmetry.rules import IGNORED, RULES
from isthmus.symmetry.verify import Probe
from isthmus.weights import Weights

_SEED = 2025


def discover_bases(
    module: nn.Module | Network, example_inputs: Inputs, *, verify: bool = True
) -> LinearSymmetry:
    """Find in which parts of a network the basis may be changed without changing what it computes.

    A residual stream that only linear layers and embeddings write, and that is read through LayerNorm or
    RMSNorm by linear layers only, may be rotated once the norms are folded into these layers. Within an
    attention head, queries and keys may be changed by M and M⁻ᵀ, values and the output projection likewise.
    What is not recognised is refused with a sentence, never guessed.

    Args:
        module: any module that `torch.export` can trace, or the `Network` of one.
        example_inputs: a tensor, a tuple of tensors, or a dict of keyword tensors; a few short sequences are
            enough, at least two of length two.
        verify: whether to prove the result numerically in float64; not for a module on the meta device.

    Returns:
        The bases, what is folded, and what was refused, with the proof.

    Raises:
        SymmetryError: the module cannot be copied or traced, or verification is impossible.

    Warns:
        SymmetryWarning: verification had to drop a basis, which is a defect of isthmus.

    Example:
        >>> import torch
        >>> from isthmus.tasks.transformer import Transformer
        >>> net = Transformer(tokens=5, context=6, width=12, heads=3, layers=1)
        >>> discover_bases(net, torch.zeros(2, 6).long())
        LinearSymmetry(1 residual streams, 6 circuits, 0 refused, 151 dimensions)

    Limits: one traced graph. A parameter that more than one operation uses is left alone, hence tied
    embeddings are. Scales that are computed (1 + weight), post-norm, and queries and keys behind rotary
    embeddings or norms are refused.
    Cost: one `torch.export`, and a forward pass in float64 for each basis, twice.

    Source: Ashkboos et al. 2024 (arXiv 2401.15024), section 3, for streams; Elhage et al. 2021, "A
    Mathematical Framework for Transformer Circuits", for circuits; finding them on a traced graph is our own.
    """
    module = module.module if isinstance(module, Network) else module
    with undisturbed_generators():
        twin = evaluation_copy(module)
        start = Weights.from_module(twin)
        traced = trace(twin, beside(example_inputs, twin), RULES.keys() | IGNORED)
        parameters = Parameters(traced, dict(start.layout.aliases))
        streams, folds, refused = Streams(traced, parameters).found()
        circuits = Circuits(traced, parameters)
        bases = [*streams, *circuits.found()]
        refused |= circuits.refused
        if not verify or any(parameter.is_meta for parameter in twin.parameters()):
            return LinearSymmetry(start.layout, tuple(bases), tuple(folds), refused)
        probe = Probe(lively(module, bases), example_inputs, None, _SEED)
        bases, folds, failed = _sound(probe, bases, folds)
        proof = prove(probe, folds, bases, failed)
    if failed:
        warnings.warn(
            f"changing {', '.join(failed)} changed the outputs, so it is refused: a rule of isthmus is wrong "
            "for this module; please report it",
            SymmetryWarning,
            stacklevel=2,
        )
    refused |= dict.fromkeys(failed, "changing it changed the outputs")
    return LinearSymmetry(start.layout, tuple(bases), tuple(folds), refused, proof)


def _sound(
    probe: Probe, bases: Sequence[Basis], folds: Sequence[Fold]
) -> tuple[list[Basis], list[Fold], list[str]]:
    """The folds and bases that leave the outputs as they are, and the names of the others."""
    kept = [fold for fold in folds if fold_error(probe, [fold]) <= probe.tolerance]
    folded = {fold.stream for fold in kept}
    sound, failed = [], []
    for basis in bases:
        ready = basis.kind != "residual" or basis.name in folded
        maps = {basis.name: random_map(basis, probe.generator)}
        if ready and basis_error(probe, kept, [basis], maps) <= probe.tolerance:
            sound.append(basis)
        else:
            failed.append(basis.name)
    names = {basis.name for basis in sound}
    return sound, [fold for fold in kept if fold.stream in names], failed
