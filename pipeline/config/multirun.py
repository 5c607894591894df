"""Composes all combinations of a Hydra multirun before any of them starts, so that they can be one submission."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from trimode.core.errors import ConfigError
from trimode.core.project import CONF_DIR
from trimode.pipeline.config.compose import register, to_config
from trimode.pipeline.config.hydra_errors import describe_error
from trimode.pipeline.config.schema import Config


def compose_all(overrides: Sequence[str]) -> list[Config]:
    """Returns the config of every combination of the overrides, in the order of Hydra's own sweeper.

    Combinations that choose the same groups are composed once; their values are set in copies, as Hydra sets them.
    Raises ConfigError with Hydra's message.
    """
    register()
    try:
        with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
            return _compose_all(overrides)
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise ConfigError(describe_error(error)) from error


def _compose_all(overrides: Sequence[str]) -> list[Config]:
    parser = OverridesParser.create()
    [combinations] = BasicSweeper.split_arguments(parser.parse_overrides(list(overrides)), None)
    nodes: dict[tuple[str, ...], DictConfig] = {}
    configs = []
    for combination in combinations:
        parsed = parser.parse_overrides(combination)
        values = [item for item in parsed if _is_value(item)]
        groups = tuple(str(item.input_line) for item in parsed if not _is_value(item))
        if groups not in nodes:
            nodes[groups] = hydra_compose("config", overrides=list(groups))
        node = copy.deepcopy(nodes[groups])
        ConfigLoaderImpl._apply_overrides_to_config(values, node)
        configs.append(to_config(node))
    return configs


def _is_value(override: Override) -> bool:
    """True if an override sets a value: it neither chooses a group, nor adds or deletes a key, nor is Hydra's own."""
    loader = GlobalHydra.instance().config_loader()
    assert isinstance(loader, ConfigLoaderImpl)
    key = override.key_or_group
    plain = override.type is OverrideType.CHANGE and override.package is None and not key.startswith("hydra")
    return plain and not loader.repository.group_exists(key)
