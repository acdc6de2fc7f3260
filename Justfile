# The verbs a person uses. `./just` runs them with a pinned just where none is installed.

set dotenv-load
set shell := ["bash", "-euo", "pipefail", "-c"]

deploy := "cargo run --quiet --locked --package tally-deploy --"

# List the recipes
[private]
default:
    @{{ just_executable() }} --justfile {{ justfile() }} --list --unsorted

# Set everything up, start blue and Traefik, wait until a client gets through
[group('run')]
up:
    @{{ deploy }} up

# Move the traffic to the other colour; --dry-run tells the plan, --help the rest
[group('run')]
flip *options:
    @{{ deploy }} flip {{ options }}

# Go back to the colour that was live before, also in the middle of a flip
[group('run')]
rollback *options:
    @{{ deploy }} rollback {{ options }}

# Show the last flips and rollbacks
[group('run')]
history count="20":
    @{{ deploy }} history {{ count }}

# Say what runs where; changes nothing
[group('run')]
status:
    @{{ deploy }} status

# Show the last lines of every log: `logs 50`, and what comes: `logs --follow`
[group('run')]
logs *arguments:
    @{{ deploy }} logs {{ arguments }}

# Watch a running stack: errors as they come, and the biggest counters; --help tells the rest
[group('run')]
[no-exit-message]
monitor *options:
    @monitoring/monitor.sh {{ options }}

# Record the walk-through that the README shows, from a real run
[group('run')]
[no-exit-message]
record:
    @monitoring/record

# Stop everything
[group('run')]
down:
    @{{ deploy }} down

# Run every test but the slow drills, installing what they need
[group('check')]
[no-exit-message]
test:
    .ci/test

# Measure Tally beside a bare epoll loop, and judge the ratios by compare/thresholds.txt
[group('check')]
[no-exit-message]
measure:
    .ci/measure

# Run the slow drills: flips killed at every step, in a row under a crowd, between releases
[group('check')]
[no-exit-message]
drill:
    .ci/test drills

# Measure which lines the tests reach
[group('check')]
[no-exit-message]
coverage:
    .ci/coverage

# Check formatting, lints, dependencies, scripts
[group('check')]
[no-exit-message]
lint:
    .ci/lint

# Load the running stack with 5,000 sockets and check every answer; --help tells the rest
[group('measure')]
[no-exit-message]
[positional-arguments]
loadtest *options:
    @cargo run --quiet --release --locked --package tally-loadtest -- "$@"

# Work out what a number of sockets takes in a cluster: `size 1000000`; --help tells the rest
[group('measure')]
[positional-arguments]
size *options:
    @{{ deploy }} size "$@"

# Measure Tally beside its peers; --short: beside the floor only, judged by compare/thresholds.txt
[group('measure')]
[no-exit-message]
[positional-arguments]
compare *options:
    @cargo run --quiet --release --locked --package tally-compare -- "$@"
