"""All that the app serves, put together: our routes, the end points for code, Gradio's page. The guard stands around it."""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI

from .api import AT_ONCE, END_POINTS, Api
from .handlers import add_routes
from .health import Health, add_health_routes
from .lan import Lan, add_lan_routes
from .live import Desk
from .mcp import Tool, add_mcp_route
from .models import Models
from .page import mount_page
from .pictures import Pictures


def build_site(desk: Desk, models: Models, data_dir: Path, port: int, *, lan: Lan | None = None) -> tuple[FastAPI, Api, Health]:
    """The app without its guard; its end points, to be closed at the end; its health, to be told the guard's refusals."""
    pictures = Pictures(data_dir / "pictures")
    api = Api(desk, models, pictures, data_dir / "gradio" / "made")
    site, health = FastAPI(openapi_url=None), Health(desk, data_dir)
    add_routes(site, desk, models, pictures, data_dir)
    add_mcp_route(site, [Tool(getattr(api, name), AT_ONCE) for name in END_POINTS], api.picture)
    add_health_routes(site, health)
    if lan is not None:
        add_lan_routes(site, lan)
    return mount_page(site, port, api), api, health
