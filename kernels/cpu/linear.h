// Matrix products of the CPU backend: packing, activation conversion, multiplication, embedding.
// Called by cpu_operators, which checks shapes first; contracts are those of operators.h.
#pragma once

#include <memory>
#include <span>

#include "kernels/cpu/linear_tuning.h"
#include "kernels/cpu/thread_team.h"
#include "kernels/cpu_backend.h"
#include "kernels/operators.h"

namespace phalanx::kernels::cpu {

std::unique_ptr<PackedMatrix> pack_matrix(const MatrixSpec& spec, ThreadTeam& team);

/// Scale number `index` of a quantized source, from its first on, in any of its dtypes.
float stored_scale(const MatrixSource& source, int64_t index);

/// `tuning` changes the time that a product takes, and no bit of it.
void linear(const PackedMatrix& w, const ActivationView& x, int64_t num_rows, Rows y, IsaTier tier,
            ThreadTeam& team, const LinearTuning& tuning = {});

using SiluMul = void (*)(const float* gate, const float* up, int64_t num_cols, float* y);
void gated_linear(const PackedMatrix& w, const ActivationView& x, int64_t num_rows,
                  const ActivationView& out, SiluMul silu_mul, IsaTier tier, ThreadTeam& team,
                  const LinearTuning& tuning = {});

/// Rows of a tier's largest tile.
int64_t most_tile_rows(IsaTier tier);

/// Rows [begin, end), on the calling thread.
void convert_rows(ConstRows x, int64_t begin, int64_t end, const ActivationView& out, IsaTier tier);

void embedding(const MatrixSource& table, std::span<const int32_t> token_ids, Rows y,
               ThreadTeam& team);

}  // namespace phalanx::kernels::cpu
