"""Example inputs of a transformers model, made from its config, and the outputs that matter.

Only shapes, dtypes and the range of token ids are decided here; transformers itself is not needed.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, get_args, get_type_hints

import torch
from torch import Tensor, nn

from isthmus.errors import SettingError
from isthmus.seeds import seeded

Shape = tuple[int, ...]

# Long enough that positions differ, short enough that a trace is quick.
_TOKENS, _FRAMES, _PIXELS = 8, 64, 64
_IMAGE_TOKENS = ("image_token_id", "image_token_index", "audio_token_id", "audio_token_index")


def example_inputs(model: nn.Module, shape: Shape | None = None, seed: int = 0) -> dict[str, Tensor]:
    """Inputs that a transformers model runs on, by name: one example of each that it cannot do without.

    Token ids are integers below the size of the vocabulary, and none of the special tokens; everything else
    is drawn from a normal distribution. Encoder–decoders get `decoder_input_ids` too, and models of images
    and texts get both.

    Args:
        model: a transformers model; its `config` and the signature of its `forward` decide.
        shape: of the main input, instead of the one that the config suggests.
        seed: of the values.

    Raises:
        SettingError: the model takes something else, or its config does not say how large it is.
    """
    config: Any = model.config
    main = str(model.main_input_name)
    accepted = inspect.signature(model.forward).parameters
    generator = seeded(seed, "example")
    if main not in _SHAPES:
        raise SettingError(
            f"no example of {main!r}, the input of {type(model).__name__}, can be made from its config: "
            "build the model in a Python file, and describe it with a task"
        )
    names = [main, *(name for name in _beside(model, main) if name in accepted)]
    if getattr(config, "is_encoder_decoder", False) and "decoder_input_ids" in accepted:
        names.append("decoder_input_ids")
    return {
        name: _drawn(config, name, shape if name == main and shape else _SHAPES[name](config), generator)
        for name in names
    }


def output_names(model: nn.Module, inputs: Mapping[str, Tensor]) -> tuple[str, ...]:
    """The names of a transformers model's outputs on these inputs.

    A model without numbers (on the device `meta`) is not run: the fields of the record that its `forward`
    announces are told, of which some may be absent.

    Raises:
        SettingError: it does not run on them.
    """
    if any(parameter.is_meta for parameter in model.parameters()):
        return _announced(model)
    try:
        with torch.no_grad():
            result = model(**inputs)
    except Exception as error:
        shapes = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in inputs.items())
        text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
        raise SettingError(
            f"{type(model).__name__} does not run on {shapes}: {type(error).__name__}: {text[:300]}; "
            "give another --input"
        ) from error
    return tuple(str(name) for name in result) if isinstance(result, Mapping) else ()


def telling_outputs(names: Sequence[str]) -> list[str]:
    """Those of a model's outputs that users rely on; empty if it has no logits.

    `logits` alone; or else all that end so (`start_logits`); or else, of models with several towers, all that
    begin so, and the embeddings that are compared.
    """
    if "logits" in names:
        return ["logits"]
    if not any("logits" in name for name in names):
        return []
    exact = [name for name in names if name.endswith("logits")]
    return exact or [name for name in names if "logits" in name or name.endswith("embeds")]


def _announced(model: nn.Module) -> tuple[str, ...]:
    """The fields of the record that the model's `forward` is annotated to return."""
    try:
        told = get_type_hints(model.forward).get("return")
    except (NameError, TypeError):
        return ()
    kinds = [kind for kind in (told, *get_args(told)) if isinstance(kind, type) and is_dataclass(kind)]
    return tuple(field.name for kind in kinds[:1] for field in fields(kind))


def _beside(model: nn.Module, main: str) -> Iterator[str]:
    """The inputs of other kinds that a model of several towers needs as well.

    A language model that takes images in place of tokens is run on text alone.
    """
    kinds = getattr(model, "input_modalities", ())
    kinds = (kinds,) if isinstance(kinds, str) else kinds
    if any(getattr(model.config, name, None) is not None for name in _IMAGE_TOKENS):
        return
    for kind, name in (("text", "input_ids"), ("image", "pixel_values"), ("audio", "input_features")):
        if kind in kinds and name != main:
            yield name


