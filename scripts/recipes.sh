#!/bin/sh
# llama.cpp's own quantiser makes the shipped model in its recipes, whole and split; each answers like llama.cpp's float
# path on the same weights, token for token.
#
#   scripts/recipes.sh BIN [RECIPE...]     BIN: the folder of llama-quantize, llama-gguf-split, llama-imatrix, llama-completion
#
# For each recipe the weights are quantised, then widened to F32 again, so that llama.cpp multiplies with F32 activations too.
# infall answers from the whole file, from a part in the middle, and from a set whose first part holds no tensors, on each
# kernel table named in KERNELS (default: scalar auto). Exit code 1 if an answer differs.
set -eu
cd "$(dirname "$0")/.."
bin=${1:?the folder of the tools of llama.cpp}
shift
[ $# -gt 0 ] || set -- Q4_K_M Q3_K_M Q5_K_M Q6_K IQ3_XXS IQ4_XS MXFP4_MOE Q2_K IQ2_XS IQ2_M IQ1_S IQ1_M IQ3_S Q4_0 Q5_1 IQ4_NL
infall=${INFALL:-target/release/infall}
export LD_LIBRARY_PATH="$bin${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
prompt='<｜begin▁of▁sentence｜><｜User｜>What is Unix?<｜Assistant｜></think>'

quiet() { "$@" >"$folder/log" 2>&1 || { tail -n 3 "$folder/log" >&2; return 1; }; }
quiet "$bin/llama-quantize" --allow-requantize models/tiny-q4.gguf "$folder/f32.gguf" F32
quiet "$bin/llama-imatrix" -m "$folder/f32.gguf" -f tests/golden/genesis.txt -o "$folder/im.gguf" -c 512
# Without the spaces that either program puts at the end.
trimmed() { printf %s "$1" | sed 's/ *$//'; }
failed=0
for recipe; do
    rm -f "$folder"/x*.gguf
    set --
    case $recipe in
    IQ*) # The quantiser has no importance for these tensors, or refuses to round them so far.
        set -- --imatrix "$folder/im.gguf" --exclude-weights attn_output_a --tensor-type attn_output_a=q8_0 \
            --tensor-type hc_=f32 --tensor-type compressor=q8_0 --tensor-type indexer=q8_0 --tensor-type attn_=q6_k \
            --tensor-type shexp=q5_k --token-embedding-type q4_k --output-tensor-type q6_k
        ;;
    esac
    quiet "$bin/llama-quantize" "$@" "$folder/f32.gguf" "$folder/x.gguf" "$recipe"
    quiet "$bin/llama-quantize" --allow-requantize "$folder/x.gguf" "$folder/xf.gguf" F32
    quiet "$bin/llama-gguf-split" --split --split-max-size 8M "$folder/x.gguf" "$folder/xs"
    quiet "$bin/llama-gguf-split" --split --split-max-size 8M --no-tensor-first-split "$folder/x.gguf" "$folder/xn"
    expected=$("$bin/llama-completion" -m "$folder/xf.gguf" -no-cnv -p "$prompt" --temp 0 -n 48 -t 2 -fa off \
        --no-warmup --simple-io --no-display-prompt 2>/dev/null </dev/null | sed 's/ \[end of text\]//')
    n=0
    for file in "$folder/x.gguf" "$folder"/xs-00002-of-*.gguf "$folder"/xn-00001-of-*.gguf; do
        for kernels in ${KERNELS:-scalar auto}; do
            found=$("$infall" run -m "$file" --raw -p "$prompt" --temp 0 -n 48 --quiet --kernels "$kernels" --kv f32)
            if [ "$(trimmed "$found")" = "$(trimmed "$expected")" ]; then
                n=$((n + 1))
            else
                failed=1
                printf '%s, %s, %s:\n  %s\nexpected\n  %s\n' "$recipe" "${file##*/}" "$kernels" "$found" "$expected" >&2
            fi
        done
    done
    echo "$recipe: $n answers are those of llama.cpp"
done
exit $failed
