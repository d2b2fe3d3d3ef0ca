"""All that the app serves, put together: our routes, the end points for code, Gradio's page. The guard stands around it."""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI

from turbo_engine.presets import Preset

from .api import AT_ONCE, END_POINTS, Api
from .handlers import add_routes
from .lan import Lan, add_lan_routes
from .live import Desk
from .mcp import Tool, add_mcp_route
from .page import mount_page


def build_site(desk: Desk, preset: Preset, data_dir: Path, port: int, *, lan: Lan | None = None) -> tuple[FastAPI, Api]:
    """The app without its guard, and its end points, to be closed at the end."""
    api = Api(desk, preset, data_dir / "gradio" / "made")
    site = FastAPI(openapi_url=None)
    add_routes(site, desk, preset, data_dir)
    add_mcp_route(site, [Tool(getattr(api, name), AT_ONCE) for name in END_POINTS], api.picture)
    if lan is not None:
        add_lan_routes(site, lan)
    return mount_page(site, port, api), api
