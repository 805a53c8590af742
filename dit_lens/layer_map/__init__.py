"""The layer map: which layers and steps of a model do what, from tasks with known answers."""

from dit_lens.layer_map.layer_map import Map, map

__all__ = ["Map", "map"]
