"""What a run is, written down: validated, and the same text for the same run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, ValidationError, field_validator

from steppe.core.errors import SteppeError
from steppe.core.seed import Seed
from steppe.engine.optim import check_options, kind_of, lr_factor, options_of
from steppe.engine.step.parameter_groups import ParameterGroup
from steppe.engine.trainer import TrainConfig
from steppe.experiment.method_spec import in_full, method_of, without_language
from steppe.experiment.method_spec import spelled_out as spelled_out
from steppe.experiment.read import read_plain
from steppe.experiment.strict import Strict
from steppe.experiment.validated import validated
from steppe.method import Method
from steppe.vision.models import MODELS


class ModelSpec(Strict):
    """Which network."""

    name: str = "small-cnn"
    weights: str | None = None
    """A safetensors file, or a folder with one, to start from."""
    pretrained: bool | None = None
    """False starts the architecture of a hub id or folder at random; null is what the name means:
    pretrained for those two, random for steppe's own networks."""
    options: dict[str, Any] = {}

    @property
    def starts_trained(self) -> bool:
        """Whether training goes on from weights that were trained, as far as can be known."""
        of_hub = self.name not in MODELS and ":" not in self.name
        return self.weights is not None or (of_hub and self.pretrained is not False)

    @property
    def given(self) -> dict[str, Any]:
        """The options with which it is built.

        Raises:
            SteppeError: one is not for a recipe to say.
        """
        if own := {"name", "num_classes", "in_shape", "say"} & set(self.options):
            raise SteppeError(
                "name, num_classes, in_shape and say are no options of a model",
                got=f"model.options {', '.join(sorted(own))}",
                way_out="model: {name: resnet20, options: {width: 2}}; data say the other two",
            )
        trained = {} if self.pretrained is None else {"pretrained": self.pretrained}
        return self.options | trained


class LabelNoiseSpec(Strict):
    """Wrong labels to train on; see `steppe.robustness.label_noise`."""

    rate: float
    kind: str = "symmetric"
    seed: Seed = 0


class DataSpec(Strict):
    """Which images."""

    name: str = "digits"
    train_size: int | None = None
    test_size: int | None = None
    validation: float | int = 0
    seed: Seed = 0
    size: int | None = None
    num_classes: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    augment: str | list[Any] | None = "auto"
    """A name, or steps in a row; see `steppe.vision.augment`."""
    cache: str | None = None
    label_noise: LabelNoiseSpec | None = None
    value_range: tuple[float, ...] | None = None
    channels: int | None = None
    background: str = "white"
    resize: int | None = None
    """Length of the shorter side before the middle of ``size`` is cut out: 256 for 224."""
    interpolation: str = "bilinear"
    stream: bool | Literal["auto"] = "auto"
    """Whether images stay on disk; auto: where they would take more than 4 GiB decoded."""
    workers: int | None = Field(default=None, ge=0)
    """Processes that decode, for each process that trains. They change nothing but the speed, so a
    run may go on with another number."""


_LATER = (
    *("label_noise", "value_range", "channels", "background"),
    *("resize", "interpolation", "stream", "workers"),
)
"""Keys of data that earlier versions did not have."""


class ChannelSpec(Strict):
    """What a sparsity of coupled channels counts (structure channel).

    See `steppe.experiment.channels`.
    """

    target: str = "parameters"
    """parameters, flops, latency, or channels."""
    round_to: int | None = Field(default=None, ge=1)
    """Widths are multiples of this where there are at least twice as many channels; if it is not
    given, of the largest of 8, 4, 2 and 1 with which the target can be met."""
    table: str | None = None
    """For the latency: the file that steppe latency wrote."""
    batch: int | None = None
    """For the latency: images per forward pass."""


