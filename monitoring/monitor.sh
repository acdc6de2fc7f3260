#!/usr/bin/env bash
# Watches a running stack: its errors as they come, and the five biggest counters every ten seconds.
# `./just monitor --help` tells the options. Nothing is needed but bash, awk, curl and python3.
set -euo pipefail

readonly INTERVAL_S=10
readonly TOP=5
readonly PROGRAMS=(blue green traefik)
# As in deploy/compose: the operator's listener of a colour in a container.
readonly OPERATOR_PORT=9000
readonly SCRAPE_TIMEOUT_S=2

# An error is a record of that level, or what is no record at all and says so: a panic.
readonly ERROR='"level":"(ERROR|CRITICAL|error|fatal|panic)"|^[^{]*(ERROR|CRITICAL|panicked at)'

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
seconds=
json=
fail_on_error=
errors=0
reader=
follower=
state=
terminal=
began=
declare -A from

usage() {
  cat <<'TEXT'
monitor.sh [--seconds N] [--json] [--fail-on-error] [--root FOLDER]

Watches the logs of a running stack for errors, and prints its five biggest counters every 10 s:
by value, summed over labels and colours, with their increase since the last time.

  --seconds N       end after so many seconds; otherwise Ctrl-C ends it
  --json            one JSON object a line: kind is error, counters or end
  --fail-on-error   end with exit code 1 if there was an error, or no colour answered
  --root FOLDER     the clone whose stack is watched; otherwise this one
TEXT
}

fail() {
  printf 'error: %s\n' "$1" >&2
  exit "${2:-1}"
}

parse() {
  while [ $# -gt 0 ]; do
    case $1 in
      --seconds)
        [[ ${2:-} =~ ^[1-9][0-9]*$ ]] || fail '--seconds needs a number of seconds' 2
        seconds=$2
        shift
        ;;
      --json) json=1 ;;
      --fail-on-error) fail_on_error=1 ;;
      --root)
        [ -d "${2:-}" ] || fail '--root needs a folder' 2
        root=$2
        shift
        ;;
      --help | -h)
        usage
        exit 0
        ;;
      *) fail "there is no option $1; see --help" 2 ;;
    esac
    shift
  done
}

# What `up` has decided, a word a line: engine, name, and the operators' ports of a native stack.
recorded() {
  python3 -c 'import json, sys
record = json.load(open(sys.argv[1]))
print(record["engine"], record["name"], *(record["ports"][colour + "_operator"] for colour in ("blue", "green")), sep="\n")' \
    "$root/.tally/stack.json"
}

# Where a colour's operator's listener is; nothing for a container that does not run.
operator() {
  local address
  if [ "$engine" = native ]; then
    printf '127.0.0.1:%s\n' "${operator_port[$1]}"
  else
    address=$(docker inspect --format '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}' "$stack-$1" 2>/dev/null) || return 0
    [ -z "$address" ] || printf '%s:%s\n' "$address" "$OPERATOR_PORT"
  fi
}

# -- errors ------------------------------------------------------------------------------------------

# Where the logs end now, however long it takes until they are followed.
mark() {
  local program
  began=$(date +%s.%N)
  for program in "${PROGRAMS[@]}"; do
    from[$program]=$(stat --format %s "$root/.tally/logs/$program.log" 2>/dev/null || echo 0)
  done
}

# What the programs say from then on, that is an error: `program line`.
follow() {
  trap 'kill $(jobs -p) 2>/dev/null || true' EXIT
  trap 'exit 0' TERM
  local program
  if [ "$engine" = native ]; then
    follow_files &
  else
    for program in "${PROGRAMS[@]}"; do
      follow_container "$program" | sed --unbuffered --quiet --regexp-extended "\\%$ERROR%s%^%$program %p" &
    done
  fi
  wait
}

# A full log is renamed, and a colour that never ran has none yet. Not tail: it may miss a file that
# appears while it looks away.
follow_files() {
  local program files=()
  for program in "${PROGRAMS[@]}"; do
    files+=("$program" "$root/.tally/logs/$program.log" "${from[$program]}")
  done
  exec python3 -c '
import os, re, sys, time
error = re.compile(sys.argv[1].encode())
logs = [[*sys.argv[at:at + 3], None, b""] for at in range(2, len(sys.argv), 3)]
while True:
    for log in logs:
        program, path, start, file, rest = log
        try:
            if file is None:
                file = open(path, "rb", buffering=0)
                file.seek(int(start))
            *lines, rest = (rest + file.read()).split(b"\n")
            if os.stat(path).st_ino != os.fstat(file.fileno()).st_ino:
                *more, rest = (rest + file.read()).split(b"\n")
                lines, file, start = lines + more, None, 0
        except FileNotFoundError:
            lines = []
        log[2:] = [start, file, rest]
        for line in filter(error.search, lines):
            sys.stdout.buffer.write(program.encode() + b" " + line + b"\n")
    sys.stdout.flush()
    time.sleep(0.2)
' "$ERROR" "${files[@]}"
}

# A flip makes a new container of the same name, and the log of the old one ends.
follow_container() {
  local since=$began child
  trap 'kill "$child" 2>/dev/null || true; exit 0' TERM
  while :; do
    docker logs --follow --since "$since" "$stack-$1" 2>&1 &
    child=$!
    wait "$child" || true
    since=$(date +%s.%N)
    sleep 1
  done
}

