// Attention, row operators, sampling and sums over ranks of llm-bench cuda.
#include <algorithm>
#include <cmath>
#include <condition_variable>
#include <cstring>
#include <exception>
#include <mutex>
#include <thread>

#include "kernels/peer_reducer.h"
#include "kernels/token_sampler.h"
#include "launcher/bench/cuda_bench.h"
#include "runtime/base/ceil_div.h"
#include "runtime/base/check.h"

namespace phalanx::bench {
namespace {

using kernels::ActivationForm;
using kernels::KvFormat;
using kernels::Operators;
using kernels::WeightFormat;

/// Heads of Llama-3.1-8B.
struct Heads {
  int64_t num_query_heads = 32;
  int64_t num_kv_heads = 8;
  int64_t head_dim = 128;
  int64_t q_cols() const { return num_query_heads * head_dim; }
  std::vector<int32_t> kv_head_of_query() const {
    std::vector<int32_t> map;
    for (int64_t h = 0; h < num_query_heads; ++h)
      map.push_back(static_cast<int32_t>(h * num_kv_heads / num_query_heads));
    return map;
  }
};

Heads heads_of(const CudaBench& bench) { return bench.tiny ? Heads{4, 2, 32} : Heads{}; }

int64_t blocks_of(int64_t tokens) { return ceil_div(tokens, kernels::kBlockTokens); }

class AttentionRows {
 public:
  AttentionRows(CudaBench& bench, Operators& operators, KvFormat format, int64_t num_sequences,
                int64_t rows_each, int64_t context)
      : bench_(bench),
        operators_(operators),
        heads_(heads_of(bench)),
        map_(heads_.kv_head_of_query()),
        format_(format),
        num_sequences_(num_sequences),
        rows_each_(rows_each),
        context_(context),
        step_(num_sequences, rows_each, context - rows_each, blocks_of(context)),
        q_(operators, num_sequences * rows_each, heads_.q_cols()),
        y_(operators, num_sequences * rows_each, heads_.q_cols()),
        out_(operators, WeightFormat::kBf16, num_sequences * rows_each, heads_.q_cols(), 0) {
    kernels::StepBounds bounds;
    bounds.max_rows = num_sequences * rows_each;
    bounds.max_sequences = num_sequences;
    bounds.max_positions = context;
    bounds.num_query_heads = heads_.num_query_heads;
    bounds.num_kv_heads = heads_.num_kv_heads;
    bounds.head_dim = heads_.head_dim;
    bounds.kv_format = format;
    bounds.kv_head_of_query = map_.data();
    operators.reserve(bounds);
    const int64_t block = heads_.num_kv_heads * kernels::kv_block_bytes(format, heads_.head_dim);
    layer_bytes_ = num_sequences * blocks_of(context) * block;
    constexpr int64_t kKvBytes = int64_t{512} << 20;  // ten times the L2
    num_layers_ =
        bench.tiny ? 1 : std::max<int64_t>(1, (kKvBytes + layer_bytes_ - 1) / layer_bytes_);
    pool_ = random_memory(operators, num_layers_ * layer_bytes_);
  }

  void measure() {
    const kernels::StepRows staged = operators_.stage(step_.rows());
    const kernels::AttentionParams params{heads_.num_query_heads, map_.data(),
                                          1.0F / std::sqrt(static_cast<float>(heads_.head_dim)), 0};
    const auto enqueue = [&](int64_t layer) {
      kernels::KvLayerView view{format_, pool_.get() + layer % num_layers_ * layer_bytes_,
                                num_sequences_ * blocks_of(context_), heads_.num_kv_heads,
                                heads_.head_dim};
      operators_.attention(q_.rows(), staged.sequences, view, params, y_.rows());
      operators_.convert_last_read(y_.rows(), num_sequences_ * rows_each_, out_.view);
    };
    CudaCost cost;
    const int64_t block = heads_.num_kv_heads * kernels::kv_block_bytes(format_, heads_.head_dim);
    const int64_t num_rows = num_sequences_ * rows_each_;
    cost.bytes = static_cast<double>(num_sequences_ * context_) * static_cast<double>(block) /
                     static_cast<double>(kernels::kBlockTokens) +
                 static_cast<double>(num_rows * heads_.q_cols() * 6);
    // q.k and p.v: two multiply-adds a token seen and element of a head.
    const double first = static_cast<double>(context_ - rows_each_);
    const auto each = static_cast<double>(rows_each_);
    const double seen = static_cast<double>(num_sequences_) * each * (first + (each + 1) / 2);
    cost.ops = 4.0 * static_cast<double>(heads_.q_cols()) * seen;
    cost.peak_tflops =
        format_ == KvFormat::kInt8 ? bench_.ceilings.fp8_tflops : bench_.ceilings.bf16_tflops;
    const bool decodes = rows_each_ == 1;
    const auto seconds = decodes ? replay_seconds(bench_, operators_, num_layers_, enqueue)
                                 : stream_seconds(bench_, operators_, [&] { enqueue(0); });
    add_cost_row(bench_, decodes ? "attention_decode" : "attention_prefill",
                 {{"kv", kernels::kv_format_name(format_)},
                  {"batch", std::to_string(num_sequences_)},
                  {"context", std::to_string(context_)}},
                 seconds, cost,
                 {{"kv_bytes_walked", static_cast<double>(num_layers_ * layer_bytes_)}});
  }

