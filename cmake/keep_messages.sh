#!/usr/bin/env bash
# Compiler launcher of nvcc: runs it and keeps what it says beside the object, as OBJECT.messages.
# ptxas' remarks are neither warnings nor errors; scripts/cuda_budget compares them with its table.
output=
for ((i = 1; i < $#; ++i)); do
  [ "${!i}" = -o ] && next=$((i + 1)) && output=${!next}
done
[ -n "$output" ] || exec "$@"
"$@" 2>"$output.messages"
status=$?
cat "$output.messages" >&2
exit $status
