"""The table of rules: which function explains which ATen operation."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from isthmus.symmetry.rules import arithmetic, contraction, lookup, movement, recurrent
from isthmus.symmetry.rules.call import Rule

# One word an operation, grouped by rule; overloads (add.Tensor, add.Scalar) and in-place variants share a
# name.
_NAMES: tuple[tuple[Rule, str], ...] = (
    (
        arithmetic.elementwise,
        """
        __and__ __or__ __xor__ __lshift__ __rshift__
        abs acos acosh add addcdiv addcmul asin asinh atan atan2 atanh bitwise_and bitwise_not bitwise_or
        bitwise_xor celu ceil clamp clamp_max clamp_min clip copysign conj conj_physical angle real imag
        cos cosh deg2rad detach digamma div divide elu erf erfc erfinv exp exp2 expm1 fill floor
        floor_divide fmax fmin fmod frac ge gelu gt hardsigmoid hardswish hardtanh hardshrink heaviside
        hypot isfinite isinf isnan ldexp le leaky_relu lerp lgamma log log10 log1p log2 log_sigmoid
        logaddexp logical_and logical_not logical_or logical_xor logit lt masked_fill maximum minimum
        mish mul multiply nan_to_num neg negative positive pow rad2deg reciprocal relu relu6 remainder
        round rsqrt rsub selu sgn sigmoid sign silu sin sinc sinh softplus softshrink sqrt square sub
        subtract tan tanh threshold complex polar trunc true_divide where xlogy signbit i0 special_i0
        float_power nextafter erfinv arctan arctan2 arccos arcsin absolute resolve_conj resolve_neg
        special_expit special_erf fix
        """,
    ),
    (arithmetic.prelu, "prelu _prelu_kernel"),
    (arithmetic.triangle, "tril triu"),
    (arithmetic.gated, "glu"),
    (arithmetic.dropout, "dropout feature_dropout alpha_dropout"),
    (
        arithmetic.reduction,
        """
        sum mean prod amax amin all any var std var_mean std_mean norm linalg_vector_norm logsumexp
        nansum nanmean count_nonzero aminmax
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
        max_pool3d_with_indices upsample_nearest1d upsample_nearest2d upsample_nearest3d
        upsample_bilinear2d upsample_bicubic2d
        """,
    ),
    (
        arithmetic.global_pooling,
        """
        adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d
        adaptive_max_pool2d adaptive_max_pool3d _adaptive_avg_pool2d
        """,
    ),
    (arithmetic.scan, "cumsum cumprod logcumsumexp"),
    (
        arithmetic.fourier,
        """
        fft_fft fft_ifft fft_rfft fft_irfft fft_hfft fft_ihfft fft_fft2 fft_ifft2 fft_rfft2 fft_irfft2
        fft_fftn fft_ifftn fft_rfftn fft_irfftn _fft_r2c _fft_c2c _fft_c2r
        """,
    ),
    (arithmetic.overlapped, "col2im"),
    (arithmetic.as_pairs, "view_as_real"),
    (arithmetic.from_pairs, "view_as_complex"),
    (arithmetic.weight_norm, "_weight_norm"),
    (arithmetic.distances, "cdist _cdist_forward"),
    (
        movement.move,
        """
        transpose t numpy_T mT matrix_H mH adjoint permute slice select narrow split split_with_sizes
        unsafe_split tensor_split chunk unbind expand repeat repeat_interleave roll flip fliplr flipud
        rot90 unfold movedim swapaxes diagonal pixel_shuffle pixel_unshuffle channel_shuffle
        """,
    ),
    (movement.reshape, "view reshape _unsafe_view flatten unflatten squeeze unsqueeze view_as reshape_as"),
    (lookup.cast, "_to_copy to type_as clone contiguous alias detach lift_fresh_copy lift_fresh"),
    (lookup.equality, "eq ne"),
    (lookup.index, "index"),
    (lookup.index_select, "index_select"),
    (lookup.gather, "gather"),
    (lookup.scatter, "scatter scatter_add scatter_reduce"),
    (lookup.one_hot, "one_hot"),
    (lookup.ranking, "topk sort argsort argmax argmin"),
    (lookup.embedding, "embedding"),
    (lookup.embedding_bag, "embedding_bag _embedding_bag _embedding_bag_forward_only"),
    (recurrent.lstm, "lstm"),
    (recurrent.gru, "gru"),
    (recurrent.plain, "rnn_tanh rnn_relu"),
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
    (movement.windows, "im2col"),
    (movement.expand_as, "expand_as"),
    (movement.copied, "copy"),
    (movement.index_put, "index_put"),
    (movement.slice_scatter, "slice_scatter"),
    (movement.select_scatter, "select_scatter"),
    (movement.like, "zero zeros_like ones_like full_like new_zeros new_ones new_full"),
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
)

RULES: Mapping[str, Rule] = MappingProxyType(
    {f"aten::{name}": rule for rule, names in _NAMES for name in names.split()}
)

# Checks that compute nothing.
IGNORED = frozenset(
    {
        "aten::_assert_tensor_metadata",
        "aten::_assert_async",
        "aten::_assert_scalar",
        "aten::sym_constrain_range",
    }
)

# Which arguments of a rule may hold numbers of units; for all others those units are pinned.
POINTING: Mapping[Rule, str] = MappingProxyType(
    {
        movement.move: "self input",
        movement.reshape: "self input",
        lookup.cast: "self input",
        lookup.equality: "self other",
        lookup.one_hot: "self",
        lookup.scatter: "index",
        lookup.gather: "index",
    }
)
