#!/usr/bin/env bash
# Runs the communicator and step channel tests and dying jobs over two hosts of a netlab, two ranks
# each. Called by CTest: multi_host_test.sh SOURCE_DIR GROUP_TEST CHANNEL_TEST MONITOR_PROBE.
# Exit 77 (skipped) where namespaces are not permitted.
set -euo pipefail
source_dir=$1 group_test=$2 channel_test=$3 probe=$4
lab=$source_dir/tests/support/netlab.sh
folder=$(mktemp -d)
export NETLAB_DIR=$folder/lab
"$lab" supported || exit 77
trap '"$lab" down; rm -rf "$folder"' EXIT

"$lab" up 2
num_failed=0

run() {  # CMD...: four ranks over the two hosts
  timeout -k 1 90 "$lab" exec head "$source_dir/scripts/mpirun" \
    --mca plm_rsh_agent "$lab agent" --mca plm_rsh_no_tree_spawn 1 \
    -H node1:2,node2:2 -np 4 "$@"
}

report() {  # NAME COMPLAINT
  if [ -n "$2" ]; then
    num_failed=$((num_failed + 1))
    echo "FAILED $1:$2"
    cat "$folder/output"
  else
    echo "ok     $1"
  fi
}

passes() {  # NAME CMD...
  local name=$1 complaint=""
  shift
  run "$@" >"$folder/output" 2>&1 || complaint=" exit $?"
  report "$name" "$complaint"
}

# The process ids of a host's ranks; other jobs on this machine are none of ours.
ranks_on() {
  local space process
  space=$(readlink "/proc/$(cat "$NETLAB_DIR/$1.pid")/ns/pid")
  for process in $(pgrep -x monitor_probe); do
    [ "$(readlink "/proc/$process/ns/pid" 2>/dev/null)" != "$space" ] || echo "$process"
  done
}

num_probes() { { ranks_on node1; ranks_on node2; } | wc -l; }

# A job on which EVENT (a function) falls after a second.
job_meets() {  # NAME EVENT
  local begin
  run "$probe" none 0 "$steps" >"$folder/output" 2>&1 &
  job=$!
  for _ in $(seq 100); do  # until all ranks have said who they are
    [ "$(grep -c '^pid ' "$folder/output")" = 4 ] && break
    sleep 0.1
  done
  sleep 1
  "$2"
  begin=$(date +%s%N)
  status=0
  wait "$job" || status=$?
  milliseconds=$((($(date +%s%N) - begin) / 1000000))
}

fails() {  # NAME EVENT PATTERN
  local complaint="" status milliseconds job steps=3000
  job_meets "$1" "$2"
  [ "$status" != 0 ] || complaint+=" exit 0"
  [ "$milliseconds" -le 5000 ] || complaint+=" took $milliseconds ms"
  grep -qE "^phalanx: $3.*; ending the job$" "$folder/output" || complaint+=" no line matches $3"
  restore
  for _ in $(seq 30); do
    [ "$(num_probes)" = 0 ] && break
    sleep 0.1
  done
  [ "$(num_probes)" = 0 ] || complaint+=" $(num_probes) processes left"
  report "$1 ($milliseconds ms, exit $status: $(grep -m 1 '^phalanx:' "$folder/output"))" \
    "$complaint"
}

survives() {  # NAME EVENT
  local complaint="" status milliseconds job steps=400
  job_meets "$1" "$2"
  [ "$status" = 0 ] || complaint+=" exit $status"
  ! grep -q '^phalanx:' "$folder/output" || complaint+=" a failure was declared"
  report "$1" "$complaint"
}

restore() {  # hosts are whole again, and what was frozen sees that it was given up
  local host
  for host in node1 node2; do
    "$lab" link "$host" up
    "$lab" thaw "$host"
  done
}

kill_one() { kill -KILL "$(ranks_on node2 | tail -n 1)"; }
stop_one() { kill -STOP "$(ranks_on node2 | tail -n 1)"; }
freeze_far() { "$lab" freeze node2; }
freeze_near() { "$lab" freeze node1; }
cut_far() { "$lab" link node2 down; }
cut_near() { "$lab" link node1 down; }
cut_shortly() { "$lab" link node2 down; sleep 1; "$lab" link node2 up; }

place='at step [0-9]+ in [a-z_]+, layer 5'
passes "communicators over two hosts" "$group_test"
passes "step channel over two hosts" "$channel_test"
survives "a cut of one second" cut_shortly
fails "a rank is killed" kill_one "rank [23] on node2 died .* $place"
fails "a rank is stopped" stop_one "rank [23] on node2 stopped answering .* $place"
fails "a host freezes" freeze_far "rank [23] on node2 stopped answering .* $place; also silent: rank"
fails "a host's cable is out" cut_far "rank [23] on node2 stopped answering .* $place"
fails "the leader's host freezes" freeze_near "rank 0 on node1 stopped answering .* $place"
fails "the leader's cable is out" cut_near "rank 0 on node1 stopped answering .* $place"
[ "$num_failed" = 0 ]
