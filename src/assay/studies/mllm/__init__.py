"""Studies of the area mllm."""
