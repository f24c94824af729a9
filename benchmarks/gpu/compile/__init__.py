"""The Triton kernels compiled ahead of time, and what each build takes of a device."""
