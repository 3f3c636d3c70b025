"""Cameras, rotations, meshes, point clouds, splats."""