def _drawn(config: Any, name: str, shape: Shape, generator: torch.Generator) -> Tensor:
    try:
        if not name.endswith("input_ids"):
            return torch.randn(shape, generator=generator)
        words = _words(config, decoder=name.startswith("decoder"))
        return words[torch.randint(words.numel(), shape, generator=generator)]
    except RuntimeError as error:
        first = str(error).splitlines()[0]
        raise SettingError(f"the input {name} of shape {list(shape)} is too large: {first}") from error


def _words(config: Any, decoder: bool) -> Tensor:
    """The ordinary tokens of a vocabulary; all of them if all are special."""
    text = config.get_text_config(decoder=decoder)
    size = getattr(text, "vocab_size", None) or _sought(config, "vocab_size")
    if not isinstance(size, int) or size < 1:
        raise SettingError("the config names no vocab_size, so that no example tokens can be drawn")
    special = torch.tensor(sorted({number for number in _special(config) if 0 <= number < size}))
    ordinary = torch.ones(size, dtype=torch.bool)
    ordinary[special.long()] = False
    return ordinary.nonzero().flatten() if bool(ordinary.any()) else torch.arange(size)


def _special(config: Any) -> Iterator[int]:
    for part in _parts(config):
        for name, value in vars(part).items():
            if name.endswith(("token_id", "token_index")):
                yield from (v for v in (value if isinstance(value, list) else [value]) if isinstance(v, int))


def _tokens(config: Any) -> Shape:
    limits = [
        getattr(part, name, None)
        for part in _parts(config)
        for name in ("max_position_embeddings", "n_positions", "max_target_positions")
    ]
    return (1, min([_TOKENS, *(n for n in limits if isinstance(n, int) and n > 0)]))


def _images(config: Any) -> Shape:
    channels = _sought(config, "num_channels") or 3
    size = _sought(config, "image_size") or _PIXELS
    if isinstance(size, Mapping):
        size = (size.get("height"), size.get("width"))
    sides = tuple(size) if isinstance(size, (tuple, list)) else (size, size)
    return (1, int(channels), *(int(side) for side in sides))


def _features(config: Any) -> Shape:
    """A spectrogram, in the order of axes that the family uses."""
    if size := getattr(config, "input_feat_per_channel", None):  # Speech2Text
        return (1, _FRAMES, size * getattr(config, "input_channels", 1))
    if size := getattr(config, "feature_projection_input_dim", None):  # Wav2Vec2-BERT, SeamlessM4T
        return (1, _FRAMES, size)
    mels = _sought(config, "num_mel_bins")
    if not mels:
        raise SettingError("the config does not say how large input_features are; give --input")
    if longest := getattr(config, "max_source_positions", None):  # Whisper: exactly so many frames
        return (1, mels, 2 * longest)
    return (1, _FRAMES, mels)


def _samples(config: Any) -> Shape:
    """Sound as a wave (Wav2Vec2 and its kin), or as a spectrogram (AST)."""
    strides, kernels = getattr(config, "conv_stride", None), getattr(config, "conv_kernel", None)
    if strides and kernels:
        return (1, math.prod(strides) * _TOKENS + sum(kernels))
    length, mels = getattr(config, "max_length", None), getattr(config, "num_mel_bins", None)
    if length and mels:
        return (1, length, mels)
    raise SettingError("the config does not say how large input_values are; give --input")


_SHAPES: Mapping[str, Callable[[Any], Shape]] = {
    "input_ids": _tokens,
    "decoder_input_ids": _tokens,
    "pixel_values": _images,
    "input_features": _features,
    "input_values": _samples,
}


def _parts(config: Any) -> Iterator[Any]:
    """A config and those within it."""
    yield config
    for name in config.sub_configs:
        if (part := getattr(config, name, None)) is not None:
            yield from _parts(part)


def _sought(config: Any, name: str) -> Any:
    """The first setting of this name in a config or those within it."""
    return next((v for part in _parts(config) if (v := getattr(part, name, None)) is not None), None)
