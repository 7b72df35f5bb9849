// Chooses kernels and launch shapes of matrix products and embeddings.
#include <algorithm>
#include <string>

#include "kernels/cuda/linear_large_kernels.h"
#include "kernels/cuda/linear_launches.h"
#include "kernels/cuda/linear_plain_kernels.h"
#include "kernels/cuda/linear_plan.h"
#include "kernels/cuda/linear_small_kernels.h"
#include "runtime/base/check.h"

namespace phalanx::kernels::cuda {
namespace {

uint32_t blocks_for(int64_t count, int64_t per_block) {
  return static_cast<uint32_t>((count + per_block - 1) / per_block);
}

LinearInput make_input(const DeviceMatrix& w, const ActivationView& x, int64_t num_rows) {
  LinearInput input{};
  input.codes = x.codes;
  input.scales = x.scales;
  input.sums = x.sums;
  input.row_bytes = x.num_cols * activation_code_bytes(x.form);
  input.num_rows = static_cast<int32_t>(num_rows);
  input.whole_units = w.shape.dense_steps && input.row_bytes % 16 == 0 &&
                      reinterpret_cast<uintptr_t>(x.codes) % 16 == 0;
  return input;
}

template <typename Format, bool kGated>
void launch_small(const LinearCall& call, const LinearDevice& device, Stream stream) {
  const SmallLaunch small =
      plan_small(call.w, call.x.num_rows, kGated, device.num_sms, device.shared_bytes_of_block);
  const LaunchShape shape{dim3(static_cast<uint32_t>(small.num_blocks)),
                          dim3(static_cast<uint32_t>(32 * small.num_warps)),
                          static_cast<size_t>(small.shared_bytes)};
  if (call.x.num_rows <= 8) {
    launch(linear_small<Format, 1, kGated>, shape, stream, call, small.plan);
  } else {
    launch(linear_small<Format, 2, kGated>, shape, stream, call, small.plan);
  }
}

template <typename Format, typename Tile, bool kGated>
void launch_large(const LinearCall& call, Stream stream) {
  const MatrixGeometry& shape = call.w.shape;
  const int64_t bytes = large_shared_bytes<Tile>(Format::kChunkSteps, shape.num_lanes);
  launch(linear_large<Format, Tile, kGated>,
         {dim3(blocks_for(call.x.num_rows, Tile::kTokens),
               blocks_for(shape.num_tiles, Tile::kBlockTiles)),
          dim3(Tile::kThreads), static_cast<size_t>(bytes)},
         stream, call);
}

/// The largest tile with a block for each SM.
template <typename Format>
LinearKernel chosen_kernel(const LinearCall& call, const LinearDevice& device) {
  if (device.kernel != LinearKernel::kAuto) return device.kernel;
  const MatrixGeometry& shape = call.w.shape;
  if (call.x.num_rows <= kSmallMostRows) return LinearKernel::kSmall;
  const auto blocks = [&](int64_t tokens, int64_t tiles) {
    return int64_t{blocks_for(call.x.num_rows, tokens)} * blocks_for(shape.num_tiles, tiles);
  };
  const auto fits = [&](int64_t bytes) { return bytes <= device.shared_bytes_of_block; };
  if (blocks(LargeWide::kTokens, LargeWide::kBlockTiles) >= device.num_sms &&
      fits(large_shared_bytes<LargeWide>(Format::kChunkSteps, shape.num_lanes))) {
    return LinearKernel::kLargeWide;
  }
  if (blocks(LargeTall::kTokens, LargeTall::kBlockTiles) >= device.num_sms &&
      fits(large_shared_bytes<LargeTall>(Format::kChunkSteps, shape.num_lanes))) {
    return LinearKernel::kLarge;
  }
  return LinearKernel::kLargeShort;
}

template <typename Format, bool kGated>
void launch_format(const LinearCall& call, const LinearDevice& device, Stream stream) {
  switch (chosen_kernel<Format>(call, device)) {
    case LinearKernel::kAuto:
      break;
    case LinearKernel::kSmall:
      launch_small<Format, kGated>(call, device, stream);
      break;
    case LinearKernel::kLargeWide:
      launch_large<Format, LargeWide, kGated>(call, stream);
      break;
    case LinearKernel::kLarge:
      launch_large<Format, LargeTall, kGated>(call, stream);
      break;
    case LinearKernel::kLargeShort:
      launch_large<Format, LargeShort, kGated>(call, stream);
      break;
  }
}

template <bool kGated>
void launch_f32(const LinearCall& call, Stream stream) {
  const int64_t num_cols = kGated ? call.w.shape.num_rows / 2 : call.w.shape.num_rows;
  launch(linear_f32<kGated>,
         {dim3(blocks_for(num_cols, kTileOutputs), blocks_for(call.x.num_rows, kF32Rows)),
          dim3(kF32Threads), sizeof(uint32_t)},
         stream, call);
}

template <bool kGated>
void launch_call(const LinearCall& call, const LinearDevice& device, Stream stream) {
  switch (call.w.format) {
    case WeightFormat::kF32:
      launch_f32<kGated>(call, stream);
      break;
    case WeightFormat::kBf16:
      launch_format<Bf16Format, kGated>(call, device, stream);
      break;
    case WeightFormat::kW8:
      launch_format<W8Format, kGated>(call, device, stream);
      break;
    case WeightFormat::kW4:
      launch_format<W4Format, kGated>(call, device, stream);
      break;
    case WeightFormat::kFp8:
      launch_format<Fp8Format, kGated>(call, device, stream);
      break;
  }
}

/// The fewest rows that blocks of a kernel share, which bounds the number of row blocks.
int64_t rows_of_block(WeightFormat format) {
  return format == WeightFormat::kF32 ? kF32Rows : LargeShort::kTokens;
}

}  // namespace

void launch_linear(const DeviceMatrix& w, const ActivationView& x, int64_t num_rows, Rows y,
                   const LinearDevice& device, Stream stream) {
  if (num_rows == 0 || w.shape.num_rows == 0) return;
  LinearCall call{};
  call.w = w;
  call.x = make_input(w, x, num_rows);
  call.y = y.data;
  call.y_stride = y.stride;
  launch_call<false>(call, device, stream);
}

GatedScratch gated_linear_scratch(WeightFormat format, int64_t num_outputs, ActivationForm form,
                                  int64_t group_size, int64_t num_rows) {
  if (!is_quantized(form)) return {};
  const int64_t num_cols = num_outputs / 2;
  GatedScratch scratch;
  scratch.products_bytes = num_rows * num_cols * static_cast<int64_t>(sizeof(float));
  scratch.arrivals_bytes = blocks_for(num_rows, rows_of_block(format)) * (num_cols / group_size) *
                           static_cast<int64_t>(sizeof(uint32_t));
  return scratch;
}

void launch_gated_linear(const DeviceMatrix& w, const ActivationView& x, int64_t num_rows,
                         const DeviceActivation& out, float* products, uint32_t* arrivals,
                         const LinearDevice& device, Stream stream) {
  if (num_rows == 0 || w.shape.num_rows == 0) return;
  PHALANX_CHECK(fuses_gated_linear_on_device(w.format, w.shape.num_rows),
                "a gated product of " + std::to_string(w.shape.num_rows) +
                    " outputs: halves must be multiples of 16");
  LinearCall call{};
  call.w = w;
  call.x = make_input(w, x, num_rows);
  call.gated = {out, products, arrivals};
  launch_call<true>(call, device, stream);
}

void launch_embedding(const DeviceMatrix& table, const int32_t* token_ids, int64_t num_rows, Rows y,
                      Stream stream) {
  if (num_rows == 0) return;
  launch(embedding_packed<PackedEmbedding>,
         {dim3(static_cast<uint32_t>(num_rows)), dim3(kEmbeddingThreads)}, stream,
         PackedEmbedding{table, token_ids, {y.data, y.stride}});
}

void launch_embedding(const MatrixSource& table, const int32_t* token_ids, int64_t num_rows, Rows y,
                      Stream stream) {
  if (num_rows == 0) return;
  const NaturalTable natural{
      table.format,           table.scale_dtype, table.num_cols,         table.codes,
      table.row_stride_bytes, table.scales,      table.scale_row_stride, table.zeros,
      table.group_size,       table.scale_rows,  table.scale_cols,       table.first_row,
      table.first_col};
  launch(embedding_natural<NaturalEmbedding>,
         {dim3(static_cast<uint32_t>(num_rows)), dim3(kEmbeddingThreads)}, stream,
         NaturalEmbedding{natural, token_ids, {y.data, y.stride}});
}

}  // namespace phalanx::kernels::cuda
