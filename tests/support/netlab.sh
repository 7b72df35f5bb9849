#!/usr/bin/env bash
# Several hosts on one Linux machine, for tests: each is a process with namespaces of its own (network,
# host name, processes, IPC, mounts with their own /dev/shm) behind a bridge; the file system is shared.
# Needs root, iproute2 and util-linux. Called by the multi-host tests.
#
#   netlab.sh supported            exit 0 if this machine permits it, else 1 and a line saying why not
#   netlab.sh up N                 hosts node1..nodeN (10.77.0.1...) and head (10.77.0.254) to start from
#   netlab.sh exec HOST CMD...     runs a command there
#   netlab.sh agent HOST CMD...    the same, as mpirun calls it: --mca plm_rsh_agent "netlab.sh agent"
#   netlab.sh link HOST up|down    plugs the cable in or out
#   netlab.sh freeze|thaw HOST     stops or continues every process of the host
#   netlab.sh crash HOST           power failure: cable out, then everything killed
#   netlab.sh down                 ends all
#
# The lab's state is in $NETLAB_DIR, which the caller sets and which names the lab: several labs can
# stand side by side.
set -euo pipefail

network=10.77.0
state=${NETLAB_DIR:?set NETLAB_DIR to a folder for the state of the lab}
self=$(readlink -f "${BASH_SOURCE[0]}")

die() { echo "netlab: $*" >&2; exit 1; }

pid_of() { cat "$state/$1.pid" 2>/dev/null || die "no host $1 in $state"; }

# head sees all processes: mpirun runs there and calls the agent, which must find the other holders.
namespaces_of() {
  local kinds=(--net --uts --ipc --mount)
  [ "$1" = head ] || kinds+=(--pid)
  echo "${kinds[@]}"
}

in_host() {  # HOST CMD...
  local pid kinds
  pid=$(pid_of "$1")
  read -ra kinds < <(namespaces_of "$1")
  shift
  exec nsenter --target "$pid" "${kinds[@]}" --wd="$PWD" -- "$@"
}

supported() {
  command -v ip >/dev/null || die "not supported here: the command ip is missing (iproute2)"
  unshare --net --uts --ipc --pid --mount --fork --mount-proc true 2>/dev/null ||
    die "not supported here: making namespaces is not permitted"
  unshare --net ip link add probe0 type bridge 2>/dev/null ||
    die "not supported here: the kernel makes no bridges"
  unshare --net ip link add probe0 type veth peer name probe1 2>/dev/null ||
    die "not supported here: the kernel makes no veth pairs"
}

start_host() {  # NAME ADDRESS: a holder that is process 1 of its host and keeps the namespaces alive
  local name=$1 address=$2 unshare_pid pid kinds
  read -ra kinds < <(namespaces_of "$name")
  [ "$name" = head ] || kinds+=(--mount-proc)
  # shellcheck disable=SC2016  # the inner shell expands
  setsid unshare "${kinds[@]}" --fork --propagation private --kill-child bash -c '
      hostname "$1"
      mount -t tmpfs -o size=50% tmpfs /dev/shm
      mount --bind "$2/hosts" /etc/hosts
      ip link set lo up
      touch "$2/$1.ready"
      [ "$1" != head ] || exec sleep infinity  # no init: a child of it would outlive it
      trap "exit 0" TERM
      while :; do sleep 3600 & wait $!; done' holder "$name" "$state" \
    </dev/null >/dev/null 2>"$state/$name.log" &
  unshare_pid=$!
  echo "$unshare_pid" >"$state/$name.unshare"
  for _ in $(seq 250); do
    [ -e "$state/$name.ready" ] && break
    sleep 0.02
  done
  [ -e "$state/$name.ready" ] || die "host $name did not start: $(cat "$state/$name.log")"
  pid=$(cat "/proc/$unshare_pid/task/$unshare_pid/children")
  echo "${pid%% *}" >"$state/$name.pid"
  echo "$address" >"$state/$name.address"
}

up() {
  local count=$1 i head pid
  [ ! -e "$state/hosts" ] || die "there is a lab in $state already"
  supported
  mkdir -p "$state"
  { echo "127.0.0.1 localhost"
    echo "$network.254 head"
    for i in $(seq "$count"); do echo "$network.$i node$i"; done; } >"$state/hosts"
  start_host head "$network.254"
  head=$(pid_of head)
  # A fixed address: a bridge that takes a port's address changes it as ports come and go.
  nsenter --target "$head" --net ip link add br0 address 02:00:0a:4d:00:fe type bridge
  nsenter --target "$head" --net ip addr add "$network.254/24" dev br0
  nsenter --target "$head" --net ip link set br0 up
  for i in $(seq "$count"); do
    start_host "node$i" "$network.$i"
    pid=$(pid_of "node$i")
    nsenter --target "$head" --net ip link add "port$i" type veth peer name eth0 netns "$pid"
    nsenter --target "$head" --net ip link set "port$i" master br0 up
    nsenter --target "$pid" --net ip addr add "$network.$i/24" dev eth0
    nsenter --target "$pid" --net ip link set eth0 up
  done
}

link() {  # HOST up|down
  nsenter --target "$(pid_of head)" --net ip link set "port${1#node}" "$2"
}

signal_all() {  # HOST SIGNAL: every process of the host but the holder
  local pid space process
  pid=$(pid_of "$1")
  space=$(readlink "/proc/$pid/ns/pid")
  for process in /proc/[0-9]*; do
    process=${process#/proc/}
    [ "$process" != "$pid" ] || continue
    [ "$(readlink "/proc/$process/ns/pid" 2>/dev/null)" = "$space" ] || continue
    kill -"$2" "$process" 2>/dev/null || true
  done
}

down() {
  local file
  for file in "$state"/*.unshare; do
    [ -e "$file" ] || continue
    kill -KILL "$(cat "$file")" 2>/dev/null || true  # takes the holder and so the host along
  done
  rm -rf "$state"
}

case ${1:-} in
  supported) supported ;;
  up) up "${2:-2}" ;;
  exec) shift; in_host "$@" ;;
  agent)
    shift
    while [ "${1#-}" != "$1" ]; do shift; done  # ssh's options mean nothing here
    host=$1
    shift
    in_host "$host" sh -c "$*" ;;
  link) link "$2" "$3" ;;
  freeze) signal_all "$2" STOP ;;
  thaw) signal_all "$2" CONT ;;
  crash) link "$2" down; kill -KILL "$(pid_of "$2")" ;;
  down) down ;;
  *) sed -n '2,17p' "$self"; exit 2 ;;
esac
