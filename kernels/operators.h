// The operator contract every backend fulfils: what the graph executor calls to compute a step.
// One implementation per backend (kernels/cpu, kernels/cuda); kernels/reference is the plain
// oracle.
//
// Shape symbols used below, one meaning each:
//   R rows (tokens of the step), N outputs, K inputs, D head_dim, G group_size, L lanes of a rank.
//
// Exactness (law 1): for every operator the bits of an output row are a function of that row's
// inputs alone. They do not depend on R, on the row's place, on the number of threads, or on which
// tile a tuner chose. Each contract states its order of operations; "fma chain over k" means
//   s = 0; for k ascending: s = fma(a[k], b[k], s)
// and "lane sum" means the fixed 16-lane reduction of lane_sum16 below.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "runtime/base/dtype.h"

namespace phalanx::kernels {

/// Where operators run, for whoever plans before there are any.
enum class Backend : uint8_t { kCpu, kCuda };

// ---------------------------------------------------------------------------------- weights ----

/// How a matrix is stored and multiplied.
///   kF32   f32 codes, f32 activations.
///   kBf16  bf16 codes, activations rounded to bf16, f32 accumulation.
///   kW8    u8 codes, w = (code - zero) * scale; zero is 128 unless given; s8 activations.
///   kW4    4-bit codes, two a byte, even k in the low nibble; zero is 8 unless given; s8
///   activations.
///   kFp8   e4m3 codes (OCP e4m3fn; never NaN), w = code * scale; e4m3 activations.
enum class WeightFormat : uint8_t { kF32, kBf16, kW8, kW4, kFp8 };

const char* weight_format_name(WeightFormat format);  ///< "f32", "bf16", "w8", "w4", "fp8"

/// Whether weights have scales, and activations scales by groups of K.
constexpr bool is_quantized(WeightFormat format) {
  return format == WeightFormat::kW8 || format == WeightFormat::kW4 || format == WeightFormat::kFp8;
}

/// Whether codes are integers that count from a zero.
constexpr bool is_integer(WeightFormat format) {
  return format == WeightFormat::kW8 || format == WeightFormat::kW4;
}

/// Bytes of the codes of one row in the natural layout; num_cols is even for w4.
constexpr int64_t weight_row_bytes(WeightFormat format, int64_t num_cols) {
  switch (format) {
    case WeightFormat::kF32:
      return num_cols * 4;
    case WeightFormat::kBf16:
      return num_cols * 2;
    case WeightFormat::kW8:
    case WeightFormat::kFp8:
      return num_cols;
    case WeightFormat::kW4:
      return num_cols / 2;
  }
  return 0;
}

/// Some rows and columns of a stored matrix in its natural layout: row n holds K codes in a row.
/// Views memory (usually a mapped engine file); read only during pack_matrix.
struct MatrixSource {
  WeightFormat format = WeightFormat::kF32;
  int64_t num_rows = 0;               ///< N of this slice
  int64_t num_cols = 0;               ///< K of this slice
  const std::byte* codes = nullptr;   ///< code of the slice's first row and column
  int64_t row_stride_bytes = 0;       ///< from one row's first code to the next's
  const std::byte* scales = nullptr;  ///< kW8, kW4: [N, K/G] of scale_dtype; kFp8: see scale_rows
  DType scale_dtype = DType::kF32;    ///< f32, f16 or bf16; f32 for kFp8
  int64_t scale_row_stride = 0;       ///< elements from one row of scales to the next
  const uint8_t* zeros = nullptr;  ///< kW8, kW4: [N, K/G] u8, same stride as scales; null: 128 / 8
  int64_t group_size = 0;          ///< G; divides num_cols
  /// kFp8: a scale covers scale_rows x scale_cols codes of the whole matrix that this is a slice
  /// of: all of it (per tensor), 1 x all columns (per row), 128 x 128 (blocks; the last ones may be
  /// ragged). `scales` is the whole matrix's first; (first_row, first_col) is the slice's place in
  /// it, which may be anywhere in a block of rows. No group straddles blocks: G divides scale_cols,
  /// or one block holds all columns, and first_col begins a group.
  int64_t scale_rows = 0;
  int64_t scale_cols = 0;
  int64_t first_row = 0;
  int64_t first_col = 0;
};

/// Place in `scales`, in elements, of the scale of row n and group g of the slice; quantized
/// formats.
constexpr int64_t scale_index(const MatrixSource& source, int64_t n, int64_t group) {
  if (source.format != WeightFormat::kFp8) return n * source.scale_row_stride + group;
  return (source.first_row + n) / source.scale_rows * source.scale_row_stride +
         (source.first_col + group * source.group_size) / source.scale_cols;
}

enum class ActivationForm : uint8_t;

/// The form of the rows that gated_linear makes.
struct GatedForm {
  ActivationForm form;
  int64_t group_size = 0;
};

/// What this rank multiplies by: sources stacked along N (fused q, k, v; fused gate, up). All
/// sources have the same format, num_cols and group_size; each has scales laid out its own way.
struct MatrixSpec {
  std::vector<MatrixSource> sources;
  int64_t num_lanes = 1;  ///< L: equal parts of K on this rank; a power of two; G divides K/L
  const float* bias =
      nullptr;  ///< [N] or null; copied. Added last: y + bias (column-parallel only)
  std::optional<GatedForm> gated{};  ///< set: for gated_linear
};

/// A matrix packed for one backend. Owns its memory. Immutable, so any thread may multiply by it.
class PackedMatrix {
 public:
  virtual ~PackedMatrix() = default;
  WeightFormat format() const { return format_; }
  int64_t num_rows() const { return num_rows_; }      ///< N
  int64_t num_cols() const { return num_cols_; }      ///< K
  int64_t num_lanes() const { return num_lanes_; }    ///< L
  int64_t group_size() const { return group_size_; }  ///< G; 0 for kF32 and kBf16
  int64_t bytes() const { return bytes_; }            ///< resident bytes

