#!/bin/sh
# Answers of every model x format x scheme, without timing, then docs/formats.md. Called by `make formats`; an
# interrupted run continues. Toolchains that are slow here take fewer items: their verdict then has their own baseline.
set -eu
cd "$(dirname "$0")/.."
export QUANTKIT_RESULTS=.quantkit/formats.db

# One method for each scheme; how codes and ranges are chosen beyond that is docs/methods.md's matter.
schemes=fp32,half,int8_static,int8_static_per_tensor,int8_static_entropy,int8_static_percentile,int8_dynamic
schemes=$schemes,int8_weight_only,int16x8_static,int2_weight_only,int3_weight_only,int4_weight_only,int6_weight_only
schemes=$schemes,int4_weight_only_g128,int4_weight_only_per_channel,int4_per_tensor,int4_gptq,int4_hqq
schemes=$schemes,fp4,nf4,nf4_double,mxfp4,mxfp8,nvfp4,pruned_int8
schemes=$schemes,palettize2,palettize4,palettize4_a8,palettize4_double,palettize4_grouped,palettize6,palettize8

run() { # items, profile, models, backends
    .venv/bin/quantkit run --rounds 0 --targets cpu --items "$1" --profile "$2" --models "$3" --backends "$4" \
        --methods "$schemes"
}

quick=pytorch,onnxruntime,onnxruntime_qoperator,coreml,litert,bitsandbytes
run 2000 full fmnist_cnn,fmnist_vit,fmnist_lstm,fmnist_mobile $quick
run 256 full pydoc_gpt $quick
run 16 regular pydoc_gpt_cached coreml
run 512 regular minilm $quick
run 400 regular resemblyzer $quick
run 16 regular resnet50 $quick
# MLX's build for Linux multiplies some fifty times slower than the others
run 250 full fmnist_cnn,fmnist_vit,fmnist_lstm,fmnist_mobile mlx
run 16 regular pydoc_gpt,minilm mlx
run 16 regular resemblyzer,resnet50 mlx
.venv/bin/quantkit formats --write docs/formats.md
