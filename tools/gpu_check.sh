#!/usr/bin/env bash
# Builds gpu_check for NVIDIA GPUs as one file that runs on a machine without Rust and without this repository.
#
#     tools/gpu_check.sh [--llvm DIR] [FOLDER]
#
# FOLDER (default: runs/gpu_check_build) receives gpu_check.xz and, for parity-models, fixtures.tar.xz.
#
# --features cuda compiles Burn's CUDA backend with the CUDA C++ generator (cubecl/cuda-cpp); NVRTC compiles its kernels on the machine with
# the GPU. CubeCL's other generator is linked as well, and its build script downloads LLVM, which needs network access. Without network, DIR
# is a stand-in crate for `cubecl-llvm` with the same name and version; the build then uses a copy of the sources in the target folder, so
# that the lock file of the repository does not change.
set -euo pipefail

die() {
    echo "gpu_check.sh: $1" >&2
    exit "${2:-1}"
}

llvm="" folder=""
while [ $# -gt 0 ]; do
    case "$1" in
    --llvm)
        [ $# -gt 1 ] || die "--llvm needs a folder" 2
        llvm=$(cd "$2" 2>/dev/null && pwd) || die "--llvm: no folder $2" 2
        shift 2
        ;;
    --help | -h)
        sed -n '2,/^set/p' "$0" | sed -n 's/^# \{0,1\}//p'
        exit
        ;;
    -*) die "unknown option $1; there are --llvm DIR and --help" 2 ;;
    *)
        [ -z "$folder" ] || die "one folder, not $folder and $1" 2
        folder=$1
        shift
        ;;
    esac
done
folder=${folder:-runs/gpu_check_build}
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
cd "$(dirname "$0")/.."
for program in cargo xz tar; do
    command -v "$program" >/dev/null || die "$program is not installed"
done

# Printed in the header of every report.
GPU_CHECK_COMMIT=$(git describe --always --dirty --abbrev=12 2>/dev/null || echo unknown)
export GPU_CHECK_COMMIT
# Symbols are a third of the file and useless on another machine.
export CARGO_PROFILE_RELEASE_STRIP=symbols
# The oldest supported driver interface; newer drivers are compatible.
export CUDARC_CUDA_VERSION=${CUDARC_CUDA_VERSION:-12080}

target=$PWD/target
options=(--release --package vmamba-cli --bin gpu_check --features cuda)
if [ -n "$llvm" ]; then
    grep -q '^name = "cubecl-llvm"' "$llvm/Cargo.toml" 2>/dev/null || die "--llvm: $llvm is not a crate called cubecl-llvm"
    target=$target/stand-in
    copy=$target/sources
    rm -rf "$copy"
    mkdir -p "$copy"
    # tar keeps modification times, so that a second build is incremental.
    tar --create --exclude ./.git --exclude './target*' --exclude ./runs . | tar --extract --directory "$copy"
    cd "$copy"
    options+=(--config "patch.crates-io.cubecl-llvm.path=\"$llvm\"")
fi
cargo build "${options[@]}" --target-dir "$target"

xz --keep --force --threads 0 --stdout "$target/release/gpu_check" >"$folder/gpu_check.xz"
tar --create --directory tests fixtures | xz --threads 0 >"$folder/fixtures.tar.xz"
ls -l "$folder/gpu_check.xz" "$folder/fixtures.tar.xz"
cat <<END

Copy both files to the machine with the GPU. It needs an NVIDIA driver and the NVRTC library and headers of the CUDA toolkit, under
\$CUDA_PATH or /usr/local/cuda; the loader also finds the library in LD_LIBRARY_PATH. Run there:

    xz --decompress gpu_check.xz && chmod +x gpu_check && tar xf fixtures.tar.xz
    ./gpu_check --device cuda:0 --fixtures fixtures --out report

In sessions of ten minutes, one part or precision each:

    ./gpu_check --parts parity-ops,parity-models,bandwidth --fixtures fixtures --time-limit 540 --out report/parity
    ./gpu_check --parts throughput --precisions bf16 --batches 128 --sides 224 --time-limit 540 --out report/bf16

Beside PyTorch: --python PYTHON with torch and torchvision for CUDA, and --peers DIR with the official repository's classification/models.
END
