"""How methods are declared and found."""

import inspect
import pickle
import pkgutil

import pytest

import steppe
from steppe import Method, SteppeError, methods
from steppe.budget.uniform import Uniform
from steppe.cli.job import build
from steppe.methods.options import budget_of
from steppe.methods.registry import METHODS, published


@pytest.fixture
def registry(monkeypatch):
    METHODS.load()
    monkeypatch.setattr(METHODS, "_items", dict(METHODS._items))


def test_the_imports_are_the_registry():
    """What an editor completes is what there is; pip may have added some of outside packages."""
    files = {m.name for m in pkgutil.iter_modules(methods.__path__)} - {
        "language_form",
        "options",
        "refinement",
        "refusals",
        "registry",
    }
    own = {n for n in METHODS if METHODS[n].__module__.startswith("steppe.methods.")}
    assert own == files
    assert own <= set(methods.__all__)
    for name in own:
        assert vars(methods)[name] is METHODS[name], name
    for name in METHODS:
        assert getattr(methods, name) is METHODS[name]
        assert name in dir(methods)


def test_every_method_says_what_it_is_called_in_a_report():
    displays = [METHODS[name].display for name in METHODS]
    assert all(display.strip() for display in displays)
    assert len(set(displays)) == len(displays)
    assert methods.display_of("safe_plus") == "SAFE+"
    assert methods.display_of("safe tuned by hand") == "safe tuned by hand"


def test_signature_and_text_are_the_builders():
    assert list(inspect.signature(methods.safe).parameters)[:3] == ["sparsity", "rho", "penalty"]
    assert list(methods.safe.options) == list(inspect.signature(methods.safe).parameters)
    assert "algorithm 1" in (inspect.getdoc(methods.safe) or "")


@pytest.mark.parametrize("name", list(METHODS))
def test_a_method_can_be_sent_to_another_process(name):
    assert pickle.loads(pickle.dumps(METHODS[name])) is METHODS[name]


def test_a_strangers_method_is_one_of_ours(registry):
    @published("mine", "Mine", language={"objective": "layer_reconstruction", "budget": "uniform"})
    def mine(sparsity: float, budget: str = "pooled", objective: str = "task") -> Method:
        """Mine."""
        return Method(
            name="mine", budget=budget_of(budget, sparsity, "unstructured"), objective=objective
        )

    method = steppe.methods.mine(sparsity=0.5)
    assert method == methods.make("mine", sparsity=0.5)
    assert Method.from_yaml(method.to_yaml()).for_language() == method.for_language()
    assert method.for_language().budget == Uniform(sparsity=0.5)


LANGUAGE = [n for n in METHODS if METHODS[n].example().has_language_form]


@pytest.mark.parametrize("name", LANGUAGE)
def test_an_option_reaches_language_models_or_is_refused(name):
    """Another value changes what is done there, or one line says that it cannot, and what can."""
    usual = methods.for_language(METHODS[name].example())
    void = {"penalty", "penalty_schedule", "interval"} if name.startswith("safe") else set()
    others = {"penalty_schedule": "linear", "penalty": 0.3, "interval": 3}
    for key, option in METHODS[name].options.items():
        default = METHODS[name].language.get(key, option.default)
        if key in others:
            other = others[key]
        elif key == "sparsity" or not isinstance(default, int | float):
            continue
        else:
            other = not default if isinstance(default, bool) else type(default)(default / 2)
        options = {"sparsity": 0.9, key: other}
        if key in void:
            with pytest.raises(SteppeError, match=r"language models.*start=None"):
                methods.for_language(methods.make(name, **options))
            options["start"] = None
        assert methods.for_language(methods.make(name, **options)) != usual, key


@pytest.mark.parametrize(
    "options",
    [
        {"penalty": 1e-3},
        {"interval": 32},
        {"penalty_schedule": "constant"},
        {"penalty": 1e-3, "penalty_schedule": "constant", "interval": 32},
    ],
    ids=lambda options: "-".join(options),
)
def test_what_language_models_have_anyway_may_be_said(options):
    usual = methods.for_language(methods.admm(0.5))
    assert methods.for_language(methods.admm(0.5, **options)) == usual
    settings = [f"method.{key}={value}" for key, value in options.items()]
    assert build("admm", {}, settings, {"sparsity": 0.5}) == usual


