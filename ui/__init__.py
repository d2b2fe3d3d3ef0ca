"""The audience's side: the page, the live socket and the guard. Never imports torch; see DESIGN.md for the joint to the engine."""
