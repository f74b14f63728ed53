"""Hugging Face folders as modules: the one door to transformers.

A folder is a config.json, which says what the architecture is, and weights beside it. Nothing in it is ever
executed: the architecture must be one that transformers itself has, the weights are read by `io.checkpoints`
and handed over as tensors, and the network is not asked. transformers is an extra (`isthmus[hf]`), imported
when it is first needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from isthmus.errors import CheckpointError, LayoutError, MissingDependencyError
from isthmus.io.checkpoints import read_tensors
from isthmus.io.tensorfiles import parse_json
from isthmus.layout import is_coordinate
from isthmus.seeds import seed_default

CONFIG = "config.json"

_OLDEST = (5, 17)  # torch.export cannot name the outputs of earlier ones
_NAMED = 3
# These run everywhere, in every dtype, and are made of operations that torch.export sees through.
_ATTENTION, _EXPERTS = "eager", "batched_mm"
# What two folders of one architecture may differ in: what they were made with, trained with and called.
_BOOKKEEPING = frozenset(
    {
        "architectures", "dtype", "torch_dtype", "transformers_version", "name_or_path", "id2label",
        "label2id", "problem_type", "use_cache", "return_dict", "output_attentions", "output_hidden_states",
        "gradient_checkpointing", "finetuning_task", "task_specific_params", "tokenizer_class", "prefix",
        "initializer_range", "initializer_factor", "init_std", "initializer_cutoff_factor",
        "router_aux_loss_coef", "output_router_logits", "chunk_size_feed_forward",
    }
)  # fmt: skip
_UNTOLD = ("token_id", "token_ids", "dropout", "dropout_prob", "dropout_rate", "_pdrop", "layerdrop", "drop")


@dataclass(frozen=True, eq=False)
class Architecture:
    """What the config of a folder describes.

    Attributes:
        folder: where it is.
        config: transformers' configuration, set to operations that can be traced.
        kind: transformers' class of the model.
        note: a sentence if another class was taken than the config names; else empty.
    """

    folder: Path
    config: Any
    kind: Any
    note: str = ""

    @property
    def name(self) -> str:
        """The name of the class, `GPT2LMHeadModel` say."""
        return str(self.kind.__name__)


@dataclass(frozen=True, eq=False)
class Pretrained:
    """A model with the weights of its folder.

    Attributes:
        architecture: what its config describes.
        module: the model, in evaluation mode, in the dtype of the files.
        sha256: as of a `Checkpoint`.
        notes: a sentence for each thing that was taken off, left out or converted.
    """

    architecture: Architecture
    module: nn.Module
    sha256: str
    notes: tuple[str, ...]


def is_model_folder(path: Path) -> bool:
    """Whether a path is a folder with a config.json."""
    return path.is_dir() and (path / CONFIG).exists()


def read_architecture(folder: Path) -> Architecture:
    """What the config.json of a folder describes; no weights are needed.

    The class is the first that `architectures` names, or else the bare model of the config's type.

    Raises:
        CheckpointError: there is no config, it is damaged, asks for code of its own or for quantised weights,
            or transformers does not know its type or cannot make sense of it.
        MissingDependencyError: transformers is not installed.
    """
    path = folder / CONFIG
    described = _described(path)
    with _transformers() as library:
        known, version = library.CONFIG_MAPPING, library.__version__
        kind = described.get("model_type")
        if not isinstance(kind, str) or kind not in known:
            told = "names no model_type" if kind is None else f"names the model_type {kind!r}"
            raise CheckpointError(
                f"{path} {told}, which transformers {version} does not have: expected one of its own "
                "architectures (a newer transformers may have it); code that comes with a model is never run"
            )
        try:
            config = known[kind].from_dict(described)
            chosen, note = _model_class(library, config, described, path)
        except CheckpointError:
            raise
        except Exception as error:  # the code of some hundred architectures raises what it likes
            raise CheckpointError(
                f"transformers {version} cannot make sense of {path}: {_told(error)}"
            ) from error
        _make_traceable(config)
    return Architecture(folder, config, chosen, note)


def build(architecture: Architecture, seed: int = 0, device: str = "cpu") -> nn.Module:
    """A model of the architecture with random weights in float32, in evaluation mode.

    Args:
        architecture: what to build.
        seed: of the weights; torch's global generator is left as it was.
        device: `meta` for shapes without numbers, which costs no memory.

    Raises:
        CheckpointError: the config contradicts itself.
    """
    with _transformers(), torch.random.fork_rng(devices=[]), torch.device(device):
        seed_default(seed, "weights")
        try:
            module: nn.Module = architecture.kind._from_config(architecture.config, dtype=torch.float32)
        except Exception as error:
            raise CheckpointError(
                f"{architecture.folder / CONFIG} describes no {architecture.name} that can be built: "
                f"{_told(error)}"
            ) from error
    return module.eval()


def load(architecture: Architecture) -> Pretrained:
    """The model of a folder with its weights: safetensors or torch files, whole or in shards.

    Raises:
        CheckpointError: the weights cannot be read for certain, or there are none.
        LayoutError: they are not those of the architecture.
    """
    folder, name = architecture.folder, architecture.name
    _refuse_adapter(folder)
    wanted = frozenset(build(architecture, device="meta").state_dict())
    found = read_tensors(folder, wanted)
    dtype, notes = _dtype(found.state, folder)
    with _transformers():
        try:
            module, told = architecture.kind.from_pretrained(
                None, config=architecture.config, state_dict=dict(found.state), dtype=dtype,
                ignore_mismatched_sizes=True, output_loading_info=True, **_safely(),
            )  # fmt: skip
        except Exception as error:
            raise LayoutError(f"the weights in {folder} do not fit {name}: {_told(error)}") from error
    problems = {
        "missing": sorted(told["missing_keys"]),
        "of another shape": sorted(
            f"{key} (expected {list(own)}, got {list(theirs)})"
            for key, theirs, own in told["mismatched_keys"]
        ),
        "unreadable": [str(text) for text in told["error_msgs"]],
    }
    if wrong := "; ".join(f"{what}: {_listed(items)}" for what, items in problems.items() if items):
        raise LayoutError(f"the weights in {folder} are not those of {name}: {wrong}")
    if left := sorted(told["unexpected_keys"]):
        notes += (f"left out {len(left)} tensors that {name} does not have ({_listed(left)})",)
    notes = (*filter(None, [architecture.note]), *found.unwrapped, *notes)
    return Pretrained(architecture, module.eval(), found.sha256, notes)


def reload(architecture: Architecture, folder: Path, like: nn.Module) -> nn.Module:
    """The model of a folder that isthmus wrote, by transformers' own reader, as any user will read it.

    Raises:
        CheckpointError: transformers does not read it.
    """
    dtype = next((p.dtype for p in like.parameters() if p.is_floating_point()), torch.float32)
    with _transformers():
        try:
            module, told = architecture.kind.from_pretrained(
                str(folder), dtype=dtype, output_loading_info=True, use_safetensors=True, **_safely()
            )
        except Exception as error:
            raise CheckpointError(
                f"transformers does not read back what was written for {architecture.folder}: {_told(error)}"
            ) from error
    if lost := sorted([*told["missing_keys"], *told["unexpected_keys"]]):
        raise CheckpointError(
            f"transformers does not find {_listed(lost)} in what was written for {architecture.folder}"
        )
    _make_traceable(module.config)
    result: nn.Module = module.eval()
    return result


def write_weights(module: nn.Module, folder: Path, shard: int) -> None:
    """Write a transformers model as safetensors under the names that its checkpoints use.

    Args:
        module: the model.
        folder: an existing folder; a config is written beside the weights.
        shard: the most bytes a file may have, unless one tensor has more.
    """
    with _transformers() as library:
        if hasattr(module, "generation_config"):  # one derived from an old config may refuse to be written
            module.generation_config = library.GenerationConfig()
        module.save_pretrained(str(folder), max_shard_size=shard)  # type: ignore[operator]


def differences(one: Architecture, other: Architecture) -> list[str]:
    """What tells two architectures apart, each as "name (value, other value)"; empty if they are the same.

    Settings of training, labels, names and versions do not count.
    """
    if one.name != other.name:
        return [f"the class ({one.name}, {other.name})"]
    mine, theirs = (dict(_settings(each.config.to_dict())) for each in (one, other))
    names = [*mine, *(name for name in theirs if name not in mine)]
    return [
        f"{name} ({mine.get(name)}, {theirs.get(name)})"
        for name in names
        if mine.get(name) != theirs.get(name) and not _incidental(name)
    ]


# -- the library ----------------------------------------------------------------------------------


@contextmanager
def _transformers() -> Iterator[Any]:
    """The library, without its log, its progress bars, and any way to the network."""
    import warnings

    try:
        import huggingface_hub.constants as hub
        import transformers as library
    except ImportError as error:
        raise MissingDependencyError(
            "Hugging Face model folders need the library transformers: pip install 'isthmus[hf]' "
            f"({_told(error)})"
        ) from error
    if tuple(int(part) for part in library.__version__.split(".")[:2]) < _OLDEST:
        raise MissingDependencyError(
            f"Hugging Face model folders need transformers {'.'.join(map(str, _OLDEST))} or newer, and "
            f"{library.__version__} is installed: pip install --upgrade 'isthmus[hf]'"
        )
    log = library.utils.logging
    before = log.get_verbosity(), log.is_progress_bar_enabled(), hub.HF_HUB_OFFLINE
    log.set_verbosity(log.CRITICAL)
    log.disable_progress_bar()
    hub.HF_HUB_OFFLINE = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield library
    finally:
        log.set_verbosity(before[0])
        if before[1]:
            log.enable_progress_bar()
        hub.HF_HUB_OFFLINE = before[2]


def _safely() -> dict[str, Any]:
    """How a model is loaded: from local files alone, and no code but the library's own."""
    return {
        "local_files_only": True,
        "trust_remote_code": False,
        "weights_only": True,
        "attn_implementation": _ATTENTION,
        "experts_implementation": _EXPERTS,
    }


