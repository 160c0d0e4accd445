"""Which layers read units: known without the places of each of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from mixture_models import FAMILIES, build
from steppe.llm.model import StreamedModel
from steppe.llm.structured.readers import READS, groups_by_reader
from steppe.removal.mixtures import Mixture


@pytest.mark.parametrize("name", FAMILIES)
def test_layers_know_their_units_without_those_of_all_experts(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(name).save_pretrained(tmp_path)
    model = StreamedModel(str(tmp_path))
    groups = groups_by_reader(model.model)
    expected = {
        reader: (READS[g.kind], next(s for s in g.slices if s.role == "input").index.shape[1])
        for reader, g in groups.items()
    }
    assert any(g.slices[0].stacked for g in groups.values())

    def built(self: Mixture) -> None:
        raise AssertionError("the places of the neurons of all experts were listed")

    monkeypatch.setattr(Mixture, "neurons", built)
    found = {x.name: (x.reads, x.unit) for x in model.layers() if x.reads}
    assert found == expected
