"""What runs on a GPU, or is compiled for one."""
