import pytest
from torch import nn

from steppe.core.errors import SteppeError
from steppe.vision.models import build

CODE = """
from torch import nn
class Net(nn.Linear):
    def __init__(self, num_classes, width=2):
        super().__init__(width, num_classes)
def shaped(num_classes, in_shape):
    return nn.Sequential(nn.Flatten(), nn.Linear(in_shape[0] * in_shape[1], num_classes))
def wrong(num_classes):
    return "a model"
"""


@pytest.fixture(autouse=True)
def users_folder(tmp_path, monkeypatch):
    """Users keep their code in the current folder, which a console script does not search."""
    (tmp_path / "users_nets_for_test.py").write_text(CODE)
    (tmp_path / "users_broken_for_test.py").write_text("import a_library_nobody_has")
    monkeypatch.chdir(tmp_path)


def test_a_function_of_the_current_folder_is_called_with_what_it_takes():
    model = build("users_nets_for_test:shaped", 5, (2, 3, 1))
    assert (model[1].in_features, model[1].out_features) == (6, 5)


def test_options_reach_a_class():
    model = build("users_nets_for_test:Net", 5, width=7)
    assert isinstance(model, nn.Module)
    assert model.in_features == 7


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("users_netz_for_test:Net", {}, "There is no module users_netz_for_test"),
        ("users_nets_for_test:Nett", {}, "has no Nett. Way out: the nearest it has: Net"),
        ("users_nets_for_test:wrong", {}, "must return a torch.nn.Module; got str"),
        ("users_nets_for_test:Net", {"depth": 1}, "must be callable with what it is given.*depth"),
    ],
)
def test_errors_say_what_is_wrong(name, options, message):
    with pytest.raises(SteppeError, match=message):
        build(name, 5, **options)


def test_a_library_missing_inside_the_users_module_is_not_blamed_on_the_name():
    with pytest.raises(ModuleNotFoundError, match="a_library_nobody_has"):
        build("users_broken_for_test:Net", 5)
