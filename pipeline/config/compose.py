"""Builds the typed config from Hydra's choices in conf/."""

from __future__ import annotations

from collections.abc import Sequence

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from trimode.core.errors import ConfigError
from trimode.core.project import CONF_DIR, PROJECT_DIR
from trimode.pipeline.config.schema import Config


def register() -> None:
    """Makes the schema and the `project:` resolver (a path inside this project) known to Hydra; may be called again."""
    ConfigStore.instance().store(name="schema", node=Config)
    OmegaConf.register_new_resolver("project", lambda path: str(PROJECT_DIR / str(path)), replace=True)


def compose(overrides: Sequence[str]) -> Config:
    """The config that Hydra overrides choose. Raises ConfigError with Hydra's own words."""
    register()
    try:
        with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
            return to_config(hydra_compose("config", overrides=list(overrides)))
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise ConfigError(config_words(error)) from error


def to_config(node: DictConfig) -> Config:
    """The typed object behind a composed node. Raises OmegaConf's errors for missing or mistyped values."""
    config = OmegaConf.to_object(node)
    assert isinstance(config, Config)
    return config


def config_words(error: BaseException) -> str:
    """What Hydra or OmegaConf said, with its cause, without trace."""
    words = [str(error).strip()]
    while (cause := error.__cause__) is not None and cause is not error:
        if str(cause).strip() not in words[-1]:
            words.append(str(cause).strip())
        error = cause
    return "\n".join(words)
