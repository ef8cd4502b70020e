#!/usr/bin/env bash
# Everything there is to know about a GPU, in one command and at most eight minutes:
#     bench/gpu.sh [FOLDER]
# Needs torch, triton and transformers, and no network: what else is wanted (rich, omegaconf, pytest, hypothesis,
# liger-kernel, cut-cross-entropy, …) is installed from the wheels in ./wheels, if there are any. Builds csrc/ where
# there is a compiler, tests the kernels on the card, then times the losses against the peers, their kernels one by one,
# a training step, sampling, and whole game steps. Tables, JSON and plots go to FOLDER, by default bench/results/<card>;
# a part that fails is named at the end.
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python}
card=$($python -c 'import re, torch; print(re.sub(r"\W+", "-", torch.cuda.get_device_name().lower()))') || {
  echo "bench/gpu.sh: torch sees no GPU" >&2
  exit 1
}
out=${1:-bench/results/$card}
mkdir -p "$out"
failed=()

part() {  # name, seconds, command…: its output goes to the screen and to $out/name.txt
  local left=$((470 - SECONDS))
  echo "== $1"
  if [ $left -lt 20 ]; then failed+=("$1 (no time left)"); return; fi
  timeout $(($2 < left ? $2 : left)) "${@:3}" 2>&1 | tee "$out/$1.txt" || failed+=("$1")
}

pip() { $python -m pip --disable-pip-version-check install --quiet --no-index --no-deps "$@"; }
if compgen -G "wheels/*.whl" > /dev/null; then pip wheels/*.whl; fi
pip --no-build-isolation --editable . || failed+=("install")

$python -c 'import torch, triton; print(torch.cuda.get_device_name(), "torch", torch.__version__, "triton", triton.__version__)'
part tests 150 $python -m pytest tests/kernels -m "not slow" -q
loss() {  # tokens, hidden, vocabulary
  part "loss-$3-$1" 80 $python bench/loss.py --device cuda --dtype bfloat16 --shape "$1,$2,$3" --json "$out/loss-$3-$1.json"
}
loss 8192 4096 131072  # what published kernels are compared on
part profile 60 $python bench/profile_loss.py --device cuda --dtype bfloat16 --shape 8192,4096,131072 --json "$out/profile.json"
models() {  # tokens
  loss "$1" 3584 152064  # Qwen2.5-7B
  loss "$1" 4096 128256  # Llama-3.1-8B
}
models 8192
part step 120 $python bench/step.py --json "$out/step.json"
part sampling 60 $python bench/sampling.py --only generate --only ours --json "$out/sampling.json"
part game 60 $python bench/game.py --repeat 3 --json "$out/game.json"
models 2048
models 32768

echo "== summary"
tail -n 3 "$out/tests.txt"
cat "$out"/loss-*.txt | grep -E "[┃│━]|T="
grep -E "[┃│━]|T=" "$out/profile.txt"
grep -hE "[┃│━]|tokens" "$out"/{step,sampling,game}.txt
[ ${#failed[@]} -eq 0 ] || { echo "failed: ${failed[*]}"; exit 1; }