def _model_class(library: Any, config: Any, described: Mapping[str, Any], path: Path) -> tuple[Any, str]:
    """The class that a config asks for; a note if it is not the one that it names."""
    names = described.get("architectures") or [None]
    name = names[0] if isinstance(names, list) else names
    kind = getattr(library, name, None) if isinstance(name, str) else None
    if isinstance(kind, type) and issubclass(kind, library.PreTrainedModel):
        own = getattr(kind, "config_class", None)
        if own is None or not isinstance(config, own):
            raise CheckpointError(
                f"{path} contradicts itself: its model_type is {config.model_type!r}, and the architecture "
                f"{name} is of the type {getattr(own, 'model_type', None)!r}"
            )
        return kind, ""
    if type(config) not in library.MODEL_MAPPING:
        raise CheckpointError(
            f"{path} names {f'the architecture {name!r}' if name else 'no architecture'}, and transformers "
            f"{library.__version__} has no bare model of the type {config.model_type!r} to take instead"
        )
    bare = library.MODEL_MAPPING[type(config)]
    chosen = bare[0] if isinstance(bare, (tuple, list)) else bare
    told = f"has no {name}" if name else "is told no architecture"
    return chosen, f"transformers {told}: took {chosen.__name__}"


def _make_traceable(config: Any) -> None:
    """No caches, and operations that can be traced, in a configuration and in those within it."""
    config._attn_implementation = _ATTENTION
    config._experts_implementation = _EXPERTS
    for part in (config, *(getattr(config, name, None) for name in config.sub_configs)):
        if part is not None:
            part.use_cache = False
            part.return_dict = True