tell_error() {
  local program=${1%% *} line=${1#* }
  errors=$((errors + 1))
  if [ "$json" ]; then
    python3 -c 'import json, sys
print(json.dumps({"kind": "error", "at": sys.argv[1], "program": sys.argv[2], "line": sys.argv[3]}), flush=True)' \
      "$(now)" "$program" "$line"
  else
    printf '%s  ERROR  %s  %s\n' "$(date +%T)" "$program" "$line"
  fi
}

# -- counters ----------------------------------------------------------------------------------------

# All counters of all colours that answer: `colour name value`, summed over labels.
scrape() {
  local colour address
  for colour in blue green; do
    address=$(operator "$colour")
    [ "$address" ] || continue
    curl --silent --fail --max-time "$SCRAPE_TIMEOUT_S" "http://$address/metrics" |
      awk -v colour="$colour" '
        $1 == "#" && $2 == "TYPE" && $4 == "counter" { counter[$3] = 1 }
        $1 != "#" { name = $1; sub(/\{.*/, "", name); if (name in counter) sum[name] += $NF }
        END { for (name in sum) printf "%s %s %.17g\n", colour, name, sum[name] }' || true
  done
}

# The biggest, with what they gained: `name value increase`. A colour whose counter is smaller than
# it was has been started anew. The first time nothing is known of before.
top() {
  awk -v first="$([ -s "$1" ] || echo 1)" '
    FILENAME == ARGV[1] { before[$1, $2] = $3; next }
    {
      value[$2] += $3
      was = before[$1, $2] + 0
      gain[$2] += $3 < was ? $3 : $3 - was
    }
    END { for (name in value) printf "%s %.17g %s\n", name, value[name], first ? "-" : sprintf("%.17g", gain[name]) }
  ' "$1" "$2" | sort -k2,2gr -k1,1 | head -n "$TOP"
}

tell_counters() {
  scrape >"$state/now"
  [ -s "$state/now" ] || tell_error 'monitor no colour answers; is the stack up? ./just status'
  top "$state/before" "$state/now" >"$state/top"
  if [ "$json" ]; then
    python3 -c 'import json, sys
rows = [line.split() for line in open(sys.argv[2])]
number = lambda text: None if text == "-" else float(text)
counters = [{"name": n, "value": number(v), "increase": number(i)} for n, v, i in rows]
print(json.dumps({"kind": "counters", "at": sys.argv[1], "errors": int(sys.argv[3]), "counters": counters}), flush=True)' \
      "$(now)" "$state/top" "$errors"
  else
    awk -v at="$(date +%T)" -v errors="$errors" '
      function told(number) { return number == int(number) ? sprintf("%d", number) : sprintf("%.2f", number) }
      NR == 1 { printf "%s  %-36s %14s %12s\n", at, "counter", "value", "increase" }
      { printf "%10s%-36s %14s %12s\n", "", $1, told($2), $3 == "-" ? "-" : "+" told($3) }
      END { printf "%10serrors so far: %d\n", "", errors }' "$state/top"
  fi
  mv "$state/now" "$state/before"
}

# -- the two together --------------------------------------------------------------------------------

now() {
  date --utc +%Y-%m-%dT%H:%M:%SZ
}

# Tells errors until a moment of $SECONDS. A signal is heard between two reads only, so none is long.
watch_until() {
  local line status begun=
  while [ "$SECONDS" -lt "$1" ]; do
    status=0
    IFS= read -r -t 0.5 -u "$reader" line || status=$?
    # Half a line is no line yet.
    begun+=$line
    if [ "$status" = 0 ]; then
      tell_error "$begun"
      begun=
    elif [ "$status" -le 128 ]; then
      fail 'the logs cannot be followed any more'
    fi
  done
}

clean_up() {
  [ -z "$follower" ] || kill "$follower" 2>/dev/null || true
  [ -z "$state" ] || rm -rf "$state"
}

end() {
  trap '' INT TERM
  # A signal may come while something else is written to a file.
  exec >&"$terminal"
  if [ "$json" ]; then
    printf '{"kind": "end", "at": "%s", "seconds": %s, "errors": %s}\n' "$(now)" "$SECONDS" "$errors"
  else
    printf '==> %s errors in %s s\n' "$errors" "$SECONDS"
  fi
  if [ "$fail_on_error" ] && [ "$errors" -gt 0 ]; then
    exit 1
  fi
  exit 0
}

main() {
  local next record engine stack
  local -A operator_port
  parse "$@"
  [ -r "$root/.tally/stack.json" ] || fail 'there is no stack here; start one: ./just up'
  mapfile -t record < <(recorded)
  [ "${#record[@]}" = 4 ] || fail "$root/.tally/stack.json cannot be read; write it anew: ./just up"
  engine=${record[0]} stack=${record[1]}
  [ "$engine" != kubernetes ] || fail 'a cluster has a monitoring of its own, and its logs come by ./just logs --follow'
  operator_port=([blue]=${record[2]} [green]=${record[3]})
  exec {terminal}>&1
  trap clean_up EXIT
  trap end INT TERM
  state=$(mktemp -d)
  : >"$state/before"
  mark
  exec {reader}< <(follow)
  follower=$!
  [ "$json" ] || printf '==> watching %s (%s engine): errors as they come, counters every %s s\n' "$stack" "$engine" "$INTERVAL_S"
  SECONDS=0
  tell_counters
  for ((next = INTERVAL_S; ; next += INTERVAL_S)); do
    if [ "$seconds" ] && [ "$next" -ge "$seconds" ]; then
      watch_until "$seconds"
      tell_counters
      end
    fi
    watch_until "$next"
    tell_counters
  done
}

main "$@"
