"""Export of a family's transformer to ONNX, with NVFP4 linears and LoRA branches."""
