"""Methods of the area mllm."""
