"""Requests that nobody would write, made by schemathesis from the server's own description."""

import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from tests.web.test_serve import serving

pytest.importorskip("schemathesis")
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "unsupported_method",
)
PATIENCE = 30  # seconds for one answer; a real job may take longer, which is no fault


@pytest.mark.parametrize("seconds", [60, pytest.param(600, marks=pytest.mark.slow)])
def test_no_request_breaks_the_server(tmp_path, seconds):
    """Every answer is one that the description knows, none is a fault of the server or tells a
    path of its machine, and the server works afterwards."""
    with serving(tmp_path / "served") as (process, address):
        command = [str(Path(sys.executable).parent / "schemathesis"), "run"]
        command += [f"{address}/openapi.json", "--checks", ",".join(CHECKS), "--no-color"]
        command += ["--max-time", str(seconds), "--request-timeout", str(PATIENCE)]
        done = subprocess.run(
            [*command, "--continue-on-failure"],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=seconds + 300,
        )
        told = done.stdout
        assert "❌" not in told.partition("= SUMMARY =")[2], told[-8000:]
        assert "Tested:" in told and str(tmp_path) not in told.replace(str(tmp_path / ".s"), "")
        assert process.poll() is None
        with urllib.request.urlopen(f"{address}/healthz", timeout=PATIENCE) as answer:
            assert answer.status == 200