# -- configs --------------------------------------------------------------------------------------


def _described(path: Path) -> dict[str, Any]:
    """The content of a config.json that asks for nothing unsafe or unknown."""
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist: expected a Hugging Face model folder with a {CONFIG}")
    try:
        found = parse_json(path.read_bytes(), str(path))
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from None
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} holds a {type(found).__name__}: expected an object of settings")
    if any("auto_map" in part for part in _objects(found)):
        raise CheckpointError(
            f"{path} asks for code of its own (auto_map), which isthmus never runs: expected an architecture "
            "of transformers itself. If transformers has it by now, delete the entry auto_map"
        )
    if any("quantization_config" in part for part in _objects(found)):
        raise CheckpointError(
            f"{path} describes quantised weights (quantization_config), whose units cannot be compared: "
            "expected plain floating-point weights"
        )
    if "transformers_weights" in found:
        raise CheckpointError(
            f"{path} names its weights' file itself (transformers_weights), which is not supported: give the "
            "file one of the usual names and delete the entry"
        )
    return found


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    """All JSON objects within a value, itself included."""
    if isinstance(value, dict):
        yield value
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for item in items:
        yield from _objects(item)


def _settings(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """The settings of a config, those of nested ones under their path."""
    if isinstance(value, dict) and name.rpartition(".")[2] not in _BOOKKEEPING:
        for key, item in value.items():
            yield from _settings(item, f"{name}.{key}".lstrip("."))
    elif value is not None:
        yield name, value


def _incidental(name: str) -> bool:
    last = name.rpartition(".")[2]
    return last in _BOOKKEEPING or last.startswith("_") or last.endswith(_UNTOLD)


def _refuse_adapter(folder: Path) -> None:
    if (folder / "adapter_config.json").exists():
        raise CheckpointError(
            f"{folder} holds an adapter (LoRA): merge it into its base model first, and give that folder"
        )


def _dtype(state: Mapping[str, Tensor], folder: Path) -> tuple[torch.dtype, tuple[str, ...]]:
    """The dtype that holds all tensors exactly; a note if they have several."""
    found = {tensor.dtype: name for name, tensor in state.items() if is_coordinate(tensor)}
    for dtype, name in found.items():
        if dtype.itemsize == 1:
            raise CheckpointError(f"the tensor {name} of {folder} is {dtype}: narrower than supported")
    widest = torch.float32 if not found else next(iter(found))
    for dtype in found:
        widest = torch.promote_types(widest, dtype)
    if len(found) < 2:
        return widest, ()
    kinds = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in found))
    return widest, (f"its tensors are of several dtypes ({kinds}): all are kept in {widest}",)


def _listed(items: Iterable[str]) -> str:
    every = list(items)
    more = f" and {len(every) - _NAMED} more" if len(every) > _NAMED else ""
    return ", ".join(every[:_NAMED]) + more


def _told(error: BaseException) -> str:
    """The first line of an error that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300].rstrip('. ')}" if lines else type(error).__name__
