// llm-bench kernels: its cases give the reference's rows, its check finds what is wrong, its costs
// are what the shapes say, and its rows are complete.
#include <cmath>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "launcher/bench/commands.h"
#include "launcher/bench/kernel_case.h"
#include "launcher/bench/kernel_check.h"
#include "launcher/bench/kernel_families.h"
#include "launcher/bench/kernel_shapes.h"
#include "runtime/base/check.h"

namespace phalanx::bench {
namespace {

using kernels::KvFormat;
using kernels::WeightFormat;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

KernelShape tiny() { return find_kernel_shape("tiny").value(); }

double detail(const Measurement& m, const std::string& name) {
  for (const auto& [key, value] : m.details) {
    if (key == name) return value;
  }
  return NAN;
}

struct Outcome {
  Status status;
  std::string printed;
  std::vector<Measurement> rows;
  nlohmann::ordered_json facts;
};

Outcome run(const Command& command, const std::vector<std::string>& arguments) {
  Outcome outcome;
  const auto options = BenchOptions::parse(arguments, command.flags(), command.max_places);
  if (!options.ok()) {
    outcome.status = options.error();
    return outcome;
  }
  Report report(arguments, true);
  ::testing::internal::CaptureStdout();
  outcome.status = command.run(*options, report);
  outcome.printed = ::testing::internal::GetCapturedStdout();
  outcome.rows = report.measurements();
  outcome.facts = report.to_json()["facts"];
  return outcome;
}

std::string wrong(const std::vector<std::string>& arguments) {
  const Outcome outcome = run(kernels_command(), arguments);
  if (outcome.status.ok()) return "no error";
  EXPECT_EQ(outcome.status.error().code, ErrorCode::kInvalidArgument);
  return outcome.status.error().message;
}

// ------------------------------------------------------------------------------- the command ----

TEST(KernelsCommand, EveryKernelAgreesWithTheReference) {
  for (const char* isa : {"auto", "portable"}) {
    const Outcome outcome =
        run(kernels_command(), {"--check", "--shape", "tiny", "--rows", "1,3,33", "--context", "70",
                                "--threads", "2", "--isa", isa});
    ASSERT_TRUE(outcome.status.ok()) << outcome.status.error().message;
    // 5 formats x (5 matrices + 2 conversions + embedding), 4 row kernels, 3 x 3 of attention.
    EXPECT_EQ(outcome.facts["checked_cases"], 3 * (5 * 8 + 4 + 9));
    for (const std::string& name : kernel_names())
      EXPECT_THAT(outcome.printed, HasSubstr(name + " shape=tiny")) << name;
    EXPECT_TRUE(outcome.rows.empty());
  }
}

TEST(KernelsCommand, TimesEachKernelBesideItsLimit) {
  const Outcome outcome =
      run(kernels_command(),
          {"--shape", "tiny", "--rows", "1,9", "--weights", "w8,bf16", "--kv", "int8", "--context",
           "40", "--threads", "1", "--repetitions", "2", "--sample-ms", "1", "--kernels",
           "fork_join,linear,silu_mul,attention_decode,attention_prefill"});
  ASSERT_TRUE(outcome.status.ok()) << outcome.status.error().message;
  ASSERT_EQ(outcome.rows.size(), 1U + 2 * (2 * 5 + 1 + 2));
  EXPECT_EQ(outcome.rows[0].name, "fork_join");
  for (size_t i = 1; i < outcome.rows.size(); ++i) {
    const Measurement& m = outcome.rows[i];
    ASSERT_TRUE(m.limit.has_value()) << m.name;
    EXPECT_EQ(m.samples.size(), 2U);
    for (const double sample : m.samples) EXPECT_GT(sample, 0) << m.name;
    for (const double sample : m.limit->samples) EXPECT_GT(sample, 0) << m.name;
    EXPECT_GT(detail(m, "bytes"), 0);
    EXPECT_GT(detail(m, "read_gbs"), 0);
    EXPECT_EQ(m.unit, m.name == "linear" || m.name == "attention_prefill" ? "GOP/s" : "GB/s");
  }
}

TEST(KernelsCommand, WrongFlagsAreNamed) {
  EXPECT_THAT(wrong({"--shape", "llama-9b"}), HasSubstr("--shape is \"llama-9b\""));
  EXPECT_THAT(wrong({"--kernels", "linaer"}), HasSubstr("--kernels is \"linaer\""));
  EXPECT_THAT(wrong({"--rows", "0"}), HasSubstr("--rows is \"0\""));
  EXPECT_THAT(wrong({"--weights", "w3"}), HasSubstr("--weights is \"w3\""));
  EXPECT_THAT(wrong({"--kv", "w8"}), HasSubstr("--kv is \"w8\""));
  EXPECT_THAT(wrong({"--isa", "sse"}), HasSubstr("--isa is \"sse\""));
  EXPECT_THAT(wrong({"--shape", "tiny", "--group-size", "96", "--check"}),
              HasSubstr("--group-size is 96, must divide the 256 columns of qkv in tiny"));
  EXPECT_THAT(wrong({"--shape", "llama-3.1-8b", "--check", "--kernels", "attention_decode",
                     "--rows", "4096", "--context", "100000"}),
              HasSubstr("--rows 4096 with --context 100000"));
}

TEST(LimitsCommand, ReportsEveryLevelAndPeak) {
  const Outcome outcome =
      run(limits_command(), {"--threads", "1,2", "--repetitions", "2", "--sample-ms", "1"});
  ASSERT_TRUE(outcome.status.ok());
  EXPECT_GE(outcome.rows.size(), 2U * (1 + 3));
  EXPECT_EQ(outcome.rows.size() % 2, 0U);
  for (const Measurement& m : outcome.rows) {
    EXPECT_EQ(m.samples.size(), 2U);
    for (const double sample : m.samples) EXPECT_GT(sample, 0);
  }
  EXPECT_EQ(outcome.rows.back().parameters[0].second, "2");
  EXPECT_GE(outcome.facts["topology"]["cores"].get<int>(), 1);
  EXPECT_GE(outcome.facts["topology"]["threads_per_core"].get<int>(), 1);
  EXPECT_THAT(outcome.printed, HasSubstr("threads a core"));
  EXPECT_TRUE(run(limits_command(), {"--topology"}).rows.empty());
  EXPECT_FALSE(run(limits_command(), {"--threads", "0"}).status.ok());
}

// ------------------------------------------------------------------------------------- cases ----

TEST(KernelCases, RowsDoNotDependOnTheirCompany) {
  const auto operators = kernels::make_cpu_operators({});
  KernelSelection selection;
  selection.names = kernel_names();
  selection.weights = {WeightFormat::kW4};
  selection.kv = {KvFormat::kBf16};
  selection.context = 50;
  selection.largest_rows = 40;
  const auto families = kernel_families(tiny(), selection);
  ASSERT_TRUE(families.ok());
  RowIds all;
  for (int64_t i = 0; i < 40; ++i) all.push_back(i);
  const RowIds some = {0, 7, 8, 39};
  for (const KernelFamily& family : *families) {
    const CaseMaker make = family.prepare(*operators, false);
    const auto whole = make(all);
    const auto part = make(some);
    whole->run();
    part->run();
    for (size_t i = 0; i < some.size(); ++i)
      EXPECT_EQ(whole->output_row(static_cast<size_t>(some[i])), part->output_row(i))
          << family.name << " row " << some[i];
    EXPECT_NE(whole->output_row(0), whole->output_row(1)) << family.name;
  }
}

TEST(KernelCases, CopiesWalkThroughTheFootprintAndGiveTheSame) {
  const auto operators = kernels::make_cpu_operators({});
  const MatrixShape matrix{"qkv", 300, 256, 1, 2};
  const auto weights =
      std::make_shared<LinearWeights>(*operators, matrix, WeightFormat::kW8, 128, 1 << 20);
  EXPECT_GE(weights->num_copies() * weights->first().bytes(), 1 << 20);
  EXPECT_LT((weights->num_copies() - 1) * weights->first().bytes(), 1 << 20);
  const auto kernel = make_linear_case(*operators, weights, {0, 1});
  kernel->run();
  const std::vector<float> first = kernel->output_row(1);
  kernel->run();
  EXPECT_EQ(kernel->output_row(1), first);
}

TEST(KernelCases, CostsAreThoseOfTheShape) {
  const auto operators = kernels::make_cpu_operators({});
  const MatrixShape matrix{"qkv", 512, 256, 1, 2};
  const auto weights =
      std::make_shared<LinearWeights>(*operators, matrix, WeightFormat::kBf16, 0, 0);
  const auto linear = make_linear_case(*operators, weights, {0, 1, 2});
  EXPECT_EQ(linear->cost().ops, 2.0 * 3 * 512 * 256);
  EXPECT_EQ(linear->cost().peak, PeakKind::kBf16);
  EXPECT_GE(linear->cost().bytes, 512 * 256 * 2 + 3 * 256 * 2 + 3 * 512 * 4);

  const auto pool = std::make_shared<KvPool>(*operators, tiny(), KvFormat::kF32, 8);
  const auto q_cols = static_cast<double>(tiny().model.num_heads * tiny().model.head_dim);
  const auto kv_cols = static_cast<double>(tiny().model.num_kv_heads * tiny().model.head_dim);
  const auto decode = make_decode_case(*operators, pool, 100, {0, 1});
  EXPECT_EQ(decode->cost().ops, 4 * 2 * 100 * q_cols);
  EXPECT_GE(decode->cost().bytes, 2 * 100 * 2 * kv_cols * 4);
  const auto prefill = make_prefill_case(*operators, pool, {0, 1, 2, 3});
  EXPECT_EQ(prefill->cost().ops, 4 * (1 + 2 + 3 + 4) * q_cols);
  const auto silu = make_silu_mul_case(*operators, 64, {0, 1});
  EXPECT_EQ(silu->cost().bytes, 3 * 2 * 64 * 4);
}

TEST(KernelShapes, HaveTheBuildersLanes) {
  const auto lanes = [](const char* name, int64_t group) {
    return matrices_of(find_kernel_shape(name)->model, group).value()[1].num_lanes;
  };
  EXPECT_EQ(lanes("llama-3.2-1b", 128), 8);
  EXPECT_EQ(lanes("demo", 64), 8);
  EXPECT_EQ(lanes("110m", 128), 2);
  EXPECT_EQ(find_kernel_shape("none").error().code, ErrorCode::kNotFound);
  const auto matrices = matrices_of(find_kernel_shape("llama-3.2-1b")->model, 128).value();
  EXPECT_EQ(matrices[0].num_rows, 3072);
  EXPECT_EQ(matrices[2].num_rows, 16384);
  // 973 M parameters in the layers and 263 M in the head, a byte each and scales besides.
  const auto bytes = static_cast<double>(model_bytes(matrices, WeightFormat::kW8, 128));
  EXPECT_GT(bytes, 1.235e9);
  EXPECT_LT(bytes, 1.4e9);
}

// ----------------------------------------------------------------------------------- the check
// ----

/// A case whose outputs are given.
class GivenCase final : public KernelCase {
 public:
  explicit GivenCase(std::vector<std::vector<float>> rows) : rows_(std::move(rows)) {}
  void run() override {}
  std::vector<float> output_row(size_t i) const override { return rows_.at(i); }

