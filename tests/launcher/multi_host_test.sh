#!/usr/bin/env bash
# The same configuration on one host and across two gives the same bits: llm-worker over hosts in
# network namespaces. multi_host_test.sh SOURCE_DIRECTORY BIN_DIRECTORY; exits 77 (skipped) where
# namespaces are not permitted.
set -euo pipefail
source=$1
bin=$2
folder=$(mktemp -d)
export NETLAB_DIR=$folder/lab
lab=$source/tests/support/netlab.sh
"$lab" supported || exit 77
clean_up() { "$lab" down || true; rm -rf "$folder"; }
trap clean_up EXIT

"$bin/llm-build" "$source/models/demo" "$folder/engine" --weights w8 --group-size 64 >/dev/null
"$lab" up 2
prompt="Once upon a time there was"

run() {  # TP PP OUTPUT COMMAND...
  local tp=$1 pp=$2 output=$3
  shift 3
  timeout 100 "$@" "$bin/llm-worker" --config "$source/configs/demo.textproto" \
    --set "engine=$folder/engine" --set "parallel.tp_size=$tp" --set "parallel.pp_size=$pp" \
    --set kv_cache.capacity_tokens=4096 --prompt "$prompt" --max-tokens 32 --digest >"$output"
}

across=("$lab" exec head "$source/scripts/mpirun" --mca plm_rsh_agent "$lab agent")
run 1 1 "$folder/one" "$source/scripts/mpirun" -np 1
[ "$(wc -l <"$folder/one")" -ge 2 ] || { echo "the reference run gave no tokens" >&2; exit 1; }
failed=0
for shape in "2 1 1" "1 2 1" "4 1 2" "2 2 2" "8 1 4" "4 2 4"; do  # tp, pp, ranks on each host
  read -r tp pp each <<<"$shape"
  run "$tp" "$pp" "$folder/two" "${across[@]}" -H "node1:$each,node2:$each" -np $((2 * each))
  if cmp -s "$folder/one" "$folder/two"; then
    echo "tp $tp pp $pp over two hosts of $each: same bits"
  else
    echo "tp $tp pp $pp over two hosts of $each: other bits" >&2
    diff "$folder/one" "$folder/two" | head -4 >&2
    failed=1
  fi
done
exit "$failed"