 protected:
  WeightFormat format_ = WeightFormat::kF32;
  int64_t num_rows_ = 0, num_cols_ = 0, num_lanes_ = 1, group_size_ = 0, bytes_ = 0;
};

/// Bytes the CPU's pack_matrix will allocate for [num_rows, num_cols], for the memory ledger;
/// exact. num_lanes matters only where a lane of bf16 has odd length (it is padded to pairs).
int64_t packed_matrix_bytes(WeightFormat format, int64_t num_rows, int64_t num_cols,
                            int64_t group_size, bool has_bias, bool has_zeros = false,
                            int64_t num_lanes = 1);

// ------------------------------------------------------------------------------ activations ----

/// What a linear reads. kF32 and kBf16 rows are plain; kS8 rows are quantized per row and group:
///   scale[r, g] = max|x[r, k in g]| / 127, or 0, and so are the codes, when that is below FLT_MIN,
///   code[r, k]  = clamp(round_half_even(x[r, k] * (1 / scale)), -127, 127),  1/scale rounded once,
///   sum[r, g]   = sum of codes in the group.
/// A NaN anywhere in a group makes its scale NaN (so it shows in the product) and its own code 127.
/// kE4m3 rows likewise, without sums:
///   scale[r, g] = max|x[r, k in g]| / 448, or 0, and so are the codes, when that is below FLT_MIN,
///   code[r, k]  = e4m3(clamp(x[r, k] * (1 / scale), -448, 448)), to nearest, ties to even; what
///                 rounds to zero keeps its sign.
/// A NaN makes its group's scale NaN and its own code 448 (0x7e): no code is NaN.
enum class ActivationForm : uint8_t { kF32, kBf16, kS8, kE4m3 };

/// Whether rows have scales by groups.
constexpr bool is_quantized(ActivationForm form) {
  return form == ActivationForm::kS8 || form == ActivationForm::kE4m3;
}

ActivationForm activation_form(WeightFormat format);
int64_t activation_code_bytes(ActivationForm form);  ///< of one code

/// Rows in the form a linear reads. Views memory owned by the caller (the executor's arena).
struct ActivationView {
  ActivationForm form = ActivationForm::kF32;
  int64_t num_cols = 0;        ///< K
  int64_t group_size = 0;      ///< G for kS8 and kE4m3
  std::byte* codes = nullptr;  ///< [R, K] f32 | bf16 | s8 | e4m3, row-contiguous
  float* scales = nullptr;     ///< [R, K/G], kS8 and kE4m3 only
  int32_t* sums = nullptr;     ///< [R, K/G], kS8 only
};

/// Bytes of an ActivationView's backing for `num_rows` rows, each part 64-byte aligned.
int64_t activation_bytes(ActivationForm form, int64_t num_rows, int64_t num_cols,
                         int64_t group_size);

/// Lays an ActivationView of that shape over `memory` (64-byte aligned, activation_bytes long).
ActivationView make_activation_view(ActivationForm form, int64_t num_rows, int64_t num_cols,
                                    int64_t group_size, std::byte* memory);

/// Whether gated_linear of the CPU takes a matrix of N = num_outputs and makes rows of that form
/// and group size of it: halves are whole panels of 64 outputs, and groups whole panels or parts of
/// one.
bool fuses_gated_linear(int64_t num_outputs, ActivationForm form, int64_t group_size);

// ------------------------------------------------------------------------------- KV blocks ----

/// Tokens in a KV block, everywhere. A query walks its context in partitions of
/// kAttentionPartitionBlocks blocks and merges them in ascending order.
inline constexpr int64_t kBlockTokens = 32;
inline constexpr int64_t kAttentionPartitionBlocks = 4;

/// kInt8: symmetric per (token, KV head), scale f32 in the block; codes as for ActivationForm::kS8.
enum class KvFormat : uint8_t { kF32, kBf16, kInt8 };

const char* kv_format_name(KvFormat format);  ///< "f32", "bf16", "int8"

/// Bytes of one block of one KV head in one layer: K, V and scales; a multiple of 64.
int64_t kv_block_bytes(KvFormat format, int64_t head_dim);

/// One layer's KV pool on one rank: [num_blocks][num_kv_heads][kv_block_bytes]. The inside of a
/// block is the backend's affair. What it holds before it is written to is never read into a
/// result.
struct KvLayerView {
  KvFormat format = KvFormat::kF32;
  std::byte* data = nullptr;
  int64_t num_blocks = 0;
  int64_t num_kv_heads = 0;
  int64_t head_dim = 0;
};

/// The rows of one sequence in this step: rows [first_row, first_row + num_rows) are its tokens at
/// positions first_position, first_position + 1, ...
struct SequenceRows {
  int64_t first_row = 0;
  int64_t num_rows = 0;
  int64_t first_position = 0;
  const int32_t* block_table = nullptr;  ///< block id of tokens [32 i, 32 i + 32); covers all rows
};

/// Attention of one layer over paged KV. Query head h reads KV head
///   kv_head_of_query[h] (indices local to the rank).
struct AttentionParams {
  int64_t num_query_heads = 0;
  const int32_t* kv_head_of_query = nullptr;  ///< [num_query_heads], ascending
  float scale = 1.0F;                         ///< multiplies q.k
  int64_t sliding_window = 0;                 ///< 0: none; else a query sees its last W tokens
};

// -------------------------------------------------------------------------------- operators ----

/// A strided matrix of f32 rows: row r starts at data + r * stride.
struct Rows {
  float* data = nullptr;
  int64_t stride = 0;
};
struct ConstRows {
  ConstRows() = default;
  ConstRows(const float* d, int64_t s) : data(d), stride(s) {}
  // NOLINTNEXTLINE(google-explicit-constructor): as a pointer becomes one to const
  ConstRows(Rows rows) : data(rows.data), stride(rows.stride) {}
  const float* data = nullptr;
  int64_t stride = 0;
};

/// Rows that are the sums of equally shaped parts, one of each rank of a group, added as the binary
/// tree that goes on with the lanes' (see linear): ((p0 + p1) + (p2 + p3)) + ...; row r of part i
/// starts at parts[i] + r * stride.
struct PartRows {
  std::span<const float* const> parts;  ///< a power of two, at most kMaxParts
  int64_t stride = 0;
};
inline constexpr size_t kMaxParts = 64;

/// cos/sin per position: [max_positions, rotary_dim/2] each.
struct RopeTable {
  const float* cosines = nullptr;
  const float* sines = nullptr;
  int64_t rotary_dim = 0;
  int64_t max_positions = 0;
};

/// A row from whose logits a TokenSampler draws: of the sequence in `slot`, for its `position`.
struct DrawRow {
  uint32_t slot = 0;  ///< kNoSlot: none
  int64_t position = 0;
};
inline constexpr uint32_t kNoSlot = 0xffffffffU;

/// A step as rows: what operators take their spans from. On the host, unless staged.
struct StepRows {
  std::span<const int32_t> token_ids;       ///< [R]; read on the first stage only
  std::span<const int32_t> positions;       ///< [R]
  std::span<const SequenceRows> sequences;  ///< cover the R rows in order
  std::span<const int32_t> sampled_rows;    ///< rows whose logits are wanted, ascending
  /// For a TokenSampler, else empty: [R] whose slot drew the row's token, or kNoSlot where
  /// token_ids has it; and, for each sampled row, how to draw from it.
  std::span<const uint32_t> token_slots{};
  std::span<const DrawRow> draws{};
};

/// Gathers a short text of every rank of a group, in the order of ranks. Collective; may throw, on
/// all ranks or none.
using PeerExchange = std::function<std::vector<std::string>(const std::string&)>;

class TokenSampler;
class PeerReducer;
struct PeerReducerBounds;

struct TokenSamplerBounds {
  int64_t vocab_size = 0;
  int64_t num_slots = 0;
};

/// The largest step that will come, and what attention it asks for.
struct StepBounds {
  int64_t max_rows = 0;
  int64_t max_sequences = 0;
  int64_t max_positions = 0;
  int64_t num_query_heads = 0;
  int64_t num_kv_heads = 0;
  int64_t head_dim = 0;
  KvFormat kv_format = KvFormat::kF32;
  const int32_t* kv_head_of_query = nullptr;  ///< as in AttentionParams; read by reserve() only
};

/// Operators with their arguments, kept by Operators::record.
class RecordedOperators {
 public:
  virtual ~RecordedOperators() = default;
};

/// A backend. Called by one thread of its rank (the executor); it spreads work over its own team.
/// No operator blocks on anything but its own team, nor allocates, but for lists that grow with the
/// largest step seen. Errors: InternalError on a shape
/// or alignment that breaks the contract (checked before any work).
class Operators {
 public:
  virtual ~Operators() = default;

