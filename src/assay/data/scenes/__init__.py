"""Scenes: analytic ones that are ray-cast exactly, and the formats that hold cameras and reconstructions."""
