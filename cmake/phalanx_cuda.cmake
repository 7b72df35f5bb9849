# Finds the CUDA toolkit as PHALANX_CUDA asks: sets PHALANX_CUDA_FOUND, enables the language CUDA and
# defines phalanx_cuda_flags. No GPU and no driver are needed to compile.
set(PHALANX_CUDA_FOUND FALSE)
if(PHALANX_CUDA STREQUAL "OFF")
  return()
endif()

include(CheckLanguage)
find_program(PHALANX_NVCC nvcc HINTS /usr/local/cuda/bin)  # where it is when PATH does not say so
if(PHALANX_NVCC AND NOT CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX})
  # Through the environment, so that check_language tries it: AUTO goes on without one that is broken.
  set(ENV{CUDACXX} ${PHALANX_NVCC})
endif()
if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES OFF)  # phalanx_cuda_flags names them, once the version is known
endif()
check_language(CUDA)
if(CMAKE_CUDA_COMPILER)
  enable_language(CUDA)
  # C++20 in device code came with 12.0.
  if(CMAKE_CUDA_COMPILER_VERSION VERSION_GREATER_EQUAL 12.0)
    set(PHALANX_CUDA_FOUND TRUE)
  endif()
endif()
if(NOT PHALANX_CUDA_FOUND)
  if(PHALANX_CUDA STREQUAL "ON")
    message(FATAL_ERROR "PHALANX_CUDA=ON, but no CUDA toolkit of version 12.0 or later was found "
                        "(nvcc: ${CMAKE_CUDA_COMPILER} ${CMAKE_CUDA_COMPILER_VERSION})")
  endif()
  message(STATUS "No CUDA toolkit: kernels run on the emulated device only")
  return()
endif()

if(NOT CMAKE_CUDA_COMPILER_LAUNCHER)
  set(CMAKE_CUDA_COMPILER_LAUNCHER ${CMAKE_CURRENT_LIST_DIR}/keep_messages.sh)
  if(PHALANX_CCACHE)
    list(APPEND CMAKE_CUDA_COMPILER_LAUNCHER ${PHALANX_CCACHE})
  endif()
endif()

# CMake 3.25 does not know that nvcc 12 takes it.
if(NOT DEFINED CMAKE_CUDA20_STANDARD_COMPILE_OPTION)
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
  set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION -std=c++20)
endif()
set(CMAKE_CUDA_STANDARD 20)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
set(CMAKE_CUDA_EXTENSIONS OFF)

# Ampere, Hopper with what only it has (wgmma, TMA), and Blackwell where nvcc knows it. Who wants one
# of them only (scripts/gpu_check pack) names it: -DPHALANX_CUDA_ARCHITECTURES=-gencode=...
if(NOT PHALANX_CUDA_ARCHITECTURES)
  set(PHALANX_CUDA_ARCHITECTURES -gencode=arch=compute_80,code=sm_80
                                 -gencode=arch=compute_90a,code=sm_90a)
  if(CMAKE_CUDA_COMPILER_VERSION VERSION_GREATER_EQUAL 12.8)
    list(APPEND PHALANX_CUDA_ARCHITECTURES -gencode=arch=compute_100,code=sm_100)
  endif()
endif()

# For targets of .cu files, besides phalanx_flags. Contraction is off for the same reason as there.
add_library(phalanx_cuda_flags INTERFACE)
set(PHALANX_NVCC_FLAGS ${PHALANX_CUDA_ARCHITECTURES} -fmad=false
  -Xcompiler=-Wall,-Wextra,-Wno-psabi,-ffp-contract=off -Werror=all-warnings)
target_compile_options(phalanx_cuda_flags INTERFACE "$<$<COMPILE_LANGUAGE:CUDA>:${PHALANX_NVCC_FLAGS}>")
