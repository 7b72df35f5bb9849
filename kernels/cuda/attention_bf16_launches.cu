// Attention over bf16 keys and values with tiles: its kernels, one a head_dim and size of tile.
#include "kernels/cuda/attention_bf16_body.h"
#include "kernels/cuda/attention_tile_launches.h"

namespace phalanx::kernels::cuda {

void launch_bf16_tiles(int64_t head_dim, bool is_large, const AttentionArguments& arguments,
                       const dim3& grid, Stream stream) {
  launch_tiles<Bf16Body>(head_dim, is_large, arguments, grid, stream);
}

}  // namespace phalanx::kernels::cuda
