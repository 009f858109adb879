"""The space of the learning curves as a ConfigSpace, for the peers that want one."""

from typing import Any

from ConfigSpace import ConfigurationSpace, UniformFloatHyperparameter, UniformIntegerHyperparameter

from efficiency.landscape import Landscape


def configuration_space(landscape: Landscape, seed: int) -> Any:  # noqa: ANN401  # the library's types vary
    """Every parameter with its bounds, on a logarithmic scale where the data say so."""
    space = ConfigurationSpace(seed=seed)
    for parameter in landscape.space:
        if parameter.is_int:
            made = UniformIntegerHyperparameter(
                parameter.name, int(parameter.low), int(parameter.high), log=parameter.is_log
            )
        else:
            made = UniformFloatHyperparameter(
                parameter.name, parameter.low, parameter.high, log=parameter.is_log
            )
        (space.add if hasattr(space, "add") else space.add_hyperparameter)(made)
    return space
