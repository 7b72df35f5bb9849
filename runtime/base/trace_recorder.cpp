// Rings of spans and their JSON.
#include "runtime/base/trace_recorder.h"

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "runtime/base/check.h"

namespace phalanx {
namespace {

/// Names are the project's own literals; quotes and control characters do not occur, but cost
/// nothing to refuse.
std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\' || static_cast<unsigned char>(c) < 0x20) continue;
    out += c;
  }
  return out + "\"";
}

}  // namespace

TraceRecorder::TraceRecorder(std::vector<std::string> tracks, size_t capacity) {
  PHALANX_CHECK_GT(capacity, 0U, "spans of a track");
  for (std::string& name : tracks) {
    auto track = std::make_unique<Track>();
    track->name = std::move(name);
    track->ring.resize(capacity);
    tracks_.push_back(std::move(track));
  }
}

void TraceRecorder::add(size_t track, const Span& span) {
  if (track >= tracks_.size()) return;
  Track& to = *tracks_[track];
  to.ring[to.count++ % to.ring.size()] = span;
}

void TraceRecorder::turn_to(size_t track, const char* name, int64_t detail) {
  if (track >= tracks_.size()) return;
  Span& open = tracks_[track]->open;
  const int64_t now = now_ns();
  if (open.begin_ns != 0) {
    open.end_ns = now;
    add(track, open);
  }
  open = {name, detail, now, 0};
}

std::vector<TraceRecorder::Span> TraceRecorder::spans(size_t track) const {
  const Track& from = *tracks_[track];
  const uint64_t capacity = from.ring.size();
  const uint64_t first = from.count > capacity ? from.count - capacity : 0;
  std::vector<Span> out;
  for (uint64_t i = first; i < from.count; ++i) out.push_back(from.ring[i % capacity]);
  return out;
}

Status TraceRecorder::write_chrome_json(const std::string& path, int process) const {
  std::FILE* file = std::fopen(path.c_str(), "w");
  if (file == nullptr) return io_error(path + ": " + std::strerror(errno));
  std::fprintf(file, "{\"displayTimeUnit\":\"ns\",\"traceEvents\":[\n");
  std::fprintf(file,
               "{\"ph\":\"M\",\"pid\":%d,\"name\":\"process_name\",\"args\":{\"name\":\"rank "
               "%d\"}}",
               process, process);
  for (size_t track = 0; track < tracks_.size(); ++track) {
    std::fprintf(file,
                 ",\n{\"ph\":\"M\",\"pid\":%d,\"tid\":%zu,\"name\":\"thread_name\",\"args\":"
                 "{\"name\":%s}}",
                 process, track, quoted(tracks_[track]->name).c_str());
    for (const Span& span : spans(track)) {
      std::fprintf(
          file, ",\n{\"ph\":\"X\",\"pid\":%d,\"tid\":%zu,\"ts\":%.3f,\"dur\":%.3f,\"name\":%s",
          process, track, static_cast<double>(span.begin_ns) * 1e-3,
          static_cast<double>(span.end_ns - span.begin_ns) * 1e-3, quoted(span.name).c_str());
      if (span.detail >= 0)
        std::fprintf(file, ",\"args\":{\"layer\":%lld}", static_cast<long long>(span.detail));
      std::fputc('}', file);
    }
  }
  std::fprintf(file, "\n]}\n");
  const bool failed = std::ferror(file) != 0;
  const int closed = std::fclose(file);
  if (failed || closed != 0) return io_error(path + ": " + std::strerror(errno));
  return {};
}

}  // namespace phalanx
