#!/bin/sh
# The experiment: strategies x budgets x sizes of memory, each run in a process of its own, one row of figures a run.
#
#   scripts/bench.sh [--model FILE | --synth SHAPE] [--strategies LIST] [--budgets LIST] [--ram-caps LIST]
#                    [--runs N] [--cold | --warm] [--pause S] [--out DIR] [-p N] [-n N] [--machine TEXT] [-- FLAG...]
#
#   --model FILE       the model (default: the one in models/)
#   --synth SHAPE      a random model instead: "flash-q2 --layers 4", as `infall synth --shape` takes it; made in DIR
#   --strategies LIST  of full,baseline,residency-lru,nommap (default: all)
#   --budgets LIST     memory for experts: 25%,8GB,1200 (default 11%,22%,44%,88%,100%)
#   --ram-caps LIST    memory of the machine, page cache included: none, 75% of the model, 4GB (default none)
#   --runs N           of each cell (default 3), forth and back through all cells in turn
#   --cold             drop the model (and nothing else) from the page cache before each run (default)
#   --warm             measure behind a run of the same work in the same process
#   --pause S          seconds of rest behind each run, for machines that grow hot (default 0)
#   --out DIR          where rows, skipped.tsv and report.html go (default target/bench); rows that are there stay,
#                      so that a run that was stopped goes on
#   -p N, -n N         tokens of the prompt and of the answer (default 256 and 48); ids and length are fixed
#   --machine TEXT     how the report names this machine (default: processor, cores, memory, kernel, disk)
#   -- FLAG...         more flags of `infall bench`, for all runs
#
# A smaller machine is a control group (needs the right to make one), else locked memory in whole GiB, else the cell is
# skipped with the reason. Nothing needs root. INFALL names the program; without it cargo builds it.
set -eu
usage() {
    sed -n '2,/^set/s/^# \{0,1\}//p' "$0" | sed '$d' >&2
    exit 2
}
fail() {
    echo "bench: $1" >&2
    exit "${2:-1}"
}
here=$(cd "$(dirname "$0")/.." && pwd)

model='' shape='' strategies=full,baseline,residency-lru,nommap budgets=11%,22%,44%,88%,100%
caps=none runs=3 state=cold pause=0 out=$here/target/bench n_prompt=256 n_gen=48 machine=''
while [ $# -gt 0 ]; do
    case $1 in
    --cold | --warm) state=${1#--}; shift; continue ;;
    --help | -h) usage ;;
    --) shift; break ;;
    esac
    [ $# -ge 2 ] || usage
    case $1 in
    --model) model=$2 ;;
    --synth) shape=$2 ;;
    --strategies) strategies=$2 ;;
    --budgets) budgets=$2 ;;
    --ram-caps) caps=$2 ;;
    --runs) runs=$2 ;;
    --pause) pause=$2 ;;
    --out) out=$2 ;;
    -p) n_prompt=$2 ;;
    -n) n_gen=$2 ;;
    --machine) machine=$2 ;;
    *) echo "bench: unknown flag '$1'" >&2; usage ;;
    esac
    shift 2
done
for number in "$runs" "$n_prompt" "$n_gen" "1$pause"; do
    case $number in
    '' | *[!0-9]* | 0*) fail "found '$number', expected a number from 1 (--runs, -p, -n; --pause from 0)" 2 ;;
    esac
done
[ -z "$model" ] || [ -z "$shape" ] || fail "--model and --synth are both given, expected one" 2

infall=${INFALL:-}
if [ -z "$infall" ]; then
    (cd "$here" && cargo build --release --quiet --all-features)
    infall=${CARGO_TARGET_DIR:-$here/target}/release/infall
fi
commit=$(git -C "$here" rev-parse --short HEAD 2>/dev/null || echo unknown)
[ -z "$(git -C "$here" status --porcelain --untracked-files=no 2>/dev/null)" ] || commit=$commit+changes

mkdir -p "$out"
if [ -n "$shape" ]; then
    model=$out/$(echo "$shape" | tr -cs 'a-zA-Z0-9\n' - | sed 's/-$//').gguf
    if [ ! -f "$model" ]; then
        # shellcheck disable=SC2086  # the shape brings flags of its own
        "$infall" synth --shape $shape --out "$model.part"
        mv "$model.part" "$model"
    fi
fi
model=${model:-$here/models/tiny-q4.gguf}
[ -f "$model" ] || fail "$model: no such file"
# All parts of a model that was split: NAME-00001-of-00004.gguf.
case $model in
*-?????-of-?????.gguf) model_bytes=$(wc -c -- "${model%-?????-of-?????.gguf}"-?????-of-"${model##*-of-}" | awk 'END { print $1 }') ;;
*) model_bytes=$(wc -c <"$model") ;;
esac
model_mib=$((model_bytes / 1048576))
stem=$(basename "$model" .gguf)

# The machine in words that name nobody.
describe() {
    kernel=$(uname -s)\ $(uname -r | sed 's/-.*//')
    if [ -r /proc/cpuinfo ]; then
        cpu=$(sed -n 's/^model name[^:]*: *//p' /proc/cpuinfo | head -n 1)
        memory=$((($(sed -n 's/^MemTotal: *\([0-9]*\).*/\1/p' /proc/meminfo) + 524288) / 1048576))
        source=$(df -P "$model" | awk 'NR == 2 { print $1 }')
        disk=$(basename "$source" | sed 's/[0-9]*$//')
        # What rotates is told reliably of real disks only: virtual ones often say 1.
        case $(cat "/sys/block/$disk/queue/rotational" 2>/dev/null) in
        0) disk="SSD $disk" ;;
        1) disk="disk $disk" ;;
        *) disk="unknown disk" ;;
        esac
        cores=$(grep -c '^processor' /proc/cpuinfo)
    else
        cpu=$(sysctl -n machdep.cpu.brand_string)
        memory=$(($(sysctl -n hw.memsize) / 1073741824))
        cores=$(sysctl -n hw.ncpu) disk="internal or external disk"
    fi
    echo "${cpu:-unknown processor}, $cores cores, $memory GiB, $kernel, $disk"
}
machine=${machine:-$(describe)}

