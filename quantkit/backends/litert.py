"""LiteRT (TensorFlow Lite) on the CPU: litert-torch converts, ai-edge-quantizer quantizes, XNNPACK runs.

Dynamic and weight-only int8 and int4, static int8 and 16x8 (int16 activations), float16 weights.
https://ai.google.dev/edge/litert
"""

from quantkit.backends._litert_backend import LiteRt

plugin = LiteRt(
    "litert",
    "LiteRT (TensorFlow Lite)",
    extra="litert",
    profiles=("regular", "full"),
    run_modules=("ai_edge_litert.interpreter",),
    runner="LiteRT XNNPACK on the CPU",
)
