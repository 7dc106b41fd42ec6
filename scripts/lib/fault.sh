# fault.sh: what the scripts of scripts/faults share. A fault is injected, held for --for SECONDS (without it until INT or TERM), and undone: at the end, on
# INT, TERM and HUP, and when the script fails half-way. Each says `injected: ...` and `undone: ...` on standard output, so that a program can follow it.
# A script sets `usage_of` (its own file), reads its options, defines undo(), injects, says so with injected(), and calls hold.
set -u
hold_seconds=
undoing=
sleeper=

usage() { sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$usage_of"; }
fail() {
    echo "$(basename "$usage_of"): $*" >&2
    exit 1
}
bad_usage() {
    echo "$(basename "$usage_of"): $* (try --help)" >&2
    exit 2
}
need() { # OPTION VALUE
    if [ -z "$2" ]; then bad_usage "$1 is missing"; fi
}
# A number of seconds: digits, perhaps with a decimal point.
is_seconds() { [[ $1 =~ ^[0-9]+(\.[0-9]+)?$ ]]; }

injected() { echo "injected: $*"; }
undone() { echo "undone: $*"; }

end() {
    local status=$?
    trap '' INT TERM HUP
    trap - EXIT
    if [ -n "$sleeper" ]; then kill "$sleeper" 2>/dev/null; fi
    if [ -z "$undoing" ]; then
        undoing=yes
        undo || status=1
    fi
    exit $status
}
# From here on undo() runs whatever happens.
arm() {
    trap end EXIT
    trap 'exit 0' INT TERM HUP
}
# The time of the fault. Waited for in the background: a signal ends it at once.
hold() {
    rest "${hold_seconds:-infinity}"
    exit 0
}
rest() {
    sleep "$1" &
    sleeper=$!
    wait $sleeper
    sleeper=
}

# The process that is meant: --pid N, or --pid-file FILE (its first line, as PostgreSQL's postmaster.pid has it). Must be running.
pid= pid_file=
find_pid() {
    if [ -n "$pid_file" ]; then
        [ -r "$pid_file" ] || fail "cannot read $pid_file"
        pid=
        read -r pid <"$pid_file" || true # the newline may be missing
    fi
    need '--pid or --pid-file' "$pid"
    if ! [[ $pid =~ ^[0-9]+$ ]]; then bad_usage "no process id: \`$pid'"; fi
    running "$pid" || fail "there is no process $pid"
    kill -0 "$pid" 2>/dev/null || fail "process $pid is not ours to stop"
}
running() { [ -d "/proc/$1" ] && ! grep -q '^State:[[:space:]]*[ZX]' "/proc/$1/status" 2>/dev/null; }
# A process and all its children, as far down as they go.
tree() {
    local child
    echo "$1"
    for child in $(cat /proc/"$1"/task/*/children 2>/dev/null); do tree "$child"; done
}
# Runs a command as the owner of a path: pg_ctl does not run as root. It does not hear Ctrl-C: what it has begun on a server is brought to its end, and then undone.
as_owner() { # PATH COMMAND...
    local owner
    owner=$(stat -c %U "$1")
    shift
    (
        trap '' INT
        if [ "$(id -u)" -eq 0 ] && [ "$owner" != root ]; then exec setpriv --reuid="$owner" --regid="$(id -g "$owner")" --init-groups "$@"; fi
        exec "$@"
    )
}

# common_option NAME VALUE: 0 if it was one of --for, --pid, --pid-file (both words are used up), 1 if not.
common_option() {
    case $1 in
    --for)
        need --for "${2:-}"
        is_seconds "$2" || bad_usage "--for: no number of seconds: \`$2'"
        hold_seconds=$2
        ;;
    --pid) need --pid "${2:-}" && pid=$2 ;;
    --pid-file) need --pid-file "${2:-}" && pid_file=$2 ;;
    -h | --help)
        usage
        exit 0
        ;;
    *) return 1 ;;
    esac
}

# pg_bin: the folder of PostgreSQL's programs, the newest installed unless given.
find_pg_bin() {
    if [ -z "${pg_bin:-}" ]; then pg_bin=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -n 1); fi
    [ -x "$pg_bin/pg_ctl" ] || fail "no pg_ctl in \`$pg_bin': give --pg-bin"
}
is_data() { [ -f "$1/PG_VERSION" ] || fail "$1 is no data directory of PostgreSQL"; }
pg_ctl() { as_owner "$2" "$pg_bin/pg_ctl" "$1" -D "${@:2}" >/dev/null; }
server_runs() { pg_ctl status "$1" 2>/dev/null; }

# disk_fault CONTROL LINE WHAT: for a program that was started with libfault-disk.so (scripts/faults/disk.c).
disk_fault() {
    control=$1
    { : >>"$control"; } 2>/dev/null || fail "cannot write $control"
    if ! grep -qszxF "FAULT_CONTROL=$control" /proc/[0-9]*/environ; then
        echo "$(basename "$usage_of"): no program that we can see was started with FAULT_CONTROL=$control" >&2
    fi
    arm
    echo "$2" >"$control"
    injected "$3"
    hold
}
