from sortednet.jobs.training_arguments import of_stage, that_matter


def test_a_stage_has_its_share_of_the_epochs() -> None:
    assert of_stage({"num_train_epochs": 4}, 2, 0.25, None) == {"num_train_epochs": 1.0, "seed": 1}


def test_epochs_that_are_left_out_are_those_of_transformers() -> None:
    assert of_stage({}, 1, 0.5, None)["num_train_epochs"] == 1.5


def test_a_stage_has_its_own_updates() -> None:
    assert of_stage({"max_steps": 10}, 1, 0.3, 3) == {"max_steps": 3, "seed": 0}


def test_every_stage_has_an_order_of_its_own() -> None:
    seeds = [of_stage({"seed": 5, "data_seed": 7}, number, 0.5, None) for number in (1, 2)]
    assert [(one["seed"], one["data_seed"]) for one in seeds] == [(5, 7), (6, 8)]


def test_what_is_saved_and_logged_does_not_matter() -> None:
    assert that_matter({"save_steps": 5, "logging_steps": 2, "learning_rate": 0.1}) == {"learning_rate": 0.1}
