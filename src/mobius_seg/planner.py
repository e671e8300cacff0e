"""From what a caller asks for (a budget, an operating point) to the policy of one image."""

import warnings
from dataclasses import dataclass, replace

from torch import Tensor

from mobius_seg.budget import Budget, Plan, plan_gmac, solve
from mobius_seg.cost.closed import competing_tokens
from mobius_seg.cost.record import Workload
from mobius_seg.errors import InputError
from mobius_seg.latency import LatencyProfile, measure_latency
from mobius_seg.model import Mobius
from mobius_seg.operating_points import FULL, OperatingPoint, OperatingPoints
from mobius_seg.pruning import PruningPolicy
from mobius_seg.types import TextPrompt

Shape = tuple[int, int, int, int]
"""Padded height and width, columns and sub-word tokens of the prompt: what a cost depends on."""


@dataclass(frozen=True)
class Request:
    """What a caller asked for, read and checked.

    Attributes:
        budget: limit for each image; None = none.
        policy: of the operating point.
    """

    budget: Budget | None
    policy: PruningPolicy


class Planner:
    """Solves requests for one network and remembers the costs it solved them with.

    Args:
        network: in evaluation mode, on its device.
        points: its operating points.

    Attributes:
        latency: times by shape, measured when first asked for; set one to use a stored profile.
        default_point: what is meant where no operating point is named.
    """

    default_point = FULL

    def __init__(self, network: Mobius, points: OperatingPoints) -> None:
        self._network = network
        self.points = points
        self.latency: dict[Shape, LatencyProfile] = {}

    def request(self, budget: object, operating_point: object, named: bool = True) -> Request:
        """Read the arguments of ``predict``.

        Args:
            budget: text or None.
            operating_point: name of a point, a policy, or None.
            named: whether names or expressions are asked for. A point's floors and its stopping
                are learned with names and read scores of another kind without: they are left out
                then, with a warning. A policy of the caller's own is taken as it is.

        Raises:
            InputError: the budget is none, or the model has no such point.
        """
        policy = PruningPolicy()
        if isinstance(operating_point, PruningPolicy):
            own = OperatingPoints({"of this call": OperatingPoint(operating_point)})
            own.check(self._network.config, "operating_point")
            policy = operating_point
        elif operating_point is not None:
            policy = self.points.policy(operating_point)
            if not named and policy.form == "adaptive":
                policy = replace(policy, thresholds=(), floors=(), settle=None)
                warnings.warn(
                    f"operating point {operating_point!r} is tuned for prompts with names; without"
                    " names its floors and its early stop are left out",
                    stacklevel=3,
                )
        return Request(None if budget is None else Budget.parse(budget), policy)

    def policy(self, request: Request, images_B3HW: Tensor, prompt: TextPrompt) -> PruningPolicy:
        """The policy of a request for images of one shape and prompt.

        Args:
            request: of :meth:`request`.
            images_B3HW: padded images; only the first is looked at.
            prompt: what is asked for.

        Raises:
            InputError: the budget cannot be met.
        """
        budget, config = request.budget, self._network.config
        if budget is None:
            return request.policy
        if budget.unit == "layers":
            return solve(budget, config, None, 0, request.policy)
        shape = prompt_shape(images_B3HW, prompt)
        height, width, columns, tokens = shape
        work = Workload(height=height, width=width, names=columns, subwords=tokens)

        def plan_ms(plan: Plan) -> float:
            if shape not in self.latency:
                one = TextPrompt(
                    prompt.pooled_BKD[:1],
                    None if prompt.pooled_mask_BK is None else prompt.pooled_mask_BK[:1],
                    None if prompt.tokens_BTD is None else prompt.tokens_BTD[:1],
                    None if prompt.tokens_mask_BT is None else prompt.tokens_mask_BT[:1],
                )
                self.latency[shape] = measure_latency(self._network, images_B3HW[:1], one)
            return self.latency[shape].plan_ms(plan)

        def gmac(plan: Plan) -> float:
            return plan_gmac(config, work, plan)

        try:
            of_plan = plan_ms if budget.unit == "ms" else gmac
            return solve(budget, config, of_plan, competing_tokens(config, work), request.policy)
        except InputError as error:
            raise InputError(f"{error} (input {shape[0]}x{shape[1]}, {shape[2]} names)") from None


def prompt_shape(images_B3HW: Tensor, prompt: TextPrompt) -> Shape:
    """What the cost of an image depends on."""
    tokens = 0 if prompt.tokens_BTD is None else prompt.tokens_BTD.shape[1]
    height, width = images_B3HW.shape[2:]
    return height, width, prompt.pooled_BKD.shape[1], tokens