  /// "cpu avx512 x 2 threads", for the banner and logs.
  virtual std::string description() const = 0;

  /// Operators called from now on may be put off, to run together or in a queue: until finish() the
  /// caller touches nothing that they read or write, spans included. Before begin() and after
  /// finish() an operator is done when it returns.
  virtual void begin() {}
  virtual void finish() {}

  virtual Backend backend() const { return Backend::kCpu; }
  /// Whether allocate() gives memory of a device, which the caller reads and writes only through
  /// operators, upload() and download(). What operators take by pointer, spans included, lies
  /// there; what pack_matrix takes and the tables of AttentionParams lie on the host.
  bool has_own_memory() const { return backend() != Backend::kCpu; }
  /// Host memory that upload and download move fastest from and to; zeroed.
  virtual std::shared_ptr<std::byte> allocate_host(int64_t bytes) { return allocate(bytes); }
  /// After the operators before, and done when they return.
  virtual void upload(std::byte* to, std::span<const std::byte> from);
  virtual void download(std::span<std::byte> to, const std::byte* from);

  /// Before the first step: makes room for what operators need besides their arguments.
  virtual void reserve(const StepBounds& /*bounds*/) {}
  /// The step's rows, block tables included, where operators read them, until the next call; always
  /// at the same addresses when the numbers of rows are the same. With steps in flight
  /// (token_sampler.h) the operators of the step before the last have finished.
  virtual StepRows stage(const StepRows& rows) { return rows; }

