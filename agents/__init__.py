"""Who else can act: experts and behavior policies that gather data, and the agents that LeWM is compared with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lewm_agent.agents.registry import load_agent as load_agent
    from lewm_agent.agents.registry import make_agent as make_agent

__all__ = ["load_agent", "make_agent"]


def __getattr__(name: str) -> Any:
    """Import on first use: processes that only gather data come through here, and need no model."""
    if name in __all__:
        from lewm_agent.agents import registry

        return getattr(registry, name)
    raise AttributeError(f"module 'lewm_agent.agents' has no attribute {name!r}")
