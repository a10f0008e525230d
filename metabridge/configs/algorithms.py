"""The records of the algorithms: their choices, and what may be asked of each.

A new algorithm has a record here, a file in each backend's `algorithms/`, and a line in that folder's table.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from metabridge.adaptation.multi_step import check_progress
from metabridge.checks import check_choice, check_count, check_positive, require
from metabridge.configs.record import Config
from metabridge.networks.layers import (
    BatchNorm,
    Chain,
    Free,
    Layer,
    Like,
    Linear,
    Parameter,
    ReLU,
    chain,
    feature_count,
    operations,
)

__all__ = [
    "ALGORITHMS",
    "ANILConfig",
    "AlgorithmConfig",
    "CAVIAConfig",
    "FOMAMLConfig",
    "ImplicitMAMLConfig",
    "LRD2Config",
    "MAMLConfig",
    "MAMLPlusPlusConfig",
    "MatchingConfig",
    "MetaOptNetConfig",
    "MetaSGDConfig",
    "ProtoMAMLConfig",
    "PrototypicalConfig",
    "R2D2Config",
    "RelationConfig",
    "ReptileConfig",
    "algorithm_record",
]


@dataclass(frozen=True)
class AlgorithmConfig(Config):
    """A meta-learning algorithm: its choices are fields; class attributes and properties tell the facts about it.

    Attributes:
        name: what the command line and JSON call it.
        title: its name in the literature.
        reference: authors, year and arXiv number.
        solves_regression: whether it works on tasks without classes.
        embeds: whether its network is an embedding, without a head of one output per class.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    reference: ClassVar[str]
    solves_regression: ClassVar[bool] = True
    embeds: ClassVar[bool] = False

    @property
    def inner_steps(self) -> int:
        """The steps by which it adapts to a task; 0 if it has none."""
        return 0

    @property
    def has_inner_steps(self) -> bool:
        """Whether it adapts to a task by steps, so that their number can be chosen when it predicts."""
        return self.inner_steps > 0

    @property
    def has_second_order(self) -> bool:
        """Whether its meta-gradient contains second derivatives."""
        return False

    @property
    def omits_second_order(self) -> bool:
        """Whether its meta-gradient leaves out second derivatives that `with_second_order` has."""
        return False

    @property
    def follows_gradient(self) -> bool:
        """Whether its meta-gradient is the gradient of its meta-loss, with which finite differences must agree."""
        return True

    def parts(self, network: Chain, ways: int | None) -> dict[str, Layer]:
        """Name → table of the meta-parameters that it has beside the network's; none by default.

        Args:
            network: the layers of the network.
            ways: classes of a task, `None` for a regression.
        """
        del network, ways
        return {}

    def at_step(self, step: int) -> "AlgorithmConfig":
        """The choices at a meta-step (0, 1, …), without schedules; equal records are one program.

        A learner asks at every meta-step. An algorithm whose choices follow no schedule is the same at all of them.
        """
        del step
        return self

    def with_second_order(self) -> "AlgorithmConfig":
        """The same algorithm with second derivatives in its meta-gradient."""
        raise ValueError(f"{self.title} leaves out no second derivatives.")

    def without_second_order(self) -> "AlgorithmConfig":
        """The same algorithm with the second derivatives left out of its meta-gradient."""
        raise ValueError(f"{self.title} has no second derivatives that could be left out.")

    def describe(self) -> str:
        """The algorithm and its choices in a few words."""
        return self.title

    def to_dict(self) -> dict[str, Any]:
        """The name and the fields as JSON-ready values."""
        return {"name": self.name, **super().to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The record that `name` among the values names, from the other values.

        Raises:
            ValueError: for an unknown algorithm or an unknown field.
        """
        fields = dict(values)
        name = fields.pop("name", getattr(cls, "name", None))
        if name is None:
            raise ValueError(
                f"`algorithm` must have the field `name`, got {fields!r}; add one of {', '.join(ALGORITHMS)}."
            )
        record: Any = algorithm_record(name)
        restored: Any = super(AlgorithmConfig, record).from_dict(fields)
        return restored


@dataclass(frozen=True)
class MAMLConfig(AlgorithmConfig):
    """Model-agnostic meta-learning.

    Attributes:
        inner_steps: gradient steps on the support set.
        inner_lr: step size of the inner loop (the paper's alpha).
        first_order: leave the second derivatives out (the paper's first-order approximation).
    """

    name: ClassVar[str] = "maml"
    title: ClassVar[str] = "MAML"
    reference: ClassVar[str] = "Finn, Abbeel, Levine 2017, arXiv 1703.03400"
    names: ClassVar[str | None] = None
    """Which parameters the inner loop adapts: a pattern of names, `None` for all."""

    inner_steps: int = 1
    inner_lr: float = 0.01
    first_order: bool = False

    def __post_init__(self) -> None:
        check_count(self.inner_steps, "inner_steps")
        check_positive(self.inner_lr, "inner_lr")
        require(isinstance(self.first_order, bool), "first_order", "true or false", self.first_order)

    @property
    def has_second_order(self) -> bool:
        """Whether its meta-gradient contains second derivatives."""
        return not self.first_order

    @property
    def omits_second_order(self) -> bool:
        """Whether its meta-gradient leaves out second derivatives."""
        return self.first_order

    @property
    def follows_gradient(self) -> bool:
        """Whether its meta-gradient is the gradient of its meta-loss; that of first order is not."""
        return not self.first_order

    def with_second_order(self) -> "AlgorithmConfig":
        """The same algorithm of second order."""
        return replace(self, first_order=False)

    def without_second_order(self) -> "AlgorithmConfig":
        """The same algorithm of first order."""
        return replace(self, first_order=True)

    def describe(self) -> str:
        """The algorithm and its choices in a few words."""
        order = "first-order " if self.first_order else ""
        return order + describe_inner_loop(self.title, self.inner_steps, self.inner_lr)


@dataclass(frozen=True)
class FOMAMLConfig(MAMLConfig):
    """First-order MAML: MAML whose second derivatives are left out.

    Attributes:
        inner_steps: gradient steps on the support set.
        inner_lr: step size of the inner loop.
        first_order: always true.
    """

    name: ClassVar[str] = "fomaml"

    first_order: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.first_order, "first_order", "true for fomaml", self.first_order)

    def with_second_order(self) -> AlgorithmConfig:
        """MAML with the same inner loop."""
        return MAMLConfig(self.inner_steps, self.inner_lr)


@dataclass(frozen=True)
class ANILConfig(MAMLConfig):
    """Almost no inner loop: MAML whose inner loop adapts the head alone; attributes as in `MAMLConfig`."""

    name: ClassVar[str] = "anil"
    title: ClassVar[str] = "ANIL"
    reference: ClassVar[str] = "Raghu, Raghu, Bengio, Vinyals 2020, arXiv 1909.09157"
    names: ClassVar[str | None] = "head.*"


@dataclass(frozen=True)
class MetaSGDConfig(MAMLConfig):
    """MAML with a learned rate for every entry; attributes as in `MAMLConfig`.

    Attributes:
        inner_lr: the rate of every entry at first.
    """

    name: ClassVar[str] = "meta-sgd"
    title: ClassVar[str] = "Meta-SGD"
    reference: ClassVar[str] = "Li, Zhou, Chen, Li 2017, arXiv 1707.09835"

    def parts(self, network: Chain, ways: int | None) -> dict[str, Layer]:
        """A rate for every entry."""
        del ways
        return {"rates": Like(network, self.inner_lr)}


@dataclass(frozen=True)
class ImplicitMAMLConfig(AlgorithmConfig):
    """Implicit MAML: a proximal inner loop, and the derivative of its solution.

    Attributes:
        inner_steps: gradient steps on the support set.
        inner_lr: step size of the inner loop.
        proximal: pull towards the meta-parameters (the paper's lambda).
        cg_steps: steps of conjugate gradients; 0 leaves the second derivatives out.
    """

    name: ClassVar[str] = "imaml"
    title: ClassVar[str] = "implicit MAML"
    reference: ClassVar[str] = "Rajeswaran, Finn, Kakade, Levine 2019, arXiv 1909.04630"

    inner_steps: int = 10
    inner_lr: float = 0.01
    proximal: float = 1.0
    cg_steps: int = 5

    def __post_init__(self) -> None:
        check_count(self.inner_steps, "inner_steps")
        check_positive(self.inner_lr, "inner_lr")
        check_positive(self.proximal, "proximal")
        check_count(self.cg_steps, "cg_steps", least=0)

    @property
    def has_second_order(self) -> bool:
        """Whether its meta-gradient contains second derivatives."""
        return self.cg_steps > 0

    @property
    def follows_gradient(self) -> bool:
        """Its meta-gradient is that of the meta-loss in the limit of many steps alone."""
        return False

    @property
    def omits_second_order(self) -> bool:
        """Whether its meta-gradient leaves out second derivatives."""
        return self.cg_steps == 0

    def with_second_order(self) -> AlgorithmConfig:
        """The same algorithm with five steps of conjugate gradients, if it has none."""
        return replace(self, cg_steps=self.cg_steps or 5)

    def without_second_order(self) -> AlgorithmConfig:
        """The same algorithm with the gradient at the adapted parameters."""
        return replace(self, cg_steps=0)

    def describe(self) -> str:
        """The algorithm and its choices in a few words."""
        return (
            f"{self.title} with {self.inner_steps} inner steps of {self.inner_lr:g}, lambda {self.proximal:g} and "
            f"{self.cg_steps} steps of conjugate gradients"
        )


@dataclass(frozen=True)
class ReptileConfig(AlgorithmConfig):
    """Reptile: the meta-gradient is the way back from the adapted parameters.

    Attributes:
        inner_steps: gradient steps on the support set.
        inner_lr: step size of the inner loop.
    """

    name: ClassVar[str] = "reptile"
    title: ClassVar[str] = "Reptile"
    reference: ClassVar[str] = "Nichol, Achiam, Schulman 2018, arXiv 1803.02999"

    inner_steps: int = 5
    inner_lr: float = 0.01

    def __post_init__(self) -> None:
        check_count(self.inner_steps, "inner_steps")
        check_positive(self.inner_lr, "inner_lr")

    @property
    def follows_gradient(self) -> bool:
        """Its meta-gradient is no gradient of the query loss that it reports."""
        return False

    def describe(self) -> str:
        """The algorithm and its choices in a few words."""
        return describe_inner_loop(self.title, self.inner_steps, self.inner_lr)


@dataclass(frozen=True)
class ProtoMAMLConfig(MAMLConfig):
    """MAML whose head starts from the prototypes; attributes as in `MAMLConfig`."""

    name: ClassVar[str] = "proto-maml"
    title: ClassVar[str] = "Proto-MAML"
    reference: ClassVar[str] = "Triantafillou et al. 2020, arXiv 1903.03096"
    solves_regression: ClassVar[bool] = False
    embeds: ClassVar[bool] = True


@dataclass(frozen=True)
class CAVIAConfig(MAMLConfig):
    """Fast context adaptation: the inner loop adapts a context that steers the network; otherwise as `MAMLConfig`.

    Attributes:
        inner_lr: step size of the context; the paper's for sinusoids is 1.
        context: size of the context.
    """

    name: ClassVar[str] = "cavia"
    title: ClassVar[str] = "CAVIA"
    reference: ClassVar[str] = "Zintgraf, Shiarlis, Kurin, Hofmann, Whiteson 2019, arXiv 1810.03642"

    context: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count(self.context, "context")

    def parts(self, network: Chain, ways: int | None) -> dict[str, Layer]:
        """The maps from the context to shifts of parameters, with the first values of a linear layer's weight.

        They shift the weights and biases of all batch normalisations, or, where there is none, the first layer's bias.
        """
        del ways
        layers = dict(operations(network))
        norms = [name for name, layer in layers.items() if isinstance(layer, BatchNorm)]
        first = next(name for name, layer in layers.items() if isinstance(layer, Linear))
        steered = [f"{name}.{kind}" for name in norms for kind in ("weight", "bias")] or [f"{first}.bias"]
        shapes = {name: parameter.shape for name, parameter in network.parameters()}
        bound = self.context**-0.5
        maps = [(name, Parameter((*shapes[name], self.context), -bound, bound)) for name in steered]
        return {"maps": Free(tuple(maps))}


STAGES = 10
"""Steps of an annealing: few, since each is a program of its own."""


@dataclass(frozen=True)
class MAMLPlusPlusConfig(MAMLConfig):
    """MAML with learned rates and a loss after every step; the other attributes as in `MAMLConfig`.

    Attributes:
        inner_lr: every rate at first.
        progress: how the losses after the inner steps count at first: from 0, all alike, to 1, nearly the last alone;
            see `metabridge.adaptation.multi_step`.
        annealing: meta-steps in which `progress` goes to 1, in ten stages; 0 leaves it as it is.
        first_order_steps: meta-steps of first order with which training begins. The paper's are half of all.
    """

    name: ClassVar[str] = "maml++"
    title: ClassVar[str] = "MAML++"
    reference: ClassVar[str] = "Antoniou, Edwards, Storkey 2019, arXiv 1810.09502"

    inner_steps: int = 5
    progress: float = 0.0
    annealing: int = 5000
    first_order_steps: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_progress(self.progress)
        check_count(self.annealing, "annealing", least=0)
        check_count(self.first_order_steps, "first_order_steps", least=0)

    def parts(self, network: Chain, ways: int | None) -> dict[str, Layer]:
        """A rate for every parameter and step."""
        del ways
        rate = Parameter((self.inner_steps,), self.inner_lr, self.inner_lr)
        return {"rates": Free(tuple((name, rate) for name, _ in network.parameters()))}

    def at_step(self, step: int) -> "MAMLPlusPlusConfig":
        """The weights of the losses and the order of derivatives at a meta-step."""
        done = min(step * STAGES // self.annealing, STAGES) / STAGES if self.annealing else 0.0
        return replace(
            self,
            first_order=self.first_order or step < self.first_order_steps,
            progress=self.progress + (1 - self.progress) * done,
            annealing=0,
            first_order_steps=0,
        )

    def with_second_order(self) -> AlgorithmConfig:
        """The same algorithm of second order, from the first meta-step on."""
        return replace(self, first_order=False, first_order_steps=0)


@dataclass(frozen=True)
class PrototypicalConfig(AlgorithmConfig):
    """Prototypical networks."""

    name: ClassVar[str] = "protonet"
    title: ClassVar[str] = "prototypical networks"
    reference: ClassVar[str] = "Snell, Swersky, Zemel 2017, arXiv 1703.05175"
    solves_regression: ClassVar[bool] = False
    embeds: ClassVar[bool] = True


@dataclass(frozen=True)
class MatchingConfig(AlgorithmConfig):
    """Matching networks.

    Attributes:
        full_context: whether embeddings depend on the whole support set, by LSTMs.
        processing_steps: how often the LSTM of a query attends to the support set, with full context.
    """

    name: ClassVar[str] = "matching"
    title: ClassVar[str] = "matching networks"
    reference: ClassVar[str] = "Vinyals, Blundell, Lillicrap, Kavukcuoglu, Wierstra 2016, arXiv 1606.04080"
    solves_regression: ClassVar[bool] = False
    embeds: ClassVar[bool] = True

    full_context: bool = False
    processing_steps: int = 5

    def __post_init__(self) -> None:
        require(isinstance(self.full_context, bool), "full_context", "true or false", self.full_context)
        check_count(self.processing_steps, "processing_steps")

    def parts(self, network: Chain, ways: int | None) -> dict[str, Layer]:
        """The three LSTMs, with full context; their weights start like PyTorch's, each gate has one bias."""
        del ways
        if not self.full_context:
            return {}
        width = feature_count(network)
        bound = 1.0 / math.sqrt(width)
        entries = [
            (f"{lstm}_{kind}", Parameter(shape, -bound, bound))
            for lstm, hidden in (("forward", width), ("backward", width), ("attention", 2 * width))
            for kind, shape in (("inputs", (4 * width, width)), ("hidden", (4 * width, hidden)), ("bias", (4 * width,)))
        ]
        return {"context": Free(tuple(entries))}


@dataclass(frozen=True)
class RelationConfig(AlgorithmConfig):
    """Relation networks.

    Attributes:
        hidden: width of the relation module; the paper's.
    """

    name: ClassVar[str] = "relation"
    title: ClassVar[str] = "relation networks"
    reference: ClassVar[str] = "Sung, Yang, Zhang, Xiang, Torr, Hospedales 2018, arXiv 1711.06025"
    solves_regression: ClassVar[bool] = False
    embeds: ClassVar[bool] = True

    hidden: int = 8

    def __post_init__(self) -> None:
        check_count(self.hidden, "hidden")

    def parts(self, network: Chain, ways: int | None) -> dict[str, Layer]:
        """The relation module: a hidden layer, then the score."""
        del ways
        pair = 2 * feature_count(network)
        return {
            "relation": chain(hidden=Linear(pair, self.hidden), relu=ReLU(), score=Linear(self.hidden, 1)),
        }


@dataclass(frozen=True)
class R2D2Config(AlgorithmConfig):
    """Ridge regression as a differentiable classifier, or regression, of the support set.

    Attributes:
        reg_lambda: initial weight of the regularisation; learned.
        scale: initial factor of the logits; learned. That of a regression's outputs is 1 at first.
    """

    name: ClassVar[str] = "r2d2"
    title: ClassVar[str] = "R2D2"
    reference: ClassVar[str] = "Bertinetto, Henriques, Torr, Vedaldi 2019, arXiv 1805.08136"
    embeds: ClassVar[bool] = True

    reg_lambda: float = 1.0
    scale: float = 10.0

    def __post_init__(self) -> None:
        check_positive(self.reg_lambda, "reg_lambda")
        check_positive(self.scale, "scale")

    def parts(self, network: Chain, ways: int | None) -> dict[str, Layer]:
        """Scale, logarithm of lambda, and for a regression the bias of the outputs, which no softmax would see."""
        del network
        own = {"scale": 1.0, "bias": 0.0} if ways is None else {"scale": self.scale}
        values = {**own, "log_lambda": math.log(self.reg_lambda)}
        return {"head": Free(tuple((name, Parameter((), value, value)) for name, value in values.items()))}


@dataclass(frozen=True)
class LRD2Config(R2D2Config):
    """Logistic regression as a differentiable classifier of the support set; other attributes as in `R2D2Config`.

    Attributes:
        newton_steps: of the solver.
    """

    name: ClassVar[str] = "lrd2"
    title: ClassVar[str] = "LR-D2"
    solves_regression: ClassVar[bool] = False

    scale: float = 1.0
    newton_steps: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count(self.newton_steps, "newton_steps")


@dataclass(frozen=True)
class MetaOptNetConfig(AlgorithmConfig):
    """A multi-class support vector machine as a differentiable classifier of the support set.

    Attributes:
        penalty: of a violated margin (the paper's C).
        iterations: steps by which the solver looks for the support vectors.
        scale: initial factor of the outputs; learned.
    """

    name: ClassVar[str] = "metaoptnet"
    title: ClassVar[str] = "MetaOptNet"
    reference: ClassVar[str] = "Lee, Maji, Ravichandran, Soatto 2019, arXiv 1904.03758"
    solves_regression: ClassVar[bool] = False
    embeds: ClassVar[bool] = True

    penalty: float = 0.1
    iterations: int = 200
    scale: float = 1.0

    def __post_init__(self) -> None:
        check_positive(self.penalty, "penalty")
        check_count(self.iterations, "iterations")
        check_positive(self.scale, "scale")

    def parts(self, network: Chain, ways: int | None) -> dict[str, Layer]:
        """The scale."""
        del network, ways
        return {"head": Free((("scale", Parameter((), self.scale, self.scale)),))}


ALGORITHMS: dict[str, type[AlgorithmConfig]] = {
    record.name: record
    for record in (
        MAMLConfig,
        FOMAMLConfig,
        ANILConfig,
        MetaSGDConfig,
        ImplicitMAMLConfig,
        ReptileConfig,
        ProtoMAMLConfig,
        CAVIAConfig,
        MAMLPlusPlusConfig,
        PrototypicalConfig,
        MatchingConfig,
        RelationConfig,
        R2D2Config,
        LRD2Config,
        MetaOptNetConfig,
    )
}
"""Name → record, of every algorithm."""


def describe_inner_loop(title: str, steps: int, rate: float) -> str:
    """An algorithm and its inner loop in a few words."""
    return f"{title} with {steps} inner {'step' if steps == 1 else 'steps'} of {rate:g}"


def algorithm_record(name: str) -> type[AlgorithmConfig]:
    """The record of the algorithm called `name`.

    Raises:
        ValueError: for an unknown name.
    """
    check_choice(name, "algorithm", ALGORITHMS)
    return ALGORITHMS[name]