  /// Keeps what `calls` calls (no stage, upload, download or finish) instead of running it. Null:
  /// this backend keeps nothing, and has run nothing.
  virtual std::unique_ptr<RecordedOperators> record(const std::function<void()>& /*calls*/) {
    return nullptr;
  }
  /// Runs it again, on what its arguments point to now.
  virtual void replay(const RecordedOperators& /*recorded*/) {}

  /// A sampler on the device; null: this backend has none. After reserve().
  virtual std::unique_ptr<TokenSampler> make_token_sampler(const TokenSamplerBounds& bounds);

  /// Sums over ranks on the device. Collective over them. Null, on all of them, and why, where they
  /// cannot meet there.
  virtual std::unique_ptr<PeerReducer> make_peer_reducer(const PeerReducerBounds& bounds,
                                                         const PeerExchange& exchange,
                                                         std::string* why_none);

  /// Packs a matrix for `linear`. May use the whole team. Thread: executor.
  virtual std::unique_ptr<PackedMatrix> pack_matrix(const MatrixSpec& spec) = 0;

  /// Zeroed memory of this backend, 64-byte aligned (2 MiB pages when it pays), resident when this
  /// returns; freed with the returned owner. Used for the arena, the KV pool and the tables.
  /// Thread: executor.
  virtual std::shared_ptr<std::byte> allocate(int64_t bytes) = 0;

