#!/usr/bin/env python3
"""What a session store costs: the server's CPU with each of them, and the part of the store's thread.

  compare/stores.py [--repeats 5]

Builds in release, runs every store in turns, and prints a table of medians. The server has one worker
and the default checkpoint; its CPU is all of its threads', the kernel's part included. Redis is
Debian's, started here; without a redis-server on the PATH it is left out, by name.
"""

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RELEASE = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"
TICKS = os.sysconf("SC_CLK_TCK")
CHATTY, QUIET, MOVED = 1000, 5000, 4000


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(port):
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise SystemExit(f"error: nothing listens at 127.0.0.1:{port}")


def cpu_s(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def keeper_s(pid):
    """CPU of the thread that talks to the store; it starts a moment after the server listens."""
    for _ in range(100):
        for task in Path(f"/proc/{pid}/task").iterdir():
            if (task / "comm").read_text().strip() == "keeper":
                return int((task / "schedstat").read_text().split()[0]) / 1e9
        time.sleep(0.02)
    raise SystemExit("error: the server has no thread called keeper")


def start(command, port, **settings):
    process = subprocess.Popen(
        command, env={**os.environ, **settings}, stdout=subprocess.DEVNULL
    )
    wait_for(port)
    return process


def end(process):
    process.terminate()
    process.wait()


def load(port, server, folder, *options):
    report = folder / "report.json"
    command = [RELEASE / "tally-loadtest", f"ws://127.0.0.1:{port}/ws/chat/", "--quiet"]
    command += ["--heartbeat", "0s", "--server-pid", str(server.pid), "--json", report]
    subprocess.run([*command, *options], check=True)
    phases = json.loads(report.read_text())["phases"]
    return {phase["name"]: phase for phase in phases}


def measure(store, folder):
    """CPU in microseconds, by what it is for."""
    redis, figures = None, {}
    if store == "redis":
        at = free_port()
        redis = start(
            ["redis-server", "--port", str(at), "--save", "", "--appendonly", "yes", "--dir", folder], at
        )
    place = {"memory": "memory", "sqlite": f"sqlite:{folder}/sessions.db"}
    place = place.get(store) or f"redis://127.0.0.1:{at}/0"
    port, operator = free_port(), free_port()
    server = start(
        [RELEASE / "tally-server"],
        operator,
        TALLY_LISTEN=f"127.0.0.1:{port}",
        TALLY_OPERATOR_LISTEN=f"127.0.0.1:{operator}",
        TALLY_WORKERS="1",
        TALLY_SESSION_STORE=place,
    )
    try:
        for name, sockets, rate in [("chatty", CHATTY, CHATTY * 10), ("quiet", QUIET, QUIET)]:
            before = redis and cpu_s(redis.pid)
            kept = keeper_s(server.pid)
            options = ["-n", str(sockets), "--rate", str(rate), "--duration", "6s"]
            talk = load(port, server, folder, *options, "--leave", "abort")["talk"]
            figures[name] = talk["server_cpu_s"] / talk["answered"] * 1e6
            figures[f"{name}_keeper"] = (keeper_s(server.pid) - kept) / talk["answered"] * 1e6
            if redis:
                beside = cpu_s(redis.pid) - before
                figures[f"{name}_beside"] = beside / talk["answered"] * 1e6
            time.sleep(1.5)
        # Away and back, and in the other run away alone.
        drain = f"http://127.0.0.1:{operator}/drain"
        away = f"curl -sS -X POST '{drain}?rate=4000' >/dev/null; sleep 1.5"
        options = ["-n", str(MOVED), "--rate", "0", "--duration", "2s", "--mode", "drain"]
        back = [*options, "--reconnect", "--end-command", f"{away}; curl -sS -X DELETE {drain} >/dev/null"]
        both = load(port, server, folder, *back)["drain"]
        alone = load(port, server, folder, *options, "--end-command", away)["drain"]
        figures["drained"] = alone["server_cpu_s"] / MOVED * 1e6
        figures["resumed"] = both["server_cpu_s"] / MOVED * 1e6 - figures["drained"]
    finally:
        end(server)
        if redis:
            end(redis)
    return figures


def told(runs, name):
    values = [run[name] for run in runs]
    return f"{statistics.median(values):.2f} <sub>{min(values):.2f}–{max(values):.2f}</sub>"


def share(runs, name):
    """The keeper's part of a message's cost, in the same run."""
    parts = [run[f"{name}_keeper"] / run[name] for run in runs]
    return f", {statistics.median(parts) * 100:.0f} % of it the store's thread"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    stores = ["memory", "sqlite", "redis"]
    if not shutil.which("redis-server"):
        stores.remove("redis")
        print("left out: redis, for there is no redis-server on the PATH")
    build = ["cargo", "build", "--quiet", "--release", "--locked"]
    subprocess.run([*build, "-p", "tally-server", "-p", "tally-loadtest"], cwd=ROOT, check=True)
    runs = {store: [] for store in stores}
    for repeat in range(repeats):
        turn = stores[repeat % len(stores):] + stores[: repeat % len(stores)]
        for store in turn:
            with tempfile.TemporaryDirectory() as folder:
                runs[store].append(measure(store, Path(folder)))
    print("| CPU, µs | a message, 10 a second and session | a message, 1 a second and session | a drained session | a resume |")
    print("|---|---:|---:|---:|---:|")
    for store in stores:
        cells = [told(runs[store], name) for name in ["chatty", "quiet", "drained", "resumed"]]
        if store != "memory":
            for place, name in enumerate(["chatty", "quiet"]):
                cells[place] += share(runs[store], name)
        print(f"| {store} | " + " | ".join(cells) + " |")
    if "redis" in stores:
        cells = [told(runs["redis"], f"{name}_beside") for name in ["chatty", "quiet"]]
        print(f"| Redis itself | {cells[0]} | {cells[1]} | | |")


main()
