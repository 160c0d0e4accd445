"""The protocols that parts fulfil, one file per axis."""

from __future__ import annotations

from steppe.core.part import Part as Part
from steppe.core.part import Tensors as Tensors
from steppe.core.protocols.budget import BlockBudget as BlockBudget
from steppe.core.protocols.budget import BlockTrials as BlockTrials
from steppe.core.protocols.budget import Budget as Budget
from steppe.core.protocols.budget import CandidateEvaluator as CandidateEvaluator
from steppe.core.protocols.budget import ChannelBudget as ChannelBudget
from steppe.core.protocols.budget import LevelBudget as LevelBudget
from steppe.core.protocols.budget import LevelEvaluator as LevelEvaluator
from steppe.core.protocols.budget import Levels as Levels
from steppe.core.protocols.budget import SearchBudget as SearchBudget
from steppe.core.protocols.budget import UnitBudget as UnitBudget
from steppe.core.protocols.coupling import AnyCoupling as AnyCoupling
from steppe.core.protocols.coupling import Coupling as Coupling
from steppe.core.protocols.coupling import ExpertMerger as ExpertMerger
from steppe.core.protocols.coupling import LayerSolver as LayerSolver
from steppe.core.protocols.coupling import StreamSolver as StreamSolver
from steppe.core.protocols.coupling import WeightParametrization as WeightParametrization
from steppe.core.protocols.objective import Objective as Objective
from steppe.core.protocols.perturb import Ascent as Ascent
from steppe.core.protocols.perturb import NeuronPerturb as NeuronPerturb
from steppe.core.protocols.perturb import Perturb as Perturb
from steppe.core.protocols.schedule import Schedule as Schedule
from steppe.core.protocols.score import Score as Score
from steppe.core.protocols.structure import ShapeSearch as ShapeSearch
from steppe.core.protocols.structure import Structure as Structure

AXES: tuple[type[Part], ...] = (
    Score,
    Structure,
    Budget,
    Schedule,
    AnyCoupling,
    Perturb,
    Objective,
)
