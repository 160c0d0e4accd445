"""A pruning made ready: model, method and texts checked, with nothing long done yet."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from steppe.core.errors import SteppeError
from steppe.core.layer import Layer
from steppe.core.protocols import LevelBudget, Structure
from steppe.core.serialization import read_json
from steppe.core.text import read_yaml
from steppe.engine import ranks
from steppe.engine.blockwise.compatibility import check, needs_windows
from steppe.engine.blockwise.config import BlockwiseConfig, ReconstructionConfig
from steppe.engine.blockwise.level_search import judged_windows
from steppe.engine.blockwise.walk import Blockwise, Work
from steppe.engine.precision import MARGIN, bfloat16_ratio
from steppe.llm.calibration_windows import CalibrationWindows, check_vocabulary, windows
from steppe.llm.load import tokenizer_of
from steppe.llm.measured_text import measured_windows
from steppe.llm.model import StreamedModel
from steppe.llm.prune_config import PruneConfig
from steppe.llm.structured.unit_work import prune_units
from steppe.llm.tokens.sampled import of_itself, sampled
from steppe.method import Method
from steppe.methods import for_language

Report = Callable[[dict[str, Any]], None]


class PreparedPruning:
    """A model, a method and calibration windows that fit each other.

    Args:
        model: a folder, or a hub id.
        method: any that has a form for language models.
        config: what is asked for.

    Raises:
        SteppeError: the model, the method, the text and the device do not fit each other.
    """

    def __init__(self, model: str | Path, method: Method, config: PruneConfig) -> None:
        if not isinstance(method, Method):
            raise SteppeError(
                "prune takes a model's folder or hub id, and a method",
                got=f"{type(method).__name__} where a Method belongs",
                way_out='steppe.prune("folder", steppe.methods.wanda(sparsity=0.5), ...)',
            )
        if not isinstance(model, str | Path):
            raise SteppeError(
                "prune streams a model from a folder or a hub id",
                got=type(model).__name__,
                way_out='model.save_pretrained("folder"), then steppe.prune("folder", ...)',
            )
        if Path(model).exists() and Path(model).resolve() == config.out.resolve():
            raise SteppeError(
                "the pruned model is written beside the model, never over it",
                got=f"{model} as model and as --out",
                way_out="choose another --out",
            )
        self.config, self.method = config, for_language(method)
        self.dense: StreamedModel | None = None
        """The dense model, where this one was pruned before."""
        self.device = config.device or ("cuda" if torch.cuda.is_available() else "cpu")
        _join_processes(self.device)
        self.model = StreamedModel(str(model), self.device, streamed=config.streamed)
        self.window = self.model.window(config.window)
        wanted = self.window if config.evaluate_window is None else config.evaluate_window
        self.evaluate_window = self.model.window(wanted)
        self.notes: list[str] = []
        precision = self._precision()
        self.walk_config = BlockwiseConfig(
            seed=config.seed,
            micro_batch=config.micro_batch,
            measure=config.measure,
            regrow=config.regrow,
            reconstruction=dataclasses.replace(config.reconstruction, precision=precision),
        )
        if isinstance(config.calibration, Tensor):
            self.window = config.calibration.shape[-1]
        calibration = self._calibration()
        self.tokens = None if calibration is None else calibration.tokens
        self.calibration = None if calibration is None else calibration.description

    def _precision(self) -> str:
        """Of the optimisation of blocks: as asked, as this folder's run began, or as measured."""
        asked, folder = self.config.precision, self.config.out
        if self.method.objective.scope != "block":  # nothing is optimised
            return "float32" if asked == "auto" else asked
        if asked == "float32":
            return asked
        earlier = _begun_with(folder / "recipe.yaml")
        if asked == "auto" and earlier is not None:
            return earlier
        rows = min(self.config.micro_batch * self.window, 2048)
        gain = torch.zeros(1)
        if ranks.first():
            gain += bfloat16_ratio(self.device, rows, self.model.hidden_size)
        ranks.add_up([gain])
        if asked == "bfloat16" and float(gain) * MARGIN <= 1.0:
            self.notes.append(
                f"bfloat16 takes {1 / float(gain):.1f} times as long as float32 here; --precision "
                "auto would not take it"
            )
        return asked if asked != "auto" else "bfloat16" if gain >= MARGIN else "float32"

    def _calibration(self) -> CalibrationWindows | None:
        config = self.config
        source = config.calibration
        if source is None:
            return None
        if of_itself(source):
            return self._written(str(source))
        tokens_given = isinstance(source, Tensor) or str(source).endswith(".safetensors")
        tokenizer = None if tokens_given else tokenizer_of(self.model.folder)
        drawn = windows(
            source,
            tokenizer,
            samples=config.samples,
            window=self.window,
            seed=config.seed,
            whole=config.whole_text,
        )
        check_vocabulary(drawn.tokens, self.model.vocabulary)
        self.model.window(drawn.tokens.shape[1])
        return drawn

    def _written(self, source: str) -> CalibrationWindows:
        """Windows that the dense model writes itself, with all of it in memory."""
        if not self.model.predicts:
            raise SteppeError(
                "windows are written by a model that predicts each next token",
                got=f"--calibration {source} for {type(self.model.model).__name__}",
                way_out="name a text file",
            )
        return sampled(
            self.writer,
            source,
            samples=self.config.samples,
            window=self.window,
            seed=self.config.seed,
            device=self.device,
            beside=self.config.out,
        )

    @property
    def writer(self) -> str:
        """The dense model, that writes the windows of ``self``."""
        return str(self.model.folder)

    @property
    def out(self) -> Path:
        """The folder of the result."""
        return self.config.out

    @property
    def needs_text(self) -> bool:
        """Whether the method looks at activations at all."""
        return needs_windows(self.method)

    def texts(self) -> dict[str, Tensor]:
        """Text -> windows of tokens on which perplexity is measured.

        Raises:
            SteppeError: a text is not there, too short, or of another vocabulary.
        """
        window = self.evaluate_window
        return {str(n): measured_windows(self.model, str(n), window) for n in self.config.evaluate}

    @property
    def recipe(self) -> dict[str, Any]:
        """What decides the result, as plain data."""
        config = self.config
        plain = {
            "model": {"name": str(self.model.folder), "fingerprint": fingerprint(self.model)},
            "method": self.method.to_dict(),
            "calibration": self.calibration,
            "evaluate": {
                "texts": [str(name) for name in config.evaluate],
                "window": self.evaluate_window,
            },
            "include": config.include,
            "exclude": config.exclude,
            "seed": config.seed,
            "device": self.device,
            "micro_batch": config.micro_batch,
            "measure": config.measure,
            "regrow": config.regrow,
        }
        if config.family is not None:
            plain["family"] = config.family
        if config.streamed != "auto":  # how blocks are called decides the last bits
            plain["streamed"] = config.streamed
        if self.method.objective.scope == "block":
            plain["fit"] = dataclasses.asdict(self.walk_config.reconstruction)
        as_json: dict[str, Any] = json.loads(json.dumps(plain))
        return as_json

    def as_today(self, stored: Any) -> Any:
        """A stored recipe as it is written now, to be compared with `recipe`.

        An earlier version knew fewer options: one that is absent has its default.

        Args:
            stored: plain data of a run's folder; returned as it is if it is no recipe.
        """
        try:
            plain = stored | {"method": Method.from_dict(stored["method"]).to_dict()}
            if "fit" in stored:
                fit = ReconstructionConfig(**stored["fit"])
                plain["fit"] = json.loads(json.dumps(dataclasses.asdict(fit)))
        except (SteppeError, TypeError, LookupError):
            return stored
        return plain

    def check_goes_on(self, stored: dict[str, Any]) -> None:
        """Whether the blocks that are done were pruned as those that are left would be.

        Args:
            stored: the recipe as the run's folder has it.

        Raises:
            SteppeError: an earlier version did them by another rule.
        """
        if others := self.method.changed_since(stored["method"]):
            raise SteppeError(
                "a run goes on by the rule that it began with",
                got=f"{self.out}, begun by an earlier version, in which {others}",
                way_out="another --out, where the run begins anew",
            )

    def check_layers(self) -> None:
        """Whether patterns, method and layers fit each other, from shapes; no weights are read.

        Raises:
            SteppeError: they do not.
        """
        layers = self._ranked()
        check(self.method, layers, self.tokens)
        if isinstance(self.method.budget, LevelBudget) and self.tokens is not None:
            judged_windows(self.method.budget, len(self.tokens))

    def _ranked(self) -> list[Layer]:
        config, structure = self.config, self.method.structure
        try:
            return structure.among(self.model.layers(config.include, config.exclude))
        except SteppeError as error:
            if not (config.include or config.exclude):
                raise
            structure.among(self.model.layers())  # else it is not for the patterns
            self.model.layers(config.include, config.exclude)  # nor what patterns match nothing
            flags = [f"--{n} '{p}'" for n in ("include", "exclude") for p in getattr(config, n)]
            raise SteppeError(
                f"structure {structure.name} ranks layers that the patterns leave to it",
                got=f"{error.got} with {' '.join(flags)}",
                way_out="other patterns, or a --structure of what they leave",
            ) from None

    @property
    def structure(self) -> Structure:
        """What the zeros of the result have in common."""
        return self.method.structure

    @property
    def originals(self) -> dict[str, StreamedModel]:
        """What is measured before the walk, by its name in the record."""
        return {"dense": self.model}

    def check_finite(self, digest: Any = None) -> dict[str, int]:
        """See `Checkpoint.check_finite`; the hash is of the dense model's weights."""
        return self.model.checkpoint.check_finite(digest)

    def completed(self, record: dict[str, Any], measured: dict[str, Any]) -> dict[str, Any]:
        """The record of the walk, with what only this kind of job knows.

        A model that was pruned before has the record of that as ``made_from``, without its blocks.

        Args:
            record: of the walk.
            measured: name of an original -> text -> perplexity.
        """
        path = self.model.folder / "record.json"
        earlier = read_json(path) if path.is_file() else {}
        if "recipe" not in earlier:
            return record
        return record | {"made_from": {k: v for k, v in earlier.items() if k != "blocks"}}

    def decide(self, loading: Callable[[str], None] = lambda why: None) -> None:
        """Find out how blocks can be called, if anything runs them; nothing is written.

        Args:
            loading: called before the whole model is loaded, with the reason; may refuse.

        Raises:
            SteppeError: the walk would not be what the model computes.
        """
        windows = [self.tokens.shape[1]] if self.tokens is not None and self.walks else []
        windows += [self.evaluate_window] if self.config.evaluate else []
        if windows or self.config.streamed == "never":
            self.model.decide(max(windows, default=self.window), loading)

    @property
    def walks(self) -> bool:
        """Whether text goes through the blocks while they are pruned."""
        return self.needs_text or self.config.measure > 0

    @property
    def masks(self) -> bool:
        """Whether weights are pruned to zeros that masks tell, be it on the way to a cut."""
        return self.method.structure.removes in (None, "units")

    @property
    def work(self) -> Work | None:
        """What is done to a block, where it is more than to prune its layers."""
        return prune_units if self.method.structure.removes == "units" else None

    def walk(self, report: Report) -> Blockwise:
        """The walk over the blocks; everything that can be wrong is found here."""
        # a method that looks at no activations walks only what errors are measured on
        count = None if self.needs_text else self.config.measure
        return Blockwise(
            self.model,
            self.method,
            self.walk_config,
            self.tokens[:count] if self.tokens is not None and count != 0 else None,
            self.out,
            include=self.config.include,
            exclude=self.config.exclude,
            report=report,
            work=self.work,
        )


def fingerprint(model: StreamedModel) -> str:
    """A short hash of what the model's files are: config, tensors, sizes. Weights are not read."""
    digest = hashlib.sha256((model.folder / "config.json").read_bytes())
    for path in sorted(set(model.checkpoint.files.values())):
        digest.update(f"{path.name} {path.stat().st_size}".encode())
        with open(path, "rb") as file:
            digest.update(file.read(1 << 20))
    return digest.hexdigest()[:16]


def _join_processes(device: str) -> None:
    """Meet the other processes when torchrun or accelerate launch started several."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from accelerate import PartialState

        PartialState(cpu=not device.startswith("cuda"))


def _begun_with(recipe: Path) -> str | None:
    """The precision that the run of a folder began with, if one did."""
    try:
        stored = read_yaml(recipe.read_text(encoding="utf-8"))
        precision = stored["fit"]["precision"]
    except (OSError, yaml.YAMLError, ValueError, LookupError, TypeError):
        return None  # there is none, or the folder is refused for what it is
    return str(precision)
