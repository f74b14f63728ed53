"""The table of rules: which function explains which ATen operation, for charges."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from isthmus.symmetry.rescale import functions, movement, products, statistics
from isthmus.symmetry.rescale.call import Call, Result, Rule
from isthmus.symmetry.rescale.charges import Charge


def constant_fill(call: Call) -> Result:
    """A tensor of one number, shaped like another one."""
    return Charge(call.shapes[0], zero=call.get("fill_value", 1) == 0)


# One word an operation, grouped by rule; overloads (add.Tensor, add.Scalar) and in-place variants share a
# name. Functions that let no factor through are listed, too, so that the reason says why.
_NAMES: tuple[tuple[Rule, str], ...] = (
    (
        functions.passing,
        """
        alias clone contiguous detach lift_fresh lift_fresh_copy neg negative positive conj conj_physical
        resolve_conj resolve_neg real imag deg2rad rad2deg
        """,
    ),
    (
        functions.odd,
        """
        tanh sin tan asin arcsin atan arctan sinh asinh arcsinh atanh arctanh erf special_erf erfinv
        round trunc fix frac softshrink hardshrink
        """,
    ),
    (functions.even, "cos cosh sinc i0 special_i0"),
    (functions.homogeneous, "relu leaky_relu rrelu"),
    (functions.homogeneous, "_prelu_kernel"),
    (functions.magnitude, "abs absolute"),
    (functions.sign, "sign sgn"),
    (functions.invariant, "isfinite isnan isinf logical_not logical_and logical_or logical_xor"),
    (
        functions.neither,
        """
        acos acosh celu elu selu exp exp2 expm1 log log10 log1p log2 log_sigmoid gelu silu mish sigmoid
        hardsigmoid hardswish relu6 softplus logit floor ceil threshold logaddexp logaddexp2 lgamma digamma
        remainder fmod heaviside erfc atan2 arctan2 copysign ldexp arccos special_expit floor_divide
        bitwise_and bitwise_or bitwise_xor bitwise_not nextafter one_hot
        """,
    ),
    (functions.sum_of_two, "add sub subtract rsub"),
    (functions.product_of_two, "mul multiply"),
    (functions.quotient, "div divide true_divide"),
    (functions.power, "pow"),
    (functions.raised(2), "square"),
    (functions.raised(-1), "reciprocal"),
    (functions.raised(0.5), "sqrt"),
    (functions.raised(-0.5), "rsqrt"),
    (functions.product_added, "addcmul addcdiv"),
    (functions.interpolated, "lerp"),
    (functions.extremum_of_two, "maximum minimum fmax fmin"),
    (functions.hypotenuse, "hypot"),
    (functions.clamped, "clamp clip hardtanh clamp_min clamp_max"),
    (functions.compared, "eq ne gt ge lt le greater greater_equal less less_equal not_equal"),
    (functions.chosen, "where"),
    (functions.masked, "masked_fill"),
    (functions.filled, "fill"),
    (functions.copied, "copy"),
    (functions.passing, "expand_as"),
    (functions.cast, "_to_copy to type_as"),
    (functions.dropout, "dropout feature_dropout alpha_dropout"),
    (functions.gated, "glu"),
    (functions.polar, "polar"),
    (functions.complex_parts, "complex"),
    (functions.argument, "angle signbit"),
    (functions.x_log_y, "xlogy"),
    (statistics.linear_along, "sum mean nansum nanmean cumsum"),
    (
        statistics.linear_along,
        """
        fft_fft fft_ifft fft_rfft fft_irfft fft_fft2 fft_ifft2 fft_rfft2 fft_irfft2 fft_fftn fft_ifftn
        fft_rfftn fft_irfftn _fft_c2c _fft_r2c _fft_c2r
        """,
    ),
    (statistics.norm, "norm linalg_vector_norm"),
    (statistics.spread_of, "var std var_mean std_mean"),
    (statistics.product_along, "prod"),
    (statistics.extremum, "amax amin max min"),
    (statistics.place_of_extremum, "argmax argmin argsort"),
    (statistics.ordered, "sort topk"),
    (functions.invariant, "all any count_nonzero"),
    (
        statistics.softmax,
        "softmax log_softmax _softmax _log_softmax _safe_softmax logsumexp cumprod logcumsumexp",
    ),
    (statistics.layer_norm, "layer_norm rms_norm"),
    (
        statistics.batch_norm,
        "batch_norm _native_batch_norm_legit_no_training _native_batch_norm_legit native_batch_norm",
    ),
    (statistics.group_norm, "group_norm"),
    (statistics.instance_norm, "instance_norm"),
    (
        statistics.pooling,
        """
        max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d max_pool2d_with_indices
        max_pool3d_with_indices upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_linear1d
        upsample_bilinear2d upsample_bicubic2d upsample_trilinear3d adaptive_avg_pool1d adaptive_avg_pool2d
        adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d _adaptive_avg_pool2d
        """,
    ),
    (statistics.prelu, "prelu"),
    (statistics.weight_norm, "_weight_norm"),
    (products.linear, "linear"),
    (products.matmul, "matmul mm bmm mv dot vdot"),
    (products.outer, "outer ger"),
    (products.einsum, "einsum"),
    (products.bilinear, "bilinear"),
    (products.add_matmul, "addmm baddbmm addmv"),
    (products.convolution, "conv1d conv2d conv3d"),
    (products.transposed_convolution, "conv_transpose1d conv_transpose2d conv_transpose3d"),
    (products.attention, "scaled_dot_product_attention"),
    (products.embedding, "embedding"),
    (
        movement.move,
        """
        transpose t permute slice select narrow split split_with_sizes unsafe_split chunk unbind expand repeat
        repeat_interleave roll flip rot90 unfold movedim swapaxes diagonal pixel_shuffle pixel_unshuffle
        channel_shuffle numpy_T mT mH matrix_H adjoint fliplr flipud tensor_split
        """,
    ),
    (movement.reshape, "view reshape _unsafe_view flatten unflatten squeeze unsqueeze view_as reshape_as"),
    (movement.triangle, "tril triu"),
    (movement.index, "index"),
    (movement.index_select, "index_select"),
    (movement.gather, "gather"),
    (movement.concatenate, "cat concat"),
    (movement.stack, "stack"),
    (movement.pad, "pad constant_pad_nd"),
    (movement.windows, "im2col"),
    (movement.windows_added, "col2im"),
    (
        movement.pad_by_copies,
        """
        reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d
        replication_pad3d
        """,
    ),
    (movement.overwrite, "slice_scatter select_scatter diagonal_scatter"),
    (movement.blank, "zeros_like new_zeros empty empty_like new_empty empty_permuted zero"),
    (constant_fill, "ones_like full_like new_ones new_full"),
    (movement.view_as_complex, "view_as_complex"),
    (movement.view_as_real, "view_as_real"),
)

RULES: Mapping[str, Rule] = MappingProxyType(
    {f"aten::{name}": rule for rule, names in _NAMES for name in names.split()}
)
