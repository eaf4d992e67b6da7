"""Networks, and the only place that imports flax. A family receives its networks as `Network`s."""

from jaxgen.nets.network import Network, network, unconditioned, with_encoder

__all__ = ["Network", "network", "unconditioned", "with_encoder"]