class TrainSpec(Strict):
    """How to train; see `steppe.engine.trainer.TrainConfig`."""

    epochs: int = 10
    batch_size: int = 128
    lr: float = 0.1
    optimizer: str = "sgd"
    momentum: float | None = None
    weight_decay: float | None = 1e-4
    """Given to optimisers that have one; null leaves it to torch."""
    optimizer_options: dict[str, Any] = {}
    optimizer_groups: tuple[dict[str, Any], ...] = ()
    """Other options for some parameters: ``{kind: [norm, bias], weight_decay: 0}``; the first that
    fits wins. See `steppe.engine.step.parameter_groups.ParameterGroup`."""
    lr_schedule: str = "cosine"
    lr_steps: tuple[tuple[float, float], ...] = ()
    """Of lr_schedule step: ``[[600, 0.375], [700, 0.125]]``, epochs and factors from then on."""
    warmup_epochs: float = 0.0
    label_smoothing: float = 0.0
    clip_grad_norm: float | None = Field(default=None, gt=0.0)
    accumulate: int = Field(default=1, ge=1)
    mixed_precision: Literal["auto", "no", "bf16", "fp16"] = "auto"
    """auto: float32, or bf16 where a measurement says that it is faster here."""
    channels_last: bool | Literal["auto"] = "auto"
    """The memory format of images and weights; auto: what is faster here."""
    bn_batches: int = 79
    checkpoint_steps: int | None = None
    sync: Literal["global", "local"] = "global"
    trackers: tuple[str, ...] = ()
    eval_every: int = 1
    ema: float | None = Field(default=None, gt=0.0, lt=1.0)
    """Decay of a running mean of the weights, which takes their place at the end."""

    @field_validator("optimizer_groups", mode="before")
    @classmethod
    def _null_is_none(cls, value: Any) -> Any:
        """``optimizer_groups: null`` takes away those of a base."""
        return () if value is None else value

    @field_validator("mixed_precision", mode="before")
    @classmethod
    def _no_is_a_word(cls, value: Any) -> Any:
        """YAML reads ``mixed_precision: no`` as false."""
        return "no" if value is False else value

    def config(self) -> TrainConfig:
        """As the engine wants it; SGD has momentum 0.9 unless said otherwise.

        Where the precision or the layout is to be measured, float32 and contiguous stand.

        Raises:
            SteppeError: torch has no such optimiser, or it has no such option; the warm-up is
                longer than the run.
        """
        if self.epochs > 0:  # a method that rewinds has shorter trainings, and checks again
            lr_factor(self.lr_schedule, self.warmup_epochs / self.epochs)
        own = {"batch_size", "momentum", "weight_decay", "label_smoothing"}
        own |= {"optimizer_options", "optimizer_groups"}
        given = self.model_dump(exclude=own)
        given |= {"mixed_precision": "no"} if self.mixed_precision == "auto" else {}
        given |= {"channels_last": False} if self.channels_last == "auto" else {}
        momentum = self.momentum
        if momentum is None and self.optimizer.lower() == "sgd":
            momentum = 0.9
        options = self._weight_decay() | self.optimizer_options
        if momentum is not None:
            options = {"momentum": momentum} | options
        check_options(self.optimizer, options)
        groups = tuple(ParameterGroup.make(group) for group in self.optimizer_groups)
        for group in groups:
            group.check(kind_of(self.optimizer), options | {"lr": self.lr})
        return TrainConfig(**given, optimizer_options=options, optimizer_groups=groups)

    def _weight_decay(self) -> dict[str, float]:
        """The weight decay for an optimiser that has one; the usual one is no demand."""
        usual = type(self).model_fields["weight_decay"].default
        if self.weight_decay is None:
            return {}
        if "weight_decay" in options_of(self.optimizer):
            return {"weight_decay": self.weight_decay}
        if self.weight_decay not in (0, usual):
            raise SteppeError(
                f"optimizer {self.optimizer} has no weight decay",
                got=f"train.weight_decay {self.weight_decay:g}",
                way_out="train.weight_decay=null, or another optimizer",
            )
        return {}


