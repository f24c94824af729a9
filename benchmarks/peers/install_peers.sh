#!/usr/bin/env bash
# Makes the environments of the benchmark's peers: .peers/vllm and .peers/llama-cpp.
#
#   bash benchmarks/peers/install_peers.sh [vllm] [llama-cpp]     (both if none is named)
#
#   PYTHON=python3.12          interpreter of the new environments (3.11 or later)
#   TORCH_INDEX=https://...    package index for torch alone (default: pip's own)
#   JOBS=2                     compiler processes for llama.cpp, which takes a quarter of an hour
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

PYTHON=${PYTHON:-python3}
JOBS=${JOBS:-2}
lists=benchmarks/peers

fresh_environment() { # NAME: an empty environment in .peers/NAME
  rm -rf ".peers/$1"
  "$PYTHON" -m venv ".peers/$1"
}

pip_in() { # NAME ARGUMENTS...: pip of that environment
  local name=$1
  shift
  ".peers/$name/bin/python" -m pip --disable-pip-version-check "$@"
}

install_vllm() {
  fresh_environment vllm
  pip_in vllm install --quiet ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "$(grep '^torch==' $lists/vllm.txt)"
  pip_in vllm install --quiet -r $lists/vllm.txt
  # They come with vLLM, do not match this torch, and stop vLLM from starting.
  pip_in vllm uninstall --quiet --yes torchvision torchaudio torchcodec
}

install_llama_cpp() {
  fresh_environment llama-cpp
  CMAKE_BUILD_PARALLEL_LEVEL=$JOBS \
    CMAKE_ARGS="-DGGML_NATIVE=ON -DGGML_LLAMAFILE=ON -DGGML_OPENMP=ON -DLLAVA_BUILD=OFF -DMTMD_BUILD=OFF" \
    pip_in llama-cpp install --quiet --no-cache-dir --no-binary llama-cpp-python -r $lists/llama-cpp.txt
}

[ $# -gt 0 ] || set -- vllm llama-cpp
for name in "$@"; do
  case $name in
    vllm) install_vllm ;;
    llama-cpp) install_llama_cpp ;;
    *)
      echo "error: unknown peer $name; known: vllm, llama-cpp" >&2
      exit 2
      ;;
  esac
  touch ".peers/$name/.done"
  echo "installed .peers/$name"
done
