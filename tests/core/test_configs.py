"""Configurations: frozen records that check themselves and survive JSON."""

import dataclasses
import json
import math

import pytest

from metabridge.configs import (
    ALGORITHMS,
    AlgorithmConfig,
    ANILConfig,
    EpisodeConfig,
    FOMAMLConfig,
    LRD2Config,
    MAMLConfig,
    MatchingConfig,
    MetaOptNetConfig,
    ModelConfig,
    OptimiserConfig,
    PrototypicalConfig,
    R2D2Config,
    RelationConfig,
    RunConfig,
)

INSTANCES = [
    EpisodeConfig(),
    EpisodeConfig(ways=None, shots=10, test_shots=10),
    ModelConfig(),
    ModelConfig("mlp", (784,), 5, (256,)),
    ModelConfig("conv4", (28, 28, 1), 20, (64, 64, 64, 64)),
    ModelConfig("resnet12", (84, 84, 3), 5, (64, 160, 320, 640)),
    MAMLConfig(),
    MAMLConfig(inner_steps=5, inner_lr=0.4, first_order=True),
    OptimiserConfig(),
    OptimiserConfig("adam", 1, (0.0, 0.5), 1e-3),
    OptimiserConfig("sgd", 0.1, momentum=0.9),
    ANILConfig(inner_steps=2),
    FOMAMLConfig(),
    PrototypicalConfig(),
    MatchingConfig(full_context=True),
    RelationConfig(),
    R2D2Config(reg_lambda=2.0),
    LRD2Config(newton_steps=1),
    MetaOptNetConfig(penalty=1.0),
    RunConfig(),
    RunConfig(
        "omniglot", "small1", EpisodeConfig(20, 1, 1), ModelConfig("conv4", (28, 28, 1), 20, (4, 4, 4, 4)), seed=-3
    ),
]


@pytest.fixture(params=INSTANCES, ids=lambda config: type(config).__name__)
def config(request):
    return request.param


def test_json_round_trip_gives_an_equal_record(config):
    back = type(config).from_dict(json.loads(json.dumps(config.to_dict())))
    assert back == config
    assert hash(back) == hash(config)
    assert back.to_dict() == config.to_dict()


def test_fields_left_out_take_their_defaults():
    assert RunConfig.from_dict({}) == RunConfig()
    assert RunConfig.from_dict({"episode": {"ways": None, "shots": 3}}).episode == EpisodeConfig(None, shots=3)


def test_a_network_has_one_output_per_class():
    with pytest.raises(ValueError, match=r"`model.outputs` must be the number of ways, which is 5, got 1"):
        RunConfig(episode=EpisodeConfig(5))


def test_records_are_frozen(config):
    name = next((field.name for field in dataclasses.fields(config)), "another")
    with pytest.raises(dataclasses.FrozenInstanceError, match="cannot assign to field"):
        setattr(config, name, None)


def test_replacing_a_field_checks_again():
    with pytest.raises(ValueError, match="`steps` must be a positive integer, got 0"):
        dataclasses.replace(RunConfig(), steps=0)