def test_options_that_another_one_makes_void():
    blocks = {"name": "block_reconstruction"}
    for options in (
        {"objective": "task", "start": "obs_update"},
        {"objective": "block_reconstruction", "penalty": 0.3},
        {"objective": "block_reconstruction", "penalty": 0.5},  # a value of other parts, too
        {"objective": "block_reconstruction", "interval": 1},
        {"objective": blocks | {"start": "hard_mask"}, "start": "obs_update"},
    ):
        with pytest.raises(SteppeError, match="changes nothing beside"):
            methods.safe(sparsity=0.5, **options)
    assert methods.taylor(sparsity=0.5, variant=None) == methods.taylor(sparsity=0.5)
    constant = methods.admm(sparsity=0.5, penalty=1e-3, penalty_schedule="constant")
    assert constant == methods.admm(sparsity=0.5, penalty=1e-3)
    assert methods.safe(sparsity=0.5, objective=blocks).objective.start == "layer_admm"
    said = methods.safe(sparsity=0.5, objective=blocks | {"start": None}, penalty=0.3)
    assert said.objective.start is None
    assert said.coupling.penalty == 0.3
    assert methods.safe(sparsity=0.5, objective=said.objective).objective.start is None
    assert methods.safe_plus(sparsity=0.5, penalty=0.3).coupling.penalty == 0.3  # for images


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"sparsity": "0.5"}, "type float"),
        ({"sparsity": 0.5, "interval": 1.5}, "type int"),
        ({"sparsity": 0.5, "penalty_schedule": 3}, "type str"),
        ({"sparsity": 0.5, "score": "wanda"}, "option of method safe"),
    ],
)
def test_options_of_the_wrong_kind(options, says):
    with pytest.raises(SteppeError, match=says):
        methods.make("safe", **options)
    with pytest.raises(SteppeError, match=says):
        methods.safe(**options)


@pytest.mark.parametrize(
    ("options", "way_out"),
    [
        ({"rho": -0.1}, "leave rho out: its default is 0.1, 0.0002 for language models"),
        ({"penalty": "foo"}, "leave penalty out: its default is auto"),
        ({"interval": -3, "rho": 0.2}, "leave interval out"),
    ],
)
def test_a_parts_error_names_the_method_that_was_asked_for_and_a_way_out(options, way_out):
    (key, value), *_ = options.items()
    with pytest.raises(SteppeError, match=f"{key} {value} of method safe.*{way_out}"):
        methods.safe(sparsity=0.5, **options)


def test_an_option_of_other_methods_says_of_which():
    with pytest.raises(SteppeError, match=r"penalty, which belongs to admm, .*safe.*known here"):
        methods.gmp(sparsity=0.5, penalty=0.1)
    with pytest.raises(SteppeError, match="above 0"):
        methods.greg2(sparsity=0.5, pick_delta=float("nan"))


def test_an_option_may_not_hide_what_its_axis_declares():
    from dataclasses import dataclass

    from steppe.core.protocols import Coupling, Perturb

    with pytest.raises(SteppeError, match=r"strength of Pulling.*another name"):

        @dataclass(frozen=True, kw_only=True)
        class Pulling(Coupling):
            """An option named like a declaration."""

            strength: float = 0.1

    with pytest.raises(SteppeError, match="due of Late"):

        @dataclass(frozen=True, kw_only=True)
        class Late(Perturb):
            """An option named like a method."""

            due: int = 3


def test_parts_may_be_given_in_every_form():
    text = methods.safe(sparsity=0.5, budget="uniform")
    mapping = methods.safe(sparsity=0.5, budget={"name": "uniform"})
    assert text == mapping == methods.safe(budget=Uniform(sparsity=0.5))


def test_every_option_but_the_sparsity_has_a_default(registry):
    with pytest.raises(SteppeError, match="none for strength of method bare"):

        @published("bare", "Bare")
        def bare(sparsity: float, strength: float) -> Method:
            """Bare."""
            return Method(name="bare", budget={"name": "pooled", "sparsity": sparsity})


def test_what_differs_for_language_models_is_an_option_of_the_method(registry):
    with pytest.raises(SteppeError, match="coupling of method odd"):

        @published("odd", "Odd", language={"coupling": "admm"})
        def odd(sparsity: float) -> Method:
            """Odd."""
            return Method(name="odd", budget={"name": "pooled", "sparsity": sparsity})
