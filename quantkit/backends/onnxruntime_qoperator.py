"""ONNX Runtime with static schemes in QOperator form: `QLinearConv` and its like stand in the file itself.

In QDQ form the file has float operations between QuantizeLinear and DequantizeLinear, and the runtime fuses them on
load; here the quantizer has chosen. What is not static is the same in both and is left to backend `onnxruntime`.
https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html#onnx-quantization-representation-format
"""

from quantkit.backends._onnx_backend import OnnxRuntime

plugin = OnnxRuntime("onnxruntime_qoperator", "ONNX Runtime, QOperator form", "QOperator", profiles=("full",))