# MiB of memory that programs can have now.
available() {
    if [ -r /proc/meminfo ]; then
        echo $(($(sed -n 's/^MemAvailable: *\([0-9]*\).*/\1/p' /proc/meminfo) / 1024))
    else
        echo $(($(sysctl -n hw.memsize) / 1048576))
    fi
}

# A size of --ram-caps in MiB.
cap_mib() {
    number=${1%%[!0-9]*}
    [ -n "$number" ] || fail "--ram-caps: found '$1', expected none, 75% or 4GB" 2
    case $1 in
    "$number%") echo $((model_mib * number / 100)) ;;
    "${number}GB") echo $((number * 1024)) ;;
    *) fail "--ram-caps: found '$1', expected none, 75% or 4GB" 2 ;;
    esac
}

list() {
    echo "$1" | tr ',' ' '
}

# All cells, one a line: strategy, budget, cap. `full` takes all experts, whatever the budget.
cells=''
for cap in $(list "$caps"); do
    [ "$cap" = none ] || cap_mib "$cap" >/dev/null || exit 2
    for strategy in $(list "$strategies"); do
        if [ "$strategy" = full ]; then
            cells="$cells$strategy auto $cap
"
            continue
        fi
        for budget in $(list "$budgets"); do
            cells="$cells$strategy $budget $cap
"
        done
    done
done

if (cd "$here" && scripts/memory-cap.sh 64 true) 2>/dev/null; then
    cap_by='control group'
else
    cap_by='locked memory'
fi

errors=$out/errors.txt
skipped=$out/skipped.tsv
[ -f "$skipped" ] || printf 'model\tstrategy\tbudget\tcap\treason\n' >"$skipped"
trap 'echo "bench: stopped; the same command goes on" >&2; exit 130' INT TERM

skip() {
    printf '%s\t%s\t%s\t%s\t%s\n' "$stem" "$strategy" "$budget" "$cap" "$1" >>"$skipped"
    echo "skipped: $stem, $strategy, budget $budget, memory $cap: $1"
}

# One run of the cell in $strategy, $budget and $cap; writes $row or an entry in the list of what was skipped.
one() {
    row=$out/$stem-$strategy-$(echo "$budget" | tr '%' p)-$(echo "$cap" | tr '%' p)-$run.json
    [ ! -f "$row" ] || return 0
    ! cut -f 1-4 "$skipped" | grep -qxF "$(printf '%s\t%s\t%s\t%s' "$stem" "$strategy" "$budget" "$cap")" || return 0
    set -- "$infall" bench -m "$model" --row "$row" -p "$n_prompt" -n "$n_gen" --strategy "$strategy" \
        --budget "$budget" --state "$state" --machine "$machine" --commit "$commit" --run-number "$run" "$@"
    if [ "$cap" != none ]; then
        mib=$(cap_mib "$cap")
        set -- "$@" --cap-mib "$mib" --cap-by "$cap_by"
        if [ "$cap_by" = 'control group' ]; then
            set -- "$here/scripts/memory-cap.sh" "$mib" "$@"
        else
            hold=$((($(available) - mib) / 1024))
            if [ "$mib" -lt 1024 ] || [ "$hold" -lt 1 ]; then
                skip "no right to make a control group, and locked memory comes in whole GiB"
                return 0
            fi
            set -- "$@" --simulate-used-memory "${hold}GB"
        fi
    fi
    code=0
    "$@" >"$errors" 2>&1 || code=$?
    # The program's own word, without the folders of this machine and the items of the ledger.
    said=$(grep '^infall' "$errors" | tail -n 1 | sed 's/^infall[^:]*: //; s#[^ ]*/##g; s/ (fixed weights.*) exceeds/ exceeds/; s/; [^;]*--overcommit.*//' | tr '\t' ' ')
    case $code in
    0)
        [ -f "$row" ] || exit 130 # stopped by Ctrl-C
        sed -n '/ tokens\/s, tokens /p' "$errors" | sed "s/^/$stem, budget $budget, memory $cap, run $run: /"
        sleep "$pause"
        ;;
    130) exit 130 ;;
    137) skip "ended by the system: memory ran out" ;;
    *) skip "${said:-exit code $code}" ;;
    esac
}

# The first run of all wakes disk and processor; it is not kept.
"$infall" bench -m "$model" --row "$out/warm-up.row" -p 16 -n 4 --strategy "$(list "$strategies" | sed 's/ .*//')" >/dev/null 2>&1 || true
rm -f "$out/warm-up.row"
run=1
while [ "$run" -le "$runs" ]; do
    order=$cells
    # Every second time the other way round, so that what drifts meets all alike.
    [ $((run % 2)) -eq 1 ] || order=$(printf '%s' "$cells" | sed '1!G;h;$!d')
    # Lines come by another channel than the programs' standard input.
    while read -r strategy budget cap <&3; do
        [ -z "$strategy" ] || one "$@"
    done 3<<END
$order
END
    run=$((run + 1))
done
rm -f "$errors"

"$infall" report "$out" --text
"$infall" report "$out" -o "$out/report.html"
echo "wrote $out/report.html"
