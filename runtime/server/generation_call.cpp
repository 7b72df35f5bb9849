// From the leader's updates to bytes. The leader's thread only drops updates into a mailbox.
#include "runtime/server/generation_call.h"

#include <algorithm>
#include <ctime>
#include <functional>
#include <mutex>
#include <random>
#include <utility>

#include "runtime/base/log.h"

namespace phalanx {
namespace {

using Seconds = std::chrono::duration<double>;

// What one token's logprobs cost in memory while they wait, for the limit on unsent bytes.
constexpr size_t kLogprobBytes = 64;

constexpr char kHeartbeat[] = ": still here\n\n";

uint64_t random_seed() {
  thread_local std::mt19937_64 generator{(static_cast<uint64_t>(std::random_device{}()) << 32U) |
                                         std::random_device{}()};
  return generator();
}

}  // namespace

/// Where the leader's thread leaves updates for the connection's strand. Holds no lock while
/// anything but post() is called, and nothing of the connection after close().
class UpdateMailbox {
 public:
  struct Entry {
    size_t choice;
    RequestUpdate update;
  };

  /// Before the first put().
  void open(std::shared_ptr<HttpExchange> exchange, std::function<void()> on_mail) {
    const std::lock_guard lock(mutex_);
    exchange_ = std::move(exchange);
    on_mail_ = std::move(on_mail);
  }

  void put(size_t choice, const RequestUpdate& update) {
    const std::lock_guard lock(mutex_);
    if (!exchange_) return;
    entries_.push_back({choice, update});
    if (entries_.size() == 1) exchange_->post(on_mail_);
  }

  std::vector<Entry> take() {
    const std::lock_guard lock(mutex_);
    return std::exchange(entries_, {});
  }

  void close() {
    std::shared_ptr<HttpExchange> exchange;
    const std::lock_guard lock(mutex_);
    exchange = std::move(exchange_);
    exchange_ = nullptr;
    on_mail_ = nullptr;
    entries_.clear();
  }

 private:
  std::mutex mutex_;
  std::shared_ptr<HttpExchange> exchange_;
  std::function<void()> on_mail_;
  std::vector<Entry> entries_;
};

namespace {

class ChoiceSink final : public UpdateSink {
 public:
  ChoiceSink(std::shared_ptr<UpdateMailbox> mailbox, size_t choice)
      : mailbox_(std::move(mailbox)), choice_(choice) {}
  void on_update(const RequestUpdate& update) override { mailbox_->put(choice_, update); }

