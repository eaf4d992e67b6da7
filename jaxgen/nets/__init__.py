"""Networks, and the only place that imports flax. A family receives its networks as `Network`s."""

from jaxgen.nets.levels import over_levels
from jaxgen.nets.network import Network, network, unconditioned, with_encoder

__all__ = ["Network", "network", "over_levels", "unconditioned", "with_encoder"]