  /// y[r, :] = table[token_ids[r], :], converted to f32. table is a natural-layout MatrixSource
  /// [vocab, K] of any format: kW8/kW4 rows are dequantized, (code - zero) * scale, and kFp8 rows,
  /// code * scale.
  virtual void embedding(const MatrixSource& table, std::span<const int32_t> token_ids, Rows y) = 0;

  /// y = x * (1 / sqrt(mean(x^2) + eps)) * weight, f32. mean by lane sum over k of x[k]^2 (fma).
  /// Order: inv = 1 / sqrt(sum / K + eps); y[k] = (x[k] * inv) * weight[k]. y may alias x.
  /// Source: arXiv 1910.07467.
  virtual void rms_norm(ConstRows x, const float* weight, float eps, int64_t num_rows,
                        int64_t num_cols, Rows y) = 0;

  /// residual += delta (+ delta_bias when not null: residual + (delta + bias)), then
  /// y = rms_norm(residual). Same bits as add_rows followed by rms_norm.
  virtual void add_rms_norm(Rows residual, ConstRows delta, const float* delta_bias,
                            const float* weight, float eps, int64_t num_rows, int64_t num_cols,
                            Rows y) = 0;

  /// residual[r, k] += delta[r, k] + delta_bias[k] (bias may be null).
  virtual void add_rows(Rows residual, ConstRows delta, const float* delta_bias, int64_t num_rows,
                        int64_t num_cols) = 0;

  /// add_rms_norm and add_rows of the sums of parts: the same bits as when the sums were made
  /// first. y may be one of the parts.
  virtual void add_rms_norm_of_parts(Rows residual, const PartRows& delta, const float* delta_bias,
                                     const float* weight, float eps, int64_t num_rows,
                                     int64_t num_cols, Rows y) = 0;
  virtual void add_rows_of_parts(Rows residual, const PartRows& delta, const float* delta_bias,
                                 int64_t num_rows, int64_t num_cols) = 0;

  /// Fills `out` (whose form, num_cols, group_size and memory are set) from f32 rows.
  virtual void convert_rows(ConstRows x, int64_t num_rows, const ActivationView& out) = 0;
  /// The same of rows that nobody reads any more: they may be left unwritten.
  virtual void convert_last_read(ConstRows x, int64_t num_rows, const ActivationView& out) {
    convert_rows(x, num_rows, out);
  }

