"""Whose turn it is: which slots of a bounded pool the next items take, oldest first."""


class Turns:
    """count: how many slots hold something, from the first on. capacity: rounded down to whole turns, so that none is cut
    short and none is drawn that was never filled."""

    def __init__(self, capacity: int, fresh: int):
        self.capacity, self.fresh = capacity - capacity % fresh, fresh
        self.count = self._next = 0

    def take(self) -> slice:
        """The slots of the next `fresh` items, which count as filled from now on."""
        where = slice(self._next, self._next + self.fresh)
        self._next = where.stop % self.capacity
        self.count = min(self.capacity, self.count + self.fresh)
        return where
