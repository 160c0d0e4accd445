"""Methods as values: parts that fit, written down and read back."""

import dataclasses

import pytest

import steppe
from steppe import Method, SteppeError, methods
from steppe.core.protocols import AXES, Coupling, UnitBudget
from steppe.perturb.sam import Sam
from steppe.structure.nm import NM

POOLED = {"name": "pooled", "sparsity": 0.5}


@pytest.mark.parametrize("name", list(methods.METHODS))
def test_published_methods_are_values(name):
    build = getattr(methods, name)
    method = build() if name == "dense" else build(sparsity=0.9)
    assert method.name == name
    assert method.sparsity == (0.0 if name == "dense" else 0.9)
    assert Method.from_dict(method.to_dict()) == method
    assert Method.from_yaml(method.to_yaml()) == method
    assert hash(Method.from_yaml(method.to_yaml())) == hash(method)
    axes = [axis.registry.kind for axis in AXES]
    assert list(method.to_dict()) == ["name", *axes, *(["language"] if method.language else [])]
    with pytest.raises(dataclasses.FrozenInstanceError):
        method.name = "other"


FOR_LANGUAGE = ["admm", "alps", "magnitude", "safe", "safe_plus", "sparsegpt", "wanda"]
CUTTING = {
    "depth": ("blocks", "structure layers"),
    "hidden": ("hidden", "structure hidden"),
    "flap": ("units", "structure neurons, heads or neurons"),
    "reap": ("experts", "structure experts"),
    "slim": ("units", "structure neurons, heads or neurons"),
}
"""Those that cut something out of language models -> what, and which structure they ask for."""


def chooses_channels(name):
    """Whether the method's budget or its coupling is for coupled channels only."""
    method = methods.make(name, sparsity=0.5)
    return not isinstance(method.budget, UnitBudget) or bool(
        getattr(method.coupling, "shifts_by", "")
    )


@pytest.mark.parametrize("name", [n for n in methods.METHODS if n not in {"dense", *CUTTING}])
def test_a_shape_may_fix_the_sparsity(name):
    if chooses_channels(name):
        with pytest.raises(SteppeError, match=r"coupled channels.*structure nm.*channel_groups"):
            methods.make(name, structure="2:4")
        return
    method = methods.make(name, structure="2:4")
    assert method.structure == NM(n=2, m=4)
    assert method.sparsity == 0.5
    with pytest.raises(SteppeError, match="sparsity must be given"):
        methods.make(name)
    with pytest.raises(SteppeError, match=r"sparsity of 0\.5"):
        methods.make(name, structure="2:4", sparsity=0.9)


def test_defaults_are_the_papers():
    safe = methods.safe(sparsity=0.95)
    assert (safe.coupling.penalty, safe.coupling.interval) == ("auto", "auto")
    assert safe.perturb.rho == 0.1
    assert (safe.coupling.curve, safe.coupling.pull) == ("cosine", 10.0)
    assert methods.admm(sparsity=0.95).coupling == safe.coupling
    assert methods.admm(sparsity=0.95, penalty=1e-3).coupling.curve == "constant"
    assert not methods.admm(sparsity=0.95).perturb.active
    assert methods.safe_plus(sparsity=0.95).replace(name="safe", score="magnitude") == safe


@pytest.mark.parametrize("name", ["safe", "safe_plus"])
def test_a_language_model_starts_from_alps_unless_the_papers_way_is_asked_for(name):
    default = methods.make(name, sparsity=0.95).for_language()
    assert (default.coupling.name, default.objective.start) == ("hard_mask", "layer_admm")
    paper = methods.make(name, sparsity=0.95, start=None).for_language()
    assert (paper.coupling.penalty, paper.coupling.interval) == (1e-3, 32)
    assert (paper.coupling.curve, paper.objective.start) == ("constant", None)
    for form in (default, paper):
        assert form.perturb.rho == 2e-4
        assert form.objective.name == "block_reconstruction"
        assert form.budget.to_dict() == {"name": "uniform", "sparsity": 0.95}
    given = {"name": "block_reconstruction", "start": "obs_update", "apart": True}
    objective = methods.make(name, sparsity=0.95, objective=given).objective
    assert (objective.start, objective.apart) == ("obs_update", True), "what is given stays"
    images = methods.make(name, sparsity=0.95, start="layer_admm")
    assert images == methods.make(name, sparsity=0.95), "there is no block to start from"


def test_one_part_replaced():
    method = methods.safe(sparsity=0.9).replace(perturb="none", structure="block:2x4")
    assert method.perturb.name == "none"
    assert method.structure.to_dict() == {"name": "block", "height": 2, "width": 4}
    assert method.coupling == methods.safe(sparsity=0.9).coupling
    with pytest.raises(SteppeError):
        method.replace(structure="2:4")
    with pytest.raises(SteppeError, match="did you mean perturb"):
        method.replace(perturbation="none")


def test_equal_methods_have_equal_forms_for_language_models():
    able = []
    for name in methods.METHODS:
        build = methods.METHODS[name]
        method = build.example()
        copy = Method.from_yaml(method.to_yaml())
        if method.has_language_form:
            able.append(name)
            form = copy.for_language()
            assert form == method.for_language(), name
            assert form.for_language() == form, name
            assert Method.from_yaml(form.to_yaml()) == form, name
        else:
            with pytest.raises(SteppeError, match=f"objective over layers .* {name}"):
                copy.for_language()
    assert able == sorted([*FOR_LANGUAGE, *CUTTING])


