"""Edits by the thousand: one waits at most, what is shown only gets newer, the last one is shown. `make soak` sends ten times as many."""
import asyncio
import time

import pytest
from test_live import Page, open_desk

from turbo_engine.fake import FakeEngine
from ui.live import TURBO

pytestmark = [pytest.mark.timeout(300), pytest.mark.clock]


def storm(edits: int, seconds: float) -> tuple[int, float]:
    """Send that many edits in that time. Returns: clips begun, and seconds from the last edit to its clip on the page."""
    engine, most, took = FakeEngine(text_s=0.005, step_s=0.02, decode_s=0.02), 0, 0.0

    async def whole():
        nonlocal most, took
        async with open_desk(engine) as desk:
            page, start = Page(desk), time.monotonic()
            for number in range(1, edits + 1):
                page.edit(number, f"robot number {number}")
                most = max(most, desk.waiting)
                late = start + number * seconds / edits - time.monotonic()
                await asyncio.sleep(max(0.0, late))
            last = time.monotonic()
            await page.whole(edits, TURBO)
            took = time.monotonic() - last
            shown = [message["generation"] for message in page.of("clip")]
            finished = [message["generation"] for message in page.of("clip") if message["kind"] == TURBO]
            assert shown == sorted(shown) and finished == sorted(set(finished)) and finished[-1] == edits
            assert len(page.session.outbox) < 200 and not page.of("error")
            page.close()
    asyncio.run(whole())
    assert most == 1
    return len(engine.requests), took


def test_a_thousand_edits_in_a_second():
    begun, took = storm(1000, 1.0)
    assert begun < 1000 / 3 and took < 5
