"""How long one image takes, beside the dense run: measured in turns, and predicted from layers."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from steppe.core.device import device_of
from steppe.core.errors import SteppeError
from steppe.core.speed import Speed
from steppe.engine.model_latency import compare
from steppe.evaluation import EVALUATIONS, Evaluation, read_record
from steppe.experiment.channels import rounded
from steppe.experiment.image_run import check_another, trained, was_trained
from steppe.experiment.latency_command import USUAL
from steppe.experiment.recipe import Recipe
from steppe.experiment.settled import layout_of_run
from steppe.removal.channel_groups import coupled_channels
from steppe.removal.cost.latency import Latency
from steppe.removal.forward_timing import conditions, layout_of, settle
from steppe.removal.latency_command import LatencyCommand
from steppe.removal.latency_table import LatencyTable
from steppe.removal.plan import TEXT


@EVALUATIONS.register("latency")
@dataclass(frozen=True, kw_only=True)
class RunLatency(Evaluation):
    """Milliseconds of one image in a run's network and in the dense one, in turns.

    Both compute in the memory format in which the run trained; a table must be of the same.

    Args:
        beside: the dense run.
        table: the file of steppe latency for the dense run; its prediction is compared.
        threads: CPU threads; torch's own number.
    """

    beside: str | None = None
    table: str | None = None
    threads: int | None = None

    def check(self) -> None:
        if self.beside is None:
            raise SteppeError(
                "a time means something beside that of the dense network",
                got="--on latency alone",
                way_out="--beside DENSE_RUN",
            )
        if self.threads is not None and self.threads < 1:
            raise SteppeError("--threads is 1 or more", got=self.threads, way_out="leave it out")
        check_another(Path(self.run), self.beside)
        if self.table is not None:
            LatencyTable.read(self.table, LatencyCommand(network=self.beside, device=self.device))
        if self._holds_zeros():
            raise SteppeError(
                "a network is timed without the channels that were pruned",
                got=f"{self.run}, which still has them as zeros",
                way_out=f"steppe remove {self.run} --out SMALL, then --on latency of that",
            )

    def measure(self) -> dict[str, Any]:
        """``measured``, see `Speed`; ``predicted_ms`` of dense and own where there is a table.

        Also ``parameters`` of both, ``threads``, the ``device`` by its name, the ``layout`` of
        images and kernels, and ``table_sha256`` of the table.
        """
        self.check()
        device = device_of(self.device)
        recipe, shape, own = _network(self.run, device)
        _, other_shape, dense = _network(str(self.beside), device)
        if shape != other_shape:
            raise SteppeError(
                "two networks are timed on images of one shape",
                got=f"{list(shape)} here, {list(other_shape)} in {self.beside}",
                way_out="--beside with a run of the same data and size",
            )
        _check_made_of(own, dense, str(self.beside))
        layout = layout_of_run(recipe, read_record(self.run))
        for model in (dense, own):
            model.to(memory_format=layout)  # type: ignore[call-overload]
        example = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))
        example = example.to(device, memory_format=layout)
        before = torch.get_num_threads()
        try:
            torch.set_num_threads(self.threads or before)
            settle()
            sizes = [sum(p.numel() for p in model.parameters()) for model in (dense, own)]
            result: dict[str, Any] = {"threads": torch.get_num_threads(), "parameters": sizes}
            result |= {key: conditions(own)[key] for key in ("device", "layout")}
            if self.table is not None:
                result["table_sha256"] = _hash(self.table)
                result["predicted_ms"] = self._predicted(recipe, dense, example)
            reason = "channels are removed" if sizes[1] < sizes[0] else ""
            return result | {"measured": compare(dense, own, example, reason).record()}
        finally:
            torch.set_num_threads(before)

    def holds(self, result: dict[str, Any]) -> bool:
        """Whether the table is the one that the result was predicted from."""
        return self.table is None or result.get("table_sha256") == _hash(self.table)

    def _holds_zeros(self) -> bool:
        """Whether channels were pruned in the run's folder and not taken out there."""
        removed = read_record(self.run).get("removed") or {}
        return bool(removed.get("widths")) and not (Path(self.run) / TEXT).exists()

    def _predicted(self, recipe: Recipe, dense: nn.Module, example: Tensor) -> list[float]:
        """Of the dense network, and of one with the widths that the run's record has."""
        removed = read_record(self.run).get("removed") or {}
        if (Path(self.run) / TEXT).exists() and not removed.get("widths"):
            raise SteppeError(
                "a time is predicted from the widths that are left",
                got=f"{self.run}, whose record.json does not say them",
                way_out="steppe remove once more, to another --out; or no --table",
            )
        multiple = removed.get("round_to") or recipe.channels.round_to or USUAL
        coupled = coupled_channels(dense, example, exclude=recipe.exclude)
        groups = rounded(coupled.groups, multiple)
        command = LatencyCommand(
            network=str(self.beside),
            round_to=multiple,
            channels_last=layout_of(dense) is torch.channels_last,
            device=self.device,
        )
        cost = Latency.of(dense, example, groups, table=self.table, batch=1, command=command)
        return [cost.total({}), cost.total(removed.get("widths") or {})]

    def line(self, result: dict[str, Any], record: dict[str, Any]) -> str:
        """The claim, the time, what the table said; a dense median may contradict the turns."""
        speed = Speed.read(result["measured"])
        assert speed is not None, "it is what measure gave"
        text = f"{speed.sentence('one image')}: {speed.sparse_ms:.3g} ms"
        text += ", both channels last" * (result.get("layout") == "channels last")
        if "predicted_ms" not in result:
            return text
        dense, own = result["predicted_ms"]
        return f"{text}; by the table of layers {own:.3g} ms, dense {dense:.3g} ms"


def _check_made_of(own: nn.Module, dense: nn.Module, name: str) -> None:
    """Refuse another network, whose time has another reason than channels that are gone.

    Raises:
        SteppeError: it has other weights, or fewer channels.
    """
    shapes, wider = ({n: p.shape for n, p in m.named_parameters()} for m in (own, dense))
    if shapes.keys() != wider.keys() or any(
        len(shape) != len(wider[n]) or any(a > b for a, b in zip(shape, wider[n], strict=True))
        for n, shape in shapes.items()
    ):
        raise SteppeError(
            "a network is timed beside the dense one that it was made of",
            got=f"{name}, whose weights are not those of this one before channels went",
            way_out="--beside the run that it was pruned from",
        )


def _hash(table: str) -> str | None:
    """Of the file's bytes; None where there is none."""
    path = Path(table)
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def _network(run: str, device: torch.device) -> tuple[Recipe, tuple[int, ...], nn.Module]:
    """A run's recipe, the shape of an image, and its network.

    Raises:
        SteppeError: it is no finished run of images.
    """
    path = Path(run)
    if (path / "config.json").exists() and not was_trained(path / "recipe.yaml"):
        raise SteppeError(
            "--on latency measures runs of steppe train on images",
            got=f"{path}, which holds a language model",
            way_out="steppe bench",
        )
    recipe, data, model = trained(path)
    return recipe, tuple(data.shape), model.to(device)