 private:
  const std::shared_ptr<UpdateMailbox> mailbox_;
  const size_t choice_;
};

}  // namespace

GenerationCall::GenerationCall(Environment environment, Start start,
                               std::shared_ptr<HttpExchange> exchange)
    : environment_(environment),
      start_(std::move(start)),
      exchange_(std::move(exchange)),
      mailbox_(std::make_shared<UpdateMailbox>()),
      endpoint_(start_.request.is_chat ? api_metrics::Endpoint::kChatCompletions
                                       : api_metrics::Endpoint::kCompletions),
      response_(start_.request.is_chat, make_answer_id(start_.request.is_chat), std::time(nullptr),
                environment.service.info().model_name,
                start_.request.sampling.num_top_logprobs >= 0, start_.request.include_usage),
      choices_(start_.prompts.size() * static_cast<size_t>(start_.request.n)) {
  api_metrics::stream_opened();
}

GenerationCall::~GenerationCall() {
  end(500);  // only if nobody ended it, which an exception can cause
  api_metrics::stream_closed();
}

void GenerationCall::start() {
  mailbox_->open(exchange_, [weak = weak_from_this()] {
    if (auto self = weak.lock()) self->on_updates();
  });
  const ApiResult<bool> submitted = submit_all();
  if (!submitted.ok()) return fail(submitted.error());

  for (const Prompt& prompt : start_.prompts)
    api_metrics::count_prompt(static_cast<int64_t>(prompt.token_ids.size()));
  exchange_->on_disconnect([self = shared_from_this()] { self->on_disconnect(); });
  exchange_->on_timeout(environment_.options.request_timeout, [weak = weak_from_this()] {
    auto self = weak.lock();
    if (!self || self->ended_) return;
    self->fail(api_error_of_status(
        503, "the answer was not complete within " +
                 std::to_string(self->environment_.options.request_timeout.count()) + " ms"));
  });
  if (start_.request.stream) open_stream();
}

Request GenerationCall::make_request(const Prompt& prompt, uint64_t seed) const {
  const OpenAiRequest& asked = start_.request;
  const ServiceInfo& info = environment_.service.info();
  Request request;
  request.prompt_token_ids = prompt.token_ids;
  request.sampling = asked.sampling;
  request.sampling.seed = seed;
  const int64_t room = info.max_context_tokens - static_cast<int64_t>(prompt.token_ids.size());
  request.max_tokens = std::min(asked.max_tokens.value_or(asked.is_chat ? room : 16), room);
  if (!asked.ignore_eos) request.stop_token_ids = info.eos_token_ids;
  request.stop_token_ids.insert(request.stop_token_ids.end(), asked.stop_token_ids.begin(),
                                asked.stop_token_ids.end());
  request.priority = asked.priority;
  request.client = start_.client;
  request.cache_salt = asked.cache_salt;
  return request;
}

ApiResult<bool> GenerationCall::submit_all() {
  const auto n = static_cast<size_t>(start_.request.n);
  for (size_t i = 0; i < choices_.size(); ++i) {
    Choice& choice = choices_[i];
    const Prompt& prompt = start_.prompts[i / n];
    choice.part.index = static_cast<int32_t>(i);
    choice.part.text = prompt.echo;
    choice.text_bytes = prompt.echo.size();
    held_bytes_ += prompt.echo.size();
    choice.text = environment_.codec.start_stream(start_.request.stop);
    // Choices of one prompt differ by their seed only: seed + index within the prompt.
    const uint64_t seed =
        start_.request.seed ? *start_.request.seed + static_cast<uint64_t>(i % n) : random_seed();
    Result<RequestId> id = environment_.service.submit(make_request(prompt, seed),
                                                       std::make_shared<ChoiceSink>(mailbox_, i));
    if (!id.ok()) return to_api_error(id.error());
    choice.id = *id;
    choice.submitted = true;
  }
  return true;
}

void GenerationCall::open_stream() {
  stream_open_ = true;
  HttpResponse head;
  head.content_type = "text/event-stream; charset=utf-8";
  head.headers = {
      {"Cache-Control", "no-cache"}, {"X-Accel-Buffering", "no"}, {"X-Request-Id", response_.id()}};
  exchange_->begin_stream(std::move(head), kHeartbeat);
  std::string events;
  if (start_.is_event_source) events += "id: " + response_.id() + "\n\n";
  if (start_.request.is_chat) {
    for (const Choice& choice : choices_) response_.append_role(events, choice.part.index);
  }
  exchange_->on_drained([self = shared_from_this()] { self->send_parts(); });
  if (!events.empty() && !exchange_->send(events)) return cut_slow_reader();
  send_parts();
}

void GenerationCall::on_updates() {
  if (ended_) return;
  for (const UpdateMailbox::Entry& entry : mailbox_->take()) {
    take_update(choices_[entry.choice], entry.update);
    if (ended_) return;
  }
  if (start_.request.stream) {
    send_parts();
  } else if (held_bytes_ > environment_.options.max_answer_bytes) {
    ApiError error = api_error_of_status(
        400, "the answer grew beyond the " + std::to_string(environment_.options.max_answer_bytes) +
                 " bytes allowed for text and logprobs; ask for a stream, or for less");
    error.code = "answer_too_large";
    fail(error);
  } else if (all_finished()) {
    answer_whole();
  }
}

void GenerationCall::take_update(Choice& choice, const RequestUpdate& update) {
  if (choice.finished) return;  // under way when a stop string ended it
  if (update.num_cached_tokens > 0 && choice.num_tokens == 0) {
    choice.num_cached_tokens = update.num_cached_tokens;
    api_metrics::observe_cached_tokens(update.num_cached_tokens);
  }
  if (update.has_token) take_token(choice, update.token);
  if (!update.finished || choice.finished) return;
  choice.submitted = false;  // nothing left to cancel
  switch (update.reason) {
    case FinishReason::kStop:
      return finish_choice(choice, "stop");
    case FinishReason::kLength:
      return finish_choice(choice, "length");
    case FinishReason::kCancelled:
      return fail(api_error_of_status(503, "the request was cancelled by the server"));
    case FinishReason::kError: {
      // While the job is well, the one reason is a request that can never fit.
      const bool ready = environment_.service.state() == ServiceState::kReady;
      ApiError error = api_error_of_status(ready ? 400 : 503, update.error);
      if (ready) error.code = "request_too_large";
      return fail(error);
    }
  }
}

void GenerationCall::take_token(Choice& choice, const SampledToken& token) {
  const auto now = Clock::now();
  if (choice.num_tokens == 0) {
    api_metrics::observe_first_token(Seconds(now - start_.received_at).count());
  } else {
    api_metrics::observe_next_token(Seconds(now - choice.last_token_at).count());
  }
  choice.last_token_at = now;
  ++choice.num_tokens;

  if (start_.request.sampling.num_top_logprobs >= 0) {
    TokenLogprob shown;
    shown.bytes = environment_.codec.token_bytes(token.token_id);
    shown.logprob = token.logprob;
    shown.text_offset = choice.text_bytes;
    for (const TopLogprob& top : token.top_logprobs)
      shown.top.emplace_back(environment_.codec.token_bytes(top.token_id), top.logprob);
    held_bytes_ += kLogprobBytes * (1 + shown.top.size());
    choice.part.logprobs.push_back(std::move(shown));
  }
  const TextStream::Piece piece = choice.text->push(token.token_id);
  choice.part.text += piece.text;
  choice.text_bytes += piece.text.size();
  held_bytes_ += piece.text.size();
  if (piece.stopped) {
    environment_.service.cancel(choice.id);
    choice.submitted = false;
    choice.finished = true;
    choice.part.finish_reason = "stop";
  }
}

void GenerationCall::finish_choice(Choice& choice, const char* reason) {
  const TextStream::Piece piece = choice.text->finish();
  choice.part.text += piece.text;
  choice.text_bytes += piece.text.size();
  held_bytes_ += piece.text.size();
  choice.part.finish_reason = piece.stopped ? "stop" : reason;
  choice.finished = true;
}

// One event per choice for all that came since the last one. While the client has not taken what
// was sent before, parts grow instead (on_drained calls this again): a lagging client costs text
// only, and gets fewer, larger events.
void GenerationCall::send_parts() {
  if (ended_) return;
  if (exchange_->is_sending()) {
    if (held_bytes_ > environment_.options.max_unsent_bytes) cut_slow_reader();
    return;
  }
  std::string events;
  for (Choice& choice : choices_) {
    ChoicePart& part = choice.part;
    if (choice.reported || (part.text.empty() && part.finish_reason == nullptr)) continue;
    const char* reason = part.finish_reason;
    const bool split = reason != nullptr && start_.request.is_chat &&
                       (!part.text.empty() || !part.logprobs.empty());
    if (split) {
      // As OpenAI does: the finish_reason comes with an empty delta.
      part.finish_reason = nullptr;
      response_.append_part(events, part);
      part.text.clear();
      part.logprobs.clear();
      part.finish_reason = reason;
    }
    response_.append_part(events, part);
    part.text.clear();
    part.logprobs.clear();
    choice.reported = reason != nullptr;
  }
  held_bytes_ = 0;
  const bool complete = all_finished();
  if (complete) {
    if (start_.request.include_usage) response_.append_usage(events, usage());
    OpenAiResponse::append_done(events);
  }
  if (!events.empty() && !exchange_->send(events)) return cut_slow_reader();
  if (complete) {
    end(200);
    exchange_->end_stream();
  }
}

void GenerationCall::answer_whole() {
  std::vector<ChoicePart> parts;
  parts.reserve(choices_.size());
  for (Choice& choice : choices_) parts.push_back(std::move(choice.part));
  HttpResponse response;
  response.body = response_.whole(parts, usage());
  response.headers.emplace_back("X-Request-Id", response_.id());
  end(200);
  exchange_->respond(std::move(response));
}

void GenerationCall::fail(const ApiError& error) {
  if (ended_) return;
  end(error.status);
  // A stream that was not begun can still answer with the status.
  if (!stream_open_)
    return exchange_->respond(error_http_response(error, environment_.options.retry_after_seconds));
  std::string events;
  for (const Choice& choice : choices_) {
    if (!choice.part.text.empty()) response_.append_part(events, choice.part);
  }
  OpenAiResponse::append_error(events, error_json(error));
  if (exchange_->send(events)) {
    exchange_->end_stream();
  } else {
    exchange_->abort();
  }
}

void GenerationCall::on_disconnect() {
  if (ended_) return;
  PHALANX_DEBUG("api: " << response_.id() << ": the client went away");
  end(499);
}

void GenerationCall::cut_slow_reader() {
  if (ended_) return;
  PHALANX_WARNING("api: " << response_.id() << ": the client takes too little, stream cut");
  api_metrics::slow_reader_cut();
  end(499);
  exchange_->abort();
}

void GenerationCall::end(int status) {
  if (ended_) return;
  ended_ = true;
  mailbox_->close();
  for (Choice& choice : choices_) {
    if (choice.submitted && !choice.finished) environment_.service.cancel(choice.id);
  }
  api_metrics::count_request(endpoint_, status);
  api_metrics::observe_answer(seconds_since_request());
}

bool GenerationCall::all_finished() const {
  return std::all_of(choices_.begin(), choices_.end(),
                     [](const Choice& choice) { return choice.finished; });
}

Usage GenerationCall::usage() const {
  Usage sum;
  for (const Prompt& prompt : start_.prompts)
    sum.prompt_tokens += static_cast<int64_t>(prompt.token_ids.size());
  const auto n = static_cast<size_t>(start_.request.n);
  for (size_t i = 0; i < choices_.size(); ++i) {
    sum.completion_tokens += choices_[i].num_tokens;
    if (i % n == 0) sum.cached_tokens += choices_[i].num_cached_tokens;
  }
  return sum;
}

double GenerationCall::seconds_since_request() const {
  return Seconds(Clock::now() - start_.received_at).count();
}

}  // namespace phalanx