CONV4 = {"name": "conv4", "input_shape": (28, 28, 1), "hidden": (8, 8, 8, 8)}
RESNET12 = {**CONV4, "name": "resnet12"}
REFUSED = [
    (EpisodeConfig, {"ways": 1}, "`ways` must be an integer of at least 2, or None, got 1"),
    (EpisodeConfig, {"ways": 2.0}, "`ways` must be an integer of at least 2, or None, got 2.0"),
    (EpisodeConfig, {"ways": True}, "`ways` must be an integer of at least 2, or None, got True"),
    (EpisodeConfig, {"shots": 0}, "`shots` must be a positive integer, got 0"),
    (EpisodeConfig, {"shots": "1"}, "`shots` must be a positive integer, got '1'"),
    (EpisodeConfig, {"test_shots": -1}, "`test_shots` must be a positive integer, got -1"),
    (ModelConfig, {"name": "resnet"}, "`name` must be one of 'mlp', 'conv4', 'resnet12', got 'resnet'"),
    (
        ModelConfig,
        {"input_shape": (28, 28, 1)},
        r"`input_shape` must be 1 positive integers for mlp, got \(28, 28, 1\)",
    ),
    (ModelConfig, {"input_shape": (0,)}, r"`input_shape` must be 1 positive integers for mlp, got \(0,\)"),
    (ModelConfig, {"outputs": 0}, "`outputs` must be a positive integer, or None, got 0"),
    (ModelConfig, {"hidden": ()}, r"`hidden` must be one or more positive integers, got \(\)"),
    (ModelConfig, {"hidden": (40, 0)}, r"`hidden` must be one or more positive integers, got \(40, 0\)"),
    (ModelConfig, {**CONV4, "input_shape": (28,)}, r"`input_shape` must be 3 positive integers for conv4, got \(28,\)"),
    (ModelConfig, {**CONV4, "input_shape": (28, 28, 1.0)}, "`input_shape` must be 3 positive integers for conv4"),
    (ModelConfig, {**CONV4, "hidden": (8, 8)}, r"`hidden` must be 4 integers for conv4, got \(8, 8\)"),
    (ModelConfig, {**CONV4, "input_shape": (28, 15, 1)}, r"`input_shape` must be at least 16×16 .*, got \(28, 15, 1\)"),
    (ModelConfig, {**RESNET12, "hidden": (8, 8, 8)}, r"`hidden` must be 4 integers for resnet12, got \(8, 8, 8\)"),
    (ModelConfig, {**RESNET12, "input_shape": (84, 84)}, "`input_shape` must be 3 positive integers for resnet12"),
    (ModelConfig, {**RESNET12, "input_shape": (15, 28, 3)}, "at least 16×16 pixels for the 4 poolings of resnet12"),
    (MAMLConfig, {"inner_steps": 0}, "`inner_steps` must be a positive integer, got 0"),
    (MAMLConfig, {"inner_lr": 0.0}, "`inner_lr` must be a positive finite number, got 0.0"),
    (MAMLConfig, {"inner_lr": math.inf}, "`inner_lr` must be a positive finite number, got inf"),
    (MAMLConfig, {"inner_lr": math.nan}, "`inner_lr` must be a positive finite number, got nan"),
    (MAMLConfig, {"inner_lr": True}, "`inner_lr` must be a positive finite number, got True"),
    (MAMLConfig, {"first_order": 1}, "`first_order` must be true or false, got 1"),
    (OptimiserConfig, {"learning_rate": -1e-3}, "`learning_rate` must be a positive finite number, got -0.001"),
    (OptimiserConfig, {"betas": (0.9,)}, r"`betas` must be two numbers in \[0, 1\), got \(0.9,\)"),
    (OptimiserConfig, {"betas": (0.9, 1.0)}, r"`betas` must be two numbers in \[0, 1\), got \(0.9, 1.0\)"),
    (OptimiserConfig, {"betas": (0.9, math.nan)}, r"`betas` must be two numbers in \[0, 1\)"),
    (OptimiserConfig, {"eps": 0}, "`eps` must be a positive finite number, got 0"),
    (OptimiserConfig, {"name": "lamb"}, "`name` must be one of 'adam', 'sgd', got 'lamb'"),
    (OptimiserConfig, {"momentum": 1.0}, r"`momentum` must be in \[0, 1\), got 1.0"),
    (OptimiserConfig, {"momentum": 0.9}, "`momentum` must be left out for adam, which has none, got 0.9"),
    (OptimiserConfig, {"name": "sgd", "eps": 1e-3}, "`eps` must be left out for sgd, which has none, got 0.001"),
    (
        OptimiserConfig,
        {"name": "sgd", "betas": (0.5, 0.5)},
        r"`betas` must be left out for sgd, which has none, got \(0.5, 0.5\)",
    ),
    (FOMAMLConfig, {"first_order": False}, "`first_order` must be true for fomaml, got False"),
    (FOMAMLConfig, {"inner_steps": 0}, "`inner_steps` must be a positive integer, got 0"),
    (FOMAMLConfig, {"inner_lr": 0}, "`inner_lr` must be a positive finite number, got 0"),
    (ANILConfig, {"inner_steps": 0}, "`inner_steps` must be a positive integer, got 0"),
    (ANILConfig, {"inner_lr": 0}, "`inner_lr` must be a positive finite number, got 0"),
    (ANILConfig, {"first_order": 1}, "`first_order` must be true or false, got 1"),
    (MatchingConfig, {"full_context": 1}, "`full_context` must be true or false, got 1"),
    (MatchingConfig, {"processing_steps": 0}, "`processing_steps` must be a positive integer, got 0"),
    (RelationConfig, {"hidden": 0}, "`hidden` must be a positive integer, got 0"),
    (R2D2Config, {"reg_lambda": 0.0}, "`reg_lambda` must be a positive finite number, got 0.0"),
    (R2D2Config, {"scale": -1.0}, "`scale` must be a positive finite number, got -1.0"),
    (LRD2Config, {"reg_lambda": math.inf}, "`reg_lambda` must be a positive finite number, got inf"),
    (LRD2Config, {"scale": 0}, "`scale` must be a positive finite number, got 0"),
    (LRD2Config, {"newton_steps": 0}, "`newton_steps` must be a positive integer, got 0"),
    (MetaOptNetConfig, {"penalty": 0.0}, "`penalty` must be a positive finite number, got 0.0"),
    (MetaOptNetConfig, {"iterations": 1.5}, "`iterations` must be a positive integer, got 1.5"),
    (MetaOptNetConfig, {"scale": True}, "`scale` must be a positive finite number, got True"),
    (RunConfig, {"meta_batch_size": 0}, "`meta_batch_size` must be a positive integer, got 0"),
    (RunConfig, {"steps": 1.5}, "`steps` must be a positive integer, got 1.5"),
    (RunConfig, {"test_episodes": 0}, "`test_episodes` must be a positive integer, got 0"),
    (RunConfig, {"seed": 0.0}, "`seed` must be an integer, got 0.0"),
    (RunConfig, {"seed": False}, "`seed` must be an integer, got False"),
]


