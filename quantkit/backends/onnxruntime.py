"""ONNX Runtime: `torch.onnx.export`, then ONNX Runtime's own quantizers; static schemes in QDQ form.

Static int8 has unsigned activations and signed weights (signed activations are 2.6 times slower on x86), and ranges
by extremes, percentile or entropy; dynamic int8 covers convolutions, products, embeddings and LSTMs; weight-only codes
of 2, 4 and 8 bits are `MatMulNBits`, in 4 bits also chosen by HQQ or GPTQ.
https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html
"""

from quantkit.backends._onnx_backend import OnnxRuntime

plugin = OnnxRuntime("onnxruntime", "ONNX Runtime", "QDQ", profiles=("fast", "regular", "full"))
