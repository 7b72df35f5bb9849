// The oracle's KV blocks and attention. Called by reference_operators.
#include "kernels/reference/attention_reference.h"

#include <algorithm>
#include <bit>
#include <cfloat>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "kernels/bf16_fma.h"
#include "kernels/reference/row_reference.h"
#include "runtime/base/dtype.h"

namespace phalanx::kernels::reference {
namespace {

constexpr int64_t kPartitionTokens = kBlockTokens * kAttentionPartitionBlocks;

/// One stored row: what it multiplies by is code * scale, but for int8 the two stay apart.
struct StoredRow {
  std::vector<float> codes;
  float scale = 1.0F;
};

int64_t element_bytes(KvFormat format) {
  return format == KvFormat::kF32 ? 4 : format == KvFormat::kBf16 ? 2 : 1;
}

/// Address of a token's keys (part 0) or values (part 1), and of its scale.
struct Place {
  std::byte* row = nullptr;
  std::byte* scale = nullptr;
};

Place place(const KvLayerView& kv, const SequenceRows& s, int64_t kv_head, int64_t position,
            int part) {
  const int64_t id = s.block_table[position / kBlockTokens];
  const int64_t t = position % kBlockTokens;
  const int64_t row_bytes = kv.head_dim * element_bytes(kv.format);
  std::byte* block =
      kv.data + (id * kv.num_kv_heads + kv_head) * kv_block_bytes(kv.format, kv.head_dim);
  return {block + (part * kBlockTokens + t) * row_bytes,
          block + 2 * kBlockTokens * row_bytes + (part * kBlockTokens + t) * 4};
}

/// The codes of ActivationForm::kS8, with one group.
void store_int8(const float* x, int64_t head_dim, Place to) {
  float largest = 0.0F;
  bool has_nan = false;
  for (int64_t d = 0; d < head_dim; ++d) {
    has_nan = has_nan || std::isnan(x[d]);
    largest = std::max(largest, std::fabs(x[d]));
  }
  float scale = largest / 127.0F;
  if (scale < FLT_MIN) scale = 0.0F;
  if (has_nan) scale = std::numeric_limits<float>::quiet_NaN();
  const float inverse = scale == 0.0F ? 0.0F : 1.0F / scale;
  for (int64_t d = 0; d < head_dim; ++d) {
    const float scaled = x[d] * inverse;
    float rounded = 127.0F;
    if (scaled < 127.0F) rounded = std::max(-127.0F, std::nearbyint(scaled));
    to.row[d] = static_cast<std::byte>(static_cast<int8_t>(rounded));
  }
  std::memcpy(to.scale, &scale, sizeof(scale));
}

void store(const float* x, const KvLayerView& kv, Place to) {
  for (int64_t d = 0; d < kv.head_dim; ++d) {
    switch (kv.format) {
      case KvFormat::kF32:
        std::memcpy(to.row + d * 4, x + d, 4);
        break;
      case KvFormat::kBf16: {
        const uint16_t bits = f32_to_bf16(x[d]);
        std::memcpy(to.row + d * 2, &bits, 2);
        break;
      }
      case KvFormat::kInt8:
        return store_int8(x, kv.head_dim, to);
    }
  }
}

StoredRow load(const KvLayerView& kv, Place from) {
  StoredRow row;
  row.codes.resize(static_cast<size_t>(kv.head_dim));
  if (kv.format == KvFormat::kInt8) std::memcpy(&row.scale, from.scale, 4);
  for (int64_t d = 0; d < kv.head_dim; ++d) {
    float& code = row.codes[static_cast<size_t>(d)];
    switch (kv.format) {
      case KvFormat::kF32:
        std::memcpy(&code, from.row + d * 4, 4);
        break;
      case KvFormat::kBf16: {
        uint16_t bits;
        std::memcpy(&bits, from.row + d * 2, 2);
        code = bf16_to_f32(bits);
        break;
      }
      case KvFormat::kInt8:
        code = static_cast<float>(std::to_integer<int8_t>(from.row[d]));
        break;
    }
  }
  return row;
}

/// Partial or merged result: a maximum, the sum of weights relative to it, the weighted values.
struct Weighted {
  float maximum = 0.0F;
  float sum = 0.0F;
  std::vector<float> values;
};

float round_to_bf16(float x) { return bf16_to_f32(f32_to_bf16(x)); }

/// One step of a chain over pairs; null: the pair has no such element.
float add_pair(const float* x, const float* y, bool has_first, bool has_second, float sum) {
  sum = has_second ? fma_flush_denormals(x[1], y[1], sum) : fma_flush_denormals(0, 0, sum);
  return has_first ? fma_flush_denormals(x[0], y[0], sum) : fma_flush_denormals(0, 0, sum);
}

float score_of(const std::vector<float>& q, const StoredRow& key, KvFormat format) {
  float score = 0.0F;
  if (format == KvFormat::kBf16) {
    for (size_t d = 0; d < q.size(); d += 2)
      score = add_pair(&q[d], &key.codes[d], true, true, score);
    return score;
  }
  for (size_t d = 0; d < q.size(); ++d) score = std::fma(q[d], key.codes[d], score);
  return score;
}

/// Values as integers of at most `levels`, times a scale.
struct Integers {
  std::vector<int64_t> of;
  float scale = 0.0F;
};

Integers integers_of(const std::vector<float>& x, float levels) {
  Integers out{std::vector<int64_t>(x.size(), 0), 0.0F};
  float largest = 0.0F;
  for (const float value : x) {
    if (std::isnan(value)) largest = std::numeric_limits<float>::quiet_NaN();
    if (!std::isnan(largest)) largest = std::max(largest, std::fabs(value));
  }
  if (largest < 0x1p-100F) return out;
  out.scale = largest * (1.0F / levels);
  const float inverse = levels / largest;
  for (size_t i = 0; i < x.size(); ++i) {  // an infinite or NaN scale decides the result
    if (std::isfinite(largest)) out.of[i] = std::llrint(x[i] * inverse);
  }
  return out;
}

float score_of(const Integers& q, const StoredRow& key) {
  int64_t sum = 0;
  for (size_t d = 0; d < q.of.size(); ++d) sum += q.of[d] * std::lrint(key.codes[d]);
  return static_cast<float>(sum) * key.scale * q.scale;
}

/// values[d] = the chain over tokens from `first` on of their weights * values.
void gather(const std::vector<float>& weights, const std::vector<StoredRow>& rows, KvFormat format,
            int64_t first, std::vector<float>& values) {
  const auto end = first + static_cast<int64_t>(rows.size());
  for (size_t d = 0; d < values.size(); ++d) {
    if (format == KvFormat::kBf16) {
      for (int64_t t = first / 2 * 2; t < end; t += 2) {
        float w[2] = {};
        float v[2] = {};
        const bool visible[2] = {t >= first, t + 1 < end};
        for (int64_t i = 0; i < 2; ++i) {
          if (!visible[i]) continue;
          w[i] = weights[static_cast<size_t>(t + i - first)];
          v[i] = rows[static_cast<size_t>(t + i - first)].codes[d];
        }
        values[d] = add_pair(w, v, visible[0], visible[1], values[d]);
      }
      continue;
    }
    for (size_t t = 0; t < rows.size(); ++t)
      values[d] = std::fma(weights[t], rows[t].codes[d], values[d]);
  }
}

void gather_int8(const std::vector<float>& weights, const std::vector<StoredRow>& rows,
                 std::vector<float>& values) {
  std::vector<float> scaled(rows.size(), 0.0F);
  for (size_t t = 0; t < rows.size(); ++t) {
    if (!(weights[t] <= 0.0F)) scaled[t] = weights[t] * rows[t].scale;
  }
  const Integers w = integers_of(scaled, 16383.0F);
  for (size_t d = 0; d < values.size(); ++d) {
    int64_t sum = 0;
    for (size_t t = 0; t < rows.size(); ++t) sum += w.of[t] * std::lrint(rows[t].codes[d]);
    values[d] = static_cast<float>(sum) * w.scale;
  }
}

/// One query over tokens [first, end) of one partition.
Weighted attend_partition(const std::vector<float>& q, const KvLayerView& kv, const SequenceRows& s,
                          int64_t kv_head, int64_t first, int64_t end) {
  const bool is_int8 = kv.format == KvFormat::kInt8;
  const Integers q_integers = is_int8 ? integers_of(q, 8191.0F) : Integers();
  std::vector<StoredRow> value_rows;
  std::vector<float> scores;
  Weighted out;
  out.maximum = -std::numeric_limits<float>::infinity();
  for (int64_t t = first; t < end; ++t) {
    const StoredRow key = load(kv, place(kv, s, kv_head, t, 0));
    value_rows.push_back(load(kv, place(kv, s, kv_head, t, 1)));
    scores.push_back(is_int8 ? score_of(q_integers, key) : score_of(q, key, kv.format));
    out.maximum = std::max(out.maximum, scores.back());
  }
  float lanes[16] = {};
  std::vector<float> weights;
  for (int64_t t = first; t < end; ++t) {
    float weight = exp(scores[static_cast<size_t>(t - first)] - out.maximum);
    if (kv.format == KvFormat::kBf16) weight = round_to_bf16(weight);
    lanes[t % 16] += weight;
    weights.push_back(weight);
  }
  for (int half = 8; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  }
  out.sum = lanes[0];
  out.values.assign(q.size(), 0.0F);
  if (is_int8) {
    gather_int8(weights, value_rows, out.values);
  } else {
    gather(weights, value_rows, kv.format, first, out.values);
  }
  return out;
}

void merge(Weighted& total, const Weighted& part) {
  const float maximum = std::max(total.maximum, part.maximum);
  const float x = exp(total.maximum - maximum);
  const float y = exp(part.maximum - maximum);
  total.maximum = maximum;
  total.sum = std::fma(total.sum, x, part.sum * y);
  for (size_t d = 0; d < total.values.size(); ++d) {
    total.values[d] = std::fma(total.values[d], x, part.values[d] * y);
  }
}

}  // namespace

void write_kv(ConstRows k, ConstRows v, std::span<const SequenceRows> sequences,
              const KvLayerView& kv) {
  for (const SequenceRows& s : sequences) {
    for (int64_t r = 0; r < s.num_rows; ++r) {
      for (int64_t head = 0; head < kv.num_kv_heads; ++head) {
        const int64_t row = s.first_row + r;
        const int64_t position = s.first_position + r;
        store(k.data + row * k.stride + head * kv.head_dim, kv, place(kv, s, head, position, 0));
        store(v.data + row * v.stride + head * kv.head_dim, kv, place(kv, s, head, position, 1));
      }
    }
  }
}

void attention(ConstRows q, std::span<const SequenceRows> sequences, const KvLayerView& kv,
               const AttentionParams& params, Rows y) {
  const auto head_dim = static_cast<size_t>(kv.head_dim);
  for (const SequenceRows& s : sequences) {
    for (int64_t r = 0; r < s.num_rows; ++r) {
      const int64_t position = s.first_position + r;
      const int64_t oldest = params.sliding_window > 0
                                 ? std::max<int64_t>(0, position - params.sliding_window + 1)
                                 : 0;
      for (int64_t head = 0; head < params.num_query_heads; ++head) {
        const float* query = q.data + (s.first_row + r) * q.stride + head * kv.head_dim;
        std::vector<float> scaled(query, query + head_dim);
        for (float& x : scaled) {
          x *= params.scale;
          if (kv.format == KvFormat::kBf16) x = round_to_bf16(x);
        }
        const int64_t kv_head = params.kv_head_of_query[head];
        Weighted total;
        for (int64_t base = oldest / kPartitionTokens * kPartitionTokens; base <= position;
             base += kPartitionTokens) {
          const Weighted part = attend_partition(scaled, kv, s, kv_head, std::max(base, oldest),
                                                 std::min(base + kPartitionTokens, position + 1));
          if (total.values.empty()) {
            total = part;
          } else {
            merge(total, part);
          }
        }
        float* out = y.data + (s.first_row + r) * y.stride + head * kv.head_dim;
        const float inverse = 1.0F / total.sum;
        for (size_t d = 0; d < head_dim; ++d) out[d] = total.values[d] * inverse;
      }
    }
  }
}

}  // namespace phalanx::kernels::reference
