"""Configs that say something of single blocks, once some of these are gone."""

from types import SimpleNamespace

from steppe.llm.structured.block_config import shorten


def shortened(before, gone, **said):
    config = SimpleNamespace(num_hidden_layers=before, **said)
    shorten(config, before, set(gone))
    return vars(config)


def test_lists_with_an_entry_for_each_block_lose_theirs_and_no_other_list_does():
    said = shortened(
        3, [1], layer_types=["a", "b", "c"], eos_token_id=[7, 8, 9], no_rope_layers=(1, 2, 3)
    )
    assert said["layer_types"] == ["a", "c"]
    assert said["no_rope_layers"] == (1, 3)
    assert said["eos_token_id"] == [7, 8, 9]
    assert said["num_hidden_layers"] == 2


def test_numbers_of_blocks_are_those_of_the_shorter_list():
    said = shortened(6, [0, 3], mlp_only_layers=[0, 1, 5], moe_layers=[0, 1, 2, 3, 4, 5])
    assert said["mlp_only_layers"] == [0, 3]
    assert said["moe_layers"] == [0, 1, 2, 3]


def test_counts_from_the_front_are_of_what_is_left_of_it():
    said = shortened(6, [1, 4], first_k_dense_replace=3, max_window_layers=28, num_dense_layers=1)
    assert (said["first_k_dense_replace"], said["max_window_layers"]) == (2, 4)
    assert said["num_dense_layers"] == 1


def test_a_last_one_moves():
    said = shortened(6, [0, 5], moe_layer_start_index=1, moe_layer_end_index=4)
    assert (said["moe_layer_start_index"], said["moe_layer_end_index"]) == (0, 3)


def test_every_second_becomes_a_list_of_the_others():
    # mixtures are 1, 3 and 5, of which 3 is dense by name
    said = shortened(6, [1], decoder_sparse_step=2, mlp_only_layers=[3])
    assert said["decoder_sparse_step"] == 1
    dense = [new for new, old in enumerate([0, 2, 3, 4, 5]) if old != 5]
    assert said["mlp_only_layers"] == dense


def test_runs_are_written_out():
    said = shortened(
        4,
        [2],
        attention_types=[[["global", "local"], 2]],
        attention_layers=["global", "local", "global", "local"],
    )
    assert said["attention_types"] == [[["global"], 1], [["local"], 1], [["local"], 1]]


def test_a_pattern_that_is_overruled_goes():
    assert "sliding_window_pattern" not in shortened(
        2, [0], layer_types=["a", "b"], sliding_window_pattern=2
    )
    assert shortened(2, [0], sliding_window_pattern=2)["sliding_window_pattern"] == 2
