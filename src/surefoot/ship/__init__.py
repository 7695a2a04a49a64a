"""Floor 8: policies that leave Surefoot, as ONNX, C and NumPy."""

from surefoot.ship.export import Exported, export

__all__ = ["Exported", "export"]
