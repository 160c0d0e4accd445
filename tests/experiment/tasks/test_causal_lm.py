"""What stands in the place of a recipe: a language model by its folder or hub id."""

from steppe.experiment.tasks import TASKS, task_of


def test_a_folder_or_a_hub_id_is_a_language_model(tmp_path):
    claims = TASKS["causal_lm"].claims
    assert claims(str(tmp_path))
    assert claims("org/model")
    (tmp_path / "recipe").touch()
    for other in (
        "digits",
        "safe/cifar10-resnet",
        "./no/such",
        "../model",
        "a/b/c",
        "a/recipe.yaml",
        str(tmp_path / "recipe"),
    ):
        assert not claims(other), other


def test_every_recipe_has_one_task():
    assert task_of({"method": "safe"}).name == "image"
    assert task_of({"base": "digits"}).name == "image"
    assert task_of({"task": "causal_lm"}).name == "causal_lm"
    for name in TASKS:
        assert [n for n in TASKS if TASKS[n].owns({"task": name})] == [name]
