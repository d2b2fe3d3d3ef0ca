"""The front door: flags, the port, the folder, the way out."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

import app

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.timeout(90)


def refused(*flags: str) -> str:
    """The one line the app ends with, at once and with exit code 2."""
    done = subprocess.run([sys.executable, "app.py", "--no-browser", *flags], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("app.py: "), done.stderr
    return done.stderr


def test_nothing_heavy_is_loaded_at_import():
    script = "import sys, app, ui, ui.live, ui.clips, ui.guard; print([m for m in ('torch', 'gradio', 'cv2', 'av', 'transformers') if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", script], cwd=ROOT, text=True).strip() == "[]"


def test_the_page_never_imports_torch():
    script = "import sys, ui.handlers, ui.page; print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", script], cwd=ROOT, text=True).strip() == "False"


def test_gradio_writes_no_type_stubs_at_a_start():
    """They were close to half of its import's time, and apps that start at once would write the same files."""
    script = """if True:
        import sys
        opened = []
        sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)
        import ui.page
        print(any(path.endswith(".html") or path.endswith(".py") for path in opened), [path for path in opened if path.endswith(".pyi")])"""
    assert subprocess.check_output([sys.executable, "-W", "ignore", "-c", script], cwd=ROOT, text=True).strip() == "True []"


def test_an_unknown_preset_is_one_line():
    assert "expected one of pocket" in refused("--preset", "nonsense")


def test_a_taken_port_is_one_line_and_without_port_the_next_is_taken(tmp_path):
    with socket.socket() as other:
        other.bind((app.HOST, 0))
        other.listen()
        port = other.getsockname()[1]
        assert f"port: {port} cannot be used" in refused("--port", str(port), "--data-dir", str(tmp_path))
    assert "0 to 65535" in refused("--port", "70000", "--data-dir", str(tmp_path))
    with app._listen(None) as first, app._listen(None) as second:
        ports = [listener.getsockname()[1] for listener in (first, second)]
        assert app.PORT <= ports[0] < ports[1] < app.PORT + app.PORTS_TRIED


def test_only_this_machine_is_listened_to():
    with app._listen(0) as listener:
        assert listener.getsockname()[0] == "127.0.0.1"


def test_a_data_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    assert "choose another with --data-dir" in refused("--port", "0", "--data-dir", str(tmp_path / "file" / "inside"))
    assert app._data_folder(tmp_path / "new" / "one").is_dir() and os.listdir(tmp_path / "new" / "one") == []


@pytest.mark.clock
@pytest.mark.parametrize("moment", ["loading", "ready"])
def test_ctrl_c_ends_clean_with_a_page_open(moment, tmp_path):
    """SIGINT while the socket of a page is open: exit code 0, nothing but the address printed, the port free at once."""
    from websockets.sync.client import connect

    child = subprocess.Popen([sys.executable, "-m", "tests.browser.fake_app", "0", str(tmp_path)], cwd=ROOT, text=True,
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    with child.stdout:
        line = child.stdout.readline()
        url = line.split()[3]
        port = int(url.rsplit(":", 1)[1].strip("/"))
        token = Path(child.stdout.readline().removeprefix("The token for code is in ").strip()).read_text()
        with connect(f"ws://127.0.0.1:{port}/rt/ws", additional_headers={"Authorization": f"Bearer {token}"}) as page:
            assert '"hello"' in page.recv()
            if moment == "ready":
                while '"ready"' not in page.recv():
                    pass
                page.send('{"op": "final", "generation": 1, "prompt": "a robot", "seed": 1, "num_steps": 50}')
                while '"progress"' not in page.recv():
                    pass
            asked = time.monotonic()
            child.send_signal(signal.SIGINT)
            assert child.wait(20) == 0
            assert time.monotonic() - asked < 8
        assert child.stdout.read() == "" and not (tmp_path / "token").exists()
    with app._listen(port):
        pass
