"""What a pruned language model has left, trained block by block towards the dense one."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

from steppe.core.errors import SteppeError
from steppe.core.protocols import Structure
from steppe.engine import ranks
from steppe.engine.blockwise.retrain import Retraining
from steppe.engine.blockwise.walk import Blockwise
from steppe.engine.run_folder import RunFolder
from steppe.llm.model import StreamedModel
from steppe.llm.prepare import PreparedPruning, Report, fingerprint
from steppe.llm.pruned_pair import PrunedPair
from steppe.llm.pruning_run import check_whole, run
from steppe.llm.recover_config import RecoverConfig
from steppe.llm.said import quality_of
from steppe.llm.side_files import copy_plan
from steppe.method import Method

PRUNED = Path("checkpoints") / "pruned"
"""Where a pruning lies in the folder of its recovery, while both are done in one go."""
_NOT_SHARED = {"recover", "regrow", "reconstruction", "include", "exclude", "precision", "family"}
"""Options of a pruning that are not those of its recovery too."""


class PreparedRecovery(PreparedPruning):
    """A pruned model, the dense one and calibration windows that fit each other.

    Args:
        folder: the pruned model.
        config: what is asked for.
        recipe: what decides the result, where the pruning is part of it.

    Raises:
        SteppeError: the models, the text and the device do not fit each other.
    """

    config: RecoverConfig

    def __init__(
        self, folder: str | Path, config: RecoverConfig, recipe: dict[str, Any] | None = None
    ) -> None:
        method = Method(
            name="recover",
            budget={"name": "uniform", "sparsity": 0.0},
            coupling="none",
            objective="sublayer_reconstruction",
        )
        self._whole, self._pair = recipe, PrunedPair(Path(folder), config.dense)
        self.pruning = self._pair.record
        if not (config.include or config.exclude):  # the layers that count as pruned
            config = config.model_copy(update=self._pair.patterns)
        super().__init__(folder, method, config)
        name = str(self._pair.dense_name)
        self.dense = StreamedModel(name, self.device, streamed=config.streamed)
        self._pair.check(self.model, self.dense)
        self._places = self._pair.check_blocks(self.model, self.dense)
        if self._places is not None:  # no dense weights to measure layers by
            self.walk_config = dataclasses.replace(self.walk_config, measure=0)

    @property
    def structure(self) -> Structure:
        return self._pair.structure(self.method.structure)

    @property
    def writer(self) -> str:
        return str(self._pair.dense_name)

    @property
    def originals(self) -> dict[str, StreamedModel]:
        assert self.dense is not None
        return {"dense": self.dense, "pruned": self.model}

    def check_finite(self, digest: Any = None) -> dict[str, int]:
        self._nonzero_dense = self._dense.checkpoint.check_finite(digest)
        nonzero = self.model.checkpoint.check_finite()
        self._pair.check_zeros(self.model, nonzero)
        return nonzero

    @cached_property
    def _dense(self) -> StreamedModel:
        assert self.dense is not None
        return self.dense

    @property
    def recipe(self) -> dict[str, Any]:
        if self._whole is not None:
            return self._whole
        dense = {"name": str(self._dense.folder), "fingerprint": fingerprint(self._dense)}
        return super().recipe | {"dense": dense, "recover": self.config.settings}

    def recover(self, report: Report = lambda row: None) -> dict[str, Any]:
        """Train block after block; the record."""
        record = run(self, report)
        if ranks.first():
            copy_plan(self.model.folder, self.out)
        ranks.barrier()
        return record

    def check_goes_on(self, stored: dict[str, Any]) -> None:
        """Nothing: a recovery has known no other rule."""

    def decide(self, loading: Any = lambda why: None) -> None:
        super().decide(loading)
        windows = [self.window] if self.tokens is not None else []
        self._dense.decide(max([*windows, self.evaluate_window]), loading)
        if self._places is not None and not (self.model.chained and self._dense.chained):
            raise SteppeError(
                "blocks of other shapes are led back where only hidden states go between them",
                got=f"{self.model.folder}, of which the whole is in memory",
                way_out="--scope whole, which looks at the answers alone",
            )

    def walk(self, report: Report) -> Blockwise:
        """The walk over both models' blocks; everything that can be wrong is found here."""
        windows = 0 if self.tokens is None else len(self.tokens)
        config = self.config
        return Blockwise(
            self.model,
            self.method,
            self.walk_config,
            self.tokens,
            self.out,
            include=config.include,
            exclude=config.exclude,
            report=report,
            dense=self.dense,
            places=self._places,
            work=Retraining(
                train=config.train, rank=config.rank, held_out=config.judged_on(windows)
            ),
        )

    def completed(self, record: dict[str, Any], measured: dict[str, Any]) -> dict[str, Any]:
        keys = self._dense.stored_keys()
        before, dense = record["dense"], dict(record["dense"])
        dense["nonzero"] = sum(self._nonzero_dense[key] for key in keys)
        dense["bytes"] = self._dense.checkpoint.bytes
        sizes = {key: before[key] for key in ("parameters", "nonzero", "bytes")}
        dense["parameters"] = self._dense.parameters()
        return (
            record
            | self._pair.gone
            | {
                "method_display": self._pair.recovered,
                "sparsity_asked": self.pruning.get("sparsity_asked"),
                "dense": dense,
                "pruned": quality_of(measured["pruned"]) | sizes,
                "pruning": self.pruning,
            }
        )