@pytest.mark.parametrize("name", CUTTING)
def test_a_method_that_cuts_refuses_shapes_that_are_only_zeros(name):
    removes, way_out = CUTTING[name]
    assert methods.make(name, sparsity=0.5).structure.removes == removes
    with pytest.raises(SteppeError, match=way_out):
        methods.make(name, structure="2:4")
    with pytest.raises(SteppeError, match="sparsity must be given"):
        methods.make(name)


@pytest.mark.parametrize("name", FOR_LANGUAGE)
def test_any_part_may_be_exchanged_before_a_language_model_is_pruned(name):
    method = methods.make(name, sparsity=0.5)
    plain = method.for_language()
    changes = {
        "score": "wanda",
        "budget": {"name": "erk", "sparsity": 0.5},
        "schedule": {"name": "one_shot", "at": 0.5},
        "perturb": {"name": "asam", "rho": 0.3},
        "structure": "2:4",
    }
    for axis, spec in changes.items():
        form = method.replace(**{axis: spec}).for_language()
        assert form == plain.replace(**{axis: spec}), axis


def test_options_that_were_given_hold_for_language_models_too():
    given = methods.safe(sparsity=0.5, rho=0.05, budget="erk", start=None)
    assert given.perturb.rho == given.for_language().perturb.rho == 0.05
    assert given.for_language().budget.name == "erk"
    assert given.for_language().coupling.curve == "constant"
    assert methods.safe(sparsity=0.5, objective="block_reconstruction").perturb.rho == 2e-4


def test_what_differs_for_language_models_is_declared_by_axis():
    base = {"budget": POOLED, "perturb": "sam"}
    method = Method(**base, language={"objective": "block_reconstruction", "perturb": "none"})
    assert [part.name for part in method.language] == ["none", "block_reconstruction"]
    assert not method.for_language().perturb.active
    with pytest.raises(SteppeError, match="did you mean perturb"):
        Method(**base, language={"perturbation": "none"})
    with pytest.raises(SteppeError, match="given by axis"):
        Method(**base, language=["none"])


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"budget": POOLED, "perturbation": "sam"}, "unknown axis"),
        ({"score": "magnitude"}, "needs a budget"),
        ({"budget": "pooled"}, "sparsity"),
        ({"budget": {"name": "pool", "sparsity": 0.5}}, "did you mean pooled"),
        ({"budget": POOLED, "score": "magnitud"}, "did you mean magnitude"),
        ({"budget": POOLED, "structure": "4:2"}, "write 2:4"),
        ({"budget": POOLED, "structure": "block:0x4"}, "block"),
        ({"budget": POOLED, "coupling": {"name": "admm", "penalty": -1.0}}, "penalty"),
        ({"budget": POOLED, "coupling": {"name": "admm", "curve": "cosin"}}, "cosine"),
        ({"budget": POOLED, "coupling": {"name": "admm", "interval": 0}}, "interval"),
    ],
)
def test_what_cannot_work_is_said_when_built(data, says):
    with pytest.raises(SteppeError, match=says):
        Method.from_dict(data)


@pytest.mark.parametrize("text", ["", "- a", "safe"])
def test_text_that_is_no_method(text):
    with pytest.raises(SteppeError, match="mapping"):
        Method.from_yaml(text)


def test_one_sparsity_holds_for_language_models_too():
    with pytest.raises(SteppeError, match=r"one sparsity.*0\.9, and 0\.5 under language"):
        Method(
            budget={"name": "pooled", "sparsity": 0.9},
            language={"budget": {"name": "uniform", "sparsity": 0.5}},
        )
    assert Method(budget=POOLED, language=None) == Method(budget=POOLED)
    twice = [Sam(rho=0.1), Sam(rho=0.2)]
    with pytest.raises(SteppeError, match="one part of an axis"):
        Method(budget=POOLED, language=twice)


def test_a_form_that_cannot_be_says_that_it_is_the_forms_fault():
    method = methods.magnitude(sparsity=0.5).replace(coupling="admm")  # for images that is fine
    with pytest.raises(SteppeError, match=r"form of magnitude.*objective layer_reconstruction"):
        method.for_language()


@pytest.mark.parametrize("wrong", [2, 3.0, ["2:4"], None])
def test_what_is_no_part_is_said(wrong):
    with pytest.raises(SteppeError, match="given by its name"):
        methods.safe(sparsity=0.5, structure=wrong)
    with pytest.raises(SteppeError, match="given by its name"):
        methods.safe(sparsity=0.5).replace(perturb=wrong)


def test_a_parts_own_rule_adds_to_that_of_its_protocol():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Idle(Coupling):
        """Prunes nothing, and has a rule of its own."""

        name = "idle"
        prunes = False

        def fits(self, method):
            assert method.structure.name == "unstructured"

    with pytest.raises(SteppeError, match="coupling idle prunes nothing"):
        Method(budget=POOLED, coupling=Idle())


def test_text_that_is_no_yaml():
    with pytest.raises(SteppeError, match="must be YAML"):
        Method.from_yaml("name: [safe")


def test_unknown_methods_and_options():
    with pytest.raises(SteppeError, match="did you mean safe"):
        methods.make("saef")
    with pytest.raises(SteppeError, match="radius"):
        methods.make("safe", sparsity=0.5, radius=1)
    with pytest.raises(AttributeError, match=r"saef.*did you mean safe"):
        _ = methods.saef
    assert steppe.methods.safe is methods.METHODS["safe"]
