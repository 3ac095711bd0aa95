#!/bin/sh
# Runs a command on a machine with less memory: in a control group of its own, page cache included.
#
#   scripts/memory-cap.sh MIB COMMAND [ARGUMENT...]
#
# Works with both versions of control groups and needs the right to make one (root, or a delegated group); without it
# nothing is run and the exit code is 77. At the end it tells the peak and how often memory had to be taken back.
set -eu
[ $# -ge 2 ] || { sed -n '2,7s/^# \{0,1\}//p' "$0" >&2; exit 2; }
case $1 in
'' | *[!0-9]*) echo "memory-cap: found '$1', expected a number of MiB" >&2; exit 2 ;;
esac
bytes=$(($1 * 1024 * 1024))
shift

skip() {
    echo "memory-cap: skipped: $1" >&2
    exit 77
}

if [ -f /sys/fs/cgroup/cgroup.controllers ] && grep -qw memory /sys/fs/cgroup/cgroup.controllers; then
    group=/sys/fs/cgroup/infall-$$
    limit=memory.max peak=memory.peak failed=memory.events
    # Children get the controller only if their parent passes it on.
    echo +memory >/sys/fs/cgroup/cgroup.subtree_control 2>/dev/null || true
elif [ -d /sys/fs/cgroup/memory ]; then
    group=/sys/fs/cgroup/memory/infall-$$
    limit=memory.limit_in_bytes peak=memory.max_usage_in_bytes failed=memory.failcnt
else
    skip "this machine has no control groups for memory"
fi
mkdir "$group" 2>/dev/null || skip "no right to make a control group"
trap 'rmdir "$group" 2>/dev/null || true' EXIT
{ echo "$bytes" >"$group/$limit"; } 2>/dev/null || skip "the group takes no limit"
[ ! -f "$group/memory.swap.max" ] || echo 0 >"$group/memory.swap.max"

code=0
# The shell that joins the group becomes the command.
sh -c 'echo $$ >"$0/cgroup.procs" && exec "$@"' "$group" "$@" || code=$?

printf 'memory-cap: peak %s of %s MiB' "$(($(cat "$group/$peak" 2>/dev/null || echo 0) / 1048576))" "$((bytes / 1048576))" >&2
printf ', limit met %s times\n' "$(sed -n 's/^max //p; /^[0-9]*$/p' "$group/$failed")" >&2
# The page cache of the group would keep it alive.
[ ! -f "$group/memory.force_empty" ] || echo 0 >"$group/memory.force_empty" 2>/dev/null || true
exit "$code"
