"""The Triton kernels compiled ahead of time, and the resources of each build."""
