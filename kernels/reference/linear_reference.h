// The scalar oracle of matrix products: written from the contract in operators.h, natural layout.
// Called by reference_operators and by the tests of the tiers.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "kernels/operators.h"

namespace phalanx::kernels::reference {

/// Copies the sources as they are, one thread. Errors: InternalError as cpu::pack_matrix.
std::unique_ptr<PackedMatrix> pack_matrix(const MatrixSpec& spec);

/// `w` must come from reference::pack_matrix.
void linear(const PackedMatrix& w, const ActivationView& x, int64_t num_rows, Rows y);

void convert_rows(ConstRows x, int64_t num_rows, const ActivationView& out);

void embedding(const MatrixSource& table, std::span<const int32_t> token_ids, Rows y);

}  // namespace phalanx::kernels::reference
