"""The page: a Gradio shell around one static component, whose life is in `viewer/desk.js`.

The template holds no `${` and no `{{`: Gradio compiles templates as JavaScript, so anything interpolated there could
run. What a person types travels over the socket and is put in place by textContent and value only.
"""

from __future__ import annotations

from pathlib import Path

from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse

from .api import Api, add_end_points
from .lean_gradio import gr

VIEWER = Path(__file__).parent / "viewer"

# In the head, so that the very first paint is dark: Gradio's own styles arrive a second later.
HEAD = """
<meta name="color-scheme" content="dark">
<meta name="theme-color" content="#0d0e11">
<link rel="stylesheet" href="/rt/viewer/desk.css">
<link rel="icon" href="/rt/viewer/icon.svg" type="image/svg+xml">
"""


def build_page(api: Api) -> gr.Blocks:
    template = (VIEWER / "desk.html").read_text(encoding="utf-8")
    if "${" in template or "{{" in template:
        raise ValueError("desk.html: expected plain HTML, found an interpolation; text goes in by textContent")
    with gr.Blocks(title="Rushes", analytics_enabled=False, fill_width=True) as page:
        gr.HTML(
            html_template=template,
            js_on_load="import('/rt/viewer/desk.js').then((desk) => desk.mount(element));",
            apply_default_css=False,
            elem_id="rushes",
        )
    add_end_points(page, api)
    return page


def mount_page(app, port: int, api: Api):
    """Put the page and the end points at "/" of a FastAPI app that already has our own routes."""
    app = gr.mount_gradio_app(
        app, build_page(api), path="/", server_name="127.0.0.1", server_port=port, run_history=False, footer_links=[],
        ssr_mode=False, enable_monitoring=False, max_file_size="1kb", allowed_paths=[], show_error=False, mcp_server=False, head=HEAD,
    )
    app.add_exception_handler(RequestValidationError, _told_plainly)
    app.routes[-1].app.add_exception_handler(RequestValidationError, _told_plainly)
    app.routes[-1].app.add_exception_handler(gr.route_utils.FnIndexInferError, lambda *_: PlainTextResponse("No end point has this name.", 404))
    return app


def _told_plainly(_, error: RequestValidationError) -> JSONResponse:
    """Where it is wrong and how, in one line. FastAPI's own answer repeats what was sent, and falls over where JSON cannot."""
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"] if part != "body") or "body"
    return JSONResponse({"detail": f"{ascii(place)[1:-1]}: {first['msg']}"}, 422)
