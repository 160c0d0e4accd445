"""What a pruned language model has left, trained block by block towards the dense one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from steppe.core.errors import SteppeError
from steppe.core.protocols import Structure
from steppe.engine import ranks
from steppe.engine.blockwise.retrain import Retraining
from steppe.engine.blockwise.walk import Blockwise
from steppe.engine.run_folder import RunFolder
from steppe.llm.model import StreamedModel
from steppe.llm.prepare import PreparedPruning, Report, fingerprint
from steppe.llm.pruning_run import check_whole, run
from steppe.llm.recover_config import RecoverConfig
from steppe.llm.said import quality_of
from steppe.method import Method
from steppe.methods import display_of

PRUNED = Path("checkpoints") / "pruned"
"""Where a pruning lies in the folder of its recovery, while both are done in one go."""


def recover(
    folder: str | Path,
    calibration: str | Path | Tensor | None = None,
    out: str | Path = "recovered",
    *,
    report: Report = lambda row: None,
    **options: Any,
) -> dict[str, Any]:
    """Train what a pruned language model has left; started again, it goes on where it was.

    Block by block, attention and then feed-forward are trained towards the hidden states of the
    dense model, from those of the recovered one. One block of each is in memory at a time. Every
    zero stays a zero. A part that windows held out do not show to be better keeps its weights.

    Args:
        folder: the pruned model: of `steppe.prune`, or any whose weights have zeros.
        calibration: text file, folder, dataset id, or token ids ``[samples, window]``.
        out: the new folder, of the form that `steppe.prune` writes.
        report: called with each block's row of the record.
        options: any other field of `steppe.llm.recover_config.RecoverConfig`: ``dense`` (the dense
            model; where ``folder`` has a record of its pruning, the one that was pruned), ``train``
            (weights, norms or lora), ``rank``, ``held_out``, ``reconstruction`` (epochs, lr, ...),
            ``evaluate`` (texts on which all three models are measured), and what `steppe.prune`
            takes.

    Returns:
        The record, as in ``record.json``; ``pruned`` is what was measured before.

    Raises:
        SteppeError: the two models, the text and the folder do not fit each other, or an option
            is not known.

    Source: Roux et al. 2025, arXiv 2510.14444; Zimmer et al. 2023, arXiv 2312.15230.
    """
    config = RecoverConfig.of(calibration=calibration, out=out, **options)
    return run(PreparedRecovery(folder, config), report)


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
        self._whole, self.pruning = recipe, _record_of(Path(folder))
        then: Mapping[str, Any] = self.pruning.get("recipe", {})
        chosen = {key: tuple(then.get(key) or ()) for key in ("include", "exclude")}
        if not (config.include or config.exclude):  # the layers that count as pruned
            config = config.model_copy(update=chosen)
        super().__init__(folder, method, config)
        self.dense = StreamedModel(
            str(self._dense_name(then)), self.device, streamed=config.streamed
        )
        self._check_pair(then)

    def _dense_name(self, then: Mapping[str, Any]) -> str | Path:
        known = (then.get("dense") or then.get("model") or {}) if then else {}
        name = self.config.dense or (known.get("name") if isinstance(known, Mapping) else None)
        if name is None or (self.config.dense is None and not Path(name).is_dir()):
            raise SteppeError(
                "a pruned model is led back to the dense one",
                got=f"{self.model.folder} with no record of its pruning"
                if name is None
                else f"a record of the pruning of {name}, which is not there",
                way_out="--dense FOLDER, the model before it was pruned",
            )
        return name

    def _check_pair(self, then: Mapping[str, Any]) -> None:
        """Whether the two models differ in nothing but the values of their weights."""
        assert self.dense is not None
        mine, dense = (
            {n: tuple(p.shape) for n, p in m.model.named_parameters(remove_duplicate=False)}
            for m in (self.model, self.dense)
        )
        if mine != dense:
            names = sorted(n for n in {*mine, *dense} if mine.get(n) != dense.get(n))
            raise SteppeError(
                "the pruned and the dense model have the same weights but for their values",
                got=f"{names[0]} of {mine.get(names[0], 'no')} in {self.model.folder} and of "
                f"{dense.get(names[0], 'no')} in {self.dense.folder}",
                way_out="--dense FOLDER, the model before it was pruned",
            )
        known = then.get("dense") or then.get("model") if then else None
        if self.config.dense is None and isinstance(known, Mapping):
            found, wanted = fingerprint(self.dense), known.get("fingerprint")
            if wanted is not None and found != wanted:
                raise SteppeError(
                    "the dense model is still the one that was pruned",
                    got=f"{self.dense.folder}, whose files have changed since",
                    way_out=f"--dense {self.dense.folder} if it is the right one all the same",
                )

    @property
    def structure(self) -> Structure:
        method = self.pruning.get("recipe", {}).get("method")
        known = isinstance(method, Mapping) and "structure" in method
        return Structure.make(method["structure"]) if known else self.method.structure

    @property
    def originals(self) -> dict[str, StreamedModel]:
        assert self.dense is not None
        return {"dense": self.dense, "pruned": self.model}

    def check_finite(self, digest: Any = None) -> dict[str, int]:
        self._nonzero_dense = self._dense.checkpoint.check_finite(digest)
        return self.model.checkpoint.check_finite()

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

    def check_goes_on(self, stored: dict[str, Any]) -> None:
        """Nothing: a recovery has known no other rule."""

    def decide(self, loading: Any = lambda why: None) -> None:
        super().decide(loading)
        windows = [self.window] if self.tokens is not None else []
        self._dense.decide(max([*windows, self.evaluate_window]), loading)

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
        pruned_by = self.pruning.get("method")
        shown = "a pruned model" if pruned_by is None else display_of(str(pruned_by))
        return record | {
            "method_display": f"{shown}, recovered",
            "sparsity_asked": self.pruning.get("sparsity_asked"),
            "dense": dense,
            "pruned": quality_of(measured["pruned"]) | sizes,
            "pruning": self.pruning,
        }


def _record_of(folder: Path) -> dict[str, Any]:
    """The record of the pruning that made a folder; empty where there is none."""
    try:
        record = json.loads((folder / "record.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    known = isinstance(record, dict) and isinstance(record.get("recipe"), dict)
    return record if known else {}


def prune_and_recover(
    prepared: PreparedPruning, report: Report = lambda row: None
) -> dict[str, Any]:
    """Prune, then recover, into one folder; each goes on where it was.

    The pruned model lies in ``checkpoints/pruned`` until it is recovered.

    Args:
        prepared: the pruning; its folder is that of the result.
        report: called with each block's row of the record, of both.

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
        if key not in ("recover", "regrow", "reconstruction", "include", "exclude", "precision")
    }
    # chosen once: another one would be another result after a stop
    precision = prepared.walk_config.reconstruction.precision
    after = RecoverConfig.of(**shared, dense=prepared.model.folder, precision=precision)
    recipe = prepared.recipe | {"recover": after.settings}
    folder = RunFolder(out, recipe, prepared.as_today)
    if folder.record is None:
        prepared.check_layers()
        prepared.texts()
        if ranks.first():
            folder.claim()
        ranks.barrier()
        first = {"out": out / PRUNED, "recover": False, "evaluate": ()}
        pruning = PreparedPruning(
            prepared.model.folder, prepared.method, config.model_copy(update=first)
        )
        run(pruning, report)
        run(PreparedRecovery(out / PRUNED, after, recipe), report)
    check_whole(out)
    if ranks.first():
        shutil.rmtree(out / PRUNED, ignore_errors=True)
    ranks.barrier()
    record = folder.record
    assert record is not None, "the recovery wrote it"
    return record
