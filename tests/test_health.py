"""Whether it is well, told from outside: never well when no clip can be made, never unwell for being busy, and nothing private in it."""

import json
import os
import signal
import threading
import time

import pytest
from served import COOKIE, HOST, JSON, PORT, TOKEN, as_json, ask, site

from turbo_engine import worker as worker_module
from turbo_engine.errors import OutOfMemory, TurboError
from turbo_engine.types import Request
from turbo_engine.worker import EngineLost, Worker
from ui import health as health_module
from ui.clips import Edit
from ui.guard import Guard
from ui.health import KINDS, OUTCOMES, REASONS, JobLog
from ui.live import Job

pytestmark = [pytest.mark.timeout(180), pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"), pytest.mark.clock]
OWN = [HOST, COOKIE]


@pytest.fixture
def desk(tmp_path):
    with site(tmp_path / "data") as made:
        made.guarded = Guard(made.app, PORT, TOKEN)
        made.health.refusals = made.guarded.refusals
        yield made
        made.desk.stop()


def ready(desk) -> tuple[int, str | None]:
    status, _, body = ask(desk.guarded, "/readyz", headers=OWN)
    return status, json.loads(body)["failing"]


def until(condition, seconds: float = 30) -> float:
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < seconds
        time.sleep(0.02)
    return time.monotonic() - start


def series(desk) -> dict[str, float]:
    status, headers, body = ask(desk.guarded, "/metrics", headers=OWN)
    assert status == 200 and dict(headers)["content-type"].startswith("text/plain")
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in body.decode().splitlines() if not line.startswith("#")}


def use(desk, **options) -> Worker:
    """Put an engine in a process of its own behind the desk, and start it."""
    worker = Worker("pocket", factory="tests.faults:Faulty", options=options)
    desk.desk._wish = (lambda: worker), None
    desk.desk.start()
    return worker


def test_who_may_ask(desk):
    assert ask(desk.guarded, "/healthz", headers=[HOST])[::2] == (200, b"ok")
    assert ask(desk.guarded, "/healthz", headers=[("host", "evil.example")])[0] == 403
    for path in ("/readyz", "/metrics"):
        assert ask(desk.guarded, path, headers=[HOST])[0] == 401 and ask(desk.app, path)[0] in (200, 503)


def test_ready_says_the_first_part_that_fails(desk, monkeypatch):
    assert ready(desk) == (503, "loading")
    desk.desk.start()
    until(lambda: desk.desk.state == "ready")
    assert ready(desk) == (200, None)
    monkeypatch.setattr(health_module, "_writable", lambda folder: False)
    assert ready(desk) == (503, "storage")
    desk.engine.loaded = False
    assert ready(desk) == (503, "stalled")
    desk.desk._turn("failed", "", {})
    assert ready(desk) == (503, "dead")


def test_a_folder_that_cannot_be_written_is_seen(tmp_path):
    assert health_module._writable(tmp_path) and not health_module._writable(tmp_path / "absent")


def test_a_killed_engine_is_told_within_two_seconds_and_a_new_one_is_ready(desk):
    worker = use(desk)
    until(lambda: ready(desk)[0] == 200)
    for _ in range(3):
        os.kill(worker._ready_child().process.pid, signal.SIGKILL)
        assert until(lambda: ready(desk)[0] == 503) < 2
        until(lambda: ready(desk)[0] == 200)
    assert series(desk)["rushes_engine_restarts_total"] == 3


def test_busy_is_ready_and_an_idle_engine_that_says_nothing_is_not(desk, monkeypatch):
    monkeypatch.setattr(health_module, "ANSWER_S", 0.5)
    worker = use(desk, step_s=0.3)
    until(lambda: ready(desk)[0] == 200)
    job = threading.Thread(target=lambda: list(worker.generate(Request("a cat", num_steps=4))))
    job.start()
    answers = [ready(desk) for _ in range(20)]
    held = series(desk)['rushes_engine_memory_bytes{kind="resident"}']
    job.join()
    assert set(answers) == {(200, None)} and held > 10 << 20
    monkeypatch.setattr(worker_module, "STALL_S", 3600)         # the watch would find it, too: not in this test
    process = worker._ready_child().process.pid
    os.kill(process, signal.SIGSTOP)
    assert ready(desk) == (503, "stalled") == ready(desk) and not [name for name in series(desk) if name.startswith("rushes_engine_memory")]
    os.kill(process, signal.SIGCONT)
    until(lambda: ready(desk)[0] == 200)


