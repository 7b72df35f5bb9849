// The oracle backend: every operator as scalar code on one thread. Made by
// make_reference_operators; called by tests, and by anyone who doubts the CPU backend.
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <new>

#include "kernels/cpu_backend.h"
#include "kernels/operator_checks.h"
#include "kernels/reference/attention_reference.h"
#include "kernels/reference/linear_reference.h"
#include "kernels/reference/row_reference.h"
#include "runtime/base/check.h"

namespace phalanx::kernels {
namespace reference {
namespace {

class ReferenceOperators final : public Operators {
 public:
  std::string description() const override { return "reference x 1 thread"; }

  std::unique_ptr<PackedMatrix> pack_matrix(const MatrixSpec& spec) override {
    return reference::pack_matrix(spec);
  }

  std::shared_ptr<std::byte> allocate(int64_t bytes) override {
    PHALANX_CHECK_GE(bytes, 0, "bytes to allocate");
    const auto size = (static_cast<size_t>(bytes) / 64 + 1) * 64;
    auto* memory = static_cast<std::byte*>(std::aligned_alloc(64, size));
    if (memory == nullptr) throw std::bad_alloc();
    std::memset(memory, 0, size);
    return {memory, [](std::byte* p) { std::free(p); }};
  }

  void embedding(const MatrixSource& table, std::span<const int32_t> token_ids, Rows y) override {
    check_embedding(table, token_ids, y);
    reference::embedding(table, token_ids, y);
  }

  void rms_norm(ConstRows x, const float* weight, float eps, int64_t num_rows, int64_t num_cols,
                Rows y) override {
    check_norm(weight, eps, num_cols);
    check_rows(x, num_rows, num_cols, "rms_norm reads rows");
    check_rows(y, num_rows, num_cols, "rms_norm writes rows");
    for (int64_t r = 0; r < num_rows; ++r) {
      reference::rms_norm(x.data + r * x.stride, weight, eps, num_cols, y.data + r * y.stride);
    }
  }

  void add_rms_norm(Rows residual, ConstRows delta, const float* delta_bias, const float* weight,
                    float eps, int64_t num_rows, int64_t num_cols, Rows y) override {
    add_rows(residual, delta, delta_bias, num_rows, num_cols);
    rms_norm(residual, weight, eps, num_rows, num_cols, y);
  }

  void add_rows(Rows residual, ConstRows delta, const float* delta_bias, int64_t num_rows,
                int64_t num_cols) override {
    check_rows(residual, num_rows, num_cols, "add_rows adds to rows");
    check_rows(delta, num_rows, num_cols, "add_rows reads rows");
    for (int64_t r = 0; r < num_rows; ++r) {
      for (int64_t k = 0; k < num_cols; ++k) {
        float d = delta.data[r * delta.stride + k];
        if (delta_bias != nullptr) d += delta_bias[k];
        residual.data[r * residual.stride + k] += d;
      }
    }
  }

  void add_rms_norm_of_parts(Rows residual, const PartRows& delta, const float* delta_bias,
                             const float* weight, float eps, int64_t num_rows, int64_t num_cols,
                             Rows y) override {
    add_rows_of_parts(residual, delta, delta_bias, num_rows, num_cols);
    rms_norm(residual, weight, eps, num_rows, num_cols, y);
  }

  void add_rows_of_parts(Rows residual, const PartRows& delta, const float* delta_bias,
                         int64_t num_rows, int64_t num_cols) override {
    check_rows(residual, num_rows, num_cols, "add_rows_of_parts adds to rows");
    check_parts(delta, num_rows, num_cols);
    std::vector<float> sums(delta.parts.size());
    for (int64_t r = 0; r < num_rows; ++r) {
      for (int64_t k = 0; k < num_cols; ++k) {
        for (size_t i = 0; i < sums.size(); ++i) sums[i] = delta.parts[i][r * delta.stride + k];
        for (size_t left = sums.size() / 2; left > 0; left /= 2) {
          for (size_t i = 0; i < left; ++i) sums[i] = sums[2 * i] + sums[2 * i + 1];
        }
        const float d = delta_bias != nullptr ? sums[0] + delta_bias[k] : sums[0];
        residual.data[r * residual.stride + k] += d;
      }
    }
  }