  /// y[r, n] = sum_k x[r, k] * W[n, k] (+ bias[n]), f32 out. x.form = activation_form(W.format).
  /// The reduction of K is cut in num_lanes equal lanes; each lane is reduced from 0 in order:
  ///   kF32   fma chain over k.
  ///   kBf16  chain over pairs: s = fma(x[k+1], w[k+1], s); s = fma(x[k], w[k], s), with
  ///          denormal inputs and results flushed to zero (tininess after rounding), as vdpbf16ps
  ///          does. Pairs start at the lane; a last element without a partner is paired with +0 *
  ///          +0.
  ///   kW8/4  chain over groups: s = fma(float(sum_k x*code - zero*sum_x), x_scale * w_scale, s).
  ///   kFp8   chain over groups: s = fma(dot, x_scale * w_scale, s), dot = sum_k x*code in f32, in
  ///          an order that is the backend's, but one for all its kernels. The CPU's and the
  ///          oracle's: kBf16's chain over pairs from the group's start. Products of two codes are
  ///          exact multiples of 2^-18, so nothing is denormal.
  /// and lanes are added as a binary tree: ((l0 + l1) + (l2 + l3)) + ...
  virtual void linear(const PackedMatrix& w, const ActivationView& x, int64_t num_rows, Rows y) = 0;

  /// out = convert_rows(silu_mul(gate, up)), gate and up being the first and the second half of the
  /// outputs of linear(w, x): the same bits, without their f32 rows in memory. out.num_cols = N/2.
  /// Takes what fuses_gated_linear() says.
  virtual void gated_linear(const PackedMatrix& w, const ActivationView& x, int64_t num_rows,
                            const ActivationView& out) = 0;

  /// Per head: x = rms_norm over D with `weight` [D] (Qwen3's q_norm/k_norm). In place.
  /// Rows of `x` hold num_heads heads of head_dim in a row.
  virtual void head_norm(Rows x, int64_t num_heads, int64_t head_dim, const float* weight,
                         float eps, int64_t num_rows) = 0;

  /// Rotates halves in place, per head h and i < rotary_dim/2, with p = positions[r]:
  ///   a = x[i], b = x[i + rotary_dim/2];  x[i] = a cos - b sin;  x[i + rotary_dim/2] = b cos + a
  ///   sin
  /// each as fma(a, cos, -(b * sin)) and fma(b, cos, a * sin). Source: HF "rotate_half" layout.
  virtual void rope(Rows x, int64_t num_heads, int64_t head_dim, const RopeTable& table,
                    std::span<const int32_t> positions) = 0;

  /// Stores rows of K and V (num_kv_heads * head_dim each) at their sequences' positions. Nobody
  /// reads k and v after: they may be left as they were before they were normed or rotated in
  /// place.
  virtual void write_kv(ConstRows k, ConstRows v, std::span<const SequenceRows> sequences,
                        const KvLayerView& kv) = 0;

  /// y[r, h, :] = softmax(scale * q[r, h] . K[0..p_r]) V over the row's sequence, causal, windowed.
  /// q, y: rows of num_query_heads * head_dim. Requires write_kv of these rows before.
  /// Per query: partitions of kBlockTokens * kAttentionPartitionBlocks tokens, aligned to the
  /// context's start, each reduced in a fixed order of its own; merged ascending by the online
  /// softmax. A partition's order may depend on the query's position only through which tokens it
  /// sees. Source: arXiv 1805.02867, 2309.06180.
  virtual void attention(ConstRows q, std::span<const SequenceRows> sequences,
                         const KvLayerView& kv, const AttentionParams& params, Rows y) = 0;

  /// y[r, i] = silu(gate[r, i]) * up[r, i], silu(v) = v / (1 + exp(-v)) by the backend's one exp.
  /// y may alias gate or up.
  virtual void silu_mul(ConstRows gate, ConstRows up, int64_t num_rows, int64_t intermediate,
                        Rows y) = 0;

  /// y[i, :] = x[rows[i], :].
  virtual void gather_rows(ConstRows x, std::span<const int32_t> rows, int64_t num_cols,
                           Rows y) = 0;

  /// Calls work(i) once for each i in [0, count), spread over the backend's host threads, and
  /// returns when all have returned. For the executor's own work on rows (sampling). `work` must
  /// not throw and must not call the backend.
  virtual void for_each_on_host(int64_t count, const std::function<void(int64_t)>& work) = 0;
};

/// The fixed reduction order of norms: lane i of 16 accumulates elements k = i (mod 16), ascending,
/// by fma(x, x, lane); then halves are added: 8, 4, 2, 1. A tail shorter than 16 is zero-filled.
float lane_sum16_of_squares(const float* x, int64_t num_cols);

}  // namespace phalanx::kernels