 private:
  CudaBench& bench_;
  Operators& operators_;
  Heads heads_;
  std::vector<int32_t> map_;
  KvFormat format_;
  int64_t num_sequences_, rows_each_, context_;
  SequenceStep step_;
  DeviceFloats q_, y_;
  DeviceActivationRows out_;
  int64_t layer_bytes_ = 0;
  int64_t num_layers_ = 1;
  std::shared_ptr<std::byte> pool_;
};

/// An all-gather among the threads of measure_cuda_peers.
class ThreadExchange {
 public:
  explicit ThreadExchange(int size) : texts_(static_cast<size_t>(size)) {}

  std::vector<std::string> gather(int rank, const std::string& text) {
    std::unique_lock lock(mutex_);
    const int64_t round = round_;
    texts_[static_cast<size_t>(rank)] = text;
    if (++num_arrived_ == texts_.size()) {
      gathered_ = texts_;
      num_arrived_ = 0;
      ++round_;
      came_.notify_all();
    } else if (!came_.wait_for(lock, std::chrono::seconds(30), [&] { return round_ != round; })) {
      throw DeviceError("a rank did not come");
    }
    return gathered_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable came_;
  std::vector<std::string> texts_, gathered_;
  size_t num_arrived_ = 0;
  int64_t round_ = 0;
};

struct PeerResult {
  std::vector<double> seconds;
  std::vector<std::byte> rows;
};

/// One rank: a recorded step of sums, replayed together with the others.
PeerResult run_peer(const CudaBench& bench, int rank, int size, int64_t num_rows, int64_t num_cols,
                    int64_t calls, ThreadExchange& exchange) {
  const auto operators = bench.make_operators();
  kernels::StepBounds bounds;
  const auto heads = heads_of(bench);
  const auto map = heads.kv_head_of_query();
  bounds.max_rows = num_rows;
  bounds.max_sequences = 1;
  bounds.max_positions = num_rows;
  bounds.num_query_heads = heads.num_query_heads;
  bounds.num_kv_heads = heads.num_kv_heads;
  bounds.head_dim = heads.head_dim;
  bounds.kv_format = KvFormat::kBf16;
  bounds.kv_head_of_query = map.data();
  operators->reserve(bounds);
  kernels::PeerReducerBounds peers;
  peers.rank = rank;
  peers.size = size;
  peers.max_rows = num_rows;
  peers.num_cols = num_cols;
  peers.conversion_bytes = kernels::activation_bytes(ActivationForm::kBf16, num_rows, num_cols, 0);
  std::string why;
  const auto reducer = operators->make_peer_reducer(
      peers, [&](const std::string& text) { return exchange.gather(rank, text); }, &why);
  if (reducer == nullptr) throw DeviceError("the ranks cannot meet: " + why);
  const DeviceFloats residual(*operators, num_rows, num_cols);
  const DeviceFloats weight(*operators, 1, num_cols);
  // Different parts, the same on every run.
  std::vector<float> part(static_cast<size_t>(num_rows * num_cols));
  for (size_t i = 0; i < part.size(); ++i)
    part[i] = static_cast<float>((i * 7 + static_cast<size_t>(rank) * 13) % 31) * 0.01F;
  const auto recorded = operators->record([&] {
    operators->begin();
    for (int64_t i = 0; i < calls; ++i) {
      kernels::PeerAddNorm reduce;
      reduce.num_rows = num_rows;
      reduce.residual = residual.rows();
      reduce.weight = weight.data();
      reduce.eps = 1e-5F;
      reduce.form = ActivationForm::kBf16;
      reduce.shares_residual = true;
      reducer->add_rms_norm(reduce);
    }
    reducer->end_step();
  });
  operators->upload(reinterpret_cast<std::byte*>(reducer->part(num_rows).data),
                    std::as_bytes(std::span(part)));
  PeerResult result;
  for (int64_t i = -1; i < bench.repetitions; ++i) {
    exchange.gather(rank, "");
    const auto begin = std::chrono::steady_clock::now();
    operators->replay(*recorded);
    operators->finish();
    const std::chrono::duration<double> spent = std::chrono::steady_clock::now() - begin;
    if (i >= 0) result.seconds.push_back(spent.count() / static_cast<double>(calls));
  }
  reducer->require_no_failure();
  result.rows.resize(static_cast<size_t>(num_rows * num_cols * 4));
  operators->download(result.rows, residual.memory.get());
  exchange.gather(rank, "");  // nobody lets go of memory that another one reads
  return result;
}

void measure_peers(CudaBench& bench, int size, int64_t num_rows) {
  const int64_t num_cols = bench.tiny ? 64 : 4096;
  const int64_t calls = bench.tiny ? 2 : 64;
  ThreadExchange exchange(size);
  std::vector<PeerResult> results(static_cast<size_t>(size));
  std::vector<std::exception_ptr> errors(static_cast<size_t>(size));
  {
    std::vector<std::jthread> threads;
    for (int rank = 0; rank < size; ++rank) {
      threads.emplace_back([&, rank] {
        try {
          results[static_cast<size_t>(rank)] =
              run_peer(bench, rank, size, num_rows, num_cols, calls, exchange);
        } catch (...) {
          errors[static_cast<size_t>(rank)] = std::current_exception();
        }
      });
    }
  }
  for (const std::exception_ptr& error : errors)
    if (error) std::rethrow_exception(error);
  for (const PeerResult& result : results)
    PHALANX_CHECK(result.rows == results.front().rows, "ranks have different sums");
  Measurement row;
  row.name = "all_reduce_add_norm";
  row.parameters = {{"ranks", std::to_string(size)},
                    {"rows", std::to_string(num_rows)},
                    {"cols", std::to_string(num_cols)}};
  row.unit = "us";
  row.better = Better::kLower;
  for (const double seconds : results.front().seconds) row.samples.push_back(seconds * 1e6);
  bench.report.add(std::move(row));
}

}  // namespace

void measure_cuda_attention(CudaBench& bench) {
  const auto operators = bench.make_operators();
  struct Case {
    int64_t batch, rows_each, context;
  };
  const std::vector<Case> cases =
      bench.tiny
          ? std::vector<Case>{{1, 1, 70}, {3, 1, 40}, {1, 40, 40}}
          : std::vector<Case>{{1, 1, 1024},   {1, 1, 8192},   {1, 1, 32768},   {8, 1, 8192},
                              {8, 1, 32768},  {32, 1, 1024},  {32, 1, 4096},   {32, 1, 8192},
                              {128, 1, 1024}, {128, 1, 4096}, {1, 2048, 2048}, {1, 2048, 8192}};
  for (const KvFormat format : {KvFormat::kBf16, KvFormat::kInt8}) {
    for (const Case& c : cases) {
      bench.attempt(
          "attention " + std::string(kernels::kv_format_name(format)) + " batch " +
              std::to_string(c.batch) + " context " + std::to_string(c.context),
          [&] {
            AttentionRows(bench, *operators, format, c.batch, c.rows_each, c.context).measure();
          });
    }
  }
}

void measure_cuda_rows(CudaBench& bench) {
  const auto operators = bench.make_operators();
  const int64_t hidden = bench.tiny ? 128 : 4096;
  const int64_t inner = bench.tiny ? 256 : 14336;
  const std::vector<int64_t> counts =
      bench.tiny ? std::vector<int64_t>{1, 3} : std::vector<int64_t>{1, 32, 128, 2048};
  for (const int64_t num_rows : counts) {
    for (const WeightFormat format : {WeightFormat::kBf16, WeightFormat::kFp8, WeightFormat::kW8}) {
      if (format == WeightFormat::kFp8 && !bench.has_fp8) continue;
      const std::string rows_text = std::to_string(num_rows);
      const int64_t calls = bench.tiny ? 2 : 32;
      const std::string form = format == WeightFormat::kBf16  ? "bf16"
                               : format == WeightFormat::kFp8 ? "e4m3"
                                                              : "s8";
      bench.attempt("add_rms_norm to " + form + ", " + rows_text + " rows", [&] {
        const DeviceFloats residual(*operators, num_rows, hidden);
        const DeviceFloats delta(*operators, num_rows, hidden);
        const DeviceFloats y(*operators, num_rows, hidden);
        const DeviceFloats weight(*operators, 1, hidden);
        const DeviceActivationRows out(*operators, format, num_rows, hidden, 64);
        const auto seconds = replay_seconds(bench, *operators, calls, [&](int64_t) {
          operators->add_rms_norm(residual.rows(), delta.rows(), nullptr, weight.data(), 1e-5F,
                                  num_rows, hidden, y.rows());
          operators->convert_last_read(y.rows(), num_rows, out.view);
        });
        CudaCost cost;
        cost.bytes = static_cast<double>(num_rows * hidden * 12 + out.bytes);
        add_cost_row(bench, "add_rms_norm", {{"to", form}, {"rows", rows_text}}, seconds, cost);
      });
      bench.attempt("silu_mul to " + form + ", " + rows_text + " rows", [&] {
        const DeviceFloats gate_up(*operators, num_rows, 2 * inner);
        const DeviceFloats y(*operators, num_rows, inner);
        const DeviceActivationRows out(*operators, format, num_rows, inner, 64);
        const kernels::ConstRows gate = gate_up.rows();
        const kernels::ConstRows up{gate.data + inner, gate.stride};
        const auto seconds = replay_seconds(bench, *operators, calls, [&](int64_t) {
          operators->silu_mul(gate, up, num_rows, inner, y.rows());
          operators->convert_last_read(y.rows(), num_rows, out.view);
        });
        CudaCost cost;
        cost.bytes = static_cast<double>(num_rows * inner * 8 + out.bytes);
        add_cost_row(bench, "silu_mul", {{"to", form}, {"rows", rows_text}}, seconds, cost);
      });
    }
  }
}

void measure_cuda_sampling(CudaBench& bench) {
  const int64_t vocab = bench.tiny ? 512 : 128256;
  const auto heads = heads_of(bench);
  const auto map = heads.kv_head_of_query();
  struct Way {
    const char* name;
    kernels::DrawParams params;
  };
  Way greedy{"greedy", {}};
  greedy.params.temperature = 0.0F;
  Way top{"top-k 40, top-p 0.9", {}};
  top.params.top_k = 40;
  top.params.top_p = 0.9F;
  Way penalties{"top-p 0.9, penalties", {}};
  penalties.params.top_p = 0.9F;
  penalties.params.repetition_penalty = 1.1F;
  const std::vector<int64_t> batches =
      bench.tiny ? std::vector<int64_t>{1, 3} : std::vector<int64_t>{1, 32, 128};
  for (const int64_t batch : batches) {
    for (const Way& way : {greedy, top, penalties}) {
      bench.attempt("sampling " + std::string(way.name), [&] {
        const auto operators = bench.make_operators();
        kernels::StepBounds bounds;
        bounds.max_rows = bounds.max_sequences = batch;
        bounds.max_positions = 64;
        bounds.num_query_heads = heads.num_query_heads;
        bounds.num_kv_heads = heads.num_kv_heads;
        bounds.head_dim = heads.head_dim;
        bounds.kv_format = KvFormat::kBf16;
        bounds.kv_head_of_query = map.data();
        operators->reserve(bounds);
        const auto sampler = operators->make_token_sampler({vocab, batch});
        PHALANX_CHECK(sampler != nullptr, "the device has no sampler");
        const std::vector<int32_t> history = {1, 2, 3};
        for (int64_t s = 0; s < batch; ++s)
          sampler->start(static_cast<uint32_t>(s), way.params, history, 3);
        const DeviceFloats logits(*operators, batch, vocab);
        const SequenceStep step(batch, 1, 32, 2);
        const kernels::StepRows staged = operators->stage(step.rows());
        const auto seconds = replay_seconds(bench, *operators, bench.tiny ? 1 : 8,
                                            [&](int64_t) { sampler->draw(logits.rows(), staged); });
        CudaCost cost;
        cost.bytes = static_cast<double>(batch * vocab * 4);  // read once at least
        add_cost_row(bench, "sample", {{"way", way.name}, {"batch", std::to_string(batch)}},
                     seconds, cost);
      });
    }
  }
}

void measure_cuda_peers(CudaBench& bench) {
  const std::vector<int64_t> counts =
      bench.tiny ? std::vector<int64_t>{1, 5} : std::vector<int64_t>{1, 32, 128, 512, 2048};
  for (const int size : {2, 4}) {
    for (const int64_t num_rows : counts)
      bench.attempt(
          "sums of " + std::to_string(size) + " ranks, " + std::to_string(num_rows) + " rows",
          [&] { measure_peers(bench, size, num_rows); });
  }
}

}  // namespace phalanx::bench
