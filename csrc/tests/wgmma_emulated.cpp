// The part of it with warpgroup products.
#include "cuda/warpgroup_attention.cu"
