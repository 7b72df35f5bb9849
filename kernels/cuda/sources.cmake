# Sources of the CUDA operators: through nvcc in phalanx_cuda (but plain host code), and through the
# C++ compiler, on the emulated device, in phalanx_cuda_emulated.
set(PHALANX_CUDA_SOURCES
  ${CMAKE_CURRENT_LIST_DIR}/attention_bf16_launches.cu
  ${CMAKE_CURRENT_LIST_DIR}/attention_int8_launches.cu
  ${CMAKE_CURRENT_LIST_DIR}/attention_launches.cu
  ${CMAKE_CURRENT_LIST_DIR}/cuda_limits.cu
  ${CMAKE_CURRENT_LIST_DIR}/cuda_operators.cu
  ${CMAKE_CURRENT_LIST_DIR}/cuda_peer_reducer.cu
  ${CMAKE_CURRENT_LIST_DIR}/cuda_token_sampler.cu
  ${CMAKE_CURRENT_LIST_DIR}/device_sampler.cu
  ${CMAKE_CURRENT_LIST_DIR}/kv_write_launches.cu
  ${CMAKE_CURRENT_LIST_DIR}/linear_launches.cu
  ${CMAKE_CURRENT_LIST_DIR}/linear_plan.cpp
  ${CMAKE_CURRENT_LIST_DIR}/peer_group.cu
  ${CMAKE_CURRENT_LIST_DIR}/peer_memory.cpp
  ${CMAKE_CURRENT_LIST_DIR}/row_launches.cu
  ${CMAKE_CURRENT_LIST_DIR}/step_inputs.cu
)
