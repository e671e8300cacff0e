"""Operators that cost nothing in the count, by their ATen names."""

# Not counted: no arithmetic, element-wise, norms, reductions, pooling, resizing. In-place forms
# (a trailing underscore) go under the plain name.
_NAMES = """
    alias arange as_strided cat clone constant_pad_nd copy detach empty empty_like expand eye fill
    flip full full_like gather index index_put index_select lift_fresh linspace new_empty new_full
    new_ones new_zeros nonzero ones ones_like permute repeat _reshape_alias roll scalar_tensor
    _local_scalar_dense
    scatter select slice split split_with_sizes squeeze stack t _to_copy transpose tril triu
    unbind unfold unsqueeze _unsafe_view view where zero zeros zeros_like

    abs add addcmul bitwise_and bitwise_not bitwise_or ceil clamp clamp_max clamp_min cos div elu
    eq erf exp floor floor_divide ge gelu gt hardsigmoid hardswish hardtanh isfinite isinf isnan le
    leaky_relu log log1p log2 logical_and logical_not logical_or log_sigmoid_forward logit
    lt masked_fill
    maximum minimum mul ne neg pow reciprocal relu remainder round rsqrt rsub sigmoid sign silu sin
    softplus sqrt sub tanh

    all amax amin any argmax argmin cumsum linalg_vector_norm max mean min native_batch_norm prod
    _native_batch_norm_legit _native_batch_norm_legit_no_training native_group_norm
    native_layer_norm _safe_softmax _softmax _log_softmax sort std sum topk var var_mean

    _adaptive_avg_pool2d avg_pool2d max_pool2d_with_indices upsample_bilinear2d upsample_bicubic2d
    upsample_nearest2d _upsample_bicubic2d_aa _upsample_bilinear2d_aa
"""
FREE = frozenset(_NAMES.split())
