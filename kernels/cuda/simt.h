// What every kernel source includes. Under nvcc: CUDA and our wrappers around PTX. Under an
// ordinary C++ compiler: the same names on the emulated device, so that kernels are tested without
// a GPU.
//
// Rules for kernel sources, which both compilers must take:
//   - launched through kernels/cuda/launch.h, never <<<>>>;
//   - shared memory only through shared_memory<T>() (device_memory.h), sized by the launch;
//   - PTX only in the wrappers of device_memory.h, number_formats.h and tensor_core.h, each with an
//     emulated branch beside it;
//   - a thread that waits for another one's store loops over load_acquire_system, an atomic or
//     __nanosleep: a loop over a plain or volatile load never lets the other one run;
//   - all threads of a block meet at the same __syncthreads: not some at one line of the source and
//     others at another one.
#pragma once

#if defined(__CUDACC__)
#include <cuda_runtime.h>
#else
#include "kernels/cuda/emulator/builtins.h"
#endif

#include "kernels/cuda/device_memory.h"
#include "kernels/cuda/number_formats.h"
#include "kernels/cuda/tensor_core.h"

/// Before a loop of a constant trip count whose registers are indexed by its counter: the device
/// compiler must unroll it, or they become local memory.
#if defined(__CUDACC__)
#define PHALANX_UNROLL _Pragma("unroll")
/// Before a loop whose copies would cost registers.
#define PHALANX_NO_UNROLL _Pragma("unroll 1")
#else
#define PHALANX_UNROLL
#define PHALANX_NO_UNROLL
#endif
