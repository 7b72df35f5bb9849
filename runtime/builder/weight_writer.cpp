// Row ranges as jobs for a few threads; each reads, checks, encodes and writes its own rows.
#include "runtime/builder/weight_writer.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <exception>
#include <mutex>
#include <optional>
#include <thread>

#include "runtime/base/check.h"
#include "runtime/builder/quantization_plan.h"
#include "runtime/builder/quantizer.h"
#include "runtime/builder/safetensors_writer.h"
#include "runtime/model/manifest.h"
#include "runtime/model/mapped_file.h"

namespace phalanx::builder {

namespace {

constexpr int64_t kJobBytes = int64_t{4} << 20;  // of the checkpoint; a large weight is many jobs

struct Job {
  const BoundTensor* bound = nullptr;
  SafetensorsWriter* file = nullptr;
  int64_t first_row = 0;
  int64_t num_rows = 0;
};

/// Consecutive weights in files of at most max_file_bytes.
std::vector<std::vector<const BoundTensor*>> assign_files(const std::vector<BoundTensor>& tensors,
                                                          int64_t max_file_bytes) {
  std::vector<std::vector<const BoundTensor*>> files;
  int64_t used = 0;
  for (const BoundTensor& bound : tensors) {
    const int64_t bytes = model::stored_bytes(bound.weight);
    if (files.empty() || used + bytes > max_file_bytes) {
      files.emplace_back();
      used = 0;
    }
    files.back().push_back(&bound);
    used += bytes;
  }
  return files;
}

std::string file_name(size_t index, size_t count) {
  char text[64];
  std::snprintf(text, sizeof(text), "weights-%05zu-of-%05zu.safetensors", index + 1, count);
  return text;
}

/// Element `column` of row `r`, which cannot be stored; a vector's elements are its rows.
Error bad_number(const BoundTensor& bound, int64_t r, int64_t column, std::span<const float> row,
                 const std::string& reason) {
  char value[32];
  std::snprintf(value, sizeof(value), "%g", static_cast<double>(row[static_cast<size_t>(column)]));
  const bool is_vector = bound.weight.cols() == 0;
  return data_loss(bound.source->file + ": tensor " + bound.checkpoint_name + " holds " + value +
                   " at row " + std::to_string(is_vector ? column : r) +
                   (is_vector ? "" : ", column " + std::to_string(column)) + "; " + reason);
}

/// Row `r` of the checkpoint, all of it finite.
Status read_row(const BoundTensor& bound, int64_t r, std::span<float> row) {
  widen_row(bound, r, row);
  const int64_t bad = first_non_finite(row);
  return bad < 0 ? Status() : bad_number(bound, r, bad, row, "weights must be finite");
}

/// Codes and scales as the checkpoint has them, scales as f32.
Status copy_e4m3(const Job& job) {
  const BoundTensor& bound = *job.bound;
  const int64_t cols = bound.weight.cols();
  const std::span<const std::byte> codes(bound.source->view.data + job.first_row * cols,
                                         static_cast<size_t>(job.num_rows * cols));
  const auto* const nan = std::find_if(codes.data(), codes.data() + codes.size(), [](std::byte c) {
    return (c & std::byte{0x7f}) == std::byte{0x7f};
  });
  if (const int64_t place = nan - codes.data(); place < job.num_rows * cols) {
    std::vector<float> row(static_cast<size_t>(cols));
    return read_row(bound, job.first_row + place / cols, row);
  }
  const std::vector<model::StoredTensor> stored = model::stored_tensors(bound.weight);
  PHALANX_RETURN_IF_ERROR(job.file->write(stored[0].name, job.first_row * cols, codes));
  if (job.first_row > 0) return {};
  const model::TensorView& source = bound.e4m3.tensor->view;
  std::vector<float> scales(static_cast<size_t>(source.num_elements));
  widen_elements(source.data, *source.dtype, source.num_elements, scales.data());
  return job.file->write(stored[1].name, 0, std::as_bytes(std::span(scales)));
}

/// Quantizes rows that begin a block of rows.
Status encode_fp8(const Job& job) {
  const engine::Weight& weight = job.bound->weight;
  const int64_t cols = weight.cols();
  const std::vector<model::StoredTensor> stored = model::stored_tensors(weight);
  const int64_t scale_cols = stored[1].shape[1];
  const int64_t end = job.first_row + job.num_rows;
  for (int64_t first = job.first_row; first < end; first += weight.scale_rows()) {
    const int64_t num_rows = std::min(weight.scale_rows(), end - first);
    std::vector<float> rows(static_cast<size_t>(num_rows * cols));
    for (int64_t n = 0; n < num_rows; ++n)
      PHALANX_RETURN_IF_ERROR(read_row(
          *job.bound, first + n,
          std::span(rows).subspan(static_cast<size_t>(n * cols), static_cast<size_t>(cols))));
    std::vector<uint8_t> codes(rows.size());
    std::vector<float> scales(static_cast<size_t>(scale_cols));
    encode_fp8_rows(weight, rows, codes.data(), scales.data());
    PHALANX_RETURN_IF_ERROR(
        job.file->write(stored[0].name, first * cols, std::as_bytes(std::span(codes))));
    PHALANX_RETURN_IF_ERROR(job.file->write(
        stored[1].name,
        first / weight.scale_rows() * scale_cols * static_cast<int64_t>(sizeof(float)),
        std::as_bytes(std::span(scales))));
  }
  return {};
}

Status run_job(const Job& job) {
  const engine::Weight& weight = job.bound->weight;
  const model::TensorView& source = job.bound->source->view;
  if (weight.format() == engine::FP8)
    return job.bound->e4m3.tensor != nullptr ? copy_e4m3(job) : encode_fp8(job);
  // A vector is one row here.
  const bool is_vector = weight.cols() == 0;
  const int64_t cols = is_vector ? weight.rows() : weight.cols();
  const std::vector<model::StoredTensor> stored = model::stored_tensors(weight);
  const int64_t code_row_bytes =
      is_vector ? stored[0].num_bytes() : stored[0].num_bytes() / weight.rows();
  const int64_t scale_cols = stored.size() > 1 ? stored[1].shape[1] : 0;

  std::vector<float> row(static_cast<size_t>(cols));
  std::vector<std::byte> codes(static_cast<size_t>(job.num_rows * code_row_bytes));
  std::vector<uint16_t> scales(static_cast<size_t>(job.num_rows * scale_cols));
  for (int64_t i = 0; i < job.num_rows; ++i) {
    const int64_t r = job.first_row + i;
    PHALANX_RETURN_IF_ERROR(read_row(*job.bound, r, row));
    std::byte* row_codes = codes.data() + i * code_row_bytes;
    encode_row(weight, row, row_codes, scales.data() + i * scale_cols);
    if (weight.format() == engine::BF16 &&
        (source.dtype == DType::kF32 || source.dtype == DType::kF8E4M3)) {
      // Rounding can leave the range of bf16 only for numbers beyond 3.39e38.
      std::vector<float> rounded(row.size());
      decode_row(weight, row_codes, nullptr, rounded);
      if (const int64_t bad = first_non_finite(rounded); bad >= 0)
        return bad_number(*job.bound, r, bad, row, "bf16 holds at most 3.39e38, use --weights f32");
    }
  }
  PHALANX_RETURN_IF_ERROR(job.file->write(stored[0].name, job.first_row * code_row_bytes, codes));
  if (scale_cols > 0)
    PHALANX_RETURN_IF_ERROR(job.file->write(
        stored[1].name, job.first_row * scale_cols * static_cast<int64_t>(sizeof(uint16_t)),
        std::as_bytes(std::span(scales))));
  return {};
}

std::vector<Job> make_jobs(const std::vector<const BoundTensor*>& tensors,
                           SafetensorsWriter* file) {
  std::vector<Job> jobs;
  for (const BoundTensor* bound : tensors) {
    const int64_t rows = bound->weight.cols() == 0 ? 1 : bound->weight.rows();
    const int64_t row_bytes = std::max<int64_t>(1, bound->source->view.num_bytes() / rows);
    const int64_t least = bound->weight.format() == engine::FP8 ? kFp8BlockRows : 1;
    const int64_t step = std::max(least, kJobBytes / row_bytes / least * least);
    for (int64_t row = 0; row < rows; row += step)
      jobs.push_back({bound, file, row, std::min(step, rows - row)});
  }
  return jobs;
}

/// Runs all jobs; the error of the first failed job in list order, so that messages do not depend
/// on timing more than they must.
Status run_jobs(const std::vector<Job>& jobs, int num_threads, const Progress& progress) {
  int64_t total = 0;
  const auto job_bytes = [](const Job& job) {
    const engine::Weight& weight = job.bound->weight;
    const int64_t rows = weight.cols() == 0 ? 1 : weight.rows();
    return job.bound->source->view.num_bytes() / rows * job.num_rows;
  };
  for (const Job& job : jobs) total += job_bytes(job);

  std::atomic<size_t> next{0};
  std::atomic<bool> failed{false};
  std::mutex mutex;  // guards the three below
  int64_t done = 0;
  size_t failed_job = jobs.size();
  std::optional<Error> error;
  std::exception_ptr broken;
  const auto work = [&] {
    while (!failed.load(std::memory_order_relaxed)) {
      const size_t index = next.fetch_add(1);
      if (index >= jobs.size()) return;
      try {
        const Status status = run_job(jobs[index]);
        const std::lock_guard lock(mutex);
        if (!status.ok()) {
          failed = true;
          if (index < failed_job) {
            failed_job = index;
            error = status.error();
          }
          return;
        }
        done += job_bytes(jobs[index]);
        if (progress) progress(done, total);
      } catch (...) {
        const std::lock_guard lock(mutex);
        failed = true;
        if (broken == nullptr) broken = std::current_exception();
        return;
      }
    }
  };
  std::vector<std::thread> threads;
  for (int i = 1; i < num_threads; ++i) threads.emplace_back(work);
  work();
  for (std::thread& thread : threads) thread.join();
  if (broken != nullptr) std::rethrow_exception(broken);
  if (error.has_value()) return *error;
  return {};
}

}  // namespace

Result<std::vector<engine::WeightFile>> write_weights(const std::string& directory,
                                                      const std::vector<BoundTensor>& tensors,
                                                      int num_threads, const Progress& progress,
                                                      int64_t max_file_bytes) {
  PHALANX_CHECK_GE(num_threads, 1, "threads of the weight writer");
  const auto assigned = assign_files(tensors, max_file_bytes);
  std::vector<std::unique_ptr<SafetensorsWriter>> files;
  std::vector<Job> jobs;
  for (size_t i = 0; i < assigned.size(); ++i) {
    std::vector<model::StoredTensor> stored;
    for (const BoundTensor* bound : assigned[i]) {
      for (model::StoredTensor& tensor : model::stored_tensors(bound->weight))
        stored.push_back(std::move(tensor));
    }
    PHALANX_ASSIGN_OR_RETURN(
        auto file,
        SafetensorsWriter::create(directory + "/" + file_name(i, assigned.size()), stored));
    for (Job& job : make_jobs(assigned[i], file.get())) jobs.push_back(job);
    files.push_back(std::move(file));
  }
  PHALANX_RETURN_IF_ERROR(run_jobs(jobs, num_threads, progress));

  std::vector<engine::WeightFile> entries;
  for (size_t i = 0; i < files.size(); ++i) {
    PHALANX_RETURN_IF_ERROR(files[i]->finish());
    PHALANX_ASSIGN_OR_RETURN(const auto written, model::MappedFile::open(files[i]->path()));
    engine::WeightFile entry;
    entry.set_name(file_name(i, assigned.size()));
    entry.set_size_bytes(files[i]->size_bytes());
    entry.set_content_hash(model::weight_file_hash(written->bytes()));
    entries.push_back(std::move(entry));
  }
  return entries;
}

}  // namespace phalanx::builder