@pytest.mark.parametrize(("kind", "values", "message"), REFUSED)
def test_values_out_of_range_are_refused(kind, values, message):
    with pytest.raises(ValueError, match=message):
        kind(**values)
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
    with pytest.raises(ValueError, match=message):
        kind.from_dict(plain)


def test_every_check_has_a_case():
    """Each checked field of each record occurs in the table above."""
    tested = {(kind, name) for kind, values, message in REFUSED for name in values if f"`{name}`" in message}
    unchecked = {(RunConfig, name) for name in ("dataset", "variant", "episode", "model", "algorithm", "optimiser")}
    every = {(type(config), each.name) for config in INSTANCES for each in dataclasses.fields(config)}
    assert every - unchecked == tested


def test_an_algorithm_is_restored_by_its_name():
    for record in ALGORITHMS.values():
        assert type(AlgorithmConfig.from_dict(record().to_dict())) is record
    with pytest.raises(ValueError, match=r"`algorithm` must be one of 'maml', .*, got 'reptil'"):
        AlgorithmConfig.from_dict({"name": "reptil"})
    with pytest.raises(ValueError, match=r"`algorithm` must have the field `name`, got {'inner_lr': 0.1}"):
        AlgorithmConfig.from_dict({"inner_lr": 0.1})


def test_an_algorithm_fits_the_episodes_and_the_network():
    classes, embedding = EpisodeConfig(5), ModelConfig(outputs=None)
    assert RunConfig(episode=classes, model=embedding, algorithm=PrototypicalConfig()).algorithm.embeds
    with pytest.raises(ValueError, match=r"`algorithm` must be one that solves regressions, .* got 'protonet'"):
        RunConfig(algorithm=PrototypicalConfig())
    with pytest.raises(ValueError, match=r"`model.outputs` must be None for protonet, got 5"):
        RunConfig(episode=classes, model=ModelConfig(outputs=5), algorithm=PrototypicalConfig())
    with pytest.raises(ValueError, match=r"`model.outputs` must be the number of ways, which is 5, got None"):
        RunConfig(episode=classes, model=embedding)


def test_an_unknown_field_is_refused_naming_the_known_ones():
    with pytest.raises(ValueError, match="EpisodeConfig has no field 'way'; it has ways, shots, test_shots"):
        EpisodeConfig.from_dict({"way": 5})
    with pytest.raises(ValueError, match="ModelConfig has no field 'width'"):
        RunConfig.from_dict({"model": {"width": 5}})
