"""Which of the world's subjects the network still errs on, so that those are drawn more often."""
import torch
from torch import Tensor

POWER = 2.0               # of a subject's error over all subjects': error falls with about the cube root of the clips seen, so it takes many
LEAST, MOST = 0.3, 4.0    # how often a subject is drawn, over the average
PRIOR_DRAWS = 20.0        # of an average subject, that each begins with


class Hardness:
    """Running means of an error by kind; older ones count half with each reading of `weights`."""

    def __init__(self, num_kinds: int, device: torch.device):
        self._errors, self._draws = (torch.zeros(num_kinds, device=device) for _ in range(2))

    @torch.no_grad()
    def note(self, kinds: Tensor, errors: Tensor) -> None:
        """kinds [B] int64, errors [B] float; what is not finite is left out."""
        finite = errors.isfinite()
        self._errors.index_add_(0, kinds, torch.where(finite, errors.float(), 0.0))
        self._draws.index_add_(0, kinds, finite.float())

    def means(self) -> Tensor:
        """-> [num_kinds], 1 where nothing was noted at all."""
        drawn = self._draws.sum()
        average = self._errors.sum() / drawn if drawn else torch.ones_like(drawn)
        return (self._errors + PRIOR_DRAWS * average) / (self._draws + PRIOR_DRAWS)

    def weights(self) -> list[float]:
        """How often to draw each kind."""
        means = self.means()
        self._errors *= 0.5
        self._draws *= 0.5
        return (means / means.mean()).pow(POWER).clamp(LEAST, MOST).tolist()