def prune_and_recover(
    prepared: PreparedPruning,
    report: Report = lambda row: None,
    pruned: Callable[[PreparedPruning, Report], dict[str, Any]] = run,
    check: Callable[[PreparedPruning], object] = PreparedPruning.check_layers,
) -> dict[str, Any]:
    """Prune, then recover, into one folder; each goes on where it was.

    The pruned model lies in ``checkpoints/pruned`` until it is recovered.

    Args:
        prepared: the pruning; its folder is that of the result.
        report: called with each block's row of the record, of both.
        pruned: what prunes.
        check: what raises SteppeError for what cannot be, before a folder is begun.

    Returns:
        The record of the recovery; ``pruning`` is that of the pruning.

    Raises:
        SteppeError: there is no text to train on, and all that either raises.
    """
    config, out = prepared.config, prepared.out
    if prepared.tokens is None:
        raise SteppeError(
            "a recovery needs calibration text",
            got=f"method {prepared.method.name} with --recover and none",
            way_out="--calibration FILE, FOLDER or DATASET",
        )
    shared = {
        key: getattr(config, key)
        for key in RecoverConfig.model_fields.keys() & type(config).model_fields.keys()
        if key not in _NOT_SHARED
    }
    # chosen once: another one would be another result after a stop
    precision = prepared.walk_config.reconstruction.precision
    after = RecoverConfig.of(**shared, dense=prepared.model.folder, precision=precision)
    recipe = prepared.recipe | {"recover": after.settings}
    folder = RunFolder(out, recipe, prepared.as_today)
    if folder.record is None:
        check(prepared)
        prepared.texts()
        if ranks.first():
            folder.claim()
        ranks.barrier()
        first = {"out": out / PRUNED, "recover": False, "evaluate": ()}
        pruning = PreparedPruning(
            prepared.model.folder, prepared.method, config.model_copy(update=first)
        )
        pruned(pruning, report)
        PreparedRecovery(out / PRUNED, after, recipe).recover(report)
    check_whole(out)
    if ranks.first():
        if (out / PRUNED).is_dir():  # a kill may have come between the record and this
            copy_plan(out / PRUNED, out)
        shutil.rmtree(out / PRUNED, ignore_errors=True)
    ranks.barrier()
    record = folder.record
    assert record is not None, "the recovery wrote it"
    return record
