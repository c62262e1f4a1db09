#!/bin/sh
# Answers of every model x format x scheme, without timing, then docs/formats.md. Called by `make formats`; an
# interrupted run continues. Toolchains that are slow here take fewer items: their verdict then has their own baseline.
set -eu
cd "$(dirname "$0")/.."
export QUANTKIT_RESULTS=.quantkit/formats.db

run() { # items, profile, models, backends
    .venv/bin/quantkit run --rounds 0 --targets cpu --items "$1" --profile "$2" --models "$3" --backends "$4"
}

quick=pytorch,onnxruntime,onnxruntime_qoperator,coreml,litert,bitsandbytes
run 2000 full fmnist_cnn,fmnist_vit,fmnist_lstm,fmnist_mobile $quick
run 256 full pydoc_gpt $quick
run 16 regular pydoc_gpt_cached coreml
run 512 regular minilm $quick
run 400 regular resemblyzer $quick
run 16 regular resnet50 $quick
# MLX's build for Linux multiplies some fifty times slower than the others
run 250 full fmnist_cnn,fmnist_vit,fmnist_lstm mlx
run 16 regular pydoc_gpt,minilm mlx
run 16 regular resemblyzer,resnet50 mlx
.venv/bin/quantkit formats --write docs/formats.md