class Recipe(Strict):
    """A whole run."""

    times_many: ClassVar[bool] = True
    """Whether the network is also timed on a batch of 64."""
    task: Literal["image"] = "image"
    name: str | None = None
    model: ModelSpec = ModelSpec()
    data: DataSpec = DataSpec()
    method: dict[str, Any]
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    channels: ChannelSpec = ChannelSpec()
    train: TrainSpec = TrainSpec()
    evaluate: Literal["test", "validation"] = "test"
    """On which images it is measured: validation while options are chosen."""
    seed: Seed = 0
    device: str | None = None

    @field_validator("model", "data", "method", mode="before")
    @classmethod
    def _name_alone(cls, value: Any) -> Any:
        """``model: resnet20`` means ``model: {name: resnet20}``; a Method is its plain data."""
        if isinstance(value, Method):
            return without_language(value).to_dict()
        return {"name": value} if isinstance(value, str) else value

    def build_method(self) -> Method:
        """The method: by name and options, or as its seven parts when a budget is given."""
        return method_of(self.method)

    def check_start(self, method: Method) -> None:
        """Whether the network may start as the recipe says.

        Raises:
            SteppeError: the objective learns from the network as it starts, which is untrained.
        """
        if "reference_outputs" in method.objective.reads and not self.model.starts_trained:
            raise SteppeError(
                f"objective {method.objective.name} learns from the network that training starts "
                "from, so it must be trained",
                got="no weights to start from",
                way_out=f"model: {{name: {self.model.name}, weights: RUN}}, with the folder of a "
                "run of the dense network",
            )

    def plain(self) -> dict[str, Any]:
        """As plain data, every default written out."""
        whole = self.model_dump(mode="json") | {"method": in_full(self.method)}
        del whole["task"]  # what a recipe that says none means
        data = whole["data"]
        for key in _LATER:
            if data[key] == DataSpec.model_fields[key].default:
                del data[key]  # so that a run from before is the same run
        if self.model.pretrained is None:
            del whole["model"]["pretrained"]
        if not self.train.optimizer_groups:
            del whole["train"]["optimizer_groups"]
        if self.train.ema is None:
            del whole["train"]["ema"]
        if not self._prunes_channels():
            del whole["channels"]
        if self.evaluate == "test":
            del whole["evaluate"]
        return whole

    def as_today(self, stored: Any) -> Any:
        """A stored recipe as it is written now, to be compared with this one's `plain`.

        An earlier version knew fewer options: one that is absent has its default. A method that is
        this one's is written as here.

        Args:
            stored: plain data of a run's folder; returned as it is if it is no recipe.
        """
        try:
            there = parse(stored)
            workers = there.data.model_copy(update={"workers": self.data.workers})
            there = there.model_copy(update={"data": workers})
            plain, same = there.plain(), there.build_method() == self.build_method()
        except SteppeError:
            return stored
        return plain | ({"method": self.plain()["method"]} if same else {})

    def _prunes_channels(self) -> bool:
        try:
            return self.build_method().structure.whole_outputs
        except SteppeError:  # not whole yet: a flag will add what is missing, or it is refused
            return True


def parse(data: Any, where: str = "the recipe", folder: Path | None = None) -> Recipe:
    """A recipe from plain data; with a ``base``, on top of that one (`steppe.experiment.base`).

    Args:
        data: the recipe.
        where: it was read, for messages.
        folder: where the path of a base starts.

    Raises:
        SteppeError: an unknown key (with the nearest), or a value of the wrong type.
    """
    return validated(Recipe, data, where, folder, explain=option_of_a_network)


def option_of_a_network(error: ValidationError, where: str) -> SteppeError | None:
    """The error for an option of the network that stands beside its name."""
    first = error.errors()[0]
    if first["type"] != "extra_forbidden" or first["loc"][0] != "model":
        return None
    return SteppeError(
        f"unknown key in {where}",
        got=repr(".".join(map(str, first["loc"]))),
        way_out=f"options of the network are keys of model.options "
        f"(model.options.{first['loc'][-1]}); known beside them: "
        f"{', '.join(ModelSpec.model_fields)}",
    )


def read(path: Path) -> Recipe:
    """A recipe from a YAML file, or the one of that name that comes with steppe.

    Raises:
        SteppeError: no such file, no YAML, or a bad recipe.
    """
    data, file = read_plain(path)
    return parse(data, str(file), file.parent)


def load_recipe(recipe: Recipe | Mapping[str, Any] | Path | str) -> Recipe:
    """A recipe from a file, the name of one that comes with steppe, or plain data.

    Raises:
        SteppeError: there is none, or it is bad.

    Example:
        >>> load_recipe("digits").data.name
        'digits'
    """
    if isinstance(recipe, Recipe):
        return recipe
    if isinstance(recipe, Mapping):
        return parse(dict(recipe))
    return read(Path(recipe))
