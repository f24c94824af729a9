// The library icm_fast_cuda for the emulated device: the kernels' own source.
#include "cuda/tree_attention.cu"
