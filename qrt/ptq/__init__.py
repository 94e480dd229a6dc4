"""Post-training quantization of ONNX models: float in, standard ONNX with small integers out."""
