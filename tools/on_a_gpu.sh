#!/usr/bin/env bash
# What does a GPU say in ten minutes? For a machine with a GPU, Python and no network.
#
#   tools/on_a_gpu.sh --wheels DIR [--python 3.12]              before, with network: fills DIR
#   tools/on_a_gpu.sh [--wheels DIR] OUT [--seconds 600] [...]  there: installs into OUT, runs, reports
#
# OUT/report.md and OUT/report.json are written after each step. What follows OUT goes to on_a_gpu.py,
# whose --help says more. Without --wheels what Python has installed is used. PyTorch is never
# installed; where the machine has it, it is measured beside clconv.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
most=60000000 # bytes of wheels
wheels="" version=3.12 out="" seconds=600 more=()

fail() { echo "on_a_gpu.sh: $*" >&2; exit 2; }

while (($#)); do
    case $1 in
        --wheels | --python | --seconds) (($# > 1)) || fail "$1 needs a value" ;;&
        --wheels) wheels=$2; shift 2 ;;
        --python) version=$2; shift 2 ;;
        --seconds) seconds=$2; shift 2 ;;
        -h | --help) sed -n '2,/^set/{/^set/d;s/^# \?//;p}' "$0"; exit ;;
        *) if [[ -z $out && $1 != -* ]]; then out=$1; else more+=("$1"); fi; shift ;;
    esac
done
[[ -n $wheels || -n $out ]] || fail "expected --wheels DIR to fill, or OUT; see --help"
[[ $version =~ ^3\.[0-9]+$ ]] || fail "--python is '$version', expected one like 3.12"
[[ $seconds =~ ^[1-9][0-9]*$ ]] || fail "--seconds is '$seconds', expected whole seconds"

if [[ -z $out ]]; then
    mkdir -p "$wheels"
    rm -f "$wheels"/clconv-*.whl
    pip=(python3 -m pip --quiet --disable-pip-version-check)
    copy=$(mktemp -d) # what an earlier build left in the source tree would get into the wheel
    trap 'rm -rf "$copy"' EXIT
    cp -r "$root"/{clconv,pyproject.toml,setup.py,README.md,LICENSE} "$copy"
    "${pip[@]}" wheel --no-deps -w "$wheels" "$copy"
    # numpy's wheels are for newer systems than manylinux2014; pip is for machines without it.
    "${pip[@]}" download --only-binary=:all: --python-version "$version" --implementation cp \
        --platform manylinux2014_x86_64 --platform manylinux_2_17_x86_64 \
        --platform manylinux_2_27_x86_64 --platform manylinux_2_28_x86_64 \
        -d "$wheels" "$(echo "$wheels"/clconv-*.whl)[bfloat16]" pip
    bytes=$(cat "$wheels"/*.whl | wc -c)
    ((bytes <= most)) || fail "$wheels has $bytes bytes of wheels, expected at most $most"
    echo "$wheels: $(ls "$wheels"/*.whl | wc -l) wheels for Python $version, $((bytes / 1000000)) MB"
    exit
fi

mkdir -p "$out"
out=$(cd "$out" && pwd)
python=python3 path=$root
if [[ -n $wheels ]]; then
    # The machine's own Python if there are wheels for it, else another one.
    for python in python3 python3.{10..14} none; do
        tag=$("$python" -c 'import sys; print("cp%d%d" % sys.version_info[:2])' 2>/dev/null) || continue
        compgen -G "$wheels/pyopencl-*-$tag-*.whl" >/dev/null && break
    done
    [[ $python != none ]] || fail "$wheels has no wheels for a Python that is here; fill it with" \
        "--python $(python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')"
    path=$out/packages
    rm -rf "$path"
    # pip runs from its own wheel: Debian's Python has neither pip nor venv.
    "$python" "$(echo "$wheels"/pip-*.whl)/pip" install --quiet --no-index --find-links "$wheels" \
        --disable-pip-version-check --root-user-action ignore --target "$path" "clconv[bfloat16]"
fi
export PYTHONPATH=$path${PYTHONPATH:+:$PYTHONPATH}
left=$((seconds - SECONDS))
exec "$python" "$root/tools/gpu/on_a_gpu.py" "$out" --seconds "$((left > 1 ? left : 1))" ${more[@]+"${more[@]}"}
