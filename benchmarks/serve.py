"""Measure a server under load: pictures per second with and without batching, errors, memory.

    python benchmarks/serve.py [--clients 32] [--seconds 120]

Each client requests one picture after another. Status 429 (the queue is full) does not count as an
error; any other failure does. Memory is measured for the server and its worker together, in the
first and in the second half of the run.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path

import uvicorn

from sfumato.web.app import Settings, build

PROMPTS = ["a red apple", "a house", "a blue car", "a star", "a dog", "a fish", "a tree", "a boat"]


def serve(folder: str, port: int, batching: bool) -> None:
    """Run a server."""
    settings = Settings(Path(folder), longest=64, batching=batching)
    uvicorn.run(build(settings), port=port, log_level="error")


def resident(pid: int) -> int:
    """Megabytes of a process and its children (Linux)."""
    total = 0
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            text = status.read_text()
        except OSError:
            continue
        fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
        if int(fields["Pid"]) == pid or int(fields["PPid"]) == pid:
            total += int(fields.get("VmRSS", "0 kB").split()[0])
    return total // 1024


def ask(port: int, number: int) -> int:
    """Request one picture; return the HTTP status."""
    body = {"prompt": PROMPTS[number % len(PROMPTS)], "seed": number}
    address = f"http://127.0.0.1:{port}/v1/create?wait=true"
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(address, json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=300) as answer:
            answer.read()
            return answer.status
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def load(
    port: int, clients: int, seconds: float, pid: int
) -> tuple[float, Counter[int], list[int]]:
    """Return the pictures per second, the count of each status, and the memory during the run."""
    statuses: Counter[int] = Counter()
    lock, started = threading.Lock(), time.monotonic()

    def client(number: int) -> None:
        while time.monotonic() - started < seconds:
            status = ask(port, number)
            with lock:
                statuses[status] += 1
            number += clients
            if status == 429:
                time.sleep(1)

    threads = [threading.Thread(target=client, args=(k,)) for k in range(clients)]
    for thread in threads:
        thread.start()
    memory = []
    while any(thread.is_alive() for thread in threads):
        time.sleep(seconds / 20)
        memory.append(resident(pid))
    for thread in threads:
        thread.join()
    return statuses[200] / (time.monotonic() - started), statuses, memory


def main() -> None:
    """Measure a server without and a server with batching."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=120)
    given = parser.parse_args()
    rates = {}
    for port, batching in ((7901, False), (7902, True)):
        with tempfile.TemporaryDirectory() as folder:
            context = multiprocessing.get_context("spawn")
            process = context.Process(target=serve, args=(folder, port, batching))
            process.start()
            while True:
                try:
                    ask(port, 0)
                    break
                except (urllib.error.URLError, ConnectionError):
                    time.sleep(0.3)
            assert process.pid is not None
            rate, statuses, memory = load(port, given.clients, given.seconds, process.pid)
            process.terminate()
            process.join()
        rates[batching] = rate
        half = len(memory) // 2
        early, late = statistics.median(memory[1:half]), statistics.median(memory[half:])
        print(
            f"batching {'on' if batching else 'off'}: {rate:.2f} pictures a second; statuses "
            f"{dict(statuses)}; memory {early:.0f} MB early, {late:.0f} MB late "
            f"({late / early - 1:+.1%})",
            flush=True,
        )
    print(f"batching: {rates[True] / rates[False]:.2f} times the rate")


if __name__ == "__main__":
    main()
