"""What a whole training of a language model is, written down and validated."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field, field_validator

from steppe.core.errors import SteppeError
from steppe.core.protocols import Coupling
from steppe.core.seed import Seed
from steppe.engine.optim import check_options, options_of
from steppe.engine.step.parameter_groups import ParameterGroup
from steppe.engine.train_config import TrainConfig
from steppe.experiment.method_spec import in_full, method_of, spelled_out, without_language
from steppe.experiment.strict import Strict
from steppe.experiment.validated import Needed, validated
from steppe.method import Method
from steppe.methods import METHODS

TASK = "causal_lm"
TEXT = Needed(
    key="text",
    what="which text is trained on",
    way_out="--data TEXT, in a recipe data: {text: TEXT}",
)
BETAS = (0.9, 0.95)
"""Of Adam on language models, where an optimiser has betas and nobody says others."""
_TASK = (
    "--set method.objective=task: all of the model trains on the text, and is pruned by the "
    "method's score when its schedule says so"
)
_SIZES = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9}


class LanguageModelSpec(Strict):
    """Which network."""

    name: str
    """A folder with config.json and safetensors, or a hub id."""
    teacher: str | None = None
    """What a distillation learns from; the dense model itself if none is given."""
    fingerprint: str | None = None
    """Of the model's files, as a run found them; another one is refused."""


class TextSpec(Strict):
    """Which text."""

    text: str
    """A file, a folder, a dataset, a mixture, a .safetensors file of token ids, or self."""
    window: int | None = None
    """Tokens in a window; 2048, or the model's positions if they are fewer."""
    held_out: float = Field(default=0.0, ge=0.0, lt=1.0)
    """The share of each text's windows, its last ones, that is measured and never trained on."""


