// The kernels of these tests through nvcc, with their launches: that it takes the same sources as
// the C++ compiler. Not run.
#include "kernels/cuda/launch.h"
#include "kernels/cuda/simt.h"
#include "tests/kernels/cuda/builtin_kernels.h"
#include "tests/kernels/cuda/fault_kernels.h"
#include "tests/kernels/cuda/memory_kernels.h"
#include "tests/kernels/cuda/peer_kernels.h"

namespace phalanx::kernels::cuda::test {

void launch_builtin_kernels(uint32_t* words, int* integers, uint64_t* wide, float* floats,
                            double* doubles) {
  const LaunchShape shape{1, 32, 4096};
  launch(record_identity<uint32_t>, {dim3(1, 2, 3), dim3(4, 5, 6)}, nullptr, words);
  launch(reverse_block<true>, shape, nullptr, floats);
  launch(reverse_block<false>, shape, nullptr, floats);
  launch(vote_in_block<int>, shape, nullptr, integers, 1, 1, integers);
  launch(shuffle_warps<int>, shape, nullptr, integers, 1, 32, integers);
  launch(shuffle_warps<float>, shape, nullptr, floats, 1, 32, floats);
  launch(shuffle_warps<uint64_t>, shape, nullptr, wide, 1, 32, wide);
  launch(shuffle_warps<double>, shape, nullptr, doubles, 1, 32, doubles);
  launch(diverge<uint32_t>, shape, nullptr, words, words);
  launch(vote_in_warps<uint32_t>, shape, nullptr, words, 1U, words);
  launch(rotate_warps<uint32_t>, shape, nullptr, words);
  launch(use_atomics<uint32_t>, shape, nullptr, words, integers,
         static_cast<unsigned long long*>(nullptr), floats);
  launch(compute_words<uint32_t>, shape, nullptr, words, words, words, words);
  launch(compute_floats<float>, shape, nullptr, floats, floats, floats, floats);
  launch(convert_formats<uint32_t>, shape, nullptr, words, 1U, static_cast<uint16_t*>(nullptr),
         static_cast<uint8_t*>(nullptr), floats, floats, words);
  launch(widen_codes<uint32_t>, shape, nullptr, words, 1U, words);
}

void launch_memory_kernels(uint4* vectors, uint16_t* halves, int8_t* bytes, uint32_t* words,
                           int* integers, float* floats) {
  const LaunchShape shape{1, 32, 64 * 1024};
  launch(copy_pipelined<true, true>, shape, nullptr, vectors, 1, vectors);
  launch(copy_or_zero<uint4>, shape, nullptr, vectors, 1U, vectors);
  launch(copy_streaming<uint4>, shape, nullptr, vectors, vectors);
  launch(load_fragments<uint16_t>, shape, nullptr, halves, words);
  launch(multiply_halves<uint16_t, false>, shape, nullptr, halves, halves, floats);
  launch(multiply_halves<uint16_t, true>, shape, nullptr, halves, halves, floats);
  launch(multiply_s8<int>, shape, nullptr, bytes, bytes, integers);
  launch_coresident(all_reduce<true>, shape, nullptr, floats, words, floats, 1U, 1U);
}

void launch_fault_kernels(unsigned char* bytes, uint32_t* words) {
  const LaunchShape shape{1, 32};
  launch(barrier_against_shuffle<uint32_t>, shape, nullptr, 1U, words);
  launch(barrier_in_branches<uint32_t>, shape, nullptr, 1U);
  launch(different_barriers<uint32_t>, shape, nullptr, 1U, words);
  launch(exit_before_shuffle<uint32_t>, shape, nullptr, 1U, words);
  launch(wrong_mask<uint32_t>, shape, nullptr, 1U, words);
  launch(mixed_functions<uint32_t>, shape, nullptr, words);
  launch(wrong_shuffle_width<uint32_t>, shape, nullptr, 3, words);
  launch(write_shared<uint32_t>, shape, nullptr, 1);
  launch(copy_async_at<uint4>, shape, nullptr, bytes, 1, 1);
  launch(load_fragments_at<uint32_t>, shape, nullptr, 1, words);
  launch(multiply_in_part_of_warp<uint32_t>, shape, nullptr, 1U, words);
  launch(stream_at<uint4>, shape, nullptr, bytes, 1, 1);
  launch(wait_for_ever<uint32_t>, shape, nullptr, words);
  launch_coresident(wait_for_all_blocks<uint32_t>, shape, nullptr, words);
  launch(trap_in<uint32_t>, shape, nullptr, 1U, 1U);
}

void launch_peer_kernels(float* floats) {
  launch(write_part<float>, {dim3(2), dim3(32)}, nullptr, floats, 1U, 1U, 1U);
}

}  // namespace phalanx::kernels::cuda::test
