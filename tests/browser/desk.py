"""The desk as a test handles it: what a person does, and what a person sees."""

import json


class DeskPage:
    def __init__(self, page, url: str):
        self.page = page
        self.url = url

    def open(self) -> "DeskPage":
        self.page.goto(self.url)
        self.settle()
        return self

    def open_bare(self) -> "DeskPage":
        """A page of this origin without the desk, quick to open, for the modules by themselves."""
        self.page.request.get(self.url)                 # the browser is let in
        self.page.goto(f"{self.url}rt/viewer/desk.html")
        return self

    @property
    def prompt(self):
        return self.page.locator(".prompt")

    def data(self, name: str):
        return self.page.locator(".desk").get_attribute(f"data-{name}")

    def settle(self, prompt: str | None = None) -> None:
        """Wait until the whole, final clip of what was asked last is on screen."""
        self.page.wait_for_function(
            """(prompt) => { const d = document.querySelector('.desk')?.dataset;
               return d && d.settled === 'true' && (prompt === null || d.shownPrompt === prompt); }""", arg=prompt)

    def fingerprint(self, side: str = "turbo") -> str:
        """The first frame's pixels as the canvas holds them."""
        return self.page.evaluate(
            """async (side) => { const scrub = document.querySelector('.scrub'); scrub.value = 0; scrub.dispatchEvent(new Event('input'));
               await new Promise(requestAnimationFrame);
               return document.querySelector(`.side-${side} .picture`).toDataURL(); }""", side)

    def frames(self) -> int:
        return int(self.page.locator(".scrub").get_attribute("max")) + 1

    def choose_full_steps(self, steps: int) -> None:
        self.page.locator(".advanced summary").press("Enter")          # what appears above may move it from under a click
        self.page.locator(".full-steps").select_option(str(steps))

    def render_full(self) -> None:
        self.page.keyboard.press("Control+Enter")
        self.page.locator(".side-full .save:not([hidden])").wait_for()

    def running(self) -> dict:
        return self.page.evaluate(
            "() => Object.fromEntries([...document.querySelectorAll('.running > div')].map((d) => [...d.children].map((c) => c.textContent)))")

    def module(self, name: str, script: str):
        """Run a script with one of the player's modules as `m`; what it returns comes back through JSON."""
        return json.loads(self.page.evaluate(
            f"async () => JSON.stringify(await (async (m) => {{ {script} }})(await import('/rt/viewer/{name}.js')))"))
