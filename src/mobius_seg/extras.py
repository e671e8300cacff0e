"""Which extra of the package brings a module that a subcommand imports when it runs."""

EXTRAS = {
    "accelerate": "train",
    "bpy": "rooms",
    "cv2": "train",
    "matplotlib": "train",
    "onnx": "export",
    "onnxruntime": "export",
    "onnxscript": "export",
    "openvino": "openvino",
    "executorch": "executorch",
    "litert_torch": "litert",
    "ai_edge_litert": "litert",
    "ai_edge_quantizer": "litert",
    "resvg_py": "train",
    "scipy": "train",
    "tensorboard": "train",
    "tqdm": "train",
    "vtkmodules": "train",
    "supervision": "supervision",
}
"""By the name of the module."""
