"""The audit log: what was acknowledged is there after kill -9, and whatever was changed is found."""

import json
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import wait
from datetime import UTC, datetime, timedelta

import pytest

from seekling import cli
from seekling.errors import DataError, MachineError, RecipeError
from seekling.serve import audit as module
from seekling.serve.audit import FIRST, AuditLog, files, find, verify


def filled(folder, count=20):
    log = AuditLog(folder)
    wait([log.append("answered", id=str(n), output_sha256=[f"{n:064x}"]) for n in range(count)])
    log.close()


def test_every_entry_is_bound_to_the_one_before(tmp_path):
    filled(tmp_path)
    report = verify(tmp_path)
    assert (report.entries, report.problems) == (21, [])
    lines = [json.loads(line) for line in files(tmp_path)[0].read_text().splitlines()]
    assert [line["n"] for line in lines] == list(range(1, 22)) and lines[0]["prev"] == FIRST
    assert lines[0]["event"] == "started"


def test_file_and_folder_are_the_owners_alone(tmp_path):
    folder = tmp_path / "log"
    filled(folder, 1)
    assert files(folder)[0].stat().st_mode & 0o777 == 0o600 and folder.stat().st_mode & 0o777 == 0o700
    os.chmod(files(folder)[0], 0o644)
    assert "others may read it" in verify(folder).problems[0]


@pytest.mark.parametrize(
    "tamper",
    [
        lambda lines: lines[:5] + lines[6:],  # one taken out
        lambda lines: [*lines[:5], lines[5].replace(b'"id":"4"', b'"id":"9"'), *lines[6:]],  # one changed
        lambda lines: [*lines[:5], lines[6], lines[5], *lines[7:]],  # two exchanged
        lambda lines: [*lines[:5], lines[4], *lines[5:]],  # one doubled
        lambda lines: [*lines[:5], b"{}\n", *lines[5:]],  # one put in
    ],
)
def test_whatever_was_changed_is_found(tmp_path, tamper):
    filled(tmp_path)
    path = files(tmp_path)[0]
    path.write_bytes(b"".join(tamper(path.read_bytes().splitlines(keepends=True))))
    assert verify(tmp_path).problems


def test_the_chain_goes_on_over_restarts_and_days(tmp_path):
    filled(tmp_path, 3)
    yesterday = datetime.now(UTC).date() - timedelta(days=1)
    os.rename(files(tmp_path)[0], tmp_path / f"audit-{yesterday}.jsonl")
    filled(tmp_path, 3)
    report = verify(tmp_path)
    assert (report.entries, report.problems, len(files(tmp_path))) == (8, [], 2)


def test_what_kill_9_left_of_a_line_is_cut_off_and_the_next_start_says_so(tmp_path):
    filled(tmp_path, 3)
    path = files(tmp_path)[0]
    with open(path, "ab") as file:
        file.write(b'{"n":5,"prev":"')
    assert "not whole" in verify(tmp_path).problems[0]
    filled(tmp_path, 1)
    assert verify(tmp_path).problems == []
    assert json.loads(path.read_text().splitlines()[4])["bytes_cut"] == 15


def test_entries_that_were_acknowledged_survive_kill_9(tmp_path):
    code = (
        "import sys\nfrom pathlib import Path\nfrom seekling.serve.audit import AuditLog\n"
        "log = AuditLog(Path(sys.argv[1]))\nn = 0\n"
        "while True:\n    log.append('answered', id=n).result()\n    print(n, flush=True)\n    n += 1\n"
    )
    writer = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    for _ in range(30):
        last = int(writer.stdout.readline())
    writer.send_signal(signal.SIGKILL)
    last = max([last, *map(int, writer.stdout.read().split())])
    writer.wait()
    filled(tmp_path, 1)
    assert verify(tmp_path).problems == []
    kept = {json.loads(line).get("id") for line in files(tmp_path)[0].read_text().splitlines()}
    assert set(range(last + 1)) <= kept


def test_old_days_are_removed_and_the_rest_still_verifies(tmp_path):
    filled(tmp_path, 2)
    os.rename(files(tmp_path)[0], tmp_path / "audit-2020-01-01.jsonl")
    filled(tmp_path, 2)
    assert [path.name > "audit-2026" for path in files(tmp_path)] == [True]
    assert verify(tmp_path).problems == []


def test_a_full_disk_fails_the_append_and_leaves_no_half_line(tmp_path, monkeypatch):
    log = AuditLog(tmp_path)
    real = os.write

    def full(fd, data):
        real(fd, bytes(data)[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.os, "write", full)
    with pytest.raises(OSError, match="No space"):
        log.append("answered").result(60)
    monkeypatch.setattr(module.os, "write", real)
    log.append("answered").result(60)
    log.close()
    assert (verify(tmp_path).entries, verify(tmp_path).problems) == (2, [])


def test_one_who_waits_no_longer_does_not_stop_the_log(tmp_path):
    log, inside, go = AuditLog(tmp_path), threading.Event(), threading.Event()
    real = log._write
    log._write = lambda entries: (inside.set(), go.wait(60), real(entries))
    log.append("answered", id=1)
    assert inside.wait(60)
    assert log.append("answered", id=2).cancel()
    go.set()
    log.append("answered", id="last").result(60)
    log.close()
    assert (verify(tmp_path).entries, verify(tmp_path).problems) == (4, [])


def test_two_processes_cannot_write_one_log_and_bad_days_are_refused(tmp_path):
    log = AuditLog(tmp_path)
    with pytest.raises(MachineError, match="another server"):
        AuditLog(tmp_path)
    log.close()
    with pytest.raises(RecipeError, match="audit-days"):
        AuditLog(tmp_path, days=0)
    with pytest.raises(DataError, match="no audit log"):
        verify(tmp_path / "none")


def test_an_answer_is_found_by_its_hash(tmp_path):
    filled(tmp_path)
    assert [entry["id"] for entry in find(tmp_path, f"{7:064x}")] == ["7"]


def test_the_verb(tmp_path, capsys):
    filled(tmp_path)
    assert cli.main(["audit", "verify", "--audit", str(tmp_path)]) == 0
    assert "21 entries" in capsys.readouterr().out
    path = files(tmp_path)[0]
    path.write_bytes(path.read_bytes().replace(b'"id":"4"', b'"id":"5"'))
    assert cli.main(["audit", "verify", "--audit", str(tmp_path), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["problems"]