  void convert_rows(ConstRows x, int64_t num_rows, const ActivationView& out) override {
    check_activation_view(out, num_rows);
    check_rows(x, num_rows, out.num_cols, "convert_rows reads rows");
    reference::convert_rows(x, num_rows, out);
  }

  void linear(const PackedMatrix& w, const ActivationView& x, int64_t num_rows, Rows y) override {
    check_linear(w, x, num_rows, y);
    reference::linear(w, x, num_rows, y);
  }

  void gated_linear(const PackedMatrix& w, const ActivationView& x, int64_t num_rows,
                    const ActivationView& out) override {
    check_gated_linear(w, x, num_rows, out);
    const int64_t half = w.num_rows() / 2;
    std::vector<float> y(static_cast<size_t>(num_rows * w.num_rows()));
    const Rows gate{y.data(), w.num_rows()};
    linear(w, x, num_rows, gate);
    silu_mul(gate, ConstRows(y.data() + half, w.num_rows()), num_rows, half, gate);
    convert_rows(gate, num_rows, out);
  }

  void head_norm(Rows x, int64_t num_heads, int64_t head_dim, const float* weight, float eps,
                 int64_t num_rows) override {
    check_norm(weight, eps, head_dim);
    check_rows(x, num_rows, num_heads * head_dim, "head_norm changes rows");
    for (int64_t r = 0; r < num_rows; ++r) {
      for (int64_t h = 0; h < num_heads; ++h) {
        float* head = x.data + r * x.stride + h * head_dim;
        reference::rms_norm(head, weight, eps, head_dim, head);
      }
    }
  }

  void rope(Rows x, int64_t num_heads, int64_t head_dim, const RopeTable& table,
            std::span<const int32_t> positions) override {
    check_rope(x, num_heads, head_dim, table, positions);
    const int64_t half = table.rotary_dim / 2;
    for (size_t r = 0; r < positions.size(); ++r) {
      for (int64_t h = 0; h < num_heads; ++h) {
        float* head = x.data + static_cast<int64_t>(r) * x.stride + h * head_dim;
        for (int64_t i = 0; i < half; ++i) {
          const float cosine = table.cosines[positions[r] * half + i];
          const float sine = table.sines[positions[r] * half + i];
          const float a = head[i];
          const float b = head[i + half];
          head[i] = std::fma(a, cosine, -(b * sine));
          head[i + half] = std::fma(b, cosine, a * sine);
        }
      }
    }
  }

  void write_kv(ConstRows k, ConstRows v, std::span<const SequenceRows> sequences,
                const KvLayerView& kv) override {
    check_write_kv(k, v, sequences, kv);
    reference::write_kv(k, v, sequences, kv);
  }

  void attention(ConstRows q, std::span<const SequenceRows> sequences, const KvLayerView& kv,
                 const AttentionParams& params, Rows y) override {
    check_attention(q, sequences, kv, params, y);
    reference::attention(q, sequences, kv, params, y);
  }

  void silu_mul(ConstRows gate, ConstRows up, int64_t num_rows, int64_t intermediate,
                Rows y) override {
    check_rows(gate, num_rows, intermediate, "silu_mul reads rows of the gate");
    check_rows(up, num_rows, intermediate, "silu_mul reads rows to multiply");
    check_rows(y, num_rows, intermediate, "silu_mul writes rows");
    for (int64_t r = 0; r < num_rows; ++r) {
      for (int64_t i = 0; i < intermediate; ++i) {
        y.data[r * y.stride + i] =
            silu(gate.data[r * gate.stride + i]) * up.data[r * up.stride + i];
      }
    }
  }

  void gather_rows(ConstRows x, std::span<const int32_t> rows, int64_t num_cols, Rows y) override {
    check_gather(x, rows, num_cols, y);
    for (size_t i = 0; i < rows.size(); ++i) {
      for (int64_t k = 0; k < num_cols; ++k) {
        y.data[static_cast<int64_t>(i) * y.stride + k] = x.data[rows[i] * x.stride + k];
      }
    }
  }

  void for_each_on_host(int64_t count, const std::function<void(int64_t)>& work) override {
    for (int64_t i = 0; i < count; ++i) work(i);
  }
};

}  // namespace
}  // namespace reference

std::unique_ptr<Operators> make_reference_operators() {
  return std::make_unique<reference::ReferenceOperators>();
}

}  // namespace phalanx::kernels
