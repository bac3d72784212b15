"""Neural ODEs on graphs: diffusion (GRAND), and heavy balls that are coupled along edges (GraphCON)."""

from .attention import GraphAttention
from .graph import Graph
from .layers import GraphDiffusion, GraphHeavyBall

__all__ = ["Graph", "GraphAttention", "GraphDiffusion", "GraphHeavyBall"]
