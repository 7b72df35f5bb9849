// The sum of softmax weights over a row, the one pass of sampling that touches every logit. Called
// by sampler.cpp.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/sampling_math.h"

namespace phalanx {

/// sum_i unit_weight((logits[i] - max) / temperature) in units of 2^-43; max is the row's largest.
/// NaN counts nothing. An integer, so no order of summation shows in it: a GPU finds the same.
uint64_t exp_weight_sum(std::span<const float> logits, float max, float temperature);

}  // namespace phalanx
