"""What each runtime takes: core operators, element types, the highest rank.

``PHONE`` is what the phone presets are made of and every target runs. Accelerator presets need
``SAMPLING`` (deformable attention) and what their backbones are made of, which ONNX Runtime and
OpenVINO have and ExecuTorch lacks; litert-torch writes them as gathers and arithmetic for LiteRT.
"""

import torch

MAX_RANK = 5
"""Highest rank of a tensor that converters for phones take."""

_PHONE = (
    "_native_batch_norm_legit_no_training _softmax _to_copy _unsafe_view abs add.Scalar"
    " add.Tensor addmm alias amax any.dim arange arange.start_step avg_pool2d bitwise_not bmm cat"
    " clamp clone constant_pad_nd convolution cos div.Scalar div.Tensor eq.Scalar exp expand full"
    " full_like gather ge.Scalar gt.Scalar hardtanh le.Scalar lift_fresh_copy linalg_vector_norm"
    " linear log log1p log2 logical_not lt.Scalar matmul max.dim max_pool2d_with_indices maximum"
    " mean.dim minimum mm mul.Scalar mul.Tensor native_layer_norm neg permute pow.Scalar"
    " pow.Tensor_Scalar reciprocal relu repeat rsqrt scalar_tensor select.int sigmoid sign sin"
    " slice.Tensor split_with_sizes sqrt squeeze.dim squeeze.dims sub.Scalar sub.Tensor"
    " sum.dim_IntList topk unsqueeze upsample_bilinear2d.vec view where.self"
)
PHONE = frozenset(_PHONE.split())
SAMPLING = frozenset({"grid_sampler_2d"})
_BACKBONES = (
    "_adaptive_avg_pool2d argmax erf gelu index.Tensor index_select"
    " native_group_norm ne.Scalar roll silu tanh any unfold zeros_like ones_like"
    " remainder.Scalar floor ceil round fmod.Scalar eq.Tensor ne.Tensor flip masked_fill.Scalar"
    " copy slice_scatter empty_like zeros ones bitwise_and.Tensor lt.Tensor gt.Tensor le.Tensor"
    " ge.Tensor div.Tensor_mode floor_divide remainder.Tensor sum abs"
)
BACKBONES = frozenset(_BACKBONES.split())

# Positions of a plain ViT that are resampled to the picture's grid; Resize of opset 18 has it.
_POSITIONS = frozenset({"_upsample_bicubic2d_aa"})

OPERATORS: dict[str, frozenset[str]] = {
    "onnx": PHONE | SAMPLING | BACKBONES | _POSITIONS,
    "openvino": PHONE | SAMPLING | BACKBONES,
    "executorch": PHONE,
    "litert": PHONE | SAMPLING | BACKBONES,
}
"""Operators by target, without the prefix of their namespace."""

_COMMON = frozenset({torch.float32, torch.int64, torch.bool})
DTYPES: dict[str, frozenset[torch.dtype]] = {
    "onnx": _COMMON | {torch.float64, torch.int32},
    "openvino": _COMMON | {torch.int32},
    "executorch": _COMMON | {torch.int32},
    "litert": _COMMON | {torch.int32},
}
"""Element types by target; gathers read int64, which all of them take."""
