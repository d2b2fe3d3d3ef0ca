"""The audience's side: the page, the live socket and the guard. Never imports torch."""