def test_an_idle_engine_that_says_nothing_is_replaced_once_it_was_asked(desk, monkeypatch):
    monkeypatch.setattr(health_module, "ANSWER_S", 0.2)
    monkeypatch.setattr(worker_module, "STALL_S", 1.0)
    worker = use(desk)
    until(lambda: ready(desk)[0] == 200)
    process = worker._ready_child().process.pid
    os.kill(process, signal.SIGSTOP)
    assert ready(desk)[0] == 503
    until(lambda: worker.restarts == 1 and ready(desk)[0] == 200)


def jobs(desk) -> list[dict]:
    return [json.loads(line) for line in (desk.folder / "logs" / "jobs.jsonl").read_text().splitlines()]


def test_jobs_are_counted_and_logged_and_nothing_private_is_in_it(desk):
    """T17, on the surfaces here: a marked prompt, the token and the folder are in no line of the log, no metric, no refusal."""
    desk.desk.start()
    until(lambda: desk.desk.state == "ready")
    marked = "walrus marked4711"
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "preview", "arguments": {"prompt": marked, "seed": 3, "num_steps": 2}}}
    assert marked in ask(desk.guarded, "/mcp", "POST", [*OWN, JSON], as_json(call), patience_s=60)[2].decode()        # it did run
    desk.engine.error, desk.engine.fail_at = TurboError("no"), "denoise"
    ask(desk.guarded, "/mcp", "POST", [*OWN, JSON], as_json(call | {"params": {"name": "preview", "arguments": {"prompt": marked, "seed": 4}}}), patience_s=60)
    found = series(desk)
    assert found['rushes_jobs_total{kind="preview by code",outcome="done"}'] == 1 == found['rushes_jobs_total{kind="preview by code",outcome="failed"}']
    assert found['rushes_clip_seconds_count{kind="preview by code"}'] == 1 == found['rushes_step_seconds_count{kind="preview by code"}']
    last = jobs(desk)[-2:]
    assert [job["outcome"] for job in last] == ["done", "failed"] and {"text", "denoise", "decode", "total"} <= set(last[0]["stage_s"])
    assert ask(desk.guarded, "/rt/formats", headers=[HOST, ("authorization", f"Bearer {TOKEN}x")])[0] == 401
    refused = ask(desk.guarded, "/rt/nothing", headers=OWN)
    assert series(desk)['rushes_guard_refusals_total{reason="token"}'] == 1
    everything = (desk.folder / "logs" / "jobs.jsonl").read_text() + str(series(desk)) + str(refused)
    assert not [secret for secret in (marked, "walrus", TOKEN, str(desk.folder)) if secret in everything]


def test_the_number_of_series_does_not_grow_with_what_is_asked(desk):
    before = set(series(desk))
    for number in range(1000):
        job = Job(Edit(number, f"prompt {number}", number, "turbo", 4), f"page {number}", rank=number % len(KINDS))
        job.stage_s, job.first_picture_s = {"denoise": number / 100}, 0.1
        desk.health.ended(job, OUTCOMES[number % len(OUTCOMES)], number / 10)
    assert set(series(desk)) == before and sum(value for name, value in series(desk).items() if name.startswith("rushes_jobs_total")) == 1000


def test_every_outcome_and_reason_is_on_its_list(desk):
    assert {TurboError.outcome, OutOfMemory.outcome, EngineLost.outcome, "done", "dropped"} == set(OUTCOMES)
    for headers in ([], [HOST, ("origin", "null")], [HOST, ("sec-fetch-site", "cross-site")], [HOST]):
        ask(desk.guarded, "/rt/formats", headers=headers)
    ask(desk.guarded, "/none", headers=OWN)
    ask(desk.guarded, "/rt/export", "POST", [*OWN, ("content-length", "9" * 9)])
    ask(desk.guarded, "/rt/export", "POST", [*OWN, ("content-length", "2")], b"{}")
    for _ in range(30):
        ask(desk.guarded, "/rt/formats", headers=[HOST], client="127.0.0.5")
    assert set(desk.guarded.refusals) == set(REASONS) - {"role"}            # that one in tests/test_lan.py


def test_the_log_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(health_module, "LOG_BYTES", 2000)
    log = JobLog(tmp_path)
    for number in range(1000):
        log.write(job=number, outcome="done")
    log.close()
    files = list(tmp_path.iterdir())
    assert len(files) == 3 and all(file.stat().st_size <= 2000 for file in files)
    assert json.loads((tmp_path / "jobs.jsonl").read_text().splitlines()[-1])["job"] == 999
