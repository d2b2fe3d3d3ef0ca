"""Front door: flags -> preset -> engine -> page. Nothing heavy is loaded at import.

    python app.py --preset pocket --port 7860
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import socket
import sys
import threading
import webbrowser
from collections.abc import Callable
from pathlib import Path

HOST = "127.0.0.1"
PORT, PORTS_TRIED = 7860, 20


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="app.py", description="Rushes: type a prompt, watch the clip.")
    parser.add_argument("--preset", default="pocket", help="which model (default: pocket)")
    parser.add_argument("--weights", type=Path, metavar="DIR", help="folder of a Wan preset's files (default: in the user's data folder)")
    parser.add_argument("--download", action="store_true", help="get what turbo clips need and is missing there, by name from the hub")
    parser.add_argument("--download-full", action="store_true", help="get the full networks as well")
    parser.add_argument("--full-on", metavar="DEVICE", help="make full renders on another device, such as cuda:1, beside the turbo clips")
    parser.add_argument("--port", type=int, help=f"port on {HOST} (default: {PORT}, or the next free one; 0: any)")
    parser.add_argument("--data-dir", type=Path, help="folder for this app's files (default: the user's data folder)")
    parser.add_argument("--lan", nargs="?", const="", metavar="ADDRESS", help="let guests of the local network watch and make clips, "
                        "each by an address that works once (default: this machine's own address)")
    parser.add_argument("--doctor", action="store_true", help="look at this machine instead, for a bug report; exit code 1 where something is amiss")
    parser.add_argument("--no-browser", action="store_true", help="do not open the page in the browser")
    flags = parser.parse_args(argv)

    if flags.doctor:
        return _examine(flags)
    from turbo_engine.errors import TurboError
    from turbo_engine.parts import prepare, why_not_ready
    from turbo_engine.presets import load_preset
    try:
        preset = load_preset(flags.preset)
        prepare(preset, flags.weights, download=flags.download, full=flags.download_full, show=lambda line: print(line, flush=True))
    except TurboError as error:
        return _refuse(str(error))
    except KeyboardInterrupt:
        return _refuse("stopped; what was downloaded stays, and goes on from there", code=130)

    def make_engine(preset, data_dir: Path):
        from turbo_engine.pair import Pair
        from turbo_engine.worker import Worker

        def worker(**options) -> Worker:
            return Worker(preset, weights=flags.weights, options=options, reports=data_dir / "crashes")
        if flags.full_on is None:
            return worker()
        return Pair(worker(modes=["turbo"]), worker(modes=["full"], device=flags.full_on))

    return serve(make_engine, preset, port=flags.port, data_dir=flags.data_dir, open_browser=not flags.no_browser,
                 why_not=lambda preset: why_not_ready(preset, flags.weights), lan=flags.lan)


def serve(
    make_engine: Callable, preset, *, port: int | None, data_dir: Path | None, open_browser: bool, others=None, why_not: Callable | None = None,
    lan: str | None = None,
) -> int:
    """Run the app until Ctrl-C, which ends the process; returns only what a start that was refused exits with.

    make_engine(preset, data_dir) is called on the desk's worker thread, again for each preset that a person switches to. others,
    why_not: as `ui.models.Models` has them. lan: an address of this machine at which guests may come in, "" for the one it goes out by.
    """
    from turbo_engine.doctor import outdated
    from turbo_engine.store import Store, StoreError
    from ui.ending import Ending
    from ui.guard import Guard, new_token
    from ui.lan import Lan, own_address
    ending = Ending()
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
    try:
        listeners = [_listen(port)]
        port = listeners[0].getsockname()[1]
        if lan is not None:
            address = lan or own_address()
            listeners.append(_listen(port, address))
        data_dir = _data_folder(data_dir)
        store = Store(data_dir)
        token, token_file = new_token(data_dir)
    except (OSError, StoreError) as error:
        return _refuse(str(error))
    ending.leftovers.append(token_file)
    for note in (*store.notes, *outdated()):
        print(f"app.py: {note}", file=sys.stderr)
    door = None if lan is None else Lan(address, port)
    url = f"http://{HOST}:{port}/"
    # Gradio reads these at import.
    os.environ.update(
        GRADIO_ANALYTICS_ENABLED="False", HF_HUB_DISABLE_TELEMETRY="1", GRADIO_TEMP_DIR=str(data_dir / "gradio")
    )

    from ui.archive import Archive
    from ui.live import Desk
    from ui.models import Models, opening_of
    models = Models(preset, lambda preset: make_engine(preset, data_dir), others=others, **({"why_not": why_not} if why_not else {}))
    desk = Desk(lambda: make_engine(preset, data_dir), opening_of(preset), archive=Archive(store))
    desk.start()                                    # the model loads while the page is built and served

    import uvicorn
    from ui.site import build_site
    site, api, health = build_site(desk, models, data_dir, port, lan=door)
    guard = Guard(site, port, token, lan=door)
    health.refusals = guard.refusals

    class Server(uvicorn.Server):
        async def startup(self, sockets=None):
            await super().startup(sockets)
            if self.started:
                print(f"Rushes is at {url}  (Ctrl-C ends it)\nThe token for code is in {token_file}", flush=True)
                if door is not None:
                    door.open(lambda url: print(f"For one guest: {url}", flush=True))
                if open_browser:
                    threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()

        async def shutdown(self, sockets=None):
            ending.limit()
            api.close()                             # else it waits for calls that wait for the engine
            await super().shutdown(sockets)

    server = Server(uvicorn.Config(
        guard, log_level="warning", ws_per_message_deflate=False, ws_max_size=1 << 18, server_header=False,
        proxy_headers=False, timeout_graceful_shutdown=1,         # whoever may connect could else name itself as it likes
    ))
    ending.serving(server)
    try:
        server.run(sockets=listeners)
    finally:
        desk.stop(5.0)
        health.close()
        ending.clean_up()
    ending.leave()


def _listen(port: int | None, address: str = HOST) -> socket.socket:
    """A listening socket on the asked port, or on the first free one from PORT up. Raises: OSError in plain words."""
    for candidate in range(PORT, PORT + PORTS_TRIED) if port is None else (port,):
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((address, candidate))
            listener.listen(128)
        except (OSError, OverflowError) as error:
            listener.close()
            reason = error
        else:
            return listener
    if port is None:
        last = PORT + PORTS_TRIED - 1
        raise OSError(f"port: expected a free one from {PORT} to {last}, all are taken; name one with --port")
    if isinstance(reason, OverflowError):
        raise OSError(f"port: expected 0 to 65535, got {port}")
    if address != HOST:
        raise OSError(f"lan: expected an address of this machine with port {port} free, {address} cannot be used ({reason.strerror}); "
                      "name one, --lan ADDRESS")
    raise OSError(f"port: {port} cannot be used ({reason.strerror}); choose another with --port, or leave --port out")


def _examine(flags: argparse.Namespace) -> int:
    from turbo_engine.doctor import examine, report

    def free_port() -> int:
        with _listen(flags.port) as listener:
            return listener.getsockname()[1]
    findings = examine(flags.preset, flags.weights, _place_of_data(flags.data_dir), free_port)
    return report(findings, lambda line: print(line, flush=True))


def _place_of_data(path: Path | None) -> Path:
    if path is None:
        from platformdirs import user_data_path
        path = user_data_path("rushes", appauthor=False)
    return path.absolute()


def _data_folder(path: Path | None) -> Path:
    """The data folder, made if need be. Raises: OSError in plain words if it cannot be written."""
    path = _place_of_data(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".writable-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OSError(f"data-dir: {path} cannot be written ({error.strerror}); choose another with --data-dir"
                      ) from error
    return path.resolve()


def _refuse(line: str, code: int = 2) -> int:
    print(f"app.py: {line}", file=sys.stderr)
    return code


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        sys.exit(main())
    except KeyboardInterrupt:                       # before there was anything to end
        sys.exit(130)