 private:
  std::vector<std::vector<float>> rows_;
};

/// One row of one value.
GivenCase one(float value) {
  return GivenCase(std::vector<std::vector<float>>(1, std::vector<float>(1, value)));
}

TEST(KernelCheck, NamesTheFirstDifference) {
  const GivenCase got({{1, 2, 3}, {4, 5, 6}, {7, 8, 9.5F}});
  const GivenCase expected({{1, 2, 3}, {7, 8, 9}});
  const Status status = compare_rows("linear rows=3", got, expected, {0, 2}, 0);
  ASSERT_FALSE(status.ok());
  EXPECT_THAT(status.error().message, HasSubstr("linear rows=3: row 2, column 2 is 9.5"));
  EXPECT_THAT(status.error().message, HasSubstr("the reference says 9"));
  EXPECT_TRUE(
      compare_rows("x", got, GivenCase(std::vector<std::vector<float>>{{1, 2, 3}}), {0}, 0).ok());
}

TEST(KernelCheck, BitsOrATolerance) {
  const GivenCase expected(std::vector<std::vector<float>>{{1, 1000}});
  const GivenCase near(std::vector<std::vector<float>>{{1.001F, 1000}});
  EXPECT_FALSE(compare_rows("x", near, expected, {0}, 0).ok());
  EXPECT_FALSE(compare_rows("x", near, expected, {0}, 1e-7).ok());
  EXPECT_TRUE(compare_rows("x", near, expected, {0}, 1e-5).ok());  // of the row's largest
  const GivenCase negative_zero = one(-0.0F);
  EXPECT_FALSE(compare_rows("x", negative_zero, one(0), {0}, 0).ok());
}

TEST(KernelCheck, NansAgreeOnlyWithTheSameNans) {
  const GivenCase nan = one(NAN);
  EXPECT_TRUE(compare_rows("x", nan, nan, {0}, 1e-5).ok());
  EXPECT_FALSE(compare_rows("x", nan, one(1), {0}, 1e-5).ok());
  EXPECT_FALSE(compare_rows("x", one(1), nan, {0}, 1e-5).ok());
  const GivenCase infinite = one(INFINITY);
  EXPECT_FALSE(compare_rows("x", one(1), infinite, {0}, 1e-5).ok());
}

TEST(KernelCheck, PicksTheEndsAndWhatIsAffordable) {
  EXPECT_THAT(rows_to_check(1, 1), ElementsAre(0));
  EXPECT_THAT(rows_to_check(3, 1), ElementsAre(0, 1, 2));
  EXPECT_THAT(rows_to_check(512, 1e9), ElementsAre(0, 511));
  EXPECT_THAT(rows_to_check(1, 1e12), ElementsAre(0));
  EXPECT_THAT(rows_to_check(9, 1e8), ElementsAre(0, 4, 8));
  const RowIds all = rows_to_check(512, 1);
  EXPECT_EQ(all.size(), 512U);
  EXPECT_EQ(all.back(), 511);
}

}  // namespace
}  // namespace phalanx::bench
