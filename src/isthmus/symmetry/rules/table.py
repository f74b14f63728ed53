"""The table of rules: which function explains which ATen operation."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from isthmus.symmetry.rules import arithmetic, contraction, movement
from isthmus.symmetry.rules.call import Rule

# One word an operation, grouped by rule; overloads (add.Tensor, add.Scalar) and in-place variants share a
# name.
_NAMES: tuple[tuple[Rule, str], ...] = (
    (
        arithmetic.elementwise,
        """
        abs acos acosh add addcdiv addcmul asin asinh atan atan2 atanh bitwise_and bitwise_not bitwise_or
        bitwise_xor celu ceil clamp clamp_max clamp_min clip clone contiguous copy copysign cos cosh deg2rad
        detach digamma div divide elu eq erf erfc erfinv exp exp2 expm1 fill floor floor_divide fmax fmin
        fmod frac ge gelu gt hardsigmoid hardswish hardtanh hardshrink heaviside hypot isfinite isinf isnan
        ldexp le leaky_relu lerp lgamma log log10 log1p log2 log_sigmoid logaddexp logical_and logical_not
        logical_or logical_xor logit lt masked_fill maximum minimum mish mul multiply nan_to_num ne neg
        negative positive pow rad2deg reciprocal relu relu6 remainder round rsqrt rsub selu sgn sigmoid
        sign silu sin sinc sinh softplus softshrink sqrt square sub subtract tan tanh threshold
        _to_copy to type_as trunc true_divide where xlogy lift_fresh_copy lift_fresh alias
        """,
    ),
    (arithmetic.prelu, "prelu _prelu_kernel"),
    (arithmetic.triangle, "tril triu"),
    (arithmetic.gated, "glu"),
    (arithmetic.dropout, "dropout feature_dropout alpha_dropout"),
    (
        arithmetic.reduction,
        """
        sum mean prod amax amin all any var std var_mean std_mean norm linalg_vector_norm logsumexp nansum
        nanmean count_nonzero aminmax
        """,
    ),
    (arithmetic.extremum, "max min"),
    (arithmetic.softmax, "softmax log_softmax _softmax _log_softmax _safe_softmax"),
    (arithmetic.layer_norm, "layer_norm rms_norm"),
    (
        arithmetic.batch_norm,
        "batch_norm _native_batch_norm_legit_no_training _native_batch_norm_legit native_batch_norm",
    ),
    (arithmetic.group_norm, "group_norm"),
    (arithmetic.instance_norm, "instance_norm"),
    (
        arithmetic.pooling,
        """
        max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d max_pool2d_with_indices
        max_pool3d_with_indices upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_bilinear2d
        upsample_bicubic2d
        """,
    ),
    (
        arithmetic.global_pooling,
        """
        adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d
        adaptive_max_pool3d _adaptive_avg_pool2d
        """,
    ),
    (arithmetic.scan, "cumsum cumprod logcumsumexp"),
    (
        movement.move,
        """
        transpose t permute slice select narrow split split_with_sizes unsafe_split chunk unbind expand repeat
        repeat_interleave roll flip rot90 unfold movedim swapaxes diagonal pixel_shuffle
        pixel_unshuffle channel_shuffle
        """,
    ),
    (movement.reshape, "view reshape _unsafe_view flatten unflatten squeeze unsqueeze view_as reshape_as"),
    (movement.index, "index"),
    (movement.index_select, "index_select"),
    (movement.concatenate, "cat concat"),
    (movement.stack, "stack"),
    (movement.pad, "pad constant_pad_nd"),
    (
        movement.pad_by_copies,
        """
        reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d
        replication_pad3d
        """,
    ),
    (movement.slice_scatter, "slice_scatter"),
    (movement.select_scatter, "select_scatter"),
    (movement.like, "zeros_like ones_like full_like new_zeros new_ones new_full"),
    (movement.blank, "empty empty_like new_empty empty_permuted"),
    (contraction.linear, "linear"),
    (contraction.matmul, "matmul mm bmm mv dot"),
    (contraction.outer, "outer ger"),
    (contraction.einsum, "einsum"),
    (contraction.bilinear, "bilinear"),
    (contraction.add_matmul, "addmm baddbmm addmv"),
    (contraction.convolution, "conv1d conv2d conv3d"),
    (contraction.transposed_convolution, "conv_transpose1d conv_transpose2d conv_transpose3d"),
    (contraction.attention, "scaled_dot_product_attention"),
    (contraction.embedding, "embedding"),
)

RULES: Mapping[str, Rule] = MappingProxyType(
    {f"aten::{name}": rule for rule, names in _NAMES for name in names.split()}
)

# Checks that compute nothing.
IGNORED = frozenset({"aten::_assert_tensor_metadata", "aten::_assert_async", "aten::sym_constrain_range"})