class MeasuredSpec(Strict):
    """On which texts perplexity is measured, before and after."""

    texts: tuple[str, ...] = ()
    window: int | None = None
    """Tokens the model sees at once; as in the training if none is given."""

    @field_validator("texts", mode="before")
    @classmethod
    def _one(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value


class LanguageTrainSpec(Strict):
    """How to train; see `steppe.engine.train_config.TrainConfig`."""

    tokens: int = Field(default=50_000_000, ge=1)
    """Of the whole run; also as 50M. Rounded up to whole steps, alike in every part."""
    parts: int = Field(default=8, ge=1)
    """The run in so many equal parts; after each it is saved, and a row of the metrics written."""
    batch_size: int = Field(default=8, ge=1)
    """Windows in a pass, over all processes together."""
    accumulate: int = Field(default=1, ge=1)
    lr: float = 2e-4
    optimizer: str = "adam"
    optimizer_options: dict[str, Any] = {}
    optimizer_groups: tuple[dict[str, Any], ...] = ()
    lr_schedule: str = "linear"
    warmup: float = Field(default=0.0, ge=0.0, lt=1.0)
    """The share of the run in which the learning rate rises."""
    clip_grad_norm: float | None = Field(default=1.0, gt=0.0)
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the products; the weights are float32. auto: bfloat16 where it is faster here."""
    checkpointing: bool = False
    """Keep only what goes into each block, and compute what is inside of it twice."""
    shard: bool = False
    """Split weights, gradients and states over the processes (FSDP2)."""
    checkpoint_steps: int | None = Field(default=None, ge=1)
    """Also save within a part, every so many steps."""
    eval_parts: int = Field(default=0, ge=0)
    """Parts between two measurements; 0: only at the end."""
    sync: Literal["global", "local"] = "global"
    trackers: tuple[str, ...] = ()

    @field_validator("tokens", mode="before")
    @classmethod
    def _written_short(cls, value: Any) -> Any:
        """``50M`` means 50,000,000."""
        found = re.fullmatch(r"([\d._]+)\s*([kKmMbB]?)", value) if isinstance(value, str) else None
        if found is None:
            return value
        return round(float(found[1].replace("_", "")) * _SIZES[found[2].lower()])

    @property
    def options(self) -> dict[str, Any]:
        """Of the optimiser, beside its learning rate."""
        usual = {"betas": BETAS} if "betas" in options_of(self.optimizer) else {}
        options = usual | self.optimizer_options
        check_options(self.optimizer, options)
        return options

    def tokens_a_step(self, window: int) -> int:
        """Tokens that go into an optimiser step."""
        return self.batch_size * self.accumulate * window

    def plan(self, window: int) -> tuple[int, int]:
        """Parts of the run, and optimiser steps in each.

        Example:
            >>> LanguageTrainSpec(tokens="64k", parts=2, batch_size=4).plan(window=1000)
            (2, 8)
            >>> LanguageTrainSpec(tokens=1, batch_size=4).plan(window=1000)
            (1, 1)
        """
        steps = -(-self.tokens // self.tokens_a_step(window))
        parts = min(self.parts, steps)
        return parts, -(-steps // parts)

    def config(self, parts: int = 1) -> TrainConfig:
        """As the engine wants it.

        Args:
            parts: of the run.

        Raises:
            SteppeError: torch has no such optimiser, or it has no such option.
        """
        groups = tuple(ParameterGroup.make(group) for group in self.optimizer_groups)
        return TrainConfig(
            epochs=parts,
            lr=self.lr,
            optimizer=self.optimizer,
            optimizer_options=self.options,
            optimizer_groups=groups,
            lr_schedule=self.lr_schedule,
            warmup_epochs=self.warmup * parts,
            clip_grad_norm=self.clip_grad_norm,
            accumulate=self.accumulate,
            bn_batches=0,
            checkpoint_steps=self.checkpoint_steps,
            sync=self.sync,
            trackers=self.trackers,
            eval_every=self.eval_parts,
        )


class LanguageRecipe(Strict):
    """A whole training of a causal language model."""

    task: Literal["causal_lm"] = "causal_lm"
    name: str | None = None
    model: LanguageModelSpec
    data: TextSpec
    method: dict[str, Any]
    evaluate: MeasuredSpec = MeasuredSpec()
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    train: LanguageTrainSpec = LanguageTrainSpec()
    seed: Seed = 0
    device: str | None = None

    @field_validator("model", "method", mode="before")
    @classmethod
    def _name_alone(cls, value: Any) -> Any:
        """``model: FOLDER`` means ``model: {name: FOLDER}``; a Method is its plain data."""
        if isinstance(value, Method):
            return without_language(value).to_dict()
        return {"name": str(value)} if isinstance(value, str | Path) else value

    @field_validator("data", mode="before")
    @classmethod
    def _text_alone(cls, value: Any) -> Any:
        return {"text": str(value)} if isinstance(value, str | Path) else value

    @field_validator("evaluate", mode="before")
    @classmethod
    def _texts_alone(cls, value: Any) -> Any:
        return {"texts": value} if isinstance(value, str | list | tuple) else value

    def _method(self) -> dict[str, Any]:
        """With the same sparsity in every layer, where the method's function leaves it open."""
        spec = dict(self.method)
        if not spelled_out(spec) and "budget" in METHODS[str(spec.get("name"))].options:
            spec.setdefault("budget", "uniform")
        return spec

    def build_method(self) -> Method:
        """The method as it trains the whole network.

        Raises:
            SteppeError: there is none, or its objective is one of layers or blocks.
        """
        method = method_of(self._method() if "name" in self.method else self.method)
        if method.objective.scope != "task":
            raise SteppeError(
                "a language model that is trained as a whole has an objective of the whole",
                got=f"method {method.name} with objective {method.objective.name}",
                way_out="steppe prune, which works block by block"
                + f", or {_TASK}" * isinstance(method.coupling, Coupling),
            )
        return method

    def idle(self, window: int) -> list[str]:
        """What the method does not come to do in so few steps, in sentences.

        Args:
            window: tokens in a window.
        """
        parts, steps = self.train.plan(window)
        return self.build_method().idle(parts * steps)

    def plain(self) -> dict[str, Any]:
        """As plain data, every default written out."""
        whole = self.model_dump(mode="json") | {"method": in_full(self._method())}
        if not self.train.optimizer_groups:
            del whole["train"]["optimizer_groups"]
        return whole

    def as_today(self, stored: Any) -> Any:
        """A stored recipe as it is written now; one that cannot be read comes back as it is."""
        try:
            return parse(stored).plain()
        except SteppeError:
            return stored


Kind = TypeVar("Kind", bound=LanguageRecipe)


def parse(data: Any, where: str = "the recipe", folder: Path | None = None) -> LanguageRecipe:
    """A recipe from plain data; with a ``base``, on top of that one.

    Args:
        data: the recipe.
        where: it was read, for messages.
        folder: where the path of a base starts.

    Raises:
        SteppeError: an unknown key (with the nearest), or a value of the wrong type.
    """
    return read(LanguageRecipe, data, where, folder)


def read(kind: type[Kind], data: Any, where: str, folder: Path | None) -> Kind:
    """A recipe of some kind from plain data; see `parse`."""
    return validated(kind, data, where, folder, needed=TEXT)
