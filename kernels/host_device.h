// Marks functions that the host and kernels share: one source, the same IEEE operations, the same
// bits. Included by headers that both sides use.
#pragma once

#if defined(__CUDACC__)
#define PHALANX_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define PHALANX_HOST_DEVICE inline
#endif
